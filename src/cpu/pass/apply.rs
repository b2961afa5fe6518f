//! Rows element by element: y from x, dx from dy.

use crate::cpu::memory::sink::{Sink, Store, Values};
use crate::cpu::memory::stream::Stream;
use crate::cpu::simd::formula::{AffineMap, Gradient, OfDx, OfY, Param, clamp, mask, projected, with_mask};
use crate::cpu::simd::lanes::{LANES, Number, Span, V, for_spans};
use fearless_simd::Simd;

/// y of a row's elements. `MASK` as for its gradient, but that a residual may be there without a ReLU.
#[derive(Clone, Copy)]
pub(crate) struct Y<'a, T, O, const MASK: u8> {
    pub x: &'a [T],
    pub residual: Option<&'a [T]>,
    /// Whether there is a ReLU behind the residual; without a residual `MASK` says it.
    pub relu: bool,
    pub of: O,
}

impl<S: Simd, T: Number, O: OfY<S>, const MASK: u8> Values<S> for Y<'_, T, O, MASK> {
    #[inline(always)]
    fn at(self, simd: S, span: Span) -> V<S> {
        let y = self.of.y().at(simd, span.load(simd, self.x), span);
        match MASK {
            mask::NONE => y,
            mask::RELU => clamp(simd, y),
            _ => {
                let y = y + span.load(simd, self.residual.unwrap_or_default());
                if self.relu { clamp(simd, y) } else { y }
            }
        }
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        let residual = self.residual.map(|r| &r[at..][..len]);
        Y { x: &self.x[at..][..len], residual, of: self.of.part(at, len), ..self }
    }
}

/// dx of a row's elements, where a projection is taken out.
#[derive(Clone, Copy)]
pub(crate) struct Dx<'a, T, O, const MASK: u8> {
    pub gradient: Gradient<'a, T>,
    pub of: O,
}

impl<S: Simd, T: Number, O: OfDx<S>, const MASK: u8> Values<S> for Dx<'_, T, O, MASK> {
    #[inline(always)]
    fn at(self, simd: S, span: Span) -> V<S> {
        projected::<S, T, MASK>(simd, self.gradient, span, self.of)
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        Dx { gradient: self.gradient.part(at, len), of: self.of.part(at, len) }
    }
}

/// dresidual of a row's elements.
#[derive(Clone, Copy)]
struct Masked<'a, T, O, const MASK: u8> {
    gradient: Gradient<'a, T>,
    of: O,
}

impl<S: Simd, T: Number, O: OfY<S>, const MASK: u8> Values<S> for Masked<'_, T, O, MASK> {
    #[inline(always)]
    fn at(self, simd: S, span: Span) -> V<S> {
        self.gradient.masked::<S, MASK>(simd, span, self.of)
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        Masked { gradient: self.gradient.part(at, len), of: self.of.part(at, len) }
    }
}

/// y of one row, to what takes `len` elements.
#[inline(always)]
pub(crate) fn forward_row<S: Simd, T: Number>(
    simd: S,
    x: &[T],
    residual: Option<&[T]>,
    y: impl Store,
    len: usize,
    relu: bool,
    of: impl OfY<S>,
) {
    // What does not change within a row is decided before it.
    match (residual, relu) {
        (None, false) => y.write(simd, len, Y::<_, _, { mask::NONE }> { x, residual, relu, of }),
        (None, true) => y.write(simd, len, Y::<_, _, { mask::RELU }> { x, residual, relu, of }),
        (Some(_), _) => y.write(simd, len, Y::<_, _, { mask::RESIDUAL }> { x, residual, relu, of }),
    }
}

/// y of so many rows of a length that follow each other; see [`Stream::write_rows`].
#[inline(always)]
pub(crate) fn forward_rows<S: Simd, T: Number, O: OfY<S>>(
    simd: S,
    (x, residual): (&[T], Option<&[T]>),
    y: Stream<T>,
    rows: (usize, usize),
    relu: bool,
    mut next: impl FnMut() -> O,
) {
    macro_rules! write_masked {
        ($mask:expr) => {
            y.write_rows(
                simd,
                rows,
                #[inline(always)]
                || Y::<_, _, { $mask }> { x, residual, relu, of: next() },
            )
        };
    }
    match (residual, relu) {
        (None, false) => write_masked!(mask::NONE),
        (None, true) => write_masked!(mask::RELU),
        (Some(_), _) => write_masked!(mask::RESIDUAL),
    }
}

/// dx of such rows, as [`backward_row_to`].
#[inline(always)]
pub(crate) fn backward_rows<S: Simd, T: Number, O: OfDx<S>>(
    simd: S,
    gradient: Gradient<T>,
    dx: Stream<T>,
    rows: (usize, usize),
    mut next: impl FnMut() -> O,
) {
    with_mask!(gradient, MASK => dx.write_rows(
        simd,
        rows,
        #[inline(always)]
        || Dx::<_, _, MASK> { gradient, of: next() },
    ));
}

/// dresidual of such rows.
#[inline(always)]
pub(crate) fn masked_rows<S: Simd, T: Number, O: OfY<S>>(
    simd: S,
    gradient: Gradient<T>,
    dresidual: Stream<T>,
    rows: (usize, usize),
    mut next: impl FnMut() -> O,
) {
    with_mask!(gradient, MASK => dresidual.write_rows(
        simd,
        rows,
        #[inline(always)]
        || Masked::<_, _, MASK> { gradient, of: next() },
    ));
}

/// x + residual of a row.
#[inline(always)]
pub(crate) fn add_row<S: Simd>(simd: S, x: &[f32], residual: &[f32], sum: Sink) {
    let len = sum.len();
    let (x, residual) = (&x[..len], &residual[..len]);
    let mut sum = sum.of_len(len);
    for_spans!(len, span => {
        sum.store(span, span.load(simd, x) + span.load(simd, residual));
    });
}

/// x + residual of a row, as its type has it: in `held`, and to what takes as many elements.
#[inline(always)]
pub(crate) fn hold_row<S: Simd, T: Number>(simd: S, x: &[T], residual: &[T], held: &mut [f32], sum: impl Store) {
    let len = held.len();
    let (x, residual) = (&x[..len], &residual[..len]);
    for_spans!(len, span => {
        let both = T::of_vector(span.load(simd, x) + span.load(simd, residual));
        span.store(T::to_vector(simd, &both), held);
    });
    sum.write(simd, len, Held(held));
}

/// A row of what is held.
#[derive(Clone, Copy)]
struct Held<'a>(&'a [f32]);

impl<S: Simd> Values<S> for Held<'_> {
    #[inline(always)]
    fn at(self, simd: S, span: Span) -> V<S> {
        span.load(simd, self.0)
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        Held(&self.0[at..][..len])
    }
}

/// dresidual of one row, to what takes `len` elements.
#[inline(always)]
pub(crate) fn masked_row<S: Simd, T: Number>(
    simd: S,
    gradient: Gradient<T>,
    dresidual: impl Store,
    len: usize,
    of: impl OfY<S>,
) {
    with_mask!(gradient, MASK => dresidual.write(simd, len, Masked::<_, _, MASK> { gradient, of }));
}

/// dx of one row with a gradient that is added (`dsum`), or whose statistics do not depend on x (`projects`); of others see
/// [`backward_row_to`].
#[inline(always)]
pub(crate) fn backward_row<S: Simd>(
    simd: S,
    gradient: Gradient,
    dsum: Option<&[f32]>,
    dx: Sink,
    of: impl OfDx<S>,
    projects: bool,
) {
    let len = dx.len();
    let (gradient, mut dx) = (gradient.of_len(len), dx.of_len(len));
    with_mask!(gradient, MASK => for_spans!(len, span => {
        let mut v = if projects {
            projected::<S, _, MASK>(simd, gradient, span, of)
        } else {
            let g = gradient.masked::<S, MASK>(simd, span, of);
            g * of.weight().at(simd, span) * of.rstd().at(simd, span)
        };
        if let Some(dsum) = dsum {
            v += span.load(simd, dsum);
        }
        dx.store(span, v);
    }));
}

/// The same in training without a second input, of elements of any type, to what takes `len` of them.
#[inline(always)]
pub(crate) fn backward_row_to<S: Simd, T: Number>(
    simd: S,
    gradient: Gradient<T>,
    dx: impl Store,
    len: usize,
    of: impl OfDx<S>,
) {
    with_mask!(gradient, MASK => dx.write(simd, len, Dx::<_, _, MASK> { gradient, of }));
}
