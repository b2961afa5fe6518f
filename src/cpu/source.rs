//! What is summed up: moments of x, or sums of the gradient.

use super::grid::{Cursor, Grid, Join, Row};
use super::lanes::{Span, V};
use super::leaf::{self, Each, Gradient, Same, Stats, Weights};
use super::memory::{Area, Buffer, Input, Place, Scratch, TILE, Tile};
use super::partial::{Mean, Partial, Sums};
use fearless_simd::{Simd, SimdBase};
use std::borrow::Cow;
use std::ops::Range;

/// Columns that are reduced side by side.
pub(crate) const WIDE: usize = 128;

/// Rows that are looked at together.
pub(crate) const TALL: usize = TILE / WIDE;

/// Which partial results, whatever the instruction set.
pub(crate) trait Kind: Sync {
    type Partial<S: Simd>: Partial<S>;
}

/// Moments.
pub(crate) struct Means;
/// Sums of the gradient.
pub(crate) struct SumPairs;

impl Kind for Means {
    type Partial<S: Simd> = Mean<S>;
}

impl Kind for SumPairs {
    type Partial<S: Simd> = Sums<S>;
}

pub(crate) type PartialOf<K, S> = <K as Kind>::Partial<S>;

/// Leaves of a reduction over a tensor's rows.
pub(crate) trait Source: Sync {
    type Kind: Kind;

    /// Of an area of up to sixteen rows, each row a lane.
    fn rows<S: Simd>(&self, simd: S, area: Area, scratch: &mut Scratch) -> PartialOf<Self::Kind, S>;

    /// An area of up to [`WIDE`] columns and [`TALL`] rows.
    type Tile<'t>
    where
        Self: 't;

    fn tile<'t, S: Simd>(&'t self, simd: S, area: Area, scratch: &'t mut Scratch) -> Self::Tile<'t>;

    /// Of some rows of a tile, each column of a span a lane.
    fn columns<S: Simd>(
        &self,
        simd: S,
        tile: &Self::Tile<'_>,
        rows: Range<usize>,
        span: Span,
    ) -> PartialOf<Self::Kind, S>;
}

/// Moments of x.
#[derive(Clone, Copy)]
pub(crate) struct MomentsOf<'a> {
    pub x: Place<'a>,
    pub centred: bool,
}

impl Source for MomentsOf<'_> {
    type Kind = Means;

    #[inline(always)]
    fn rows<S: Simd>(&self, simd: S, area: Area, scratch: &mut Scratch) -> Mean<S> {
        let tile = self.x.tile(simd, area, &mut scratch.x);
        leaf::moments_of_rows(
            simd,
            area.rows,
            area.len,
            self.centred,
            #[inline(always)]
            |k| tile.row(k),
        )
    }

    type Tile<'t>
        = Tile<'t>
    where
        Self: 't;

    #[inline(always)]
    fn tile<'t, S: Simd>(&'t self, simd: S, area: Area, scratch: &'t mut Scratch) -> Tile<'t> {
        self.x.tile(simd, area, &mut scratch.x)
    }

    #[inline(always)]
    fn columns<S: Simd>(&self, simd: S, tile: &Tile, rows: Range<usize>, span: Span) -> Mean<S> {
        leaf::moments_of_columns(
            simd,
            rows.len(),
            self.centred,
            #[inline(always)]
            |k| span.load(simd, tile.row(rows.start + k)),
        )
    }
}

/// Numbers of statistics, one after the other from statistic `first`; in grids of columns one a cell.
#[derive(Clone, Copy)]
pub(crate) struct StatSlices<'a> {
    pub first: usize,
    /// Mean, its rounding error, 1/std, and the two of [`super::apply::Projection`].
    pub of: [&'a [f32]; 5],
}

impl<'a> StatSlices<'a> {
    /// Those of `len` statistics from `first` on, with a projection of their own.
    #[inline(always)]
    pub fn from(&self, first: usize, len: usize, [g, gx]: [&'a [f32]; 2]) -> StatSlices<'a> {
        let part = |k: usize| &self.of[k][first - self.first..][..len];
        StatSlices { first, of: [part(0), part(1), part(2), g, gx] }
    }

    #[inline(always)]
    pub fn same<S: Simd>(&self, simd: S, row: Row, k: usize) -> Same<S> {
        Same(V::splat(simd, self.of[k][row.stat - self.first]))
    }

    /// Those of a row's columns `at..at + len`.
    #[inline(always)]
    pub fn each(&self, grid: &Grid, row: Row, k: usize, at: usize, len: usize) -> Each<'a> {
        let first = if grid.join == Join::Samples { 0 } else { row.stat * grid.width };
        Each(&self.of[k][first + at..][..len])
    }

    #[inline(always)]
    pub fn stats_same<S: Simd>(&self, simd: S, row: Row) -> Stats<Same<S>> {
        Stats { hi: self.same(simd, row, 0), lo: self.same(simd, row, 1), rstd: self.same(simd, row, 2) }
    }

    #[inline(always)]
    pub fn stats_each(&self, grid: &Grid, row: Row, at: usize, len: usize) -> Stats<Each<'a>> {
        let [hi, lo, rstd] =
            [self.each(grid, row, 0, at, len), self.each(grid, row, 1, at, len), self.each(grid, row, 2, at, len)];
        Stats { hi, lo, rstd }
    }
}

/// Weight and bias; 1 and 0 where the layer has none.
pub(crate) struct Affine<'a> {
    pub weight: Cow<'a, [f32]>,
    pub bias: Cow<'a, [f32]>,
}

impl<'a> Affine<'a> {
    pub fn new(grid: &Grid, weight: Option<&'a [f32]>, bias: Option<&'a [f32]>) -> Affine<'a> {
        let all = |value| Cow::Owned(vec![value; grid.weights()]);
        Affine {
            weight: weight.map_or_else(|| all(1.0), Cow::Borrowed),
            bias: bias.map_or_else(|| all(0.0), Cow::Borrowed),
        }
    }

    /// Of a row that has one of each.
    #[inline(always)]
    pub fn same<S: Simd>(&self, simd: S, row: Row) -> Weights<Same<S>> {
        let (weight, bias) = (self.weight[row.channel], self.bias[row.channel]);
        Weights { weight: Same(V::splat(simd, weight)), bias: Same(V::splat(simd, bias)) }
    }

    /// Of a row's columns `at..at + len`.
    #[inline(always)]
    pub fn each(&self, at: usize, len: usize) -> Weights<Each<'_>> {
        Weights { weight: Each(&self.weight[at..at + len]), bias: Each(&self.bias[at..at + len]) }
    }
}

/// The tensors that a gradient is made of.
#[derive(Clone, Copy)]
pub(crate) struct GradientOf<'a> {
    pub grid: &'a Grid,
    pub x: Input<'a>,
    pub dy: Input<'a>,
    pub residual: Option<Input<'a>>,
    pub relu: bool,
    pub affine: &'a Affine<'a>,
}

/// Sums of g and of g times the normalised input; by rows of a grid with weights by column, of g times weight.
#[derive(Clone, Copy)]
pub(crate) struct SumsOf<'a> {
    pub gradient: GradientOf<'a>,
    pub stats: StatSlices<'a>,
}

/// An area of those tensors.
pub(crate) struct GradientTile<'a> {
    x: Tile<'a>,
    dy: Tile<'a>,
    residual: Option<Tile<'a>>,
    relu: bool,
}

impl<'a> GradientOf<'a> {
    #[inline(always)]
    pub fn tile<'t, S: Simd>(
        &self,
        simd: S,
        area: Area,
        (x, dy, residual): (&'t mut Buffer, &'t mut Buffer, &'t mut Buffer),
    ) -> GradientTile<'t>
    where
        'a: 't,
    {
        GradientTile {
            x: self.x.tile(simd, area, x),
            dy: self.dy.tile(simd, area, dy),
            residual: self.residual.map(|r| r.tile(simd, area, residual)),
            relu: self.relu,
        }
    }
}

impl<'a> GradientTile<'a> {
    #[inline(always)]
    pub fn row(&self, k: usize) -> Gradient<'a> {
        let residual = self.residual.as_ref().map(|r| r.row(k));
        Gradient { x: self.x.row(k), dy: self.dy.row(k), relu: self.relu, residual }
    }
}

/// What belongs to each row of an area.
#[inline(always)]
fn rows_of(grid: &Grid, area: Area) -> [Row; TALL] {
    let mut cursor = Cursor::new(grid, area.first);
    let mut rows = [Row::default(); TALL];
    for row in rows.iter_mut().take(area.rows) {
        *row = cursor.next();
    }
    rows
}

impl Source for SumsOf<'_> {
    type Kind = SumPairs;

    #[inline(always)]
    fn rows<S: Simd>(&self, simd: S, area: Area, scratch: &mut Scratch) -> Sums<S> {
        let (of, stats, Area { rows, at, len, .. }) = (&self.gradient, &self.stats, area);
        let Scratch { x, dy, residual, .. } = scratch;
        let gradient = of.tile(simd, area, (x, dy, residual));
        let all = rows_of(of.grid, area);
        match of.grid.by_column.then(|| of.affine.each(at, len)) {
            Some(weights) => leaf::sums_of_rows(
                simd,
                rows,
                len,
                true,
                #[inline(always)]
                |k| (gradient.row(k), stats.stats_same(simd, all[k]), weights),
            ),
            None => leaf::sums_of_rows(
                simd,
                rows,
                len,
                false,
                #[inline(always)]
                |k| (gradient.row(k), stats.stats_same(simd, all[k]), of.affine.same(simd, all[k])),
            ),
        }
    }

    type Tile<'t>
        = SumsTile<'t>
    where
        Self: 't;

    #[inline(always)]
    fn tile<'t, S: Simd>(&'t self, simd: S, area: Area, scratch: &'t mut Scratch) -> SumsTile<'t> {
        let Scratch { x, dy, residual, .. } = scratch;
        let gradient = self.gradient.tile(simd, area, (x, dy, residual));
        SumsTile { gradient, rows: rows_of(self.gradient.grid, area), at: area.at, len: area.len }
    }

    #[inline(always)]
    fn columns<S: Simd>(&self, simd: S, tile: &SumsTile, rows: Range<usize>, span: Span) -> Sums<S> {
        let (of, stats, first) = (&self.gradient, &self.stats, rows.start);
        let SumsTile { gradient, rows: all, at, len } = tile;
        let weights = of.affine.each(*at, *len);
        if of.grid.columns {
            leaf::sums_of_columns(
                simd,
                rows.len(),
                span,
                true,
                #[inline(always)]
                |k| (gradient.row(first + k), stats.stats_each(of.grid, all[first + k], *at, *len), weights),
            )
        } else {
            leaf::sums_of_columns(
                simd,
                rows.len(),
                span,
                false,
                #[inline(always)]
                |k| (gradient.row(first + k), stats.stats_same(simd, all[first + k]), weights),
            )
        }
    }
}

/// An area of the gradient's tensors, and what belongs to its rows.
pub(crate) struct SumsTile<'a> {
    gradient: GradientTile<'a>,
    rows: [Row; TALL],
    at: usize,
    len: usize,
}
