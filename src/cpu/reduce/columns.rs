//! Trees over columns, row by row as they lie in memory.

use super::abreast::{Panel, fold, most_pieces};
use super::leaf_columns::{TALL, WIDE};
use super::partial::{Partial, Stack};
use super::source::{Kind, PartialOf, Source};
use super::{Parts, Table, branches_of_entry, join, store};
use crate::cpu::exec::{Exec, dispatch};
use crate::cpu::memory::area::{Area, Scratch};
use crate::cpu::simd::half::first_half;
use crate::cpu::simd::lanes::{LANES, Number, Span};
use fearless_simd::Simd;
use std::cell::Cell;
use std::ops::Range;

/// How the rows of a grid of columns are cut into entries: by samples, or samples by leaves.
struct Cut {
    /// Whole samples of an entry.
    samples: usize,
    /// Entries of a sample.
    chunks: usize,
    /// Rows of an entry of one sample.
    rows: usize,
}

/// A tree over columns, as [`crate::plan::Tree`] of a walk with so many rows.
#[derive(Clone, Copy)]
pub(crate) struct Down {
    pub samples: usize,
    pub rows: usize,
    pub width: usize,
    pub leaf: usize,
    /// Whether samples may be merged.
    pub joins_samples: bool,
}

impl Down {
    fn cut(&self, exec: Exec) -> Cut {
        let branches = |rows: usize| {
            let all = self.samples * self.rows * self.width;
            branches_of_entry(exec, all, rows * self.width)
        };
        let samples = if self.joins_samples { branches(self.rows) } else { 1 };
        if samples > 1 {
            return Cut { samples, chunks: 1, rows: self.rows };
        }
        let rows = self.rows.min(branches(self.leaf) * self.leaf);
        Cut { samples: 1, chunks: self.rows.div_ceil(rows), rows }
    }

    /// An entry's first row, its samples, and rows of each.
    fn entry(&self, cut: &Cut, e: usize) -> (usize, usize, usize) {
        let (sample, row) = (e / cut.chunks * cut.samples, e % cut.chunks * cut.rows);
        (sample * self.rows + row, cut.samples.min(self.samples - sample), cut.rows.min(self.rows - row))
    }
}

/// Every column of a sample a cell. Entries are samples, or runs of them that merge anyway.
pub(crate) fn cells<K: Source>(exec: Exec, down: Down, source: &K) -> Table {
    let cut = down.cut(exec);
    let entries = down.samples.div_ceil(cut.samples) * cut.chunks;
    let counts = (0..entries).map(|e| {
        let (_, samples, rows) = down.entry(&cut, e);
        (samples * rows) as u32
    });
    let mut table = Table::new(down.width, counts.collect());
    let step = exec.columns_of_task(entries, cut.samples * cut.rows, down.width, WIDE);
    let tasks = (0..entries).flat_map(|e| (0..down.width).step_by(step).map(move |at| (e, at)));
    exec.each(table.pieces_of_entries(step).zip(tasks), |(to, (e, at)), scratch| {
        let (first, samples, rows) = down.entry(&cut, e);
        dispatch!(exec.level, simd => fill_columns(simd, down, source, first, (samples, rows), (to, at), scratch));
    });
    if cut.chunks == 1 { table } else { join::<K::Kind>(exec, &table, cut.chunks) }
}

/// Columns of an entry from `at` on: `rows` rows of each of some samples.
#[inline(always)]
pub(crate) fn fill_columns<S: Simd, K: Source>(
    simd: S,
    down: Down,
    source: &K,
    first: usize,
    (samples, rows): (usize, usize),
    (to, at): (Parts, usize),
    scratch: &mut Scratch,
) {
    let (all, leaf) = (first..first + samples * rows, down.leaf.min(rows));
    let leaves = samples * rows.div_ceil(leaf).next_power_of_two();
    let mut columns = Columns::<S, K::Kind>::new(simd, (at..at + to[0].len(), WIDE), leaf, leaves);
    // Samples of one leaf each are looked at several at a time.
    let step = if rows == leaf { all.len() } else { rows };
    for first in all.clone().step_by(step) {
        columns.push(simd, source, first..first + step, all.end, scratch);
    }
    columns.store(simd, to);
}

/// The trees over all columns of some rows, row by row as they lie in memory.
pub(crate) struct Columns<S: Simd, K: Kind> {
    panels: Panels,
    /// Rows of a leaf.
    leaf: usize,
    stack: Stack<PartialOf<K, S>>,
    /// One a span.
    merged: Vec<PartialOf<K, S>>,
    /// Rows that have been added up in these.
    rows: usize,
}

impl<S: Simd, K: Kind> Columns<S, K> {
    /// For so many leaves. `panel`: columns that are reduced side by side, and are cut into spans from the first on.
    #[inline(always)]
    pub fn new(simd: S, (columns, panel): (Range<usize>, usize), leaf: usize, leaves: usize) -> Self {
        let panels = Panels { first: columns.start, end: columns.end, len: panel };
        let spans = panels.spans_before(columns.end);
        let merged = vec![PartialOf::<K, S>::empty(simd); spans];
        Columns { panels, leaf, stack: Stack::new(simd, spans, leaves), merged, rows: 0 }
    }

    /// Where rows of one leaf are added up, of a panel's columns; one a span.
    #[inline(always)]
    pub fn spans(&mut self, area: Area) -> &[Cell<PartialOf<K, S>>] {
        debug_assert!((area.at - self.panels.first).is_multiple_of(self.panels.len), "a part of a panel");
        let spans = self.panels.spans(area.at, area.len);
        Cell::from_mut(&mut self.merged[spans]).as_slice_of_cells()
    }

    /// So many rows have been added up, of all columns.
    #[inline(always)]
    pub fn added(&mut self, simd: S, rows: usize) {
        self.rows += rows;
        debug_assert!(self.rows <= self.leaf, "rows of more than a leaf");
        if self.rows == self.leaf {
            self.close(simd);
        }
    }

    #[inline(always)]
    fn close(&mut self, simd: S) {
        self.stack.push(&mut self.merged, self.rows as u32);
        self.merged.fill(PartialOf::<K, S>::empty(simd));
        self.rows = 0;
    }

    /// A tree of rows that are read for it: whole leaves, but for the last. `end`: of all rows.
    #[inline(always)]
    pub fn push(
        &mut self,
        simd: S,
        source: &impl Source<Kind = K>,
        rows: Range<usize>,
        end: usize,
        scratch: &mut Scratch,
    ) {
        let levels = |rows: usize| rows.div_ceil(self.leaf).next_power_of_two().ilog2() as usize;
        let Panels { first: left, end: right, len: most } = self.panels;
        let width = right - left;
        let first_panel = Area { first: rows.start, rows: rows.len(), at: left, len: most.min(width) };
        let tall = self.leaf << (rows_of_panel::<S, _>(source, first_panel) / self.leaf).min(TALL).ilog2();
        let abreast = if source.can_lie_abreast() { most_pieces(width, self.leaf) } else { 0 };
        let top = levels(rows.len());
        let mut first = rows.start;
        while first < rows.end {
            let rest = rows.end - first;
            let pieces = (rest / TALL).checked_ilog2().unwrap_or(0).min(abreast);
            let count = if pieces > 0 { TALL << pieces } else { tall.min(rest) };
            let level = levels(count);
            for (at, len, spans) in self.panels.all() {
                let area = Area { first, rows: count, at, len };
                // Panels are not read in the order of memory, so it has to be told.
                let behind = Area { at: at + len, len: most.min(right - at - len), ..area };
                let below = Area { first: first + count, at: left, len: most.min(width), ..area };
                let next = Some(if behind.len > 0 { behind } else { below }).filter(|next| next.first < end);
                let panel = Panel { area, next, leaf: self.leaf, pieces };
                leaves_of_columns(simd, source, panel, &mut self.merged[spans], scratch);
            }
            let top = if first + count == rows.end { top } else { level };
            self.stack.push_tree(level..top, &mut self.merged, count as u32);
            first += count;
        }
    }

    #[inline(always)]
    pub fn store(&mut self, simd: S, mut to: Parts) {
        if self.rows > 0 {
            self.close(simd);
        }
        for (at, len, spans) in self.panels.all() {
            let [a, b, c] = &mut to;
            let of_panel = at - self.panels.first..at - self.panels.first + len;
            let mut to = [&mut a[of_panel.clone()], &mut b[of_panel.clone()], &mut c[of_panel]];
            for i in 0..spans.len() {
                store(simd, self.stack.finish(simd, spans.start + i), Span::at(i, len), &mut to);
            }
        }
    }
}

/// Columns that are reduced side by side: so many of a row's `first..end`, the last of it may be fewer.
#[derive(Clone, Copy)]
struct Panels {
    first: usize,
    end: usize,
    len: usize,
}

impl Panels {
    /// Where they begin, how many they are, and their spans.
    fn all(self) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
        (self.first..self.end).step_by(self.len).map(move |at| {
            let len = self.len.min(self.end - at);
            (at, len, self.spans(at, len))
        })
    }

    /// Of the panel that begins at a column.
    fn spans(self, at: usize, len: usize) -> Range<usize> {
        let first = self.spans_before(at);
        first..first + len.div_ceil(LANES)
    }

    fn spans_before(self, column: usize) -> usize {
        let before = column - self.first;
        before / self.len * self.len.div_ceil(LANES) + (before % self.len).div_ceil(LANES)
    }
}

/// Rows of a panel that are looked at together: more than a tile has, so that more leaves are merged in registers, where they
/// are read in place.
#[inline(always)]
fn rows_of_panel<S: Simd, K: Source>(source: &K, all: Area) -> usize {
    let in_place =
        source.plain::<f32>(all).is_some() || first_half!(S, T => source.plain::<T>(all).map(|_| ())).is_some();
    if in_place { source.tall().max(TALL) } else { TALL }
}

/// Leaves of every column of an area, merged: one partial result a span. Out of line, so that it is compiled once.
#[inline(never)]
fn leaves_of_columns<S: Simd, K: Source>(
    simd: S,
    source: &K,
    panel: Panel,
    to: &mut [PartialOf<K::Kind, S>],
    scratch: &mut Scratch,
) {
    let is_abreast = panel.pieces > 0;
    if !is_abreast && first_half!(S, T => leaves_of_columns_of_halves::<S, K, T>(simd, source, panel, to)).is_some() {
        return;
    }
    simd.vectorize(
        #[inline(always)]
        || {
            let tile = source.tile_of_panel(simd, panel, scratch);
            if !is_abreast {
                return source.columns(simd, tile, panel, to);
            }
            let mut spans = [PartialOf::<K::Kind, S>::empty(simd); WIDE / LANES];
            let spans = &mut spans[..panel.len().div_ceil(LANES)];
            source.columns(simd, tile, panel, spans);
            to[0] = fold(simd, panel, spans);
        },
    )
}

/// The same of halves, read in registers, if all of them lie in memory as they are needed.
#[inline(never)]
fn leaves_of_columns_of_halves<S: Simd, K: Source, T: Number>(
    simd: S,
    source: &K,
    panel: Panel,
    to: &mut [PartialOf<K::Kind, S>],
) -> Option<()> {
    simd.vectorize(
        #[inline(always)]
        || {
            source.columns(simd, source.plain::<T>(panel.area)?, panel, to);
            Some(())
        },
    )
}
