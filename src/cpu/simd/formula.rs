//! The formulas of single elements, sixteen at a time: y, masks, the normalised input, dx.

use super::lanes::{Number, Span, V};
use fearless_simd::{Select, Simd, SimdBase};
use std::ops::{Mul, Sub};

/// A number that goes with elements: the same for a whole row, or one a column.
pub(crate) trait Param<S: Simd>: Copy {
    fn at(self, simd: S, span: Span) -> V<S>;

    /// For elements `at..at + len` of the row.
    fn part(self, at: usize, len: usize) -> Self;
}

/// The same for a whole row.
#[derive(Clone, Copy)]
pub(crate) struct Same<S: Simd>(pub V<S>);

/// One a column.
#[derive(Clone, Copy)]
pub(crate) struct Each<'a>(pub &'a [f32]);

impl<S: Simd> Param<S> for Same<S> {
    #[inline(always)]
    fn at(self, _: S, _: Span) -> V<S> {
        self.0
    }

    #[inline(always)]
    fn part(self, _: usize, _: usize) -> Self {
        self
    }
}

impl<S: Simd> Param<S> for Each<'_> {
    #[inline(always)]
    fn at(self, simd: S, span: Span) -> V<S> {
        span.load(simd, self.0)
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        Each::part(self, at, len)
    }
}

impl Each<'_> {
    /// Of elements `at..at + len`.
    #[inline(always)]
    pub fn part(self, at: usize, len: usize) -> Self {
        Each(&self.0[at..][..len])
    }
}

/// Mean (a pair) and 1/std.
#[derive(Clone, Copy)]
pub(crate) struct Stats<P> {
    pub hi: P,
    pub lo: P,
    pub rstd: P,
}

impl<S: Simd> Stats<Same<S>> {
    /// Of a whole row.
    #[inline(always)]
    pub fn same(simd: S, [hi, lo, rstd]: [f32; 3]) -> Self {
        Stats { hi: Same(V::splat(simd, hi)), lo: Same(V::splat(simd, lo)), rstd: Same(V::splat(simd, rstd)) }
    }
}

/// Weight and bias.
#[derive(Clone, Copy)]
pub(crate) struct Weights<P> {
    pub weight: P,
    pub bias: P,
}

impl<P> Weights<P> {
    /// For elements `at..at + len` of the row.
    #[inline(always)]
    pub fn part<S: Simd>(self, at: usize, len: usize) -> Self
    where
        P: Param<S>,
    {
        Weights { weight: self.weight.part(at, len), bias: self.bias.part(at, len) }
    }
}

/// A normalised input times a weight and with a bias, the same operations wherever it is needed, so that all ways to
/// compute it give the same bits.
pub(crate) trait AffineMap<S: Simd>: Copy {
    fn at(self, simd: S, x: V<S>, span: Span) -> V<S>;
}

/// Scale and shift of `(x - hi) * scale + shift`, from the mean's low part, 1/std, weight and bias.
#[inline(always)]
pub(crate) fn scale_and_shift<T: Copy + Mul<Output = T> + Sub<Output = T>>(
    lo: T,
    rstd: T,
    weight: T,
    bias: T,
) -> [T; 2] {
    let scale = weight * rstd;
    [scale, bias - lo * scale]
}

/// Made of what belongs to an element; where that is the same for a row, three operations are left.
#[derive(Clone, Copy)]
pub(crate) struct Made<P, Q> {
    pub stats: Stats<P>,
    pub weights: Weights<Q>,
}

impl<S: Simd, P: Param<S>, Q: Param<S>> AffineMap<S> for Made<P, Q> {
    #[inline(always)]
    fn at(self, simd: S, x: V<S>, span: Span) -> V<S> {
        let Made { stats, weights: Weights { weight, bias } } = self;
        let [scale, shift] = scale_and_shift(
            stats.lo.at(simd, span),
            stats.rstd.at(simd, span),
            weight.at(simd, span),
            bias.at(simd, span),
        );
        (x - stats.hi.at(simd, span)) * scale + shift
    }
}

/// Made before: one a column.
#[derive(Clone, Copy)]
pub(crate) struct Ready<'a> {
    pub hi: Each<'a>,
    pub scale: Each<'a>,
    pub shift: Each<'a>,
}

impl Ready<'_> {
    /// Of elements `at..at + len`.
    #[inline(always)]
    pub fn part(self, at: usize, len: usize) -> Self {
        let Ready { hi, scale, shift } = self;
        Ready { hi: hi.part(at, len), scale: scale.part(at, len), shift: shift.part(at, len) }
    }
}

impl<S: Simd> AffineMap<S> for Ready<'_> {
    #[inline(always)]
    fn at(self, simd: S, x: V<S>, span: Span) -> V<S> {
        (x - self.hi.at(simd, span)) * self.scale.at(simd, span) + self.shift.at(simd, span)
    }
}

/// max(v, 0), NaN included.
#[inline(always)]
pub(crate) fn clamp<S: Simd>(simd: S, v: V<S>) -> V<S> {
    v.simd_le(0.0).select(V::splat(simd, 0.0), v)
}

/// What a row's gradient is made of.
#[derive(Clone, Copy)]
pub(crate) struct Gradient<'a, T = f32> {
    pub x: &'a [T],
    pub dy: &'a [T],
    /// With a ReLU: it was where `norm(x) + residual` is not positive that nothing came through.
    pub relu: bool,
    pub residual: Option<&'a [T]>,
}

/// What lies between y and dy: nothing, a ReLU, or a ReLU after a residual.
pub(crate) mod mask {
    pub const NONE: u8 = 0;
    pub const RELU: u8 = 1;
    pub const RESIDUAL: u8 = 2;
}

/// Runs code with `$mask` as a constant, once for each of [`mask`], so that no loop asks.
macro_rules! with_mask {
    ($gradient:expr, $mask:ident => $run:expr) => {
        match ($gradient.relu, $gradient.residual) {
            (false, _) => {
                const $mask: u8 = $crate::cpu::simd::formula::mask::NONE;
                $run
            }
            (true, None) => {
                const $mask: u8 = $crate::cpu::simd::formula::mask::RELU;
                $run
            }
            (true, Some(_)) => {
                const $mask: u8 = $crate::cpu::simd::formula::mask::RESIDUAL;
                $run
            }
        }
    };
}
pub(crate) use with_mask;

impl<T: Number> Gradient<'_, T> {
    /// Of so many elements: the compiler needs to see that all slices have them.
    #[inline(always)]
    pub fn of_len(self, len: usize) -> Self {
        self.part(0, len)
    }

    /// Of elements `at..at + len`.
    #[inline(always)]
    pub fn part(self, at: usize, len: usize) -> Self {
        let residual = self.residual.map(|r| &r[at..][..len]);
        Gradient { x: &self.x[at..][..len], dy: &self.dy[at..][..len], residual, ..self }
    }

    /// dy behind the mask.
    #[inline(always)]
    pub fn masked<S: Simd, const MASK: u8>(&self, simd: S, span: Span, of: impl OfY<S>) -> V<S> {
        let dy = span.load(simd, self.dy);
        if MASK == mask::NONE {
            return dy;
        }
        let mut y = of.y().at(simd, span.load(simd, self.x), span);
        if MASK == mask::RESIDUAL {
            y += span.load(simd, self.residual.unwrap_or_default());
        }
        // NaN passes, as where y is made of it.
        y.simd_le(0.0).select(V::splat(simd, 0.0), dy)
    }

    /// The normalised input.
    #[inline(always)]
    pub fn xhat<S: Simd>(&self, simd: S, span: Span, stats: Stats<impl Param<S>>) -> V<S> {
        (span.load(simd, self.x) - stats.hi.at(simd, span)) * stats.rstd.at(simd, span) - low(simd, span, stats)
    }
}

/// What the mean's low part takes off every normalised input. Sums have it taken off the sum where they can: off each
/// element it would be lost in the rounding, always to the same side.
#[inline(always)]
pub(crate) fn low<S: Simd>(simd: S, span: Span, stats: Stats<impl Param<S>>) -> V<S> {
    stats.lo.at(simd, span) * stats.rstd.at(simd, span)
}

/// What the elements of a row need to become y.
pub(crate) trait OfY<S: Simd>: Copy {
    /// y, without residual and ReLU.
    fn y(self) -> impl AffineMap<S>;

    /// For elements `at..at + len` of the row.
    fn part(self, at: usize, len: usize) -> Self;
}

impl<S: Simd, P: Param<S>, Q: Param<S>> OfY<S> for Made<P, Q> {
    #[inline(always)]
    fn y(self) -> impl AffineMap<S> {
        self
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        let Made { stats: Stats { hi, lo, rstd }, weights } = self;
        let stats = Stats { hi: hi.part(at, len), lo: lo.part(at, len), rstd: rstd.part(at, len) };
        Made { stats, weights: weights.part(at, len) }
    }
}

impl<S: Simd> OfY<S> for Ready<'_> {
    #[inline(always)]
    fn y(self) -> impl AffineMap<S> {
        self
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        Ready::part(self, at, len)
    }
}

/// What they need to become dx.
pub(crate) trait OfDx<S: Simd>: OfY<S> {
    /// What is taken out of a gradient, as the statistics depend on x: the mean of g times weight, and the normalised
    /// input times the mean of its product with that.
    fn taken(self) -> impl AffineMap<S>;
    fn weight(self) -> impl Param<S>;
    fn rstd(self) -> impl Param<S>;
}

/// dx where a projection is taken out.
#[inline(always)]
pub(crate) fn projected<S: Simd, T: Number, const MASK: u8>(
    simd: S,
    gradient: Gradient<T>,
    span: Span,
    of: impl OfDx<S>,
) -> V<S> {
    let taken = of.taken().at(simd, span.load(simd, gradient.x), span);
    let g = gradient.masked::<S, MASK>(simd, span, of) * of.weight().at(simd, span);
    (g - taken) * of.rstd().at(simd, span)
}
