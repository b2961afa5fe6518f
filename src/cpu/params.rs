//! What belongs to rows and their elements: statistics, weights, and what is made of both.

use super::formula::{Each, Line, Made, OfDx, OfY, Param, Ready, Same, Stats, Weights, scale_and_shift};
use super::forward::Stat;
use super::grid::{Grid, Join, Row};
use super::lanes::V;
use super::memory::Area;
use fearless_simd::{Simd, SimdBase};
use std::borrow::Cow;
use std::ops::Range;

/// Means (pairs) and 1/std of statistics, as kernels want them.
pub(crate) struct StatVectors([Vec<f32>; 3]);

impl StatVectors {
    /// One a statistic; in grids of columns one a cell.
    pub fn new(grid: &Grid, stats: &[Stat]) -> StatVectors {
        StatVectors([|s: &Stat| s.hi, |s: &Stat| s.lo, |s: &Stat| s.rstd].map(|of| spread(grid, stats.iter().map(of))))
    }

    pub fn slices(&self) -> StatSlices<'_> {
        let [hi, lo, rstd] = &self.0;
        StatSlices { first: 0, of: [hi, lo, rstd, &[], &[]] }
    }
}

/// One number a statistic; in grids of columns one a cell.
pub(crate) fn spread(grid: &Grid, numbers: impl ExactSizeIterator<Item = f32>) -> Vec<f32> {
    match grid.join {
        Join::Channels(size) if grid.columns && size > 1 => repeated(numbers, size),
        _ => numbers.collect(),
    }
}

/// Every number so many times.
fn repeated(numbers: impl Iterator<Item = f32>, times: usize) -> Vec<f32> {
    if times == 1 {
        return numbers.collect();
    }
    let mut all = Vec::with_capacity(numbers.size_hint().0 * times);
    // Not flat_map, which would go number by number.
    numbers.for_each(|number| all.extend(std::iter::repeat_n(number, times)));
    all
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
        let part = |k: usize| each(self.of[k], cells.clone());
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
        let (weight, bias) = (affine.weight[row.channel], affine.bias[row.channel]);
        Weights { weight: Same(V::splat(simd, weight)), bias: Same(V::splat(simd, bias)) }
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
    fn y(self) -> impl Line<S> {
        Made { stats: self.of.stats, weights: self.weights }
    }
}

impl<S: Simd, Q: Param<S>> OfDx<S> for Weighted<S, Q> {
    #[inline(always)]
    fn taken(self) -> impl Line<S> {
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

/// The parameters of columns, made ready once for all rows: one number a cell, in strips one an element.
pub(crate) trait ColumnParams: Sized {
    /// Those of some channels from `channel` on, each so many times.
    fn repeated(stats: StatSlices, affine: &Affine, channel: usize, times: usize) -> Self;

    /// Of a grid of columns; of others there are none.
    fn of_grid(grid: &Grid, rows: &RowParams) -> Option<Self> {
        grid.columns.then(|| Self::repeated(rows.stats, rows.affine, 0, 1))
    }
}

/// For y.
pub(crate) struct YColumns {
    hi: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// For dx.
pub(crate) struct DxColumns {
    y: YColumns,
    scale: Vec<f32>,
    shift: Vec<f32>,
    weight: Vec<f32>,
    rstd: Vec<f32>,
}

impl ColumnParams for YColumns {
    fn repeated(stats: StatSlices, affine: &Affine, channel: usize, times: usize) -> Self {
        let [hi, lo, rstd, ..] = stats.of;
        // Cells of several samples have the weights of one.
        let weights = affine.weight[channel..].iter().zip(&affine.bias[channel..]).cycle();
        let y = |((&lo, &rstd), (&weight, &bias))| scale_and_shift(lo, rstd, weight, bias).into();
        let (scale, shift): (Vec<f32>, Vec<f32>) = lo.iter().zip(rstd).zip(weights).map(y).unzip();
        YColumns {
            hi: repeated(hi.iter().copied(), times),
            scale: repeated(scale.into_iter(), times),
            shift: repeated(shift.into_iter(), times),
        }
    }
}

impl ColumnParams for DxColumns {
    fn repeated(stats: StatSlices, affine: &Affine, channel: usize, times: usize) -> Self {
        let [_, lo, rstd, ..] = stats.of;
        let weight = affine.weight[channel..].iter().copied().cycle().take(rstd.len());
        let taken = |(i, (&lo, &rstd))| {
            let [g, gx] = stats.projection(i);
            scale_and_shift(lo, rstd, gx, g).into()
        };
        let (scale, shift): (Vec<f32>, Vec<f32>) = lo.iter().zip(rstd).enumerate().map(taken).unzip();
        DxColumns {
            y: YColumns::repeated(stats, affine, channel, times),
            scale: repeated(scale.into_iter(), times),
            shift: repeated(shift.into_iter(), times),
            weight: repeated(weight, times),
            rstd: repeated(rstd.iter().copied(), times),
        }
    }
}

/// Cells of a row.
#[inline(always)]
fn each(of: &[f32], cells: Range<usize>) -> Each<'_> {
    Each(&of[cells.start..][..cells.len()])
}

impl YColumns {
    /// Those of some cells.
    #[inline(always)]
    pub fn cells(&self, cells: Range<usize>) -> Ready<'_> {
        Ready {
            hi: each(&self.hi, cells.clone()),
            scale: each(&self.scale, cells.clone()),
            shift: each(&self.shift, cells),
        }
    }
}

impl DxColumns {
    /// Those of some cells.
    #[inline(always)]
    pub fn cells(&self, cells: Range<usize>) -> ReadyDx<'_> {
        let y = self.y.cells(cells.clone());
        ReadyDx {
            y,
            taken: Ready { hi: y.hi, scale: each(&self.scale, cells.clone()), shift: each(&self.shift, cells.clone()) },
            weight: each(&self.weight, cells.clone()),
            rstd: each(&self.rstd, cells),
        }
    }
}

/// What columns need to become dx, made before.
#[derive(Clone, Copy)]
pub(crate) struct ReadyDx<'a> {
    y: Ready<'a>,
    taken: Ready<'a>,
    weight: Each<'a>,
    rstd: Each<'a>,
}

impl<S: Simd> OfY<S> for ReadyDx<'_> {
    #[inline(always)]
    fn y(self) -> impl Line<S> {
        self.y
    }
}

impl<S: Simd> OfDx<S> for ReadyDx<'_> {
    #[inline(always)]
    fn taken(self) -> impl Line<S> {
        self.taken
    }

    #[inline(always)]
    fn weight(self) -> impl Param<S> {
        self.weight
    }

    #[inline(always)]
    fn rstd(self) -> impl Param<S> {
        self.rstd
    }
}

/// The parameters of a tensor's elements.
pub(crate) enum Params<'a, C> {
    Rows(RowParams<'a>),
    /// Those of a grid of columns, or of rows that are worked on as one (see [`super::strip`]).
    Columns(&'a C),
}

impl<'a, C> Params<'a, C> {
    /// Those of columns, where there are any.
    pub fn new(rows: &RowParams<'a>, columns: Option<&'a C>) -> Self {
        columns.map_or(Params::Rows(*rows), Params::Columns)
    }

    /// An area of a grid as the parameters see it.
    #[inline(always)]
    pub fn area(&self, grid: &Grid, area: Area) -> Area {
        match self {
            Params::Columns(_) if !grid.columns => area.flat(),
            _ => area,
        }
    }
}

/// Runs a block with the [`OfY`] or [`OfDx`] of columns `at..at + len` of a row, in the form that it has: a copy of the
/// block for each. Not a function that takes a closure, which would have to be generic.
macro_rules! with_params {
    ($simd:ident, $grid:expr, $params:expr, ($row:expr, $at:expr, $len:expr), $of:ident => $body:expr) => {{
        let (row, at, len) = ($row, $at, $len);
        match $params {
            Params::Columns(columns) => {
                let $of = columns.cells($grid.cells(row, at, len));
                $body
            }
            Params::Rows(rows) => {
                let of_stats = rows.of_stats($simd, row);
                if $grid.by_column {
                    let $of = of_stats.with(OfColumn::weights($simd, rows.affine, row, at, len));
                    $body
                } else {
                    let $of = of_stats.with(OfRow::weights($simd, rows.affine, row, at, len));
                    $body
                }
            }
        }
    }};
}
pub(crate) use with_params;
