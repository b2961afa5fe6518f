//! Short rows of neighbouring channels, worked on as one row: what belongs to a row is spread over its elements once,
//! and then used for every sample.

use super::grid::{Grid, Join};
use super::lanes::LANES;
use super::params::{ColumnParams, RowParams};
use std::ops::Range;

/// Rows of so many elements are long enough to be worked on one by one.
const LONG: usize = 4 * LANES;

/// Samples that are worth the spreading.
const SAMPLES: usize = 8;

/// Whether it is worth it.
pub(crate) fn pays(grid: &Grid) -> bool {
    !grid.columns && grid.width < LONG && grid.samples >= SAMPLES
}

/// The parameters of a sample's rows of some channels, one number an element. None where it does not pay.
pub(crate) fn params<C: ColumnParams>(grid: &Grid, rows: &RowParams, channels: Range<usize>) -> Option<C> {
    debug_assert_eq!(grid.join, Join::Samples, "its columns have the same statistics in all samples");
    pays(grid).then(|| {
        let stats = rows.stats.range(channels.clone());
        C::repeated(stats, rows.affine, channels.start, grid.width)
    })
}
