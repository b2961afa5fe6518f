//! Short rows of neighbouring channels, worked on as one row: what belongs to a row is spread over its elements once,
//! and then used for every sample.

use super::apply::Projection;
use super::grid::Grid;
use super::lanes::LANES;
use super::leaf::{Each, Stats, Weights};
use super::source::{Affine, StatSlices};
use std::ops::Range;

/// Rows of so many elements are long enough to be worked on one by one.
const LONG: usize = 4 * LANES;

/// Samples that are worth the spreading.
const SAMPLES: usize = 8;

/// Whether it is worth it.
pub(crate) fn pays(grid: &Grid) -> bool {
    !grid.columns && grid.width < LONG && grid.samples >= SAMPLES
}

/// Mean, its rounding error, 1/std, the projection's two, weight and bias: one number an element.
pub(crate) struct Strip([Vec<f32>; 7]);

impl Strip {
    /// For a sample's rows of some channels. None where it does not pay.
    pub fn new(grid: &Grid, stats: &StatSlices, affine: &Affine, channels: Range<usize>) -> Option<Strip> {
        let spread = |numbers: &[f32], first: usize| {
            repeated(numbers.iter().skip(first).take(channels.len()).copied(), grid.width)
        };
        pays(grid).then(|| {
            let first = channels.start;
            let [hi, lo, rstd, g, gx] = stats.of.map(|numbers| spread(numbers, first - stats.first));
            Strip([hi, lo, rstd, g, gx, spread(&affine.weight, first), spread(&affine.bias, first)])
        })
    }

    /// Of the first `len` elements.
    #[inline(always)]
    pub fn stats(&self, len: usize) -> Stats<Each<'_>> {
        let [hi, lo, rstd, ..] = &self.0;
        Stats { hi: Each(&hi[..len]), lo: Each(&lo[..len]), rstd: Each(&rstd[..len]) }
    }

    #[inline(always)]
    pub fn affine(&self, len: usize) -> Weights<Each<'_>> {
        let [.., weight, bias] = &self.0;
        Weights { weight: Each(&weight[..len]), bias: Each(&bias[..len]) }
    }

    #[inline(always)]
    pub fn projection(&self, centred: bool, len: usize) -> Projection<Each<'_>> {
        let [_, _, _, g, gx, ..] = &self.0;
        Projection { g: centred.then(|| Each(&g[..len])), gx: Each(&gx[..len]) }
    }
}

/// Every number so many times.
pub(crate) fn repeated(numbers: impl ExactSizeIterator<Item = f32>, times: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(numbers.len() * times);
    // Not flat_map, which would go number by number.
    numbers.for_each(|number| all.extend(std::iter::repeat_n(number, times)));
    all
}
