//! A layout as the CPU sees it: rows of neighbouring elements, and cells whose results make up a statistic.

use crate::layout::{Layout, Walk};
use crate::plan::Tree;
use crate::profile::Profile;

/// How the results of cells become those of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// All samples' cells of a channel (batch norm).
    Samples,
    /// So many neighbouring channels' cells of a sample: a group, 1 for instance norm and for rows.
    Channels(usize),
}

/// A tensor as `samples x rows` rows of `width` neighbouring elements.
///
/// A *cell* is one channel of one sample. In channels-first tensors a cell is a row; in channels-last tensors
/// (`columns`) it is a column of a sample. For norms over trailing axes a cell is a row, and weights belong to
/// columns (`by_column`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub samples: usize,
    pub rows: usize,
    pub width: usize,
    /// Whether cells are columns.
    pub columns: bool,
    /// Whether neighbouring elements have weights of their own.
    pub by_column: bool,
    pub join: Join,
    /// The tree over a cell.
    pub tree: Tree,
}

impl Grid {
    /// Sizes fit in memory: the caller has checked that a slice has `layout.elements` elements.
    pub fn new(layout: &Layout) -> Grid {
        let (stats, channels) = (&layout.stats, layout.affine.targets());
        let tree = |walk: &Walk| Tree::new(walk, &Profile::CPU);
        let size = |n: u64| n as usize;
        let map = layout.affine_of_stats;
        if layout.affine.segments == 1 && stats.inner * stats.segments == 1 && map.position * map.position_div == 1 {
            // Norms over trailing axes: a weight's elements go down a column. (One group over a sample that has one
            // position is the same thing.)
            return Grid {
                samples: 1,
                rows: size(stats.outer),
                width: size(stats.len),
                columns: false,
                by_column: true,
                join: Join::Channels(1),
                tree: tree(stats),
            };
        }
        let affine = &layout.affine;
        let join =
            if layout.is_per_channel() { Join::Samples } else { Join::Channels(size(channels / stats.inner.max(1))) };
        let tree = tree(affine);
        let (rows, width) = if tree.side_by_side { (affine.len, channels) } else { (channels, affine.len) };
        Grid {
            samples: size(affine.segments),
            rows: size(rows),
            width: size(width),
            columns: tree.side_by_side,
            by_column: tree.side_by_side,
            join,
            tree,
        }
    }

    /// Cells of a sample; weights, except for rows.
    pub fn channels(&self) -> usize {
        if self.columns { self.width } else { self.rows }
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        if self.by_column { self.width } else { self.rows }
    }

    /// Rows of the whole tensor.
    pub fn all_rows(&self) -> usize {
        self.samples * self.rows
    }
}
