//! Element by element: y from x, dx from dy.

use super::lanes::{LANES, Span, V, for_spans};
use super::leaf::{Gradient, Param, Stats, Weights, normalise};
use fearless_simd::{Select, Simd, SimdBase};

/// y of one row.
#[inline(always)]
pub(crate) fn forward_row<S: Simd>(
    simd: S,
    x: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    relu: bool,
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
) {
    for_spans!(y.len(), span => {
        let mut v = normalise(simd, span.load(simd, x), span, stats, affine);
        if let Some(residual) = residual {
            v += span.load(simd, residual);
        }
        if relu {
            v = v.simd_le(0.0).select(V::splat(simd, 0.0), v);
        }
        span.store(v, y);
    });
}

/// x + residual of a row.
#[inline(always)]
pub(crate) fn add_row<S: Simd>(simd: S, x: &[f32], residual: &[f32], sum: &mut [f32]) {
    for_spans!(sum.len(), span => {
        span.store(span.load(simd, x) + span.load(simd, residual), sum);
    });
}

/// Sums over a statistic's elements, divided by their number: what is taken out of the gradient again.
#[derive(Clone, Copy)]
pub(crate) struct Projection<P> {
    /// Mean of g times weight; none where the mean is not subtracted.
    pub g: Option<P>,
    /// Mean of g times weight times the normalised input.
    pub gx: P,
}

/// dresidual of one row.
#[inline(always)]
pub(crate) fn masked_row<S: Simd>(
    simd: S,
    gradient: Gradient,
    dresidual: &mut [f32],
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
) {
    for_spans!(dresidual.len(), span => {
        span.store(gradient.masked(simd, span, stats, affine), dresidual);
    });
}

/// dx of one row. `projection`: `None` for statistics that do not depend on x. `dsum`: a gradient that is added.
#[inline(always)]
pub(crate) fn backward_row<S: Simd, P: Param<S>>(
    simd: S,
    gradient: Gradient,
    dsum: Option<&[f32]>,
    dx: &mut [f32],
    stats: Stats<P>,
    affine: Weights<impl Param<S>>,
    projection: Option<Projection<P>>,
) {
    for_spans!(dx.len(), span => {
        let mut v = gradient.masked(simd, span, stats, affine) * affine.weight.at(simd, span);
        if let Some(Projection { g, gx }) = projection {
            let mut taken = gradient.xhat(simd, span, stats) * gx.at(simd, span);
            if let Some(g) = g {
                taken += g.at(simd, span);
            }
            v -= taken;
        }
        v *= stats.rstd.at(simd, span);
        if let Some(dsum) = dsum {
            v += span.load(simd, dsum);
        }
        span.store(v, dx);
    });
}
