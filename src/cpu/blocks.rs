//! Which rows are reduced and written together, while the caches hold them.

use super::exec::Exec;
use super::grid::{Grid, Join};
use super::reduce::rows_at_once;

/// Bytes of `f32` that a block may have: it is read again after it has been reduced.
const BLOCK: usize = 1 << 19;

/// Bytes of neighbouring rows that are worth having together.
const RUN: usize = 1 << 14;

/// How a tensor is cut into blocks that hold whole statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Blocks {
    /// So many channels, of all samples.
    Channels(usize),
    /// So many rows: whole groups.
    Rows(usize),
}

impl Blocks {
    /// None where statistics are too large or too few: then the tensor is read twice as a whole.
    pub fn new(grid: &Grid, exec: Exec) -> Option<Blocks> {
        if grid.columns {
            return None;
        }
        let row = grid.width * 4;
        match grid.join {
            Join::Samples => {
                let run = RUN.div_ceil(row).min(BLOCK / (row * grid.samples));
                let channels = run.clamp(1, rows_at_once(grid));
                exec.enough(grid.rows.div_ceil(channels)).then_some(Blocks::Channels(channels))
            }
            Join::Channels(size) => {
                // So many rows that a column's tree over the tensor has the block's as a branch.
                let batch = size.max(grid.leaf_down);
                let batches = (BLOCK / 8 / (row * batch)).max(1);
                let rows = batch << batches.ilog2();
                exec.enough(grid.all_rows().div_ceil(rows)).then_some(Blocks::Rows(rows))
            }
        }
    }

    /// Statistics of a block.
    pub fn stats(self, grid: &Grid) -> usize {
        match self {
            Blocks::Channels(channels) => channels,
            Blocks::Rows(rows) => rows / grid.group(),
        }
    }
}
