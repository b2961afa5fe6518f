//! What belongs to rows and their elements: statistics, weights, and what is made of both.

use crate::cpu::grid::{Cursor, Grid, Row};
use crate::cpu::memory::area::Area;
use crate::cpu::memory::vectors::{Repeat, Vectors};
use crate::cpu::saved::Stat;
use crate::cpu::simd::formula::{AffineMap, Each, Made, OfDx, OfY, Param, Same, Stats, Weights};
use crate::cpu::simd::lanes::{LANES, V};
use fearless_simd::{Simd, SimdBase};
use std::borrow::Cow;
use std::ops::Range;

/// Means (pairs) and 1/std of statistics, as kernels want them.
pub(crate) struct StatVectors(Vectors<3>);

impl StatVectors {
    /// One a statistic; in grids of columns one a cell.
    pub fn new(grid: &Grid, stats: &[Stat]) -> StatVectors {
        let repeat = Repeat::of_stats(grid);
        let mut vectors = Vectors::zeros(stats.len() * repeat.times());
        let [hi, lo, rstd] = vectors.each_mut();
        for (i, stat) in stats.iter().enumerate() {
            (hi[i], lo[i], rstd[i]) = (stat.hi, stat.lo, stat.rstd);
        }
        repeat.spread([hi, lo, rstd]);
        StatVectors(vectors)
    }

    pub fn slices(&self) -> StatSlices<'_> {
        let [hi, lo, rstd] = self.0.each();
        StatSlices { first: 0, of: [hi, lo, rstd, &[], &[]] }
    }
}

/// Numbers of statistics, one after the other from statistic `first`; in grids of columns one a cell.
#[derive(Clone, Copy)]
pub(crate) struct StatSlices<'a> {
    pub first: usize,
    /// Mean, its rounding error, 1/std, and what is taken out of the gradient again, in the backward pass: the means of
    /// g times weight and of that times the normalised input.
    pub of: [&'a [f32]; 5],
}

impl<'a> StatSlices<'a> {
    /// The same, with what is taken out of the gradient.
    #[inline(always)]
    pub fn with_projection(self, [g, gx]: [&'a [f32]; 2]) -> StatSlices<'a> {
        let [hi, lo, rstd, ..] = self.of;
        StatSlices { of: [hi, lo, rstd, g, gx], ..self }
    }

    /// Those of some statistics; of what is not there, nothing.
    #[inline(always)]
    pub fn range(&self, range: Range<usize>) -> StatSlices<'a> {
        let part = |of: &'a [f32]| if of.is_empty() { of } else { &of[range.start - self.first..][..range.len()] };
        StatSlices { first: range.start, of: self.of.map(part) }
    }

    /// Mean (a pair) and 1/std of a row that has one statistic.
    #[inline(always)]
    pub fn numbers(&self, row: Row) -> [f32; 3] {
        let i = row.stat - self.first;
        [self.of[0][i], self.of[1][i], self.of[2][i]]
    }

    /// The same, as vectors.
    #[inline(always)]
    pub fn same<S: Simd>(&self, simd: S, row: Row) -> Stats<Same<S>> {
        Stats::same(simd, self.numbers(row))
    }

    /// What is taken out of the gradient of the i-th of them; 0 where nothing is.
    #[inline(always)]
    fn projection(&self, i: usize) -> [f32; 2] {
        let part = |k: usize| self.of[k].get(i).copied().unwrap_or(0.0);
        [part(3), part(4)]
    }

    /// Those of a row's columns `at..at + len`.
    #[inline(always)]
    pub fn each(&self, grid: &Grid, row: Row, at: usize, len: usize) -> Stats<Each<'a>> {
        let cells = grid.cells(row, at, len);
        let part = |k: usize| Each(&self.of[k][cells.clone()]);
        Stats { hi: part(0), lo: part(1), rstd: part(2) }
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

    /// Of a row that has one of its own.
    #[inline(always)]
    fn same<S: Simd>(&self, simd: S, row: Row) -> Weights<Same<S>> {
        let (weight, bias) = (self.weight[row.channel], self.bias[row.channel]);
        Weights { weight: Same(V::splat(simd, weight)), bias: Same(V::splat(simd, bias)) }
    }

    /// Of a row's columns `at..at + len`.
    #[inline(always)]
    pub fn each(&self, at: usize, len: usize) -> Weights<Each<'_>> {
        Weights { weight: Each(&self.weight[at..at + len]), bias: Each(&self.bias[at..at + len]) }
    }
}

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

/// The parameters of rows that have one statistic each.
#[derive(Clone, Copy)]
pub(crate) struct RowParams<'a> {
    pub stats: StatSlices<'a>,
    pub affine: &'a Affine<'a>,
}

/// What a row's statistic has to do with it.
#[derive(Clone, Copy)]
pub(crate) struct OfStats<S: Simd> {
    stats: Stats<Same<S>>,
    projection: Weights<Same<S>>,
}

/// With the weights of its elements.
#[derive(Clone, Copy)]
pub(crate) struct Weighted<S: Simd, Q> {
    of: OfStats<S>,
    weights: Weights<Q>,
}

impl RowParams<'_> {
    /// Of a row that has a weight of its own.
    #[inline(always)]
    pub fn of_row<S: Simd>(&self, simd: S, row: Row) -> Weighted<S, Same<S>> {
        self.of_stats(simd, row).with(self.affine.same(simd, row))
    }

    #[inline(always)]
    pub fn of_stats<S: Simd>(&self, simd: S, row: Row) -> OfStats<S> {
        let [g, gx] = self.stats.projection(row.stat - self.stats.first);
        let projection = Weights { weight: Same(V::splat(simd, gx)), bias: Same(V::splat(simd, g)) };
        OfStats { stats: self.stats.same(simd, row), projection }
    }
}

impl<S: Simd> OfStats<S> {
    #[inline(always)]
    pub fn with<Q: Param<S>>(self, weights: Weights<Q>) -> Weighted<S, Q> {
        Weighted { of: self, weights }
    }
}

impl<S: Simd, Q: Param<S>> OfY<S> for Weighted<S, Q> {
    #[inline(always)]
    fn y(self) -> impl AffineMap<S> {
        Made { stats: self.of.stats, weights: self.weights }
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        Weighted { weights: self.weights.part(at, len), ..self }
    }
}

impl<S: Simd, Q: Param<S>> OfDx<S> for Weighted<S, Q> {
    #[inline(always)]
    fn taken(self) -> impl AffineMap<S> {
        Made { stats: self.of.stats, weights: self.of.projection }
    }

    #[inline(always)]
    fn weight(self) -> impl Param<S> {
        self.weights.weight
    }

    #[inline(always)]
    fn rstd(self) -> impl Param<S> {
        self.of.stats.rstd
    }
}

/// The parameters of a tensor's elements.
pub(crate) enum Params<'a, C> {
    Rows(RowParams<'a>),
    /// Those of a grid of columns.
    Columns(&'a C),
    /// Those of short rows that are worked on as one (see [`super::strip`]).
    Strip(&'a C),
}

impl<'a, C> Params<'a, C> {
    /// Those of a strip, where there is one.
    pub fn new(rows: &RowParams<'a>, strip: Option<&'a C>) -> Self {
        strip.map_or(Params::Rows(*rows), Params::Strip)
    }

    /// Those of an area's rows, one by one, if they can be worked on as one without a strip: if they follow each other, have
    /// weights of their own, and are no shorter than a vector.
    #[inline(always)]
    pub fn run<S: Simd>(&self, simd: S, grid: &Grid, area: Area) -> Option<impl FnMut() -> Weighted<S, Same<S>>> {
        let &Params::Rows(rows) = self else { return None };
        // There may be gaps between samples.
        let follow = || grid.is_dense || area.first % grid.rows + area.rows <= grid.rows;
        if grid.by_column || area.len < LANES || !follow() {
            return None;
        }
        let mut cursor = Cursor::new(grid, area.first);
        Some(
            #[inline(always)]
            move || rows.of_row(simd, cursor.next()),
        )
    }

    /// An area of a grid as the parameters see it.
    #[inline(always)]
    pub fn area(&self, area: Area) -> Area {
        match self {
            Params::Strip(_) => area.flat(),
            _ => area,
        }
    }
}

/// Runs a block for each row of an area, with the [`OfY`] or [`OfDx`] of its elements in the form that it has: a copy of
/// the block for each, as a function of its own (see `apart` in [`crate::cpu::exec`]). Not a function that takes a closure, which
/// would have to be generic.
macro_rules! for_rows {
    ($simd:ident, $grid:expr, $params:expr, $area:expr, ($k:ident, $of:ident) => $body:expr) => {{
        use $crate::cpu::pass::params::{OfColumn, Owner, Params};
        let (grid, area) = ($grid, $area);
        macro_rules! loop_apart {
            ($row:ident => $made:expr) => {
                $crate::cpu::exec::run_apart(
                    $simd,
                    #[inline(always)]
                    || {
                        let mut cursor = $crate::cpu::grid::Cursor::new(grid, area.first);
                        for $k in 0..area.rows {
                            let $row = cursor.next();
                            let $of = $made;
                            $body;
                        }
                    },
                )
            };
        }
        match $params {
            Params::Columns(columns) | Params::Strip(columns) => {
                loop_apart!(row => columns.cells(grid.cells(row, area.at, area.len)));
            }
            Params::Rows(rows) if grid.by_column => loop_apart!(row => {
                rows.of_stats($simd, row).with(OfColumn::weights($simd, rows.affine, row, area.at, area.len))
            }),
            Params::Rows(rows) => loop_apart!(row => rows.of_row($simd, row)),
        }
    }};
}
pub(crate) use for_rows;
