//! From leaves to cells, and from cells to statistics: the tree, whoever computes which part of it.

use super::exec::{Exec, dispatch};
use super::grid::{Grid, Join};
use super::half::first_half;
use super::lanes::{LANES, Number, Span, for_spans};
use super::leaf_columns::{TALL, WIDE};
use super::memory::{Area, Scratch, TILE};
use super::partial::{Partial, Stack};
use super::source::{Kind, PartialOf, Source};
use crate::moments::Moments;
use fearless_simd::Simd;
use std::ops::Range;

/// Partial results: `entries` rows of one number a channel, for each part of a partial result.
pub(crate) struct Table {
    pub channels: usize,
    pub parts: [Vec<f32>; 3],
    /// Elements behind an entry.
    pub counts: Vec<u32>,
}

/// Some numbers of a table, to be filled by a task.
pub(crate) type Parts<'a> = [&'a mut [f32]; 3];

impl Table {
    pub fn new(channels: usize, counts: Vec<u32>) -> Table {
        let part = || vec![0.0; counts.len() * channels];
        Table { channels, parts: [part(), part(), part()], counts }
    }

    /// In pieces of `len` numbers.
    pub fn pieces(&mut self, len: usize) -> impl ExactSizeIterator<Item = Parts<'_>> {
        let [a, b, c] = &mut self.parts;
        a.chunks_mut(len).zip(b.chunks_mut(len)).zip(c.chunks_mut(len)).map(|((a, b), c)| [a, b, c])
    }

    /// In pieces of `len` numbers, each of one entry; the last of each entry may be shorter.
    fn pieces_of_entries(&mut self, len: usize) -> impl Iterator<Item = Parts<'_>> {
        let channels = self.channels;
        let [a, b, c] =
            self.parts.each_mut().map(|part| part.chunks_mut(channels).flat_map(move |entry| entry.chunks_mut(len)));
        a.zip(b).zip(c).map(|((a, b), c)| [a, b, c])
    }

    #[inline(always)]
    fn load<S: Simd, P: Partial<S>>(&self, simd: S, entry: usize, channels: Range<usize>, span: Span) -> P {
        let row = entry * self.channels + channels.start..entry * self.channels + channels.end;
        let [a, b, c] = &self.parts;
        let [a, b, c] = [&a[row.clone()], &b[row.clone()], &c[row]];
        P::from_parts([span.load(simd, a), span.load(simd, b), span.load(simd, c)])
    }

    /// The numbers of an entry, as moments.
    pub fn moments(&self) -> Vec<Moments> {
        let [hi, lo, m2] = &self.parts;
        let all = hi.iter().zip(lo).zip(m2).enumerate();
        all.map(|(i, ((&mean_hi, &mean_lo), &m2))| Moments {
            count: self.counts[i / self.channels],
            mean_hi,
            mean_lo,
            m2,
        })
        .collect()
    }
}

#[inline(always)]
pub(crate) fn store<S: Simd, P: Partial<S>>(simd: S, partial: P, span: Span, to: &mut Parts) {
    for (part, to) in partial.parts(simd).into_iter().zip(to) {
        span.store(part, to);
    }
}

/// The tree over up to sixteen rows, each a cell. `next`: how many rows further the rows are that will be read next, and
/// are to be asked for; 0 if nothing is. `leaf` gives what [`Source::rows`] does.
#[inline(always)]
pub(crate) fn rows<S: Simd, P: Partial<S>>(
    simd: S,
    grid: &Grid,
    (first, rows): (usize, usize),
    next: usize,
    mut leaf: impl FnMut((Area, Option<Area>)) -> P,
) -> P {
    let (width, most) = (grid.width, grid.tree.leaf_len() as usize);
    let area = |at| Area { first, rows, at, len: most.min(width - at) };
    let behind = area(0).further(next);
    if width <= most {
        return leaf((area(0), behind));
    }
    let mut stack = Stack::new(simd, 1, width.div_ceil(most));
    for at in (0..width).step_by(most) {
        let (area, next) = (area(at), if next > 0 && at + most < width { Some(area(at + most)) } else { behind });
        stack.push(0, &mut [leaf((area, next))], area.len as u32);
    }
    stack.finish(simd, 0)
}

/// Out of line, so that it is compiled once.
#[inline(never)]
pub(crate) fn leaf_of_rows<S: Simd, K: Source>(
    simd: S,
    source: &K,
    areas: (Area, Option<Area>),
    scratch: &mut Scratch,
) -> PartialOf<K::Kind, S> {
    simd.vectorize(
        #[inline(always)]
        || match first_half!(S, T => leaf_of_halves::<S, K, T>(simd, source, areas)) {
            Some(leaf) => leaf,
            None => source.rows(simd, source.tile(simd, areas.0, scratch), areas),
        },
    )
}

/// The same of halves, read in registers, if all of them lie in memory as they are needed.
#[inline(never)]
fn leaf_of_halves<S: Simd, K: Source, T: Number>(
    simd: S,
    source: &K,
    areas: (Area, Option<Area>),
) -> Option<PartialOf<K::Kind, S>> {
    simd.vectorize(
        #[inline(always)]
        || Some(source.rows(simd, source.plain::<T>(areas.0)?, areas)),
    )
}

/// Rows that are reduced side by side, so that a leaf of each stays in the first-level cache: a power of two.
pub(crate) fn rows_at_once(grid: &Grid) -> usize {
    (TILE / grid.width.min(grid.tree.leaf_len() as usize)).clamp(1, LANES)
}

/// Every row a cell, of rows from `first` on. Those behind are asked for, too. `leaf` gives what [`Source::rows`] does.
#[inline(always)]
pub(crate) fn fill_rows<S: Simd, P: Partial<S>>(
    simd: S,
    grid: &Grid,
    first: usize,
    mut to: Parts,
    mut leaf: impl FnMut((Area, Option<Area>)) -> P,
) {
    let once = rows_at_once(grid);
    for at in (0..to[0].len()).step_by(once) {
        let len = once.min(to[0].len() - at);
        let partial = rows(simd, grid, (first + at, len), once, &mut leaf);
        store(simd, partial, Span::Part { at, len }, &mut to);
    }
}

/// Every row a cell: one entry a sample.
pub(crate) fn cells_of_rows<K: Source>(exec: Exec, grid: &Grid, source: &K) -> Table {
    let mut table = Table::new(grid.rows, vec![grid.width as u32; grid.samples]);
    let step = exec.rows_of_task(grid.width, grid.all_rows());
    exec.each(table.pieces(step).enumerate(), |(i, to), scratch| {
        dispatch!(exec.level, simd => fill_rows(simd, grid, i * step, to, |areas| {
            leaf_of_rows(simd, source, areas, scratch)
        }));
    });
    table
}

/// Every row a cell, for statistics of all samples: one entry for as many samples as a power of two.
fn cells_of_channels<K: Source>(exec: Exec, grid: &Grid, source: &K) -> Table {
    let sample = grid.rows * grid.width;
    let samples = (entry(exec, grid.samples * sample) / sample).max(1).next_power_of_two();
    let runs = (0..grid.samples).step_by(samples).map(|first| first..(first + samples).min(grid.samples));
    let mut table = Table::new(grid.rows, runs.clone().map(|run| (run.len() * grid.width) as u32).collect());
    let step = exec.rows_of_task(grid.width * samples, grid.rows).min(SIDE_BY_SIDE);
    let tasks = runs.flat_map(|run| (0..grid.rows).step_by(step).map(move |first| (run.clone(), first)));
    exec.each(table.pieces_of_entries(step).zip(tasks), |(to, (run, first)), scratch| {
        dispatch!(exec.level, simd => fill_channels(simd, grid, source, (run, first), to, scratch));
    });
    table
}

/// Rows that are reduced side by side, over some samples.
const SIDE_BY_SIDE: usize = 512;

/// Some channels of an entry.
#[inline(always)]
fn fill_channels<S: Simd, K: Source>(
    simd: S,
    grid: &Grid,
    source: &K,
    (samples, first): (Range<usize>, usize),
    mut to: Parts,
    scratch: &mut Scratch,
) {
    let (len, once) = (to[0].len(), rows_at_once(grid));
    let mut merged = vec![PartialOf::<K::Kind, S>::empty(simd); len.div_ceil(once)];
    let mut stack = Stack::new(simd, merged.len(), samples.len());
    for n in samples {
        for (i, merged) in merged.iter_mut().enumerate() {
            let of = (n * grid.rows + first + i * once, once.min(len - i * once));
            *merged = rows(
                simd,
                grid,
                of,
                once,
                #[inline(always)]
                |areas| leaf_of_rows(simd, source, areas, scratch),
            );
        }
        stack.push(0, &mut merged, grid.width as u32);
    }
    for i in 0..merged.len() {
        let span = Span::Part { at: i * once, len: once.min(len - i * once) };
        store(simd, stack.finish(simd, i), span, &mut to);
    }
}

/// How the rows of a grid of columns are cut into entries: by samples, or samples by leaves.
struct Cut {
    /// Whole samples of an entry.
    samples: usize,
    /// Entries of a sample.
    chunks: usize,
    /// Rows of an entry of one sample.
    rows: usize,
}

/// Elements that an entry has at least, unless its sample has fewer.
const ENTRY: usize = 1 << 16;

/// Entries that a thread has, if they are longer than that: the fewer there are, the less memory is asked for.
const ENTRIES: usize = 8;

/// Elements of an entry, of so many in all. The tree is the same for any number of threads: an entry is a branch of it.
fn entry(exec: Exec, elements: usize) -> usize {
    (elements / (ENTRIES * exec.threads())).max(ENTRY)
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
    fn cut(&self, entry: usize) -> Cut {
        if self.rows <= self.leaf && self.joins_samples {
            let samples = (entry / (self.rows * self.width)).max(1).next_power_of_two();
            return Cut { samples, chunks: 1, rows: self.rows };
        }
        let leaves = (entry / (self.leaf * self.width)).max(1).next_power_of_two();
        let rows = self.rows.min(leaves * self.leaf);
        Cut { samples: 1, chunks: self.rows.div_ceil(rows), rows }
    }
}

/// Every column of a sample a cell. Entries are samples, or runs of them that merge anyway.
pub(crate) fn cells_of_columns<K: Source>(exec: Exec, down: Down, source: &K) -> Table {
    let cut = down.cut(entry(exec, down.samples * down.rows * down.width));
    let entries = down.samples.div_ceil(cut.samples) * cut.chunks;
    let counts = (0..entries).map(|e| {
        let samples = cut.samples.min(down.samples - e / cut.chunks * cut.samples);
        (samples * cut.rows.min(down.rows - e % cut.chunks * cut.rows)) as u32
    });
    let mut table = Table::new(down.width, counts.collect());
    exec.each(table.pieces(down.width).enumerate(), |(e, to), scratch| {
        let first = e / cut.chunks * cut.samples * down.rows + e % cut.chunks * cut.rows;
        let rows = cut.rows.min(down.rows - e % cut.chunks * cut.rows);
        let samples = cut.samples.min(down.samples - e / cut.chunks * cut.samples);
        dispatch!(exec.level, simd => fill_columns(simd, down, source, first, (samples, rows), to, scratch));
    });
    if cut.chunks == 1 { table } else { join::<K::Kind>(exec, &table, cut.chunks) }
}

/// One entry: `rows` rows of each of some samples. If there are several samples, each is a leaf.
#[inline(always)]
pub(crate) fn fill_columns<S: Simd, K: Source>(
    simd: S,
    down: Down,
    source: &K,
    first: usize,
    (samples, rows): (usize, usize),
    to: Parts,
    scratch: &mut Scratch,
) {
    let (all, leaf) = (samples * rows, if samples > 1 { rows } else { down.leaf.min(rows) });
    let mut columns = Columns::<S, K>::new(simd, down.width, leaf, all.div_ceil(leaf));
    columns.push(simd, source, first..first + all, scratch);
    columns.store(simd, to);
}

/// The trees over all columns of some rows, row by row as they lie in memory.
pub(crate) struct Columns<S: Simd, K: Source> {
    width: usize,
    /// Rows of a leaf.
    leaf: usize,
    stack: Stack<PartialOf<K::Kind, S>>,
    /// One a span.
    merged: Vec<PartialOf<K::Kind, S>>,
}

impl<S: Simd, K: Source> Columns<S, K> {
    /// For so many leaves.
    #[inline(always)]
    pub fn new(simd: S, width: usize, leaf: usize, leaves: usize) -> Self {
        let spans = width / WIDE * (WIDE / LANES) + (width % WIDE).div_ceil(LANES);
        let merged = vec![PartialOf::<K::Kind, S>::empty(simd); spans];
        Columns { width, leaf, stack: Stack::new(simd, spans, leaves), merged }
    }

    /// The next rows: whole leaves, but for the last rows of all.
    #[inline(always)]
    pub fn push(&mut self, simd: S, source: &K, rows: Range<usize>, scratch: &mut Scratch) {
        let mut first = rows.start;
        while first < rows.end {
            // As many leaves as a tile holds, a power of two; or the last one, which may be shorter.
            let full = ((rows.end - first) / self.leaf).min(TALL / self.leaf);
            let level = full.max(1).ilog2() as usize;
            let count = (self.leaf << level).min(rows.end - first);
            for (at, len, spans) in panels(self.width) {
                let area = Area { first, rows: count, at, len };
                // Panels are not read in the order of memory, so it has to be told.
                let behind = Area { at: at + len, len: WIDE.min(self.width - at - len), ..area };
                let below = Area { first: first + count, at: 0, len: WIDE.min(self.width), ..area };
                let next = if behind.len > 0 { behind } else { below };
                // Who pushes a few rows has read them just now.
                let next = (rows.len() > TALL && next.first < rows.end).then_some(next);
                leaves_of_columns(simd, source, (area, next), self.leaf, &mut self.merged[spans], scratch);
            }
            self.stack.push(level, &mut self.merged, count as u32);
            first += count;
        }
    }

    #[inline(always)]
    pub fn store(&self, simd: S, mut to: Parts) {
        for (at, len, spans) in panels(self.width) {
            let [a, b, c] = &mut to;
            let mut to = [&mut a[at..at + len], &mut b[at..at + len], &mut c[at..at + len]];
            for i in 0..spans.len() {
                store(simd, self.stack.finish(simd, spans.start + i), Span::at(i, len), &mut to);
            }
        }
    }
}

/// Columns that are reduced side by side: where they begin, how many they are, and their spans.
fn panels(width: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    (0..width).step_by(WIDE).map(move |at| {
        let (len, first) = (WIDE.min(width - at), at / LANES);
        (at, len, first..first + len.div_ceil(LANES))
    })
}

/// Leaves of every column of an area, merged: one partial result a span. Out of line, so that it is compiled once.
#[inline(never)]
fn leaves_of_columns<S: Simd, K: Source>(
    simd: S,
    source: &K,
    areas: (Area, Option<Area>),
    leaf: usize,
    to: &mut [PartialOf<K::Kind, S>],
    scratch: &mut Scratch,
) {
    if first_half!(S, T => leaves_of_columns_of_halves::<S, K, T>(simd, source, areas, leaf, to)).is_some() {
        return;
    }
    simd.vectorize(
        #[inline(always)]
        || source.columns(simd, source.tile(simd, areas.0, scratch), areas, leaf, to),
    )
}

/// As [`leaf_of_halves`].
#[inline(never)]
fn leaves_of_columns_of_halves<S: Simd, K: Source, T: Number>(
    simd: S,
    source: &K,
    areas: (Area, Option<Area>),
    leaf: usize,
    to: &mut [PartialOf<K::Kind, S>],
) -> Option<()> {
    simd.vectorize(
        #[inline(always)]
        || {
            source.columns(simd, source.plain::<T>(areas.0)?, areas, leaf, to);
            Some(())
        },
    )
}

/// Merges every `of` neighbouring entries into one.
pub(crate) fn join<K: Kind>(exec: Exec, table: &Table, of: usize) -> Table {
    let counts: Vec<u32> = table.counts.chunks(of).map(|c| c.iter().fold(0u32, |a, &b| a.saturating_add(b))).collect();
    let (channels, entries) = (table.channels, counts.len());
    let mut joined = Table::new(channels, counts);
    // One entry is shared out by channels.
    let piece = if entries > 1 { channels } else { WIDE };
    exec.each(joined.pieces(piece).enumerate(), |(i, to), _| {
        let (entry, at) = if entries > 1 { (i, 0) } else { (0, i * WIDE) };
        let entries = entry * of..((entry + 1) * of).min(table.counts.len());
        dispatch!(exec.level, simd => fill_joined::<_, K>(simd, table, entries, at, to));
    });
    joined
}

/// Channels from `at` on.
#[inline(always)]
fn fill_joined<S: Simd, K: Kind>(simd: S, table: &Table, entries: Range<usize>, at: usize, mut to: Parts) {
    let len = to[0].len();
    for_spans!(len, span => {
        let mut stack = Stack::<PartialOf<K, S>>::new(simd, 1, entries.len());
        for entry in entries.clone() {
            let partial = table.load(simd, entry, at..at + len, span);
            stack.push(0, &mut [partial], table.counts[entry]);
        }
        store(simd, stack.finish(simd, 0), span, &mut to);
    });
}

/// All samples' entries merged: one number a channel.
pub(crate) fn join_samples<K: Kind>(exec: Exec, table: Table) -> Table {
    match table.counts.len() {
        1 => table,
        entries => join::<K>(exec, &table, entries),
    }
}

/// Cells of a tensor: rows, or columns of samples. One entry a sample, unless samples are merged anyway.
pub(crate) fn cells<K: Source>(exec: Exec, grid: &Grid, source: &K) -> Table {
    if grid.columns {
        let joins_samples = grid.join == Join::Samples;
        let Grid { samples, rows, width, tree, .. } = *grid;
        let down = Down { samples, rows, width, leaf: tree.leaf_len() as usize, joins_samples };
        cells_of_columns(exec, down, source)
    } else if grid.join == Join::Samples {
        cells_of_channels(exec, grid, source)
    } else {
        cells_of_rows(exec, grid, source)
    }
}
