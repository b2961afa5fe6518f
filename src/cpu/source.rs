//! What is summed up: moments of x, or sums of the gradient.

use super::grid::{Cursor, Grid, Join, Row};
use super::lanes::V;
use super::leaf::{self, Each, Gradient, Leaves, Meanwhile, Param, Same, Stats, TALL, Weights, with_mask};
use super::memory::{Area, Input, Place, Scratch, Tile};
use super::partial::{Mean, Partial, Sums};
use super::stream::{Ahead, Rest};
use fearless_simd::{Simd, SimdBase};
use std::borrow::Cow;

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

    /// Of an area of up to sixteen rows, each row a lane. The second area is asked for meanwhile.
    fn rows<S: Simd>(
        &self,
        simd: S,
        areas: (Area, Option<Area>),
        meanwhile: impl Meanwhile<S>,
        scratch: &mut Scratch,
    ) -> PartialOf<Self::Kind, S>;

    /// Of an area of up to [`WIDE`] columns and [`TALL`] rows, each column a lane: one of `to` a span. Leaves have so
    /// many rows each. The second area is asked for meanwhile.
    fn columns<S: Simd>(
        &self,
        simd: S,
        areas: (Area, Option<Area>),
        leaf: usize,
        to: &mut [PartialOf<Self::Kind, S>],
        scratch: &mut Scratch,
    );
}

/// Moments of x.
#[derive(Clone, Copy)]
pub(crate) struct MomentsOf<'a> {
    pub x: Place<'a>,
    pub centred: bool,
}

impl MomentsOf<'_> {
    /// See [`Input::ahead`].
    #[inline(always)]
    pub fn ahead(&self, next: Option<Area>) -> Ahead {
        Ahead([self.x.ahead(next), Rest::default()])
    }
}

impl Source for MomentsOf<'_> {
    type Kind = Means;

    #[inline(always)]
    fn rows<S: Simd>(
        &self,
        simd: S,
        (area, next): (Area, Option<Area>),
        meanwhile: impl Meanwhile<S>,
        scratch: &mut Scratch,
    ) -> Mean<S> {
        let tile = self.x.tile(simd, area, &mut scratch.x);
        leaf::moments_of_rows(
            simd,
            area.rows,
            area.len,
            self.centred,
            #[inline(always)]
            |k| tile.row(k),
            self.ahead(next),
            meanwhile,
        )
    }

    #[inline(always)]
    fn columns<S: Simd>(
        &self,
        simd: S,
        (area, next): (Area, Option<Area>),
        leaf: usize,
        to: &mut [Mean<S>],
        scratch: &mut Scratch,
    ) {
        let tile = self.x.tile(simd, area, &mut scratch.x);
        leaf::moments_of_columns(
            simd,
            Leaves { rows: area.rows, leaf },
            area.len,
            self.centred,
            #[inline(always)]
            |k| tile.row(k),
            self.ahead(next),
            to,
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

/// The parameters of a tensor's elements, in the terms of a grid: the tensor's own, or a [`super::strip::Strip`]'s.
#[derive(Clone, Copy)]
pub(crate) struct Params<'a> {
    pub grid: &'a Grid,
    pub stats: StatSlices<'a>,
    pub affine: &'a Affine<'a>,
}

impl Params<'_> {
    /// An area of the tensor's own grid, in this one.
    #[inline(always)]
    pub fn area(&self, grid: &Grid, area: Area) -> Area {
        if self.grid.columns == grid.columns { area } else { area.flat() }
    }
}

/// Runs a block for columns `at..at + len` of a row with its statistics and weights, each in the form that it has in the
/// grid: one number for the whole row, or one for each of its elements. `part` gives a number of [`StatSlices::of`].
///
/// Not a function that takes a closure, which would have to be generic.
macro_rules! with_params {
    ($simd:ident, $params:expr, ($row:expr, $at:expr, $len:expr), ($stats:ident, $weights:ident, $part:ident) => $body:expr) => {{
        let (Params { grid, stats, affine }, row, at, len) = ($params, $row, $at, $len);
        if grid.columns {
            let $part = |k| stats.each(grid, row, k, at, len);
            let ($stats, $weights) = (stats.stats_each(grid, row, at, len), affine.each(at, len));
            $body
        } else {
            let $part = |k| stats.same($simd, row, k);
            let $stats = stats.stats_same($simd, row);
            if grid.by_column {
                let $weights = affine.each(at, len);
                $body
            } else {
                let $weights = affine.same($simd, row);
                $body
            }
        }
    }};
}
pub(crate) use with_params;

/// Whose a weight is, where that has to be known when a loop is compiled.
pub(crate) trait Owner {
    /// Whether sums over a row have to have it in them.
    const IN_SUMS: bool;

    /// For columns `at..at + len` of a row.
    fn weights<'a, S: Simd>(
        simd: S,
        affine: &'a Affine,
        row: Row,
        at: usize,
        len: usize,
    ) -> Weights<impl Param<S> + use<'a, Self, S>>;
}

/// A row.
pub(crate) struct OfRow;
/// A column.
pub(crate) struct OfColumn;

impl Owner for OfRow {
    const IN_SUMS: bool = false;

    #[inline(always)]
    fn weights<'a, S: Simd>(
        simd: S,
        affine: &'a Affine,
        row: Row,
        _: usize,
        _: usize,
    ) -> Weights<impl Param<S> + use<'a, S>> {
        affine.same(simd, row)
    }
}

impl Owner for OfColumn {
    const IN_SUMS: bool = true;

    #[inline(always)]
    fn weights<'a, S: Simd>(
        _: S,
        affine: &'a Affine,
        _: Row,
        at: usize,
        len: usize,
    ) -> Weights<impl Param<S> + use<'a, S>> {
        affine.each(at, len)
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
    /// Tensors that it is made of.
    pub fn inputs(&self) -> usize {
        2 + usize::from(self.residual.is_some())
    }

    /// See [`Input::ahead`].
    #[inline(always)]
    pub fn ahead(&self, next: Option<Area>) -> Ahead {
        Ahead([self.x.ahead(next), self.dy.ahead(next)])
    }

    #[inline(always)]
    pub fn tile<'t, S: Simd>(
        &self,
        simd: S,
        area: Area,
        (x, dy, residual): (&'t mut [f32], &'t mut [f32], &'t mut [f32]),
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

impl SumsOf<'_> {
    /// As [`Source::rows`], for weights and a mask that are known.
    #[inline(always)]
    pub fn rows_of_mask<S: Simd, O: Owner, const MASK: u8>(
        &self,
        simd: S,
        (area, next): (Area, Option<Area>),
        meanwhile: impl Meanwhile<S>,
        scratch: &mut Scratch,
    ) -> Sums<S> {
        let (of, stats, Area { rows, at, len, .. }) = (&self.gradient, &self.stats, area);
        let Scratch { x, dy, residual, .. } = scratch;
        let gradient = of.tile(simd, area, (x, dy, residual));
        let all = rows_of(of.grid, area);
        leaf::sums_of_rows::<S, MASK, _, _>(
            simd,
            rows,
            len,
            O::IN_SUMS,
            #[inline(always)]
            |k| (gradient.row(k), stats.stats_same(simd, all[k]), O::weights(simd, of.affine, all[k], at, len)),
            of.ahead(next),
            meanwhile,
        )
    }
}

impl Source for SumsOf<'_> {
    type Kind = SumPairs;

    #[inline(always)]
    fn rows<S: Simd>(
        &self,
        simd: S,
        areas: (Area, Option<Area>),
        meanwhile: impl Meanwhile<S>,
        scratch: &mut Scratch,
    ) -> Sums<S> {
        with_mask!(self.gradient, MASK => if self.gradient.grid.by_column {
            self.rows_of_mask::<S, OfColumn, MASK>(simd, areas, meanwhile, scratch)
        } else {
            self.rows_of_mask::<S, OfRow, MASK>(simd, areas, meanwhile, scratch)
        })
    }

    #[inline(always)]
    fn columns<S: Simd>(
        &self,
        simd: S,
        (area, next): (Area, Option<Area>),
        leaf: usize,
        to: &mut [Sums<S>],
        scratch: &mut Scratch,
    ) {
        let (of, stats, Area { rows, at, len, .. }) = (&self.gradient, &self.stats, area);
        let Scratch { x, dy, residual, .. } = scratch;
        let gradient = of.tile(simd, area, (x, dy, residual));
        let (weights, ahead) = (of.affine.each(at, len), of.ahead(next));
        if of.grid.columns {
            // Of one sample, or of samples whose statistics are joined.
            let stats = stats.stats_each(of.grid, Cursor::new(of.grid, area.first).next(), at, len);
            leaf::sums_of_columns(
                simd,
                Leaves { rows, leaf },
                len,
                true,
                #[inline(always)]
                |k| (gradient.row(k), stats, weights),
                ahead,
                to,
            )
        } else {
            let all = rows_of(of.grid, area);
            leaf::sums_of_columns(
                simd,
                Leaves { rows, leaf },
                len,
                false,
                #[inline(always)]
                |k| (gradient.row(k), stats.stats_same(simd, all[k]), weights),
                ahead,
                to,
            )
        }
    }
}
