//! Short rows of neighbouring channels, worked on as one row: what belongs to a row is spread over its elements once,
//! and then used for every sample.

use super::grid::{Grid, Join};
use super::lanes::LANES;
use super::source::{Affine, Params, StatSlices};
use std::ops::Range;

/// Rows of so many elements are long enough to be worked on one by one.
const LONG: usize = 4 * LANES;

/// Samples that are worth the spreading.
const SAMPLES: usize = 8;

/// Whether it is worth it.
pub(crate) fn pays(grid: &Grid) -> bool {
    !grid.columns && grid.width < LONG && grid.samples >= SAMPLES
}

/// What belongs to neighbouring rows, one number an element; and a grid in which they are one row of columns.
pub(crate) struct Strip {
    grid: Grid,
    stats: [Vec<f32>; 5],
    affine: Affine<'static>,
}

impl Strip {
    /// For a sample's rows of some channels. None where it does not pay.
    pub fn new(params: &Params, channels: Range<usize>) -> Option<Strip> {
        let Params { grid, stats, affine } = params;
        let spread = |numbers: &[f32], first: usize| {
            repeated(numbers.iter().skip(first).take(channels.len()).copied(), grid.width)
        };
        debug_assert_eq!(grid.join, Join::Samples, "its columns have the same statistics in all samples");
        pays(grid).then(|| Strip {
            grid: Grid { rows: 1, width: channels.len() * grid.width, columns: true, by_column: true, ..**grid },
            stats: stats.of.map(|numbers| spread(numbers, channels.start - stats.first)),
            affine: Affine {
                weight: spread(&affine.weight, channels.start).into(),
                bias: spread(&affine.bias, channels.start).into(),
            },
        })
    }

    pub fn params(&self) -> Params<'_> {
        let stats = StatSlices { first: 0, of: self.stats.each_ref().map(Vec::as_slice) };
        Params { grid: &self.grid, stats, affine: &self.affine }
    }
}

/// Every number so many times.
pub(crate) fn repeated(numbers: impl ExactSizeIterator<Item = f32>, times: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(numbers.len() * times);
    // Not flat_map, which would go number by number.
    numbers.for_each(|number| all.extend(std::iter::repeat_n(number, times)));
    all
}
