//! What is reduced: moments of x, or sums of dy.

use super::forward::Stat;
use super::grid::{Grid, Join};
use super::lanes::{Lanes, Span, V};
use super::leaf::{self, Each, Gradient, Same, Stats, Weights};
use super::partial::{Mean, Partial, Sums};
use fearless_simd::{Simd, SimdBase};
use std::borrow::Cow;

/// What partial results are.
pub(crate) trait Kind {
    type Partial<S: Simd>: Partial<S>;
}

/// [`Mean`].
pub(crate) struct Means;

impl Kind for Means {
    type Partial<S: Simd> = Mean<S>;
}

/// [`Sums`].
pub(crate) struct SumPairs;

impl Kind for SumPairs {
    type Partial<S: Simd> = Sums<S>;
}

/// The partial results of a kind.
pub(crate) type PartialOf<K, S> = <K as Kind>::Partial<S>;

/// Leaves of a reduction over a tensor's rows.
pub(crate) trait Source: Sync {
    type Kind: Kind;

    /// Elements `at..at + len` of up to sixteen rows, each row a lane.
    fn rows<S: Simd>(&self, simd: S, first: usize, rows: usize, at: usize, len: usize) -> PartialOf<Self::Kind, S>;

    /// Sixteen columns of some rows, each column a lane.
    fn columns<S: Simd>(&self, simd: S, first: usize, rows: usize, span: Span) -> PartialOf<Self::Kind, S>;
}

/// Moments of x.
#[derive(Clone, Copy)]
pub(crate) struct MomentsOf<'a, I> {
    pub x: &'a [I],
    pub width: usize,
    pub centred: bool,
}

impl<I: Lanes + Sync> Source for MomentsOf<'_, I> {
    type Kind = Means;

    #[inline(always)]
    fn rows<S: Simd>(&self, simd: S, first: usize, rows: usize, at: usize, len: usize) -> Mean<S> {
        leaf::moments_of_rows(simd, rows, len, self.centred, |k| &self.x[(first + k) * self.width + at..][..len])
    }

    #[inline(always)]
    fn columns<S: Simd>(&self, simd: S, first: usize, rows: usize, span: Span) -> Mean<S> {
        leaf::moments_of_columns(simd, rows, self.centred, |k| {
            span.load(simd, &self.x[(first + k) * self.width..][..self.width])
        })
    }
}

/// Numbers of statistics, and weights, as the kernels read them.
pub(crate) struct Coefficients<'a> {
    /// Mean, its rounding error, 1/std, and the two of [`super::apply::Projection`]; one a statistic, but in
    /// grids of columns one a cell.
    pub stats: [Vec<f32>; 5],
    pub weight: Cow<'a, [f32]>,
    pub bias: Cow<'a, [f32]>,
}

impl<'a> Coefficients<'a> {
    pub fn new(grid: &Grid, stats: &[Stat], weight: Option<&'a [f32]>, bias: Option<&'a [f32]>) -> Self {
        let all = |value| Cow::Owned(vec![value; grid.weights()]);
        let part = |f: fn(&Stat) -> f32| spread(grid, stats.iter().map(f));
        Coefficients {
            stats: [part(|s| s.hi), part(|s| s.lo), part(|s| s.rstd), Vec::new(), Vec::new()],
            weight: weight.map_or_else(|| all(1.0), Cow::Borrowed),
            bias: bias.map_or_else(|| all(0.0), Cow::Borrowed),
        }
    }

    /// Sums over statistics of `count` elements become what is taken out of the gradient.
    pub fn project(&mut self, grid: &Grid, sums: &[[f32; 2]], count: u64) {
        let count = count as f32;
        self.stats[3] = spread(grid, sums.iter().map(|s| s[0] / count));
        self.stats[4] = spread(grid, sums.iter().map(|s| s[1] / count));
    }

    /// Statistics `k` of a row that has one.
    #[inline(always)]
    pub fn same<S: Simd>(&self, simd: S, grid: &Grid, row: usize, k: usize) -> Same<S> {
        let stat = match grid.join {
            Join::Samples => row % grid.rows,
            Join::Channels(size) => row / size,
        };
        Same(V::splat(simd, self.stats[k][stat]))
    }

    /// Statistics `k` of a row's columns.
    #[inline(always)]
    pub fn each(&self, grid: &Grid, row: usize, k: usize) -> Each<'_> {
        let first = if grid.join == Join::Samples { 0 } else { row / grid.rows * grid.width };
        Each(&self.stats[k][first..first + grid.width])
    }

    /// Weights of a row that has one.
    #[inline(always)]
    pub fn weight<S: Simd>(&self, simd: S, grid: &Grid, row: usize) -> Weights<Same<S>> {
        let channel = row % grid.rows;
        Weights { weight: Same(V::splat(simd, self.weight[channel])), bias: Same(V::splat(simd, self.bias[channel])) }
    }

    /// Weights of a row's columns `at..at + len`.
    #[inline(always)]
    pub fn weights(&self, at: usize, len: usize) -> Weights<Each<'_>> {
        Weights { weight: Each(&self.weight[at..at + len]), bias: Each(&self.bias[at..at + len]) }
    }

    #[inline(always)]
    pub fn stats_same<S: Simd>(&self, simd: S, grid: &Grid, row: usize) -> Stats<Same<S>> {
        let same = |k| self.same(simd, grid, row, k);
        Stats { hi: same(0), lo: same(1), rstd: same(2) }
    }

    #[inline(always)]
    pub fn stats_each(&self, grid: &Grid, row: usize) -> Stats<Each<'_>> {
        let each = |k| self.each(grid, row, k);
        Stats { hi: each(0), lo: each(1), rstd: each(2) }
    }
}

/// One number a statistic; in grids of columns one a cell.
fn spread(grid: &Grid, numbers: impl Iterator<Item = f32>) -> Vec<f32> {
    match grid.join {
        Join::Channels(size) if grid.columns && size > 1 => {
            numbers.flat_map(|number| std::iter::repeat_n(number, size)).collect()
        }
        _ => numbers.collect(),
    }
}

/// Sums of g and of g times the normalised input; by rows of a grid with weights by column, of g times weight.
#[derive(Clone, Copy)]
pub(crate) struct SumsOf<'a, I, O> {
    pub gradient: Gradient<'a, I, O>,
    pub grid: &'a Grid,
    pub coefficients: &'a Coefficients<'a>,
}

impl<I: Lanes + Sync, O: Lanes + Sync> Source for SumsOf<'_, I, O> {
    type Kind = SumPairs;

    #[inline(always)]
    fn rows<S: Simd>(&self, simd: S, first: usize, rows: usize, at: usize, len: usize) -> Sums<S> {
        let Grid { width, by_column, .. } = *self.grid;
        let run = |k| {
            let row = first + k;
            (self.gradient.slice(row * width + at, len), self.coefficients.stats_same(simd, self.grid, row), row)
        };
        if by_column {
            let weights = self.coefficients.weights(at, len);
            leaf::sums_of_rows(simd, rows, len, true, |k| {
                let (gradient, stats, _) = run(k);
                (gradient, stats, weights)
            })
        } else {
            leaf::sums_of_rows(simd, rows, len, false, |k| {
                let (gradient, stats, row) = run(k);
                (gradient, stats, self.coefficients.weight(simd, self.grid, row))
            })
        }
    }

    #[inline(always)]
    fn columns<S: Simd>(&self, simd: S, first: usize, rows: usize, span: Span) -> Sums<S> {
        let Grid { width, columns, .. } = *self.grid;
        let weights = self.coefficients.weights(0, width);
        let gradient = |row: usize| self.gradient.slice(row * width, width);
        if columns {
            leaf::sums_of_columns(simd, rows, span, |k| {
                (gradient(first + k), self.coefficients.stats_each(self.grid, first + k), weights)
            })
        } else {
            leaf::sums_of_columns(simd, rows, span, |k| {
                (gradient(first + k), self.coefficients.stats_same(simd, self.grid, first + k), weights)
            })
        }
    }
}
