//! Rows element by element: y from x, dx from dy.

use super::formula::{Gradient, Line, OfDx, OfY, Param, clamp, projected, with_mask};
use super::lanes::{LANES, Number, Span, for_spans};
use super::stream::{Sink, Store, with_sink};
use fearless_simd::Simd;

/// y of one row.
#[inline(always)]
pub(crate) fn forward_row<S: Simd>(simd: S, x: &[f32], residual: Option<&[f32]>, y: Sink, relu: bool, of: impl OfY<S>) {
    let len = y.len();
    match residual {
        None => with_sink!(y, len => forward_row_to(simd, x, None, y, len, relu, of)),
        residual => forward_row_to(simd, x, residual, y.of_len(len), len, relu, of),
    }
}

/// The same of elements of any type, to what takes `len` of them.
#[inline(always)]
pub(crate) fn forward_row_to<S: Simd, T: Number>(
    simd: S,
    x: &[T],
    residual: Option<&[T]>,
    mut y: impl Store,
    len: usize,
    relu: bool,
    of: impl OfY<S>,
) {
    // What does not change within a row is decided before it.
    let (x, line) = (&x[..len], of.y());
    match (residual.map(|r| &r[..len]), relu) {
        (None, false) => for_spans!(len, span => { y.store(span, line.at(simd, span.load(simd, x), span)); }),
        (None, true) => {
            for_spans!(len, span => { y.store(span, clamp(simd, line.at(simd, span.load(simd, x), span))); });
        }
        (Some(residual), relu) => for_spans!(len, span => {
            let v = line.at(simd, span.load(simd, x), span) + span.load(simd, residual);
            y.store(span, if relu { clamp(simd, v) } else { v });
        }),
    }
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

/// dresidual of one row.
#[inline(always)]
pub(crate) fn masked_row<S: Simd>(simd: S, gradient: Gradient, dresidual: Sink, of: impl OfY<S>) {
    let len = dresidual.len();
    let gradient = gradient.of_len(len);
    let mut dresidual = dresidual.of_len(len);
    with_mask!(gradient, MASK => for_spans!(len, span => {
        dresidual.store(span, gradient.masked::<S, MASK>(simd, span, of));
    }));
}

/// dx of one row. `projects`: whether its statistics depend on x. `dsum`: a gradient that is added.
#[inline(always)]
pub(crate) fn backward_row<S: Simd>(
    simd: S,
    gradient: Gradient,
    dsum: Option<&[f32]>,
    mut dx: Sink,
    of: impl OfDx<S>,
    projects: bool,
) {
    let len = dx.len();
    if projects && dsum.is_none() {
        return with_sink!(dx, len => backward_row_to(simd, gradient, dx, len, of));
    }
    let gradient = gradient.of_len(len);
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
    mut dx: impl Store,
    len: usize,
    of: impl OfDx<S>,
) {
    let gradient = gradient.of_len(len);
    with_mask!(gradient, MASK => for_spans!(len, span => {
        dx.store(span, projected::<S, T, MASK>(simd, gradient, span, of));
    }));
}
