//! The backward pass: sums, gradients of weight and bias, dx.

use super::apply::{Projection, backward_row};
use super::exec::{Exec, pieces};
use super::forward::{cells, join_samples};
use super::grid::Join;
use super::lanes::Lanes;
use super::leaf::Gradient;
use super::partial::merge_all;
use super::reduce::{self, Down};
use super::source::{SumPairs, SumsOf};
use fearless_simd::{Simd, dispatch};

/// Sums over statistics and over weights, whichever are wanted.
#[derive(Default)]
pub(crate) struct Reduced {
    /// Of g times weight, and of that times the normalised input: one pair a statistic.
    pub stats: Vec<[f32; 2]>,
    /// dbias.
    pub bias: Vec<f32>,
    /// dweight.
    pub weight: Vec<f32>,
}

/// Both kinds of sums.
pub(crate) fn reduce<I: Lanes + Sync, O: Lanes + Sync>(
    exec: Exec,
    source: SumsOf<I, O>,
    (for_stats, for_weights): (bool, bool),
    leaf_down: usize,
) -> Reduced {
    let grid = source.grid;
    let mut reduced = Reduced::default();
    let pairs = |[a, b, _]: &[Vec<f32>; 3]| a.iter().zip(b).map(|(&a, &b)| [a, b]).collect::<Vec<_>>();
    if grid.by_column && !grid.columns {
        if for_stats {
            reduced.stats = pairs(&reduce::cells_of_rows(exec, grid, &source).parts);
        }
        if for_weights {
            let (rows, width) = (grid.all_rows(), grid.width);
            let down = Down { samples: 1, rows, width, leaf: leaf_down, joins_samples: true };
            [reduced.bias, reduced.weight, _] = reduce::cells_of_columns(exec, down, &source).parts;
        }
        return reduced;
    }
    let cells = cells(exec, grid, &source);
    let weight = |channel: usize| source.coefficients.weight[channel];
    if grid.join == Join::Samples {
        let [bias, weights, _] = join_samples::<SumPairs>(exec, cells).parts;
        if for_stats {
            let weighted = bias.iter().zip(&weights).enumerate();
            reduced.stats = weighted.map(|(c, (&a, &b))| [a * weight(c), b * weight(c)]).collect();
        }
        return Reduced { bias, weight: weights, ..reduced };
    }
    if let (true, Join::Channels(size)) = (for_stats, grid.join) {
        let mut weighted = pairs(&cells.parts);
        for (i, pair) in weighted.iter_mut().enumerate() {
            *pair = pair.map(|sum| sum * weight(i % grid.channels()));
        }
        let add = |a: [f32; 2], b: [f32; 2]| [a[0] + b[0], a[1] + b[1]];
        reduced.stats = weighted.chunks(size).map(|group| merge_all(group, &add).unwrap_or_default()).collect();
    }
    if for_weights {
        [reduced.bias, reduced.weight, _] = join_samples::<SumPairs>(exec, cells).parts;
    }
    reduced
}

/// dx and dresidual.
pub(crate) struct Outputs<'a, I> {
    pub dx: Option<&'a mut [I]>,
    pub dresidual: Option<&'a mut [I]>,
}

/// What of [`Coefficients::stats`] is taken out of the gradient.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Projects {
    pub g: bool,
    pub gx: bool,
}

/// Gradients of the whole tensor.
pub(crate) fn write<I: Lanes + Send + Sync, O: Lanes + Sync>(
    exec: Exec,
    source: SumsOf<I, O>,
    dsum: Option<&[I]>,
    projects: Projects,
    outputs: Outputs<I>,
) {
    let grid = source.grid;
    let step = exec.rows_of_task(grid.width, grid.all_rows());
    let len = step * grid.width;
    let tasks = pieces(outputs.dx, len).zip(pieces(outputs.dresidual, len)).enumerate();
    exec.each(tasks.take(grid.all_rows().div_ceil(step)), |(i, (dx, dresidual))| {
        let outputs = Outputs { dx, dresidual };
        let rows = i * step..((i + 1) * step).min(grid.all_rows());
        dispatch!(exec.level, simd => write_rows(simd, source, dsum, projects, rows, outputs));
    });
}

#[inline(always)]
fn write_rows<S: Simd, I: Lanes, O: Lanes>(
    simd: S,
    source: SumsOf<I, O>,
    dsum: Option<&[I]>,
    projects: Projects,
    rows: std::ops::Range<usize>,
    outputs: Outputs<I>,
) {
    let SumsOf { gradient, grid, coefficients } = source;
    let width = grid.width;
    let outputs = pieces(outputs.dx, width).zip(pieces(outputs.dresidual, width));
    for (row, outputs) in rows.zip(outputs) {
        let gradient: Gradient<I, O> = gradient.slice(row * width, width);
        let dsum = dsum.map(|d| &d[row * width..(row + 1) * width]);
        if grid.columns {
            let part = |k| coefficients.each(grid, row, k);
            let projection = projects.gx.then(|| Projection { g: projects.g.then(|| part(3)), gx: part(4) });
            let (stats, weights) = (coefficients.stats_each(grid, row), coefficients.weights(0, width));
            backward_row(simd, gradient, dsum, outputs, stats, weights, projection);
            continue;
        }
        let part = |k| coefficients.same(simd, grid, row, k);
        let projection = projects.gx.then(|| Projection { g: projects.g.then(|| part(3)), gx: part(4) });
        let stats = coefficients.stats_same(simd, grid, row);
        if grid.by_column {
            let weights = coefficients.weights(0, width);
            backward_row(simd, gradient, dsum, outputs, stats, weights, projection);
        } else {
            let weights = coefficients.weight(simd, grid, row);
            backward_row(simd, gradient, dsum, outputs, stats, weights, projection);
        }
    }
}
