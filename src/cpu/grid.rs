//! A layout as the CPU sees it: rows of neighbouring elements, and cells whose results make up a statistic.

use super::memory::nontemporal::QUAD;
use super::memory::store_policy::StorePolicy;
use super::reduce::leaf_columns::TALL;
use crate::layout::{Memory, Walk};
use crate::plan::{Problem, Tree};
use crate::profile::Profile;
use std::ops::Range;

/// How the results of cells become those of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// All samples' cells of a channel (batch norm).
    Samples,
    /// So many neighbouring channels' cells of a sample: a group, 1 for instance norm and for rows.
    Channels(usize),
}

/// Where rows lie in memory, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Rows of a sample.
    pub per_sample: usize,
    /// Distance of two rows of a sample.
    pub row: usize,
    /// Distance of two samples.
    pub sample: usize,
    /// Distance of two elements of a row.
    pub step: usize,
}

impl Rows {
    /// Where a row begins.
    #[inline(always)]
    pub fn offset(&self, row: usize) -> usize {
        if self.is_uniform() {
            return row * self.row;
        }
        row / self.per_sample * self.sample + row % self.per_sample * self.row
    }

    /// Whether the last row of a sample and the first of the next are as far from each other as others are: it takes no
    /// division to ask.
    #[inline(always)]
    fn is_uniform(&self) -> bool {
        self.sample == self.per_sample * self.row
    }

    /// Distance of two of these rows, if it is the same for all of them and their elements are neighbours.
    #[inline(always)]
    pub fn pitch(&self, first: usize, rows: usize) -> Option<usize> {
        let one_sample = || first / self.per_sample == (first + rows - 1) / self.per_sample;
        (self.step == 1 && (self.is_uniform() || one_sample())).then_some(self.row)
    }
}

/// Goes over rows without a division for each.
#[derive(Clone, Copy)]
pub(crate) struct Cursor {
    rows: usize,
    size: usize,
    by_channel: bool,
    channel: usize,
    group: usize,
    in_group: usize,
}

/// What belongs to a row.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    /// Its number within its sample: its channel, if it is one's.
    pub channel: usize,
    /// Its statistic, if it has one; in grids of columns its sample.
    pub stat: usize,
}

impl Cursor {
    #[inline(always)]
    pub fn new(grid: &Grid, row: usize) -> Cursor {
        let (size, by_channel) = match grid.join {
            _ if grid.columns => (grid.rows, false),
            Join::Samples => (1, true),
            Join::Channels(size) => (size, false),
        };
        let channel = row % grid.rows;
        Cursor { rows: grid.rows, size, by_channel, channel, group: row / size, in_group: row % size }
    }

    /// The row that it is at; it goes on to the next.
    #[inline(always)]
    pub fn next(&mut self) -> Row {
        let row = Row { channel: self.channel, stat: if self.by_channel { self.channel } else { self.group } };
        self.channel = if self.channel + 1 == self.rows { 0 } else { self.channel + 1 };
        self.in_group += 1;
        if self.in_group == self.size {
            (self.in_group, self.group) = (0, self.group + 1);
        }
        row
    }
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
    /// Rows of a leaf of the trees over columns, where weights belong to columns and cells do not; otherwise 1.
    pub leaf_down: usize,
    /// Whether no tensor has gaps between rows.
    pub is_dense: bool,
    /// Whether rows go around the caches, and their length is no multiple of [`QUAD`] bytes.
    pub is_ragged: bool,
    /// Bytes of an element that is read.
    pub size: usize,
}

impl Grid {
    /// Sizes fit in memory: the caller has checked that a slice has `layout.elements` elements.
    pub fn new(problem: &Problem, policy: StorePolicy) -> Grid {
        let layout = &problem.layout;
        let is_dense = problem.is_dense();
        let [least, most] =
            [problem.input.size().min(problem.output.size()), problem.input.size().max(problem.output.size())];
        let is_ragged = |width: usize| policy == StorePolicy::Around && !(width * least as usize).is_multiple_of(QUAD);
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
                is_ragged: is_ragged(size(stats.len)),
                size: size(most),
                columns: false,
                by_column: true,
                join: Join::Channels(1),
                tree: tree(stats),
                leaf_down: (tree(&layout.affine).leaf_len() as usize).min(TALL),
                is_dense,
            };
        }
        let affine = &layout.affine;
        let join =
            if layout.is_per_channel() { Join::Samples } else { Join::Channels(size(channels / stats.inner.max(1))) };
        let tree = tree(affine);
        // A single channel of one element is a column, too.
        let columns = tree.side_by_side || (join == Join::Samples && affine.len * channels == 1);
        let (rows, width) = if columns { (affine.len, channels) } else { (channels, affine.len) };
        Grid {
            samples: size(affine.segments),
            rows: size(rows),
            width: size(width),
            columns,
            by_column: columns,
            join,
            tree,
            leaf_down: 1,
            is_dense,
            is_ragged: is_ragged(size(width)),
            size: size(most),
        }
    }

    /// Number of statistics.
    pub fn stats(&self) -> usize {
        match self.join {
            Join::Samples => self.channels(),
            Join::Channels(size) => self.samples * self.channels() / size,
        }
    }

    /// Neighbouring rows that share a statistic.
    pub fn group(&self) -> usize {
        match self.join {
            Join::Samples => 1,
            Join::Channels(size) => size,
        }
    }

    /// Elements of a row that are reduced at a time: a leaf.
    pub fn piece(&self) -> usize {
        self.tree.leaf_len() as usize
    }

    /// Where a tensor's rows lie.
    pub fn rows_of(&self, memory: &Memory) -> Rows {
        let (row, sample) = (memory.row_pitch as usize, memory.sample_pitch as usize);
        if self.by_column && !self.columns {
            let row = if memory.rows == 1 { sample } else { row };
            Rows { per_sample: memory.rows as usize, row, sample, step: 1 }
        } else if self.columns {
            Rows { per_sample: self.rows, row, sample, step: 1 }
        } else if memory.rows > 1 {
            // One channel of a channels-last tensor.
            Rows { per_sample: self.rows, row: 0, sample, step: row }
        } else {
            Rows { per_sample: self.rows, row: self.width, sample, step: 1 }
        }
    }

    /// Cells of a sample; weights, except for rows.
    pub fn channels(&self) -> usize {
        if self.columns { self.width } else { self.rows }
    }

    /// Cells of a row's columns `at..at + len`; of a strip elements.
    #[inline(always)]
    pub fn cells(&self, row: Row, at: usize, len: usize) -> Range<usize> {
        let first = at + if self.join == Join::Samples { 0 } else { row.stat * self.width };
        first..first + len
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
