//! The forward pass: moments, statistics, y.

use super::apply::{Row, add_row, forward_row};
use super::exec::{Exec, pieces};
use super::grid::{Grid, Join};
use super::lanes::Lanes;
use super::partial::merge_all;
use super::reduce::{self, Down, Table};
use super::source::{Coefficients, Kind, Means, MomentsOf, Source};
use crate::moments::Moments;
use fearless_simd::{Simd, dispatch};

/// Mean (a pair), variance and 1/std of one statistic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stat {
    pub hi: f32,
    pub lo: f32,
    pub var: f32,
    pub rstd: f32,
}

impl Stat {
    pub fn new(moments: &Moments, eps: f32) -> Stat {
        let var = moments.m2 / moments.count as f32;
        Stat { hi: moments.mean_hi, lo: moments.mean_lo, var, rstd: 1.0 / (var + eps).sqrt() }
    }

    pub fn given(mean: f32, var: f32, eps: f32) -> Stat {
        Stat { hi: mean, lo: 0.0, var, rstd: 1.0 / (var + eps).sqrt() }
    }
}

/// Cells of a tensor: rows, or columns of samples. One entry a sample, unless samples are merged anyway.
pub(crate) fn cells<K: Source>(exec: Exec, grid: &Grid, source: &K) -> Table {
    if grid.columns {
        let joins_samples = grid.join == Join::Samples;
        let Grid { samples, rows, width, tree, .. } = *grid;
        let down = Down { samples, rows, width, leaf: tree.leaf_len() as usize, joins_samples };
        reduce::cells_of_columns(exec, down, source)
    } else {
        reduce::cells_of_rows(exec, grid, source)
    }
}

/// All samples' entries merged: one number a channel.
pub(crate) fn join_samples<K: Kind>(exec: Exec, table: Table) -> Table {
    match table.counts.len() {
        1 => table,
        entries => reduce::join::<K>(exec, &table, entries),
    }
}

/// Moments of every statistic.
pub(crate) fn moments<I: Lanes + Sync>(exec: Exec, grid: &Grid, x: &[I], centred: bool) -> Vec<Moments> {
    let cells = cells(exec, grid, &MomentsOf { x, width: grid.width, centred });
    match grid.join {
        Join::Samples => reduce::moments(&join_samples::<Means>(exec, cells)),
        Join::Channels(1) => reduce::moments(&cells),
        Join::Channels(size) => reduce::moments(&cells)
            .chunks(size)
            .map(|group| merge_all(group, &Moments::merge).unwrap_or(Moments::EMPTY))
            .collect(),
    }
}

/// sum = x + residual.
pub(crate) fn add<I: Lanes + Send + Sync>(exec: Exec, x: &[I], residual: &[I], sum: &mut [I]) {
    let step = exec.rows_of_task(1, sum.len());
    let tasks = x.chunks(step).zip(residual.chunks(step)).zip(sum.chunks_mut(step));
    exec.each(tasks, |((x, residual), sum)| dispatch!(exec.level, simd => add_row(simd, x, residual, sum)));
}

/// y of the whole tensor.
pub(crate) fn write<I: Lanes + Sync, O: Lanes + Send>(
    exec: Exec,
    grid: &Grid,
    coefficients: &Coefficients,
    (x, residual): (Row<I>, Row<I>),
    relu: bool,
    y: &mut [O],
) {
    let step = exec.rows_of_task(grid.width, grid.all_rows());
    exec.each(pieces(Some(y), step * grid.width).enumerate().map_while(|(i, y)| Some((i, y?))), |(i, y)| {
        dispatch!(exec.level, simd => write_rows(simd, grid, coefficients, (x, residual), relu, i * step, y));
    });
}

#[inline(always)]
fn write_rows<S: Simd, I: Lanes, O: Lanes>(
    simd: S,
    grid: &Grid,
    coefficients: &Coefficients,
    (x, residual): (Row<I>, Row<I>),
    relu: bool,
    first: usize,
    y: &mut [O],
) {
    let width = grid.width;
    for (k, y) in y.chunks_mut(width).enumerate() {
        let row = first + k;
        let part = |source| match source {
            Row::At(all) => Row::At(&all[row * width..(row + 1) * width]),
            other => other,
        };
        let sources = (part(x), part(residual));
        if grid.columns {
            let (stats, weights) = (coefficients.stats_each(grid, row), coefficients.weights(0, width));
            forward_row(simd, sources, y, relu, stats, weights);
        } else if grid.by_column {
            let (stats, weights) = (coefficients.stats_same(simd, grid, row), coefficients.weights(0, width));
            forward_row(simd, sources, y, relu, stats, weights);
        } else {
            let (stats, weights) = (coefficients.stats_same(simd, grid, row), coefficients.weight(simd, grid, row));
            forward_row(simd, sources, y, relu, stats, weights);
        }
    }
}
