//! What belongs to columns and to strips' elements, made ready once for all rows.

use super::params::{Affine, StatSlices};
use crate::cpu::memory::vectors::{Repeat, Vectors};
use crate::cpu::simd::formula::{AffineMap, Each, OfDx, OfY, Param, Ready, scale_and_shift};
use fearless_simd::Simd;
use std::ops::Range;

/// The parameters of columns, made ready once for all rows: one number a cell, in strips one an element.
pub(crate) trait ColumnParams: Sized {
    /// Those of some channels from `channel` on.
    fn new(stats: StatSlices, affine: &Affine, channel: usize, repeat: Repeat) -> Self;
}

/// For y: mean, scale and shift.
pub(crate) struct YColumns(Vectors<3>);

/// For dx: besides, scale and shift of what is taken out, weight and 1/std.
pub(crate) struct DxColumns {
    y: YColumns,
    columns: Vectors<4>,
}

/// Copies numbers of one sample's cells for each sample.
fn copy_for_samples(from: &[f32], to: &mut [f32]) {
    to.chunks_mut(from.len()).for_each(|to| to.copy_from_slice(&from[..to.len()]));
}

/// Makes scale and shift of weight and bias.
fn scale_and_shift_all(stats: StatSlices, scale: &mut [f32], shift: &mut [f32]) {
    let [_, lo, rstd, ..] = stats.of;
    for ((scale, shift), (&lo, &rstd)) in scale.iter_mut().zip(shift).zip(lo.iter().zip(rstd)) {
        [*scale, *shift] = scale_and_shift(lo, rstd, *scale, *shift);
    }
}

impl ColumnParams for YColumns {
    fn new(stats: StatSlices, affine: &Affine, channel: usize, repeat: Repeat) -> Self {
        let cells = stats.of[0].len();
        let mut columns = Vectors::zeros(cells * repeat.times());
        let [hi, scale, shift] = columns.each_mut();
        hi[..cells].copy_from_slice(stats.of[0]);
        copy_for_samples(&affine.weight[channel..], &mut scale[..cells]);
        copy_for_samples(&affine.bias[channel..], &mut shift[..cells]);
        scale_and_shift_all(stats, scale, shift);
        repeat.spread([hi, scale, shift]);
        YColumns(columns)
    }
}

impl ColumnParams for DxColumns {
    fn new(stats: StatSlices, affine: &Affine, channel: usize, repeat: Repeat) -> Self {
        let [hi, _, rstd, g, gx] = stats.of;
        let y = YColumns::new(stats, affine, channel, repeat);
        let mut columns = Vectors::zeros(hi.len() * repeat.times());
        let [scale, shift, weight, rstds] = columns.each_mut();
        // Where nothing is taken out, 0.
        scale[..gx.len()].copy_from_slice(gx);
        shift[..g.len()].copy_from_slice(g);
        scale_and_shift_all(stats, scale, shift);
        copy_for_samples(&affine.weight[channel..], &mut weight[..hi.len()]);
        rstds[..rstd.len()].copy_from_slice(rstd);
        repeat.spread([scale, shift, weight, rstds]);
        DxColumns { y, columns }
    }
}

impl YColumns {
    /// Those of some cells.
    #[inline(always)]
    pub fn cells(&self, cells: Range<usize>) -> Ready<'_> {
        let [hi, scale, shift] = self.0.each();
        Ready { hi: Each(&hi[cells.clone()]), scale: Each(&scale[cells.clone()]), shift: Each(&shift[cells]) }
    }
}

impl DxColumns {
    /// Those of some cells.
    #[inline(always)]
    pub fn cells(&self, cells: Range<usize>) -> ReadyDx<'_> {
        let (y, [scale, shift, weight, rstd]) = (self.y.cells(cells.clone()), self.columns.each());
        ReadyDx {
            y,
            taken: Ready { hi: y.hi, scale: Each(&scale[cells.clone()]), shift: Each(&shift[cells.clone()]) },
            weight: Each(&weight[cells.clone()]),
            rstd: Each(&rstd[cells]),
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
    fn y(self) -> impl AffineMap<S> {
        self.y
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        let ReadyDx { y, taken, weight, rstd } = self;
        let (y, taken) = (y.part(at, len), taken.part(at, len));
        ReadyDx { y, taken, weight: weight.part(at, len), rstd: rstd.part(at, len) }
    }
}

impl<S: Simd> OfDx<S> for ReadyDx<'_> {
    #[inline(always)]
    fn taken(self) -> impl AffineMap<S> {
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
