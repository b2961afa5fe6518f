//! From leaves to cells, and from cells to statistics: the tree, whoever computes which part of it.

use super::exec::Exec;
use super::grid::Grid;
use super::lanes::{LANES, Span, each_span};
use super::partial::{Partial, Stack};
use super::source::{Kind, PartialOf, Source};
use crate::moments::Moments;
use fearless_simd::{Simd, dispatch};
use std::ops::Range;

/// Partial results: `entries` rows of one number a channel, for each part of a partial result.
pub(crate) struct Table {
    pub channels: usize,
    pub parts: [Vec<f32>; 3],
    /// Elements behind an entry.
    pub counts: Vec<u32>,
}

impl Table {
    fn new(channels: usize, counts: Vec<u32>) -> Table {
        let part = || vec![0.0; counts.len() * channels];
        Table { channels, parts: [part(), part(), part()], counts }
    }

    #[inline(always)]
    fn load<S: Simd, P: Partial<S>>(&self, simd: S, entry: usize, span: Span) -> P {
        let row = entry * self.channels..(entry + 1) * self.channels;
        P::from_parts(core::array::from_fn(|k| span.load(simd, &self.parts[k][row.clone()])))
    }
}

#[inline(always)]
fn store<S: Simd, P: Partial<S>>(simd: S, partial: P, span: Span, to: &mut [&mut [f32]; 3]) {
    for (part, to) in partial.parts(simd).into_iter().zip(to) {
        span.store(simd, part, to);
    }
}

/// The tree over up to sixteen rows, each a cell.
#[inline(always)]
pub(crate) fn rows<S: Simd, K: Source>(
    simd: S,
    source: &K,
    width: usize,
    leaf: usize,
    first: usize,
    rows: usize,
) -> PartialOf<K::Kind, S> {
    if width <= leaf {
        return source.rows(simd, first, rows, 0, width);
    }
    let mut stack = Stack::new(simd);
    for at in (0..width).step_by(leaf) {
        let len = leaf.min(width - at);
        stack.push(source.rows(simd, first, rows, at, len), len as u32);
    }
    stack.finish(simd).0
}

/// Rows that are reduced side by side, so that a leaf of each stays in the first-level cache.
pub(crate) fn rows_at_once(leaf: usize) -> usize {
    (4096 / leaf.max(1)).clamp(1, LANES)
}

/// Every row a cell: one entry a sample.
pub(crate) fn cells_of_rows<K: Source>(exec: Exec, grid: &Grid, source: &K) -> Table {
    let mut table = Table::new(grid.rows, vec![grid.width as u32; grid.samples]);
    let step = exec.rows_of_task(grid.width, grid.all_rows());
    let [a, b, c] = &mut table.parts;
    let parts = a.chunks_mut(step).zip(b.chunks_mut(step)).zip(c.chunks_mut(step));
    exec.each(parts.enumerate(), |(i, ((a, b), c))| {
        dispatch!(exec.level, simd => fill_rows(simd, grid, source, i * step, [a, b, c]));
    });
    table
}

#[inline(always)]
fn fill_rows<S: Simd, K: Source>(simd: S, grid: &Grid, source: &K, first: usize, mut to: [&mut [f32]; 3]) {
    let leaf = grid.tree.leaf_len() as usize;
    let once = rows_at_once(leaf.min(grid.width));
    for at in (0..to[0].len()).step_by(once) {
        let len = once.min(to[0].len() - at);
        let partial = rows(simd, source, grid.width, leaf, first + at, len);
        store(simd, partial, Span { at, len }, &mut to);
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
const ENTRY: usize = 1 << 15;

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
    fn cut(&self) -> Cut {
        if self.rows <= self.leaf && self.joins_samples {
            let samples = (ENTRY / (self.rows * self.width)).max(1).next_power_of_two();
            return Cut { samples, chunks: 1, rows: self.rows };
        }
        let leaves = (ENTRY / (self.leaf * self.width)).max(1).next_power_of_two();
        let rows = self.rows.min(leaves * self.leaf);
        Cut { samples: 1, chunks: self.rows.div_ceil(rows), rows }
    }
}

/// Every column of a sample a cell. Entries are samples, or runs of them that merge anyway.
pub(crate) fn cells_of_columns<K: Source>(exec: Exec, down: Down, source: &K) -> Table {
    let cut = down.cut();
    let entries = down.samples.div_ceil(cut.samples) * cut.chunks;
    let counts = (0..entries).map(|e| {
        let samples = cut.samples.min(down.samples - e / cut.chunks * cut.samples);
        (samples * cut.rows.min(down.rows - e % cut.chunks * cut.rows)) as u32
    });
    let mut table = Table::new(down.width, counts.collect());
    let [a, b, c] = &mut table.parts;
    let chunks = |part| <[f32]>::chunks_mut(part, down.width);
    exec.each(chunks(a).zip(chunks(b)).zip(chunks(c)).enumerate(), |(e, ((a, b), c))| {
        let first = e / cut.chunks * cut.samples * down.rows + e % cut.chunks * cut.rows;
        let rows = cut.rows.min(down.rows - e % cut.chunks * cut.rows);
        let samples = cut.samples.min(down.samples - e / cut.chunks * cut.samples);
        dispatch!(exec.level, simd => fill_columns(simd, down, source, first, (samples, rows), [a, b, c]));
    });
    if cut.chunks == 1 { table } else { join::<K::Kind>(exec, &table, cut.chunks) }
}

/// One entry: `rows` rows of each of some samples. If there are several samples, each is a leaf.
#[inline(always)]
fn fill_columns<S: Simd, K: Source>(
    simd: S,
    down: Down,
    source: &K,
    first: usize,
    (samples, rows): (usize, usize),
    mut to: [&mut [f32]; 3],
) {
    each_span(down.width, |span| {
        let partial = if samples == 1 && rows <= down.leaf {
            source.columns(simd, first, rows, span)
        } else {
            let mut stack = Stack::new(simd);
            for sample in 0..samples {
                for at in (0..rows).step_by(down.leaf) {
                    let len = down.leaf.min(rows - at);
                    let row = first + sample * down.rows + at;
                    stack.push(source.columns(simd, row, len, span), len as u32);
                }
            }
            stack.finish(simd).0
        };
        store(simd, partial, span, &mut to);
    });
}

/// Merges every `of` neighbouring entries into one.
pub(crate) fn join<K: Kind>(exec: Exec, table: &Table, of: usize) -> Table {
    let counts = table.counts.chunks(of).map(|c| c.iter().fold(0u32, |a, &b| a.saturating_add(b))).collect();
    let mut joined = Table::new(table.channels, counts);
    let [a, b, c] = &mut joined.parts;
    let chunks = |part| <[f32]>::chunks_mut(part, table.channels);
    exec.each(chunks(a).zip(chunks(b)).zip(chunks(c)).enumerate(), |(e, ((a, b), c))| {
        let entries = e * of..((e + 1) * of).min(table.counts.len());
        dispatch!(exec.level, simd => fill_joined::<_, K>(simd, table, entries, [a, b, c]));
    });
    joined
}

#[inline(always)]
fn fill_joined<S: Simd, K: Kind>(simd: S, table: &Table, entries: Range<usize>, mut to: [&mut [f32]; 3]) {
    each_span(table.channels, |span| {
        let mut stack = Stack::new(simd);
        for entry in entries.clone() {
            stack.push(table.load::<_, PartialOf<K, S>>(simd, entry, span), table.counts[entry]);
        }
        store(simd, stack.finish(simd).0, span, &mut to);
    });
}

/// Moments of every cell.
pub(crate) fn moments(table: &Table) -> Vec<Moments> {
    let [hi, lo, m2] = &table.parts;
    (0..hi.len())
        .map(|i| Moments { count: table.counts[i / table.channels], mean_hi: hi[i], mean_lo: lo[i], m2: m2[i] })
        .collect()
}
