//! The forward pass: moments, statistics, y.

use super::apply::{Y, add_row, forward_row, forward_rows, hold_row};
use super::beside::{ForwardRows, Strip};
use super::blocks::Blocks;
use super::column_params::YColumns;
use super::params::{Affine, Owner, Params, RowParams, StatSlices, StatVectors, for_rows};
use super::relay::Block;
use crate::cpu::exec::{Exec, apart, dispatch};
use crate::cpu::grid::{Cursor, Grid, Join};
use crate::cpu::memory::area::{Area, Scratch, TILE, areas};
use crate::cpu::memory::input::{Place, Tile};
use crate::cpu::memory::output::{Destination, Output};
use crate::cpu::memory::prefetch::Prefetch;
use crate::cpu::memory::sink::{Sink, with_sink};
use crate::cpu::memory::stream::ByLines;
use crate::cpu::pass::{self, Pass as _};
use crate::cpu::reduce::partial::Mean;
use crate::cpu::reduce::source::{Means, MomentsOf, Source as _};
use crate::cpu::reduce::{self, leaf_of_rows, rows_at_once};
use crate::cpu::saved::Stat;
use crate::cpu::simd::half::{first_half, in_registers, round};
use crate::cpu::simd::lanes::{LANES, Number};
use crate::moments::Moments;
use crate::sums::merge_shards;
use fearless_simd::Simd;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

/// Whether the sums of a batch of rows (see [`pass::Pass::groups`]) can be held from when they are made until y is made of
/// them: whether it is one leaf of each row, reduced side by side.
pub(crate) fn holds(grid: &Grid) -> bool {
    let is_rows = !grid.columns && grid.join != Join::Samples;
    is_rows && grid.group() <= rows_at_once(grid) && grid.width <= grid.piece().min(TILE)
}

/// What a forward pass works on.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub exec: Exec,
    pub grid: &'a Grid,
    pub centred: bool,
    pub eps: f32,
    pub relu: bool,
    pub affine: &'a Affine<'a>,
    /// What is normalised: x, or the sum that is written first.
    pub x: Place<'a>,
    /// Added after the norm.
    pub residual: Option<Place<'a>>,
    /// With a residual before the norm: x and residual, and where their sum goes.
    pub sum: Option<(Place<'a>, Place<'a>, &'a Output<'a>)>,
    /// None where only moments are wanted.
    pub y: Option<&'a Output<'a>>,
}

impl Pass<'_> {
    fn row_params<'a>(&'a self, stats: StatSlices<'a>) -> RowParams<'a> {
        RowParams { stats, affine: self.affine }
    }

    /// Moments of every statistic, and what they are to the elements; y.
    pub fn run(&self) -> (Vec<Moments>, Vec<Stat>) {
        let stats = |moments: &[Moments]| moments.iter().map(|m| Stat::new(m, self.eps)).collect::<Vec<_>>();
        if let Some(blocks) = Blocks::new(self.grid, self.inputs(), self.exec).filter(|_| self.y.is_some()) {
            let moments = self.by_blocks(blocks);
            let stats = stats(&moments);
            return (moments, stats);
        }
        self.add();
        let moments = self.moments();
        let stats = stats(&moments);
        self.write(&stats);
        (moments, stats)
    }

    /// Moments of every statistic, of what is there.
    pub fn moments(&self) -> Vec<Moments> {
        let cells = reduce::cells(self.exec, self.grid, &self.source());
        match self.grid.join {
            Join::Samples => reduce::join_samples::<Means>(self.exec, cells).moments(),
            Join::Channels(1) => cells.moments(),
            Join::Channels(size) => cells.moments().chunks(size).map(merge_shards).collect(),
        }
    }

    /// The sum of the whole tensor, if there is one.
    pub fn add(&self) {
        if self.sum.is_some() {
            self.exec.each_rows(self.grid, |rows, scratch| {
                dispatch!(self.exec.level, simd => self.prepare_rows(simd, rows, scratch));
            });
        }
    }

    /// y of the whole tensor.
    pub fn write(&self, stats: &[Stat]) {
        let vectors = StatVectors::new(self.grid, stats);
        self.write_all(self.exec, &self.row_params(vectors.slices()));
    }

    /// Block by block: what has been read for the moments is still in the cache when y is made of it.
    fn by_blocks(&self, blocks: Blocks) -> Vec<Moments> {
        let mut moments = vec![Moments::EMPTY; self.grid.stats()];
        let pieces = moments.chunks_mut(blocks.stats(self.grid)).enumerate();
        match blocks {
            Blocks::Channels(len) => {
                let blocks = pieces.map(|(i, to)| Block { channels: i * len..i * len + to.len(), to });
                let count = (self.grid.samples * self.grid.width) as u32;
                let finish_channels = |_: Range<usize>, moments: &mut [Moments], [hi, lo, m2]: [[f32; LANES]; 3]| {
                    for (k, moments) in moments.iter_mut().enumerate() {
                        *moments = Moments::of(count, [hi[k], lo[k], m2[k]]);
                    }
                    BlockStats::new(moments, self.eps)
                };
                self.exec.relay(self.can_write_beside(), blocks, |blocks, scratch| {
                    dispatch!(self.exec.level, simd => self.channels(simd, len, blocks, scratch, finish_channels));
                });
            }
            Blocks::Rows(len) => self.exec.each(pieces, |(i, moments), scratch| {
                let pass =
                    if self.sum.is_some() && holds(self.grid) { Pass { x: Place::Held, ..*self } } else { *self };
                let (size, first) = (self.grid.group(), i * len);
                let rows = first..first + moments.len() * size;
                dispatch!(self.exec.level, simd => pass.groups(simd, rows, None, scratch, |rows, [hi, lo, m2]| {
                    let count = self.grid.width as u32;
                    let cell = |k: usize| Moments::of(count, [hi[k], lo[k], m2[k]]);
                    let moments = &mut moments[(rows.start - first) / size..(rows.end - first) / size];
                    if size == 1 {
                        moments.iter_mut().enumerate().for_each(|(k, moments)| *moments = cell(k));
                    } else {
                        let cells: Vec<Moments> = (0..size).map(cell).collect();
                        moments[0] = merge_shards(&cells);
                    }
                    BlockStats::new(moments, self.eps)
                }));
            }),
        }
        moments
    }

    /// y of an area of rows that are worked on as one, if they go around the caches from registers; see [`Params::run`].
    #[inline(always)]
    fn write_run<S: Simd, T: Number>(&self, simd: S, params: &Params<YColumns>, area: Area, next: usize) -> Option<()> {
        let of_rows = params.run(simd, self.grid, area)?;
        let flat = area.flat();
        let x = self.x.plain::<T>(flat)?;
        let mut y = self.y?.area(flat, &mut [], self.source().prefetch(flat.further(next)).into());
        let y = y.stream::<T>()?;
        let residual = match self.residual {
            Some(residual) => Some(residual.plain::<T>(flat)?.row(0)),
            None => None,
        };
        apart!(simd, forward_rows(simd, (x.row(0), residual), y, (area.rows, area.len), self.relu, of_rows));
        Some(())
    }

    /// y of an area of halves, if all of them lie in memory as they are needed.
    #[inline(always)]
    fn write_halves<S: Simd, T: Number>(
        &self,
        simd: S,
        params: &Params<YColumns>,
        area: Area,
        y: &mut Destination,
    ) -> Option<()> {
        let x = self.x.plain::<T>(area).filter(|_| y.takes::<T>())?;
        let residual = match self.residual {
            Some(residual) => Some(residual.plain::<T>(area)?),
            None => None,
        };
        for_rows!(simd, self.grid, params, area, (k, of) => {
            let (y, residual) = (y.halves::<T>(k).of_len(area.len), residual.as_ref().map(|r| r.row(k)));
            forward_row(simd, x.row(k), residual, y, area.len, self.relu, of);
        });
        Some(())
    }

    /// The sum of an area, in memory and where it is held.
    #[inline(always)]
    fn hold<S: Simd>(&self, simd: S, area: Area, scratch: &mut Scratch) {
        let Some((x, residual, sum)) = self.sum else { return };
        let Scratch { x: held, residual: residual_scratch, out, .. } = scratch;
        let held = &mut held[..area.rows * area.len];
        if const { in_registers::<S>() }
            && (self.hold_plain::<S, f32>(simd, area, held).is_some()
                || first_half!(S, T => self.hold_plain::<S, T>(simd, area, held)).is_some())
        {
            return;
        }
        let (x, residual) = (x.tile(simd, area, out), residual.tile(simd, area, residual_scratch));
        for (k, held) in held.chunks_mut(area.len).enumerate() {
            add_row(simd, x.row(k), residual.row(k), Sink::Plain(held));
        }
        sum.write_area(simd, area, held, Prefetch::default());
        round(simd, sum.dtype, held);
    }

    /// The same if all tensors lie in memory as they are needed.
    #[inline(always)]
    fn hold_plain<S: Simd, T: Number>(&self, simd: S, area: Area, held: &mut [f32]) -> Option<()> {
        let (x, residual, sum) = self.sum?;
        let (x, residual) = (x.plain::<T>(area)?, residual.plain::<T>(area)?);
        let mut sum = sum.area(area, &mut [], Prefetch::default());
        if !sum.takes::<T>() {
            return None;
        }
        for (k, held) in held.chunks_mut(area.len).enumerate() {
            hold_row(simd, x.row(k), residual.row(k), held, sum.halves::<T>(k).of_len(area.len));
        }
        Some(())
    }

    #[inline(always)]
    fn add_rows<S: Simd>(&self, simd: S, rows: Range<usize>, scratch: &mut Scratch) {
        let Some((x, residual, sum)) = self.sum else { return };
        for area in areas(self.grid.width, rows) {
            if self.holds_rows() {
                self.hold(simd, area, scratch);
                continue;
            }
            let Scratch { x: x_scratch, residual: residual_scratch, out, .. } = scratch;
            let (x, residual) = (x.tile(simd, area, x_scratch), residual.tile(simd, area, residual_scratch));
            let mut sum = sum.area(area, out, Prefetch::default());
            for k in 0..area.rows {
                add_row(simd, x.row(k), residual.row(k), sum.row(k));
            }
            sum.finish(simd);
        }
    }

    /// Where an area is read and written, if it takes no scratch memory.
    #[inline(always)]
    fn direct(&self, area: Area) -> Option<(Tile<'_>, Destination<'_>)> {
        Some((self.x.plain(area)?, self.y?.area(area, &mut [], Prefetch::default())))
    }
}

impl pass::Pass for Pass<'_> {
    type Kind = Means;
    type Source<'a>
        = MomentsOf<'a>
    where
        Self: 'a;
    type Columns = YColumns;
    type Finished = BlockStats;

    fn grid(&self) -> &Grid {
        self.grid
    }

    fn inputs(&self) -> usize {
        1 + usize::from(self.residual.is_some())
    }

    fn relu(&self) -> bool {
        self.relu
    }

    fn holds_rows(&self) -> bool {
        matches!(self.x, Place::Held)
    }

    fn can_write_beside(&self) -> bool {
        matches!(self.x, Place::In(x) if x.is_plain_f32(self.grid))
            && self.residual.is_none()
            && !(self.grid.by_column && self.relu)
            && self.y.is_some_and(|y| y.is_direct(self.grid, self.grid.piece()))
    }

    fn can_write_runs(&self) -> bool {
        let is_plain = |place| matches!(place, Place::In(input) if self.y.is_some_and(|y| y.dtype == input.dtype));
        is_plain(self.x) && self.residual.is_none_or(is_plain)
    }

    #[inline(always)]
    fn source(&self) -> MomentsOf<'_> {
        MomentsOf { x: self.x, centred: self.centred }
    }

    #[inline(always)]
    fn params<'a>(&'a self, range: Range<usize>, stats: &'a BlockStats) -> RowParams<'a> {
        self.row_params(stats.slices(range.start))
    }

    #[inline(never)]
    fn prepare_rows<S: Simd>(&self, simd: S, rows: Range<usize>, scratch: &mut Scratch) {
        simd.vectorize(
            #[inline(always)]
            || self.add_rows(simd, rows, scratch),
        )
    }

    #[inline(always)]
    fn write_beside_inline<S: Simd, O: Owner, const MASK: u8>(
        &self,
        simd: S,
        params: &RowParams,
        written: Area,
        areas: (Area, Option<Area>),
        down: &[Cell<Mean<S>>],
        scratch: &mut Scratch,
    ) -> Mean<S> {
        let source = self.source();
        let Some((x, y)) = self.direct(written) else { return leaf_of_rows(simd, &source, areas, down, scratch) };
        let cursor = Cursor::new(self.grid, written.first);
        let rows = ForwardRows::<O, MASK> { x, y, params, cursor, at: written.at, owner: PhantomData };
        source.rows_beside(simd, source.tile(simd, areas.0, scratch), areas, rows)
    }

    #[inline(always)]
    fn write_strip_beside_inline<S: Simd, const MASK: u8>(
        &self,
        simd: S,
        params: &YColumns,
        written: Area,
        areas: (Area, Option<Area>),
        scratch: &mut Scratch,
    ) -> Mean<S> {
        let source = self.source();
        let Some((x, mut y)) = self.direct(written) else { return leaf_of_rows(simd, &source, areas, &[], scratch) };
        let Sink::Stream(y) = y.row(0) else { unreachable!("asked for strips that go around the caches") };
        let values = Y::<_, _, MASK> { x: x.row(0), residual: None, relu: false, of: params.cells(0..written.len) };
        let rows = Strip(ByLines::new(simd, y, values));
        source.rows_beside(simd, source.tile(simd, areas.0, scratch), areas, rows)
    }

    #[inline(always)]
    fn write_rows_inline<S: Simd>(
        &self,
        simd: S,
        params: &Params<YColumns>,
        rows: Range<usize>,
        next: usize,
        scratch: &mut Scratch,
    ) {
        let (grid, Some(y)) = (self.grid, self.y) else { return };
        for area in areas(grid.width, rows) {
            if const { in_registers::<S>() }
                && (self.write_run::<S, f32>(simd, params, area, next).is_some()
                    || first_half!(S, T => self.write_run::<S, T>(simd, params, area, next)).is_some())
            {
                continue;
            }
            let area = params.area(area);
            let Scratch { x, residual, out, .. } = scratch;
            let mut y = y.area(area, out, self.source().prefetch(area.further(next)).into());
            if first_half!(S, T => self.write_halves::<S, T>(simd, params, area, &mut y)).is_some() {
                continue;
            }
            let x = self.x.tile(simd, area, x);
            let residual = self.residual.map(|r| r.tile(simd, area, residual));
            if let Some(residual) = residual {
                for_rows!(simd, grid, params, area, (k, of) => {
                    let (residual, y) = (Some(residual.row(k)), y.row(k).of_len(area.len));
                    forward_row(simd, x.row(k), residual, y, area.len, self.relu, of);
                });
            } else {
                for_rows!(simd, grid, params, area, (k, of) => {
                    let (x, y) = (x.row(k), y.row(k));
                    with_sink!(S, y, area.len => forward_row(simd, x, None, y, area.len, self.relu, of));
                });
            }
            y.finish(simd);
        }
    }
}

/// Statistics of a block, in the registers' order.
pub(crate) struct BlockStats([[f32; LANES]; 3]);

impl BlockStats {
    #[inline(always)]
    fn new(moments: &[Moments], eps: f32) -> BlockStats {
        let mut of = [[0.0; LANES]; 3];
        for (k, moments) in moments.iter().enumerate() {
            let stat = Stat::new(moments, eps);
            (of[0][k], of[1][k], of[2][k]) = (stat.hi, stat.lo, stat.rstd);
        }
        BlockStats(of)
    }

    #[inline(always)]
    fn slices(&self, first: usize) -> StatSlices<'_> {
        let [hi, lo, rstd] = &self.0;
        StatSlices { first, of: [hi, lo, rstd, &[], &[]] }
    }
}
