//! What is summed up: moments of x, or sums of the gradient.

use super::abreast::{Panel, Repeated};
use super::leaf::{self, Meanwhile};
use super::leaf_columns::{self, Leaves, PAGES, TALL};
use super::partial::{Mean, Partial, Sums};
use crate::cpu::exec::apart;
use crate::cpu::grid::{Cursor, Grid, Row};
use crate::cpu::memory::area::{Area, Scratch};
use crate::cpu::memory::input::{Input, Place, Tile};
use crate::cpu::memory::prefetch::Prefetch;
use crate::cpu::pass::params::{Affine, OfColumn, OfRow, Owner, StatSlices};
use crate::cpu::simd::formula::{Gradient, Stats, with_mask};
use crate::cpu::simd::lanes::Number;
use fearless_simd::Simd;
use std::cell::Cell;

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
    /// An area of all tensors that are read.
    type Tile<'a, T: Number>;

    /// Rows of columns that may be looked at together, where they are read in place.
    fn tall(&self) -> usize;

    /// Whether pieces of rows may lie side by side; see [`super::abreast`].
    fn can_lie_abreast(&self) -> bool;

    /// An area in place, if all tensors have such elements and neighbours lie side by side.
    fn plain<T: Number>(&self, area: Area) -> Option<Self::Tile<'_, T>>;

    /// An area: in place where it lies in memory as `f32`, otherwise in `scratch`.
    fn tile<'a, S: Simd>(&'a self, simd: S, area: Area, scratch: &'a mut Scratch) -> Self::Tile<'a, f32>;

    /// The same of a panel, whose pieces lie side by side, if there are several.
    fn tile_of_panel<'a, S: Simd>(&'a self, simd: S, panel: Panel, scratch: &'a mut Scratch) -> Self::Tile<'a, f32>;

    /// Of an area of up to sixteen rows, each row a lane. The second area is asked for meanwhile. `down`: where the rows
    /// are added up column by column, too, one a span of the area; empty if they are not.
    fn rows<S: Simd, T: Number>(
        &self,
        simd: S,
        tile: Self::Tile<'_, T>,
        areas: (Area, Option<Area>),
        down: &[Cell<PartialOf<Self::Kind, S>>],
    ) -> PartialOf<Self::Kind, S>;

    /// Of a panel of up to [`TALL`] leaves, each column a lane: one of `to` a span.
    fn columns<S: Simd, T: Number>(
        &self,
        simd: S,
        tile: Self::Tile<'_, T>,
        panel: Panel,
        to: &mut [PartialOf<Self::Kind, S>],
    );
}

/// Moments of x.
#[derive(Clone, Copy)]
pub(crate) struct MomentsOf<'a> {
    pub x: Place<'a>,
    pub centred: bool,
}

impl MomentsOf<'_> {
    /// See [`Input::prefetch`].
    #[inline(always)]
    pub fn prefetch(&self, next: Option<Area>) -> Prefetch<1> {
        Prefetch([self.x.prefetch(next)])
    }

    /// As [`Source::rows`], and meanwhile something else is done.
    #[inline(always)]
    pub fn rows_beside<S: Simd, T: Number>(
        &self,
        simd: S,
        tile: Tile<T>,
        (area, next): (Area, Option<Area>),
        meanwhile: impl Meanwhile<S>,
    ) -> Mean<S> {
        leaf::moments_of_rows(
            simd,
            area.rows,
            area.len,
            self.centred,
            #[inline(always)]
            |k| tile.row(k),
            self.prefetch(next),
            meanwhile,
        )
    }
}

impl Source for MomentsOf<'_> {
    type Kind = Means;
    type Tile<'a, T: Number> = Tile<'a, T>;

    fn tall(&self) -> usize {
        PAGES
    }

    fn can_lie_abreast(&self) -> bool {
        matches!(self.x, Place::In(_))
    }

    #[inline(always)]
    fn plain<T: Number>(&self, area: Area) -> Option<Tile<'_, T>> {
        self.x.plain(area)
    }

    #[inline(always)]
    fn tile<'a, S: Simd>(&'a self, simd: S, area: Area, scratch: &'a mut Scratch) -> Tile<'a> {
        self.x.tile(simd, area, &mut scratch.x)
    }

    #[inline(always)]
    fn tile_of_panel<'a, S: Simd>(&'a self, simd: S, panel: Panel, scratch: &'a mut Scratch) -> Tile<'a> {
        match self.x {
            Place::In(x) => x.tile_of_panel(simd, panel, &mut scratch.x),
            Place::Own(_) | Place::Held => self.tile(simd, panel.area, scratch),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, T: Number>(
        &self,
        simd: S,
        tile: Tile<T>,
        areas: (Area, Option<Area>),
        down: &[Cell<Mean<S>>],
    ) -> Mean<S> {
        debug_assert!(down.is_empty(), "moments belong to rows or to columns");
        self.rows_beside(simd, tile, areas, ())
    }

    #[inline(always)]
    fn columns<S: Simd, T: Number>(&self, simd: S, tile: Tile<T>, panel: Panel, to: &mut [Mean<S>]) {
        leaf_columns::moments_of_columns(
            simd,
            Leaves { rows: panel.rows(), leaf: panel.leaf },
            panel.len(),
            self.centred,
            #[inline(always)]
            |k| tile.row(k),
            self.prefetch(panel.next).of_pieces(panel.pieces),
            to,
        )
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
pub(crate) struct GradientTile<'a, T = f32> {
    x: Tile<'a, T>,
    dy: Tile<'a, T>,
    residual: Option<Tile<'a, T>>,
    relu: bool,
}

impl<'a> GradientOf<'a> {
    /// Tensors that it is made of.
    pub fn inputs(&self) -> usize {
        2 + usize::from(self.residual.is_some())
    }

    /// See [`Input::prefetch`].
    #[inline(always)]
    pub fn prefetch(&self, next: Option<Area>) -> Prefetch {
        Prefetch([self.x.prefetch(next), self.dy.prefetch(next)])
    }

    /// See [`Input::plain`].
    #[inline(always)]
    pub fn plain<T: Number>(&self, area: Area) -> Option<GradientTile<'a, T>> {
        let (x, dy) = (self.x.plain(area)?, self.dy.plain(area)?);
        let residual = match self.residual {
            Some(residual) => Some(residual.plain(area)?),
            None => None,
        };
        Some(GradientTile { x, dy, residual, relu: self.relu })
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

impl<'a, T> GradientTile<'a, T> {
    #[inline(always)]
    pub fn row(&self, k: usize) -> Gradient<'a, T> {
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
    /// As [`Source::rows`], for weights and a mask that are known, and meanwhile something else is done.
    #[inline(always)]
    pub fn rows_beside<S: Simd, T: Number, O: Owner, const MASK: u8>(
        &self,
        simd: S,
        gradient: GradientTile<T>,
        areas: (Area, Option<Area>),
        down: &[Cell<Sums<S>>],
        meanwhile: impl Meanwhile<S>,
    ) -> Sums<S> {
        // Not compiled for weights of rows, which are not summed up by column.
        debug_assert!(O::IN_SUMS || down.is_empty(), "weights of rows");
        if O::IN_SUMS && !down.is_empty() {
            self.sums_of_rows::<S, T, O, MASK, true>(simd, gradient, areas, down, meanwhile)
        } else {
            self.sums_of_rows::<S, T, O, MASK, false>(simd, gradient, areas, down, meanwhile)
        }
    }

    #[inline(always)]
    fn sums_of_rows<S: Simd, T: Number, O: Owner, const MASK: u8, const DOWN: bool>(
        &self,
        simd: S,
        gradient: GradientTile<T>,
        (area, next): (Area, Option<Area>),
        down: &[Cell<Sums<S>>],
        meanwhile: impl Meanwhile<S>,
    ) -> Sums<S> {
        let (of, stats, Area { rows, at, len, .. }) = (&self.gradient, &self.stats, area);
        let all = rows_of(of.grid, area);
        leaf::sums_of_rows::<S, T, _, _, MASK, DOWN>(
            simd,
            (rows, len),
            O::IN_SUMS,
            #[inline(always)]
            |k| (gradient.row(k), stats.numbers(all[k]), O::weights(simd, of.affine, all[k], at, len)),
            down,
            of.prefetch(next),
            meanwhile,
        )
    }
}

impl Source for SumsOf<'_> {
    type Kind = SumPairs;
    type Tile<'a, T: Number> = GradientTile<'a, T>;

    fn tall(&self) -> usize {
        // Numbers of rows that have their own are looked up for a few of them.
        if self.gradient.grid.columns { PAGES / self.gradient.inputs() } else { TALL }
    }

    fn can_lie_abreast(&self) -> bool {
        self.gradient.grid.columns
    }

    #[inline(always)]
    fn plain<T: Number>(&self, area: Area) -> Option<GradientTile<'_, T>> {
        self.gradient.plain(area)
    }

    #[inline(always)]
    fn tile<'a, S: Simd>(&'a self, simd: S, area: Area, scratch: &'a mut Scratch) -> GradientTile<'a> {
        let Scratch { x, dy, residual, .. } = scratch;
        self.gradient.tile(simd, area, (x, dy, residual))
    }

    #[inline(always)]
    fn tile_of_panel<'a, S: Simd>(&'a self, simd: S, panel: Panel, scratch: &'a mut Scratch) -> GradientTile<'a> {
        let Scratch { x, dy, residual, .. } = scratch;
        let of = &self.gradient;
        GradientTile {
            x: of.x.tile_of_panel(simd, panel, x),
            dy: of.dy.tile_of_panel(simd, panel, dy),
            residual: of.residual.map(|r| r.tile_of_panel(simd, panel, residual)),
            relu: of.relu,
        }
    }

    #[inline(always)]
    fn rows<S: Simd, T: Number>(
        &self,
        simd: S,
        tile: GradientTile<T>,
        areas: (Area, Option<Area>),
        down: &[Cell<Sums<S>>],
    ) -> Sums<S> {
        with_mask!(self.gradient, MASK => if self.gradient.grid.by_column {
            apart!(simd, self.rows_beside::<S, T, OfColumn, MASK>(simd, tile, areas, down, ()))
        } else {
            apart!(simd, self.rows_beside::<S, T, OfRow, MASK>(simd, tile, areas, down, ()))
        })
    }

    #[inline(always)]
    fn columns<S: Simd, T: Number>(&self, simd: S, gradient: GradientTile<T>, panel: Panel, to: &mut [Sums<S>]) {
        let Panel { area, next, leaf, pieces } = panel;
        let (of, stats, Area { rows, at, len, .. }) = (&self.gradient, &self.stats, area);
        let (weights, prefetch) = (of.affine.each(at, len), next.map(|next| of.prefetch(Some(next)).of_pieces(pieces)));
        if of.grid.columns {
            // Of one sample, or of samples whose statistics are joined.
            let stats = stats.each(of.grid, Cursor::new(of.grid, area.first).next(), at, len);
            let repeated;
            let (stats, weights) = if pieces > 0 {
                repeated = Repeated::new(pieces, stats, weights);
                repeated.each(panel.len())
            } else {
                (stats, weights)
            };
            leaf_columns::sums_of_columns(
                simd,
                Leaves { rows: panel.rows(), leaf },
                panel.len(),
                true,
                #[inline(always)]
                move |k| (gradient.row(k), stats, weights),
                prefetch,
                to,
            )
        } else {
            // Looked up once for all spans.
            let mut all = [[0.0; 3]; TALL];
            for (numbers, &row) in all.iter_mut().zip(&rows_of(of.grid, area)[..rows]) {
                *numbers = stats.numbers(row);
            }
            let all = &all;
            leaf_columns::sums_of_columns(
                simd,
                Leaves { rows, leaf },
                len,
                false,
                #[inline(always)]
                move |k| (gradient.row(k), Stats::same(simd, all[k]), weights),
                prefetch,
                to,
            )
        }
    }
}
