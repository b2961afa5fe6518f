//! From leaves to cells, and from cells to statistics: the tree, whoever computes which part of it.

pub(super) mod abreast;
pub(super) mod columns;
pub(super) mod leaf;
pub(super) mod leaf_columns;
pub(super) mod partial;
pub(super) mod source;
mod transposed;

use crate::cpu::exec::{Exec, dispatch};
use crate::cpu::grid::{Grid, Join};
use crate::cpu::memory::area::{Area, Scratch, TILE};
use crate::cpu::memory::vectors::Vectors;
use crate::cpu::simd::half::first_half;
use crate::cpu::simd::lanes::{LANES, Number, Span, for_spans};
use crate::moments::Moments;
use fearless_simd::Simd;
use leaf_columns::WIDE;
use partial::{Partial, Stack};
use source::{Kind, PartialOf, Source};
use std::cell::Cell;
use std::ops::Range;

/// Partial results: `entries` rows of one number a channel, for each part of a partial result.
pub(crate) struct Table {
    pub channels: usize,
    pub parts: Vectors<3>,
    /// Elements behind an entry.
    pub counts: Vec<u32>,
}

/// Some numbers of a table, to be filled by a task.
pub(crate) type Parts<'a> = [&'a mut [f32]; 3];

impl Table {
    pub fn new(channels: usize, counts: Vec<u32>) -> Table {
        Table { channels, parts: Vectors::zeros(counts.len() * channels), counts }
    }

    /// In pieces of `len` numbers.
    pub fn pieces(&mut self, len: usize) -> impl ExactSizeIterator<Item = Parts<'_>> {
        let [a, b, c] = self.parts.each_mut();
        a.chunks_mut(len).zip(b.chunks_mut(len)).zip(c.chunks_mut(len)).map(|((a, b), c)| [a, b, c])
    }

    /// In pieces of `len` numbers, each of one entry; the last of each entry may be shorter.
    pub fn pieces_of_entries(&mut self, len: usize) -> impl Iterator<Item = Parts<'_>> {
        let channels = self.channels;
        let [a, b, c] =
            self.parts.each_mut().map(|part| part.chunks_mut(channels).flat_map(move |entry| entry.chunks_mut(len)));
        a.zip(b).zip(c).map(|((a, b), c)| [a, b, c])
    }

    #[inline(always)]
    fn load<S: Simd, P: Partial<S>>(&self, simd: S, entry: usize, channels: Range<usize>, span: Span) -> P {
        let row = entry * self.channels + channels.start..entry * self.channels + channels.end;
        let [a, b, c] = self.parts.each();
        let [a, b, c] = [&a[row.clone()], &b[row.clone()], &c[row]];
        P::from_parts([span.load(simd, a), span.load(simd, b), span.load(simd, c)])
    }

    /// The numbers of an entry, as moments.
    pub fn moments(&self) -> Vec<Moments> {
        let [hi, lo, m2] = self.parts.each();
        let all = hi.iter().zip(lo).zip(m2).enumerate();
        all.map(|(i, ((&hi, &lo), &m2))| Moments::of(self.counts[i / self.channels], [hi, lo, m2])).collect()
    }
}

/// Elements that an entry has at least, unless its sample has fewer.
const ENTRY: usize = 1 << 16;

/// Entries that a thread has, if they are longer than that: the fewer there are, the less memory is asked for.
const ENTRIES: usize = 8;

/// How many branches of a tree of so many elements, each of `branch`, an entry has: a power of two, so that it is a branch
/// itself, and the tree is the same for any number of threads.
pub(crate) fn branches_of_entry(exec: Exec, elements: usize, branch: usize) -> usize {
    let entry = (elements / (ENTRIES * exec.threads())).max(ENTRY);
    (entry / branch).max(1).next_power_of_two()
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
    let (width, most) = (grid.width, grid.piece());
    let area = |at| Area { first, rows, at, len: most.min(width - at) };
    let behind = area(0).further(next);
    if width <= most {
        return leaf((area(0), behind));
    }
    let mut stack = Stack::new(simd, 1, width.div_ceil(most));
    for at in (0..width).step_by(most) {
        let (area, next) = (area(at), if next > 0 && at + most < width { Some(area(at + most)) } else { behind });
        stack.push(&mut [leaf((area, next))], area.len as u32);
    }
    stack.finish(simd, 0)
}

/// What [`Source::rows`] gives. Out of line, so that it is compiled once.
#[inline(never)]
pub(crate) fn leaf_of_rows<S: Simd, K: Source>(
    simd: S,
    source: &K,
    areas: (Area, Option<Area>),
    down: &[Cell<PartialOf<K::Kind, S>>],
    scratch: &mut Scratch,
) -> PartialOf<K::Kind, S> {
    simd.vectorize(
        #[inline(always)]
        || {
            // Of rows that are shorter than a vector all are widened at once.
            if areas.0.len >= LANES
                && let Some(leaf) = first_half!(S, T => leaf_of_halves::<S, K, T>(simd, source, areas, down))
            {
                return leaf;
            }
            source.rows(simd, source.tile(simd, areas.0, scratch), areas, down)
        },
    )
}

/// The same of halves, read in registers, if all of them lie in memory as they are needed.
#[inline(never)]
fn leaf_of_halves<S: Simd, K: Source, T: Number>(
    simd: S,
    source: &K,
    areas: (Area, Option<Area>),
    down: &[Cell<PartialOf<K::Kind, S>>],
) -> Option<PartialOf<K::Kind, S>> {
    simd.vectorize(
        #[inline(always)]
        || Some(source.rows(simd, source.plain::<T>(areas.0)?, areas, down)),
    )
}

/// Rows that are reduced side by side, so that a leaf of each stays in the first-level cache.
pub(crate) fn rows_at_once(grid: &Grid) -> usize {
    (TILE / grid.width.min(grid.piece())).clamp(1, LANES)
}

/// The same of rows that make up leaves down columns, too.
pub(crate) fn rows_of_leaf_at_once(grid: &Grid) -> usize {
    (1..=rows_at_once(grid)).rev().find(|&rows| grid.leaf_down.is_multiple_of(rows)).unwrap_or(1)
}

/// Every row a cell, of rows from `first` on, so many side by side. Those behind are asked for, too. `leaf` gives what
/// [`Source::rows`] does.
#[inline(always)]
pub(crate) fn fill_rows<S: Simd, P: Partial<S>>(
    simd: S,
    grid: &Grid,
    (first, once): (usize, usize),
    mut to: Parts,
    mut leaf: impl FnMut((Area, Option<Area>)) -> P,
) {
    for at in (0..to[0].len()).step_by(once) {
        let len = once.min(to[0].len() - at);
        let partial = rows(simd, grid, (first + at, len), once, &mut leaf);
        store(simd, partial, Span::Part { at, len }, &mut to);
    }
}

/// Every row a cell: one entry a sample.
pub(crate) fn cells_of_rows<K: Source>(exec: Exec, grid: &Grid, source: &K) -> Table {
    let mut table = Table::new(grid.rows, vec![grid.width as u32; grid.samples]);
    let step = exec.rows_of_task(grid, grid.width, grid.all_rows());
    exec.each(table.pieces(step).enumerate(), |(i, to), scratch| {
        dispatch!(exec.level, simd => fill_rows(simd, grid, (i * step, rows_at_once(grid)), to, |areas| {
            leaf_of_rows(simd, source, areas, &[], scratch)
        }));
    });
    table
}

/// Every row a cell, for statistics of all samples: one entry for as many samples as a power of two.
fn cells_of_channels<K: Source>(exec: Exec, grid: &Grid, source: &K) -> Table {
    let sample = grid.rows * grid.width;
    let samples = branches_of_entry(exec, grid.samples * sample, sample);
    let runs = (0..grid.samples).step_by(samples).map(|first| first..(first + samples).min(grid.samples));
    let mut table = Table::new(grid.rows, runs.clone().map(|run| (run.len() * grid.width) as u32).collect());
    let step = exec.rows_of_task(grid, grid.width * samples, grid.rows).min(SIDE_BY_SIDE);
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
                |areas| leaf_of_rows(simd, source, areas, &[], scratch),
            );
        }
        stack.push(&mut merged, grid.width as u32);
    }
    for i in 0..merged.len() {
        let span = Span::Part { at: i * once, len: once.min(len - i * once) };
        store(simd, stack.finish(simd, i), span, &mut to);
    }
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
            stack.push(&mut [partial], table.counts[entry]);
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
        let down = columns::Down { samples, rows, width, leaf: tree.leaf_len() as usize, joins_samples };
        columns::cells(exec, down, source)
    } else if grid.join == Join::Samples {
        cells_of_channels(exec, grid, source)
    } else {
        cells_of_rows(exec, grid, source)
    }
}
