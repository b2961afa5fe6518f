//! What both directions have in common: rows are reduced, what they give becomes parameters, and rows are written with
//! these, those of a block while those of the next are reduced.

mod apply;
pub(super) mod backward;
mod beside;
mod blocks;
mod column_params;
pub(super) mod forward;
pub(super) mod params;
mod relay;
pub(super) mod strip;

use crate::cpu::exec::{Exec, apart, dispatch, is_baseline};
use crate::cpu::grid::Grid;
use crate::cpu::memory::area::{Area, Scratch, rows_of_area};
use crate::cpu::memory::vectors::Repeat;
use crate::cpu::reduce::columns;
use crate::cpu::reduce::source::{Kind, PartialOf, Source};
use crate::cpu::reduce::{fill_rows, leaf_of_rows, rows_at_once, rows_of_leaf_at_once};
use crate::cpu::simd::formula::mask;
use crate::cpu::simd::half::in_registers;
use crate::cpu::simd::lanes::LANES;
use blocks::Blocks;
use column_params::ColumnParams;
use fearless_simd::Simd;
use params::{OfColumn, OfRow, Owner, Params, RowParams};
use relay::{Block, Relay};
use std::cell::Cell;
use std::ops::Range;

/// A direction.
pub(crate) trait Pass: Sync {
    /// Partial results.
    type Kind: Kind;
    /// What is reduced.
    type Source<'a>: Source<Kind = Self::Kind>
    where
        Self: 'a;
    /// What columns are written with.
    type Columns: ColumnParams + Sync;
    /// What a few statistics' rows are written with, in the registers' order.
    type Finished;

    fn grid(&self) -> &Grid;
    /// Tensors that are read.
    fn inputs(&self) -> usize;
    /// Whether there is a ReLU.
    fn relu(&self) -> bool;
    /// Whether a batch of rows is read from scratch memory, where it is put before they are reduced.
    fn holds_rows(&self) -> bool;
    /// Whether rows can be written while others are reduced: where nothing is converted, and the loop is a common one, as
    /// each is compiled once more.
    fn can_write_beside(&self) -> bool;
    /// The same of an instruction set.
    #[inline(always)]
    fn writes_beside<S: Simd>(&self) -> bool {
        !is_baseline::<S>() && self.can_write_beside()
    }
    /// Whether rows that follow each other can be written as one; see [`Params::run`].
    fn can_write_runs(&self) -> bool;
    /// The same of an instruction set.
    #[inline(always)]
    fn writes_runs<S: Simd>(&self, _: S) -> bool {
        in_registers::<S>() && self.can_write_runs()
    }
    fn source(&self) -> Self::Source<'_>;
    /// Of rows with these statistics.
    fn params<'a>(&'a self, range: Range<usize>, stats: &'a Self::Finished) -> RowParams<'a>;
    /// What is done with rows before they are reduced.
    fn prepare_rows<S: Simd>(&self, simd: S, rows: Range<usize>, scratch: &mut Scratch);

    /// `next`: how many rows further the rows are that will be read next, 0 if that is not known.
    fn write_rows_inline<S: Simd>(
        &self,
        simd: S,
        params: &Params<Self::Columns>,
        rows: Range<usize>,
        next: usize,
        scratch: &mut Scratch,
    );

    /// As [`Pass::write_beside`], for weights and a mask that are known: what is written meanwhile is another area.
    fn write_beside_inline<S: Simd, O: Owner, const MASK: u8>(
        &self,
        simd: S,
        params: &RowParams,
        written: Area,
        areas: (Area, Option<Area>),
        down: &[Cell<PartialOf<Self::Kind, S>>],
        scratch: &mut Scratch,
    ) -> PartialOf<Self::Kind, S>;

    /// The same of a strip, an area of one row.
    fn write_strip_beside_inline<S: Simd, const MASK: u8>(
        &self,
        simd: S,
        params: &Self::Columns,
        written: Area,
        areas: (Area, Option<Area>),
        scratch: &mut Scratch,
    ) -> PartialOf<Self::Kind, S>;

    /// Out of line, so that it is compiled once.
    #[inline(never)]
    fn write_rows<S: Simd>(
        &self,
        simd: S,
        params: &Params<Self::Columns>,
        rows: Range<usize>,
        next: usize,
        scratch: &mut Scratch,
    ) {
        simd.vectorize(
            #[inline(always)]
            || self.write_rows_inline(simd, params, rows, next, scratch),
        )
    }

    /// A leaf, as [`leaf_of_rows`], and meanwhile rows are written that are so many rows before it.
    #[inline(always)]
    fn write_beside<S: Simd>(
        &self,
        simd: S,
        params: &Params<Self::Columns>,
        back: usize,
        areas: (Area, Option<Area>),
        down: &[Cell<PartialOf<Self::Kind, S>>],
        scratch: &mut Scratch,
    ) -> PartialOf<Self::Kind, S> {
        if const { is_baseline::<S>() } {
            unreachable!("not compiled for the least instruction set");
        }
        let written = Area { first: areas.0.first - back, ..areas.0 };
        const NONE: u8 = mask::NONE;
        const RELU: u8 = mask::RELU;
        match (params, self.relu()) {
            (Params::Rows(params), relu) => match (self.grid().by_column, relu) {
                (true, _) => {
                    apart!(
                        simd,
                        self.write_beside_inline::<S, OfColumn, NONE>(simd, params, written, areas, down, scratch)
                    )
                }
                (false, false) => {
                    apart!(
                        simd,
                        self.write_beside_inline::<S, OfRow, NONE>(simd, params, written, areas, down, scratch)
                    )
                }
                (false, true) => {
                    apart!(
                        simd,
                        self.write_beside_inline::<S, OfRow, RELU>(simd, params, written, areas, down, scratch)
                    )
                }
            },
            (Params::Strip(params), false) => {
                apart!(simd, self.write_strip_beside_inline::<S, NONE>(simd, params, written.flat(), areas, scratch))
            }
            (Params::Strip(params), true) => {
                apart!(simd, self.write_strip_beside_inline::<S, RELU>(simd, params, written.flat(), areas, scratch))
            }
            (Params::Columns(_), _) => unreachable!("columns have no blocks"),
        }
    }

    /// All rows, with parameters that are known.
    fn write_all(&self, exec: Exec, rows: &RowParams) {
        let grid = self.grid();
        if strip::pays(grid) {
            return exec.each(strip::pieces(grid), |(channels, samples), scratch| {
                dispatch!(exec.level, simd => {
                    let strip = strip::params(grid, rows, channels.clone(), self.writes_runs(simd));
                    let params = Params::new(rows, strip.as_ref());
                    for n in samples.clone() {
                        let rows = n * grid.rows + channels.start..n * grid.rows + channels.end;
                        let next = if n + 1 < samples.end { grid.rows } else { 0 };
                        self.write_rows(simd, &params, rows, next, scratch);
                    }
                });
            });
        }
        let strip = strip::rows_of_columns(grid);
        let columns = grid.columns.then(|| Self::Columns::new(rows.stats, rows.affine, 0, Repeat::All(strip)));
        let (params, once) = match &columns {
            Some(columns) if strip > 1 => (Params::Strip(columns), strip),
            Some(columns) => (Params::Columns(columns), grid.all_rows().max(1)),
            None => (Params::Rows(*rows), grid.all_rows().max(1)),
        };
        let next = rows_of_area(grid.width);
        exec.each_rows(grid, |rows, scratch| {
            dispatch!(exec.level, simd => for first in rows.clone().step_by(once) {
                let rows = first..rows.end.min(first + once);
                self.write_rows(simd, &params, rows, next, scratch);
            });
        });
    }

    /// Blocks of up to `len` channels. `finish` gets what each has given, with the numbers of
    /// [`crate::cpu::reduce::partial::Partial::parts`], one a channel.
    #[inline(always)]
    fn channels<S: Simd, T>(
        &self,
        simd: S,
        len: usize,
        blocks: &mut dyn Iterator<Item = Block<T>>,
        scratch: &mut Scratch,
        finish: impl Fn(Range<usize>, T, [[f32; LANES]; 3]) -> Self::Finished,
    ) {
        let grid = self.grid();
        let beside = self.writes_beside::<S>();
        let relay = Relay {
            grid,
            source: &self.source(),
            asked: if beside { Blocks::asked(grid, self.inputs(), len) } else { 0 },
            prepare: |rows: Range<usize>, scratch: &mut Scratch| self.prepare_rows(simd, rows, scratch),
        };
        relay.run(
            simd,
            blocks,
            scratch,
            #[inline(always)]
            |Block { channels, to }, parts, turns, scratch| {
                let stats = finish(channels.clone(), to, parts);
                let rows = self.params(channels.clone(), &stats);
                let strip = strip::params(grid, &rows, channels, self.writes_runs(simd));
                let params = Params::new(&rows, strip.as_ref());
                turns.each(
                    scratch,
                    #[inline(always)]
                    |rows, next, scratch| self.write_rows(simd, &params, rows, next, scratch),
                    beside.then_some(
                        #[inline(always)]
                        |back, areas, scratch: &mut Scratch| {
                            self.write_beside(simd, &params, back, areas, &[], scratch)
                        },
                    ),
                );
            },
        );
    }

    /// Whole groups of rows, a batch at a time. `columns`: where they are added up column by column, too. `finish` gets what
    /// each has given, one number a row.
    #[inline(always)]
    fn groups<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        mut columns: Option<&mut columns::Columns<S, Self::Kind>>,
        scratch: &mut Scratch,
        mut finish: impl FnMut(Range<usize>, [&[f32]; 3]) -> Self::Finished,
    ) {
        let (grid, source) = (self.grid(), self.source());
        let size = grid.group();
        let once = if columns.is_some() { rows_of_leaf_at_once(grid) } else { rows_at_once(grid) };
        let batch = if size > 1 { size } else { once };
        let of_groups = |rows: &Range<usize>| rows.start / size..rows.end / size;
        let mut parts: [Vec<f32>; 3] = [vec![0.0; batch], vec![0.0; batch], vec![0.0; batch]];
        let beside = self.writes_beside::<S>() && Blocks::fits_twice(grid, self.inputs(), batch);
        // The batch before, which has not been written yet.
        let mut before: Option<(Range<usize>, Self::Finished)> = None;
        for first in rows.clone().step_by(batch) {
            let of_batch = first..(first + batch).min(rows.end);
            let len = of_batch.len();
            self.prepare_rows(simd, of_batch.clone(), scratch);
            let written =
                before.as_ref().map(|(rows, stats)| (rows, Params::Rows(self.params(of_groups(rows), stats))));
            let beside = written.as_ref().filter(|(written, _)| beside && written.len() == len);
            if let (Some((rows, params)), None) = (&written, beside) {
                self.write_rows(simd, params, Range::clone(rows), 0, scratch);
            }
            let [a, b, c] = &mut parts;
            fill_rows(
                simd,
                grid,
                (first, once),
                [&mut a[..len], &mut b[..len], &mut c[..len]],
                #[inline(always)]
                |areas| {
                    let down = columns.as_mut().map_or(&[][..], |columns| columns.spans(areas.0));
                    match beside {
                        Some((_, params)) => self.write_beside(simd, params, batch, areas, down, scratch),
                        None => leaf_of_rows(simd, &source, areas, down, scratch),
                    }
                },
            );
            if let Some(columns) = &mut columns {
                columns.added(simd, len);
            }
            let [a, b, c] = &parts;
            let stats = finish(of_batch.clone(), [&a[..len], &b[..len], &c[..len]]);
            if self.holds_rows() {
                let params = Params::Rows(self.params(of_groups(&of_batch), &stats));
                self.write_rows(simd, &params, of_batch, 0, scratch);
            } else {
                before = Some((of_batch, stats));
            }
        }
        if let Some((rows, stats)) = before {
            let params = Params::Rows(self.params(of_groups(&rows), &stats));
            self.write_rows(simd, &params, rows, 0, scratch);
        }
    }
}
