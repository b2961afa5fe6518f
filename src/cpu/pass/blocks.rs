//! Which rows are reduced and written together, while the caches hold them.

use super::strip;
use crate::cpu::exec::Exec;
use crate::cpu::grid::{Grid, Join};
use crate::cpu::reduce::rows_at_once;
use crate::cpu::simd::lanes::LANES;

/// Bytes that a block's inputs may have: they are read again after they have been reduced.
const BLOCK: usize = 1 << 19;

/// Bytes of a block's inputs and of what is asked for in advance.
const CACHE: usize = 1 << 20;

/// Bytes of neighbouring rows that are worth having together.
const RUN: usize = 1 << 14;

/// Elements of rows so short that a block's samples would have too few for what each costs.
const TINY: usize = 32;

/// Bytes of a block of rows, which are looked at a few at a time.
const LONG: usize = 1 << 21;

/// How a tensor is cut into blocks that hold whole statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Blocks {
    /// So many channels, of all samples.
    Channels(usize),
    /// So many rows: whole groups.
    Rows(usize),
}

impl Blocks {
    /// For so many inputs. None where statistics are too few, rows are tiny, or a block would have fewer short rows than it
    /// takes to end where a line does: then the tensor is read twice as a whole.
    pub fn new(grid: &Grid, inputs: usize, exec: Exec) -> Option<Blocks> {
        if grid.columns {
            return None;
        }
        let (row, block) = (grid.width * grid.size, BLOCK / inputs);
        match grid.join {
            Join::Samples => {
                let run = RUN.div_ceil(row).min(block / (row * grid.samples));
                if strip::pays(grid) && (grid.width < TINY || run < LANES) {
                    return None;
                }
                let channels = run.clamp(1, rows_at_once(grid));
                exec.enough(grid.rows.div_ceil(channels)).then_some(Blocks::Channels(channels))
            }
            Join::Channels(size) => {
                // So many rows that a column's tree over the tensor has the block's as a branch. Where columns are
                // summed up, longer blocks leave fewer sums to merge.
                let (batch, most) = if grid.by_column { (grid.leaf_down, LONG) } else { (size, block / 8) };
                let all = grid.all_rows();
                let mut rows = batch << (most / (row * batch)).max(1).ilog2();
                while rows > batch && !exec.enough(all.div_ceil(rows)) {
                    rows /= 2;
                }
                let blocks = all.div_ceil(rows);
                // Fewer have to be about as many for each thread.
                (exec.enough(blocks) || grid.by_column && exec.is_even(blocks)).then_some(Blocks::Rows(rows))
            }
        }
    }

    /// Of how many samples the next block's rows are asked for while a block of channels is written.
    pub fn asked(grid: &Grid, inputs: usize, channels: usize) -> usize {
        let sample = channels * grid.width * grid.size * inputs;
        (CACHE / sample).saturating_sub(grid.samples).min(grid.samples)
    }

    /// Whether so many rows fit the cache, and as many again that are read meanwhile.
    pub fn fits_twice(grid: &Grid, inputs: usize, rows: usize) -> bool {
        2 * rows * grid.width * grid.size * inputs <= CACHE
    }

    /// Statistics of a block.
    pub fn stats(self, grid: &Grid) -> usize {
        match self {
            Blocks::Channels(channels) => channels,
            Blocks::Rows(rows) => rows / grid.group(),
        }
    }
}
