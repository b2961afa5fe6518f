//! The backward pass: sums, gradients of weight and bias, dx.

use super::apply::{Dx, backward_row, backward_row_to, backward_rows, masked_row, masked_rows};
use super::beside::{BackwardRows, Strip};
use super::blocks::Blocks;
use super::column_params::DxColumns;
use super::params::{OfRow, Owner, Params, RowParams, StatSlices, StatVectors, for_rows};
use super::relay::Block;
use crate::cpu::exec::{Exec, apart, dispatch};
use crate::cpu::grid::{Cursor, Grid, Join};
use crate::cpu::memory::area::{Area, Scratch, areas};
use crate::cpu::memory::input::Input;
use crate::cpu::memory::output::{Destination, Output};
use crate::cpu::memory::prefetch::Prefetch;
use crate::cpu::memory::sink::{Sink, with_sink};
use crate::cpu::memory::stream::ByLines;
use crate::cpu::memory::vectors::{Repeat, Vectors};
use crate::cpu::pass::{self, Pass as _};
use crate::cpu::reduce::columns::{self, Columns, Down};
use crate::cpu::reduce::partial::Sums;
use crate::cpu::reduce::source::{GradientOf, GradientTile, Source as _, SumPairs, SumsOf};
use crate::cpu::reduce::{self, Parts, Table, leaf_of_rows};
use crate::cpu::simd::half::{first_half, in_registers};
use crate::cpu::simd::lanes::{LANES, Number};
use crate::sums::merge_all;
use fearless_simd::Simd;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

/// Sums over weights' elements, if they are wanted: otherwise they may be empty.
#[derive(Default)]
pub(crate) struct AffineGradients(Vectors<3>);

impl AffineGradients {
    /// dbias.
    pub fn bias(&self) -> &[f32] {
        self.0.each()[0]
    }

    /// dweight.
    pub fn weight(&self) -> &[f32] {
        self.0.each()[1]
    }
}

/// What a backward pass works on.
pub(crate) struct Pass<'a> {
    pub exec: Exec,
    pub grid: &'a Grid,
    pub centred: bool,
    pub gradient: GradientOf<'a>,
    /// Of the forward pass.
    pub stats: &'a StatVectors,
    /// Elements of a statistic.
    pub count: f32,
    /// Whether dx is wanted and the statistics depend on x.
    pub projects: bool,
    /// Whether gradients of weight and bias are wanted.
    pub affine: bool,
    pub dsum: Option<Input<'a>>,
    pub dx: Option<&'a Output<'a>>,
    pub dresidual: Option<&'a Output<'a>>,
}

impl Pass<'_> {
    /// Everything that is wanted.
    pub fn run(&self) -> AffineGradients {
        if let Some(blocks) = Blocks::new(self.grid, self.gradient.inputs(), self.exec).filter(|_| self.projects) {
            return self.by_blocks(blocks);
        }
        if !self.projects && !self.affine {
            self.write([&[], &[]]);
            return AffineGradients::default();
        }
        let (stats, affine) = self.sums();
        let repeat = Repeat::of_stats(self.grid);
        let mut projection = Vectors::<2>::zeros(stats.len() * repeat.times());
        let [g, gx] = projection.each_mut();
        for (i, sums) in stats.into_iter().enumerate() {
            [g[i], gx[i]] = self.projection(sums);
        }
        repeat.spread([g, gx]);
        self.write(projection.each());
        affine
    }

    fn row_params<'a>(&'a self, stats: StatSlices<'a>) -> RowParams<'a> {
        RowParams { stats, affine: self.gradient.affine }
    }

    /// What is taken out of the gradient of a statistic, of the sums of g times weight and of that times the normalised
    /// input.
    fn projection(&self, [g, gx]: [f32; 2]) -> [f32; 2] {
        [if self.centred { g / self.count } else { 0.0 }, gx / self.count]
    }

    fn weight(&self, channel: usize) -> f32 {
        self.gradient.affine.weight[channel]
    }

    /// Sums over statistics (of g times weight, and of that times the normalised input), if they are wanted, and
    /// over weights.
    fn sums(&self) -> (Vec<[f32; 2]>, AffineGradients) {
        let (exec, grid, source) = (self.exec, self.grid, self.source());
        if grid.by_column && !grid.columns {
            let stats = if self.projects {
                pairs(&reduce::cells_of_rows(exec, grid, &source).parts).collect()
            } else {
                Vec::new()
            };
            let down = Down {
                samples: 1,
                rows: grid.all_rows(),
                width: grid.width,
                leaf: grid.leaf_down,
                joins_samples: true,
            };
            let sums = if self.affine { columns::cells(exec, down, &source).parts } else { Default::default() };
            return (stats, AffineGradients(sums));
        }
        let cells = reduce::cells(exec, grid, &source);
        let weighted = |(i, [a, b]): (usize, [f32; 2])| {
            let weight = self.weight(i % grid.channels());
            [a * weight, b * weight]
        };
        if grid.join == Join::Samples {
            let sums = reduce::join_samples::<SumPairs>(exec, cells).parts;
            return (pairs(&sums).enumerate().map(weighted).collect(), AffineGradients(sums));
        }
        let stats = if self.projects {
            let weighted: Vec<[f32; 2]> = pairs(&cells.parts).enumerate().map(weighted).collect();
            weighted.chunks(grid.group()).map(merged).collect()
        } else {
            Vec::new()
        };
        let sums = if self.affine { reduce::join_samples::<SumPairs>(exec, cells).parts } else { Default::default() };
        (stats, AffineGradients(sums))
    }

    /// dx and dresidual of the whole tensor. `projection`: what is taken out of the gradient, one a statistic, or
    /// in grids of columns one a cell.
    pub fn write(&self, projection: [&[f32]; 2]) {
        if self.dx.is_none() && self.dresidual.is_none() {
            return;
        }
        self.write_all(self.exec, &self.row_params(self.stats.slices().with_projection(projection)));
    }

    /// Block by block: what has been read for the sums is still in the cache when dx is made of it.
    fn by_blocks(&self, blocks: Blocks) -> AffineGradients {
        let grid = self.grid;
        let (mut table, piece) = match blocks {
            Blocks::Channels(len) => (Table::new(grid.rows, vec![(grid.samples * grid.width) as u32]), len),
            Blocks::Rows(rows) if grid.by_column => {
                let all = grid.all_rows();
                let counts = (0..all.div_ceil(rows)).map(|i| rows.min(all - i * rows) as u32);
                (Table::new(grid.width, counts.collect()), grid.width)
            }
            Blocks::Rows(rows) => (Table::new(grid.rows, vec![grid.width as u32; grid.samples]), rows),
        };
        let pieces = table.pieces(piece).enumerate();
        match blocks {
            Blocks::Channels(len) => {
                let blocks = pieces.map(|(i, to)| Block { channels: i * len..i * len + to[0].len(), to });
                let finish_channels = |channels: Range<usize>, to: Parts, [bias, weight, _]: [[f32; LANES]; 3]| {
                    to[0].copy_from_slice(&bias[..channels.len()]);
                    to[1].copy_from_slice(&weight[..channels.len()]);
                    self.projections(channels.zip(bias).zip(weight).map(|((channel, bias), weight)| {
                        let of_channel = self.weight(channel);
                        [bias * of_channel, weight * of_channel]
                    }))
                };
                self.exec.relay(self.can_write_beside(), blocks, |blocks, scratch| {
                    dispatch!(self.exec.level, simd => self.channels(simd, len, blocks, scratch, finish_channels));
                });
            }
            Blocks::Rows(len) => self.exec.each(pieces, |(i, to), scratch| {
                let rows = i * len..((i + 1) * len).min(grid.all_rows());
                dispatch!(self.exec.level, simd => self.row_blocks(simd, rows, to, scratch));
            }),
        }
        if !self.affine {
            return AffineGradients::default();
        }
        AffineGradients(reduce::join_samples::<SumPairs>(self.exec, table).parts)
    }

    /// A block of whole groups of rows.
    #[inline(always)]
    fn row_blocks<S: Simd>(&self, simd: S, rows: Range<usize>, to: Parts, scratch: &mut Scratch) {
        let (grid, leaves) = (self.grid, rows.len().div_ceil(self.grid.leaf_down));
        let mut columns = (grid.by_column && self.affine)
            .then(|| Columns::new(simd, (0..grid.width, grid.piece()), grid.leaf_down, leaves));
        let (of_rows, of_columns) = if grid.by_column { (None, Some(to)) } else { (Some(to), None) };
        self.group_rows(simd, rows, of_rows, columns.as_mut(), scratch);
        if let (Some(mut columns), Some(to)) = (columns, of_columns) {
            columns.store(simd, to);
        }
    }

    /// Sums of rows, and their dx. `to`: where the sums go if they are those of weights; `columns`: those of columns if
    /// these are.
    #[inline(always)]
    fn group_rows<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        mut to: Option<Parts>,
        columns: Option<&mut Columns<S, SumPairs>>,
        scratch: &mut Scratch,
    ) {
        let (grid, start) = (self.grid, rows.start);
        let mut weighted = vec![];
        self.groups(
            simd,
            rows,
            columns,
            scratch,
            #[inline(always)]
            |rows, [bias, weight, _]| {
                weighted.clear();
                weighted.extend(rows.clone().zip(bias).zip(weight).map(|((row, bias), weight)| {
                    let of_row = if grid.by_column { 1.0 } else { self.weight(row % grid.rows) };
                    [bias * of_row, weight * of_row]
                }));
                if let Some(to) = &mut to {
                    let at = rows.start - start..rows.end - start;
                    to[0][at.clone()].copy_from_slice(bias);
                    to[1][at].copy_from_slice(weight);
                }
                self.projections(weighted.chunks(grid.group()).map(merged))
            },
        );
    }

    /// dx and dresidual of an area of such rows in training, if they go around the caches from registers and nothing is added;
    /// see [`Params::run`].
    #[inline(always)]
    fn write_run<S: Simd, T: Number>(
        &self,
        simd: S,
        params: &Params<DxColumns>,
        area: Area,
        next: usize,
    ) -> Option<()> {
        let of_rows = params.run(simd, self.grid, area)?;
        let (Some(dx), None, true) = (self.dx, self.dsum, self.projects) else { return None };
        let (flat, rows) = (area.flat(), (area.rows, area.len));
        let gradient = self.gradient.plain::<T>(flat)?.row(0);
        let mut dx = dx.area(flat, &mut [], self.gradient.prefetch(flat.further(next)));
        let dx = dx.stream::<T>()?;
        if let Some(dresidual) = self.dresidual {
            let of_rows = params.run(simd, self.grid, area)?;
            let mut dresidual = dresidual.area(flat, &mut [], Prefetch::default());
            let dresidual = dresidual.stream::<T>()?;
            apart!(simd, masked_rows(simd, gradient, dresidual, rows, of_rows));
        }
        apart!(simd, backward_rows(simd, gradient, dx, rows, of_rows));
        Some(())
    }

    /// dx and dresidual of an area of halves in training, if nothing is added and all of them lie in memory as they are needed.
    #[inline(always)]
    fn write_halves<S: Simd, T: Number>(
        &self,
        simd: S,
        params: &Params<DxColumns>,
        area: Area,
        next: usize,
    ) -> Option<()> {
        let gradient = self.gradient.plain::<T>(area)?;
        let (Some(dx), None, true) = (self.dx, self.dsum, self.projects) else { return None };
        let mut dx = dx.area(area, &mut [], self.gradient.prefetch(area.further(next)));
        let mut dresidual = self.dresidual.map(|d| d.area(area, &mut [], Prefetch::default()));
        if !(dx.takes::<T>() && dresidual.as_ref().is_none_or(Destination::takes::<T>)) {
            return None;
        }
        if let Some(dresidual) = &mut dresidual {
            for_rows!(simd, self.grid, params, area, (k, of) => {
                let dresidual = dresidual.halves::<T>(k).of_len(area.len);
                masked_row(simd, gradient.row(k), dresidual, area.len, of);
            });
        }
        for_rows!(simd, self.grid, params, area, (k, of) => {
            let dx = dx.halves::<T>(k).of_len(area.len);
            backward_row_to(simd, gradient.row(k), dx, area.len, of);
        });
        Some(())
    }

    /// What is taken out of the gradient of a few statistics, of the sums of g times weight and of that times the
    /// normalised input.
    fn projections(&self, sums: impl Iterator<Item = [f32; 2]>) -> Projections {
        let mut projections = [[0.0; LANES]; 2];
        for (k, sums) in sums.enumerate() {
            let of = self.projection(sums);
            (projections[0][k], projections[1][k]) = (of[0], of[1]);
        }
        projections
    }

    /// Where an area is read and written, if it takes no scratch memory.
    #[inline(always)]
    fn direct(&self, area: Area) -> Option<(GradientTile<'_>, Destination<'_>)> {
        Some((self.gradient.plain(area)?, self.dx?.area(area, &mut [], Prefetch::default())))
    }
}

/// What is taken out of the gradients of a block's statistics: see [`StatSlices`].
type Projections = [[f32; LANES]; 2];

impl pass::Pass for Pass<'_> {
    type Kind = SumPairs;
    type Source<'a>
        = SumsOf<'a>
    where
        Self: 'a;
    type Columns = DxColumns;
    type Finished = Projections;

    fn grid(&self) -> &Grid {
        self.grid
    }

    fn inputs(&self) -> usize {
        self.gradient.inputs()
    }

    fn relu(&self) -> bool {
        self.gradient.relu
    }

    fn holds_rows(&self) -> bool {
        false
    }

    fn can_write_beside(&self) -> bool {
        let (grid, of) = (self.grid, &self.gradient);
        [of.x, of.dy].iter().all(|input| input.is_plain_f32(grid))
            && of.residual.is_none()
            && !(grid.by_column && of.relu)
            && self.dsum.is_none()
            && self.dresidual.is_none()
            && self.dx.is_some_and(|dx| dx.is_direct(grid, grid.piece()))
    }

    fn can_write_runs(&self) -> bool {
        let of = &self.gradient;
        let mut inputs = [of.x, of.dy].into_iter().chain(of.residual);
        self.projects && self.dsum.is_none() && self.dx.is_some_and(|dx| inputs.all(|input| input.dtype == dx.dtype))
    }

    #[inline(always)]
    fn source(&self) -> SumsOf<'_> {
        SumsOf { gradient: self.gradient, stats: self.stats.slices() }
    }

    #[inline(always)]
    fn params<'a>(&'a self, range: Range<usize>, [g, gx]: &'a Projections) -> RowParams<'a> {
        self.row_params(self.stats.slices().range(range).with_projection([g, gx]))
    }

    #[inline(always)]
    fn prepare_rows<S: Simd>(&self, _: S, _: Range<usize>, _: &mut Scratch) {}

    #[inline(always)]
    fn write_beside_inline<S: Simd, O: Owner, const MASK: u8>(
        &self,
        simd: S,
        params: &RowParams,
        written: Area,
        areas: (Area, Option<Area>),
        down: &[Cell<Sums<S>>],
        scratch: &mut Scratch,
    ) -> Sums<S> {
        let source = self.source();
        let Some((gradient, dx)) = self.direct(written) else {
            return leaf_of_rows(simd, &source, areas, down, scratch);
        };
        let cursor = Cursor::new(self.grid, written.first);
        let rows = BackwardRows::<O, MASK> { gradient, dx, params, cursor, at: written.at, owner: PhantomData };
        source.rows_beside::<S, f32, O, MASK>(simd, source.tile(simd, areas.0, scratch), areas, down, rows)
    }

    #[inline(always)]
    fn write_strip_beside_inline<S: Simd, const MASK: u8>(
        &self,
        simd: S,
        params: &DxColumns,
        written: Area,
        areas: (Area, Option<Area>),
        scratch: &mut Scratch,
    ) -> Sums<S> {
        let source = self.source();
        let Some((gradient, mut dx)) = self.direct(written) else {
            return leaf_of_rows(simd, &source, areas, &[], scratch);
        };
        let Sink::Stream(dx) = dx.row(0) else { unreachable!("asked for strips that go around the caches") };
        let values = Dx::<_, _, MASK> { gradient: gradient.row(0), of: params.cells(0..written.len) };
        let rows = Strip(ByLines::new(simd, dx, values));
        source.rows_beside::<S, f32, OfRow, MASK>(simd, source.tile(simd, areas.0, scratch), areas, &[], rows)
    }

    #[inline(always)]
    fn write_rows_inline<S: Simd>(
        &self,
        simd: S,
        params: &Params<DxColumns>,
        rows: Range<usize>,
        next: usize,
        scratch: &mut Scratch,
    ) {
        let (grid, of) = (self.grid, &self.gradient);
        for area in areas(grid.width, rows) {
            if const { in_registers::<S>() }
                && (self.write_run::<S, f32>(simd, params, area, next).is_some()
                    || first_half!(S, T => self.write_run::<S, T>(simd, params, area, next)).is_some())
            {
                continue;
            }
            let area = params.area(area);
            let Scratch { x, dy, residual, dsum, out } = scratch;
            if first_half!(S, T => self.write_halves::<S, T>(simd, params, area, next)).is_some() {
                continue;
            }
            let gradient = of.tile(simd, area, (x, dy, residual));
            let dsum = self.dsum.map(|d| d.tile(simd, area, dsum));
            if let Some(dresidual) = self.dresidual {
                let mut dresidual = dresidual.area(area, out, Prefetch::default());
                for_rows!(simd, grid, params, area, (k, of) => {
                    masked_row(simd, gradient.row(k), dresidual.row(k), area.len, of);
                });
                dresidual.finish(simd);
            }
            let Some(dx) = self.dx else { continue };
            let mut dx = dx.area(area, out, of.prefetch(area.further(next)));
            if self.projects && dsum.is_none() {
                for_rows!(simd, grid, params, area, (k, of) => {
                    let (gradient, to) = (gradient.row(k), dx.row(k));
                    with_sink!(S, to, area.len => backward_row_to(simd, gradient, to, area.len, of));
                });
            } else {
                for_rows!(simd, grid, params, area, (k, of) => {
                    let dsum = dsum.as_ref().map(|d| d.row(k));
                    backward_row(simd, gradient.row(k), dsum, dx.row(k), of, self.projects);
                });
            }
            dx.finish(simd);
        }
    }
}

/// The numbers of sums: of g, and of g times the normalised input.
fn pairs(parts: &Vectors<3>) -> impl Iterator<Item = [f32; 2]> + '_ {
    let [a, b, _] = parts.each();
    a.iter().zip(b).map(|(&a, &b)| [a, b])
}

fn merged(pairs: &[[f32; 2]]) -> [f32; 2] {
    merge_all(pairs, &|a: [f32; 2], b: [f32; 2]| [a[0] + b[0], a[1] + b[1]]).unwrap_or_default()
}
