//! What belongs to columns and to strips' elements, made ready once for all rows.

use super::formula::{Each, Line, OfDx, OfY, Param, Ready, scale_and_shift};
use super::params::{Affine, StatSlices};
use fearless_simd::Simd;
use std::borrow::Cow;
use std::ops::Range;

/// Every number so many times.
fn repeated(numbers: &[f32], times: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(numbers.len() * times);
    // Not flat_map, which would go number by number.
    numbers.iter().for_each(|&number| all.extend(std::iter::repeat_n(number, times)));
    all
}

/// Numbers of one sample's cells for so many cells.
fn cycled(numbers: &[f32], len: usize) -> Cow<'_, [f32]> {
    if numbers.len() >= len {
        return Cow::Borrowed(&numbers[..len]);
    }
    let mut all = Vec::with_capacity(len);
    all.extend_from_slice(numbers);
    while all.len() < len {
        all.extend_from_within(..all.len().min(len - all.len()));
    }
    Cow::Owned(all)
}

/// How numbers of cells become a strip's.
#[derive(Clone, Copy)]
pub(crate) enum Repeat {
    /// Every number so many times.
    Each(usize),
    /// All of them so many times.
    All(usize),
}

impl Repeat {
    pub fn of(self, numbers: &[f32]) -> Vec<f32> {
        match self {
            Repeat::Each(times) => repeated(numbers, times),
            Repeat::All(times) => cycled(numbers, numbers.len() * times).into_owned(),
        }
    }
}

/// The parameters of columns, made ready once for all rows: one number a cell, in strips one an element.
pub(crate) trait ColumnParams: Sized {
    /// Those of some channels from `channel` on.
    fn new(stats: StatSlices, affine: &Affine, channel: usize, repeat: Repeat) -> Self;
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

/// Scale and shift of each cell, with a weight for each, or with those of one sample's cells for all samples.
fn scales_and_shifts(stats: StatSlices, weight: &[f32], bias: &[f32]) -> [Vec<f32>; 2] {
    let [_, lo, rstd, ..] = stats.of;
    let [mut scales, mut shifts] = [(); 2].map(|()| vec![0.0; lo.len()]);
    let sample = weight.len();
    let stats = lo.chunks(sample).zip(rstd.chunks(sample));
    for ((lo, rstd), (scale, shift)) in stats.zip(scales.chunks_mut(sample).zip(shifts.chunks_mut(sample))) {
        let numbers = lo.iter().zip(rstd).zip(weight.iter().zip(bias));
        for ((scale, shift), ((&lo, &rstd), (&weight, &bias))) in scale.iter_mut().zip(shift).zip(numbers) {
            [*scale, *shift] = scale_and_shift(lo, rstd, weight, bias);
        }
    }
    [scales, shifts]
}

impl ColumnParams for YColumns {
    fn new(stats: StatSlices, affine: &Affine, channel: usize, repeat: Repeat) -> Self {
        let [scale, shift] = scales_and_shifts(stats, &affine.weight[channel..], &affine.bias[channel..]);
        YColumns { hi: repeat.of(stats.of[0]), scale: repeat.of(&scale), shift: repeat.of(&shift) }
    }
}

impl ColumnParams for DxColumns {
    fn new(stats: StatSlices, affine: &Affine, channel: usize, repeat: Repeat) -> Self {
        let [g, gx] = stats.projections();
        let [scale, shift] = scales_and_shifts(stats, &gx, &g);
        DxColumns {
            y: YColumns::new(stats, affine, channel, repeat),
            scale: repeat.of(&scale),
            shift: repeat.of(&shift),
            weight: repeat.of(&cycled(&affine.weight[channel..], stats.of[0].len())),
            rstd: repeat.of(stats.of[2]),
        }
    }
}

impl YColumns {
    /// Those of some cells.
    #[inline(always)]
    pub fn cells(&self, cells: Range<usize>) -> Ready<'_> {
        Ready {
            hi: Each(&self.hi[cells.clone()]),
            scale: Each(&self.scale[cells.clone()]),
            shift: Each(&self.shift[cells]),
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
            taken: Ready { hi: y.hi, scale: Each(&self.scale[cells.clone()]), shift: Each(&self.shift[cells.clone()]) },
            weight: Each(&self.weight[cells.clone()]),
            rstd: Each(&self.rstd[cells]),
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

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        let ReadyDx { y, taken, weight, rstd } = self;
        let (y, taken) = (y.part(at, len), taken.part(at, len));
        ReadyDx { y, taken, weight: weight.part(at, len), rstd: rstd.part(at, len) }
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
