//! Element by element: y from x, dx from dy.

use super::lanes::{LANES, Span, V, for_spans};
use super::leaf::{Gradient, Param, Same, Stats, Weights, normalise, with_mask};
use super::stream::{Sink, Store, with_sink};
use fearless_simd::{Select, Simd, SimdBase};

/// max(v, 0), NaN included.
#[inline(always)]
pub(crate) fn clamp<S: Simd>(simd: S, v: V<S>) -> V<S> {
    v.simd_le(0.0).select(V::splat(simd, 0.0), v)
}

/// y of one row.
#[inline(always)]
pub(crate) fn forward_row<S: Simd>(
    simd: S,
    x: &[f32],
    residual: Option<&[f32]>,
    y: Sink,
    relu: bool,
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
) {
    // What does not change within a row is decided before it.
    let len = y.len();
    let x = &x[..len];
    macro_rules! row {
        ($v:ident, $span:ident => $last:expr) => {
            with_sink!(y, len => for_spans!(len, $span => {
                let $v = normalise(simd, $span.load(simd, x), $span, stats, affine);
                y.store($span, $last);
            }))
        };
    }
    match (residual.map(|r| &r[..len]), relu) {
        (None, false) => {
            row!(v, span => v);
        }
        (None, true) => {
            row!(v, span => clamp(simd, v));
        }
        (Some(residual), relu) => {
            let mut y = y.of_len(len);
            for_spans!(len, span => {
                let v = normalise(simd, span.load(simd, x), span, stats, affine) + span.load(simd, residual);
                y.store(span, if relu { clamp(simd, v) } else { v });
            });
        }
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
    dresidual: Sink,
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
) {
    let len = dresidual.len();
    let gradient = gradient.of_len(len);
    let mut dresidual = dresidual.of_len(len);
    with_mask!(gradient, MASK => for_spans!(len, span => {
        dresidual.store(span, gradient.masked::<S, MASK>(simd, span, stats, affine));
    }));
}

/// dx where a projection is taken out. The one place that says so, as all ways to write a row have to give the same bits.
#[inline(always)]
pub(crate) fn projected<S: Simd, const MASK: u8>(
    simd: S,
    gradient: Gradient,
    span: Span,
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
    mean_g: impl Param<S>,
    gx: impl Param<S>,
) -> V<S> {
    let scale = stats.rstd.at(simd, span) * gx.at(simd, span);
    let shift = mean_g.at(simd, span) - stats.lo.at(simd, span) * scale;
    let taken = (span.load(simd, gradient.x) - stats.hi.at(simd, span)) * scale + shift;
    let v = gradient.masked::<S, MASK>(simd, span, stats, affine) * affine.weight.at(simd, span) - taken;
    v * stats.rstd.at(simd, span)
}

/// dx of one row. `projection`: `None` for statistics that do not depend on x. `dsum`: a gradient that is added.
#[inline(always)]
pub(crate) fn backward_row<S: Simd, P: Param<S>>(
    simd: S,
    gradient: Gradient,
    dsum: Option<&[f32]>,
    mut dx: Sink,
    stats: Stats<P>,
    affine: Weights<impl Param<S>>,
    projection: Option<Projection<P>>,
) {
    let len = dx.len();
    let gradient = gradient.of_len(len);
    with_mask!(gradient, MASK => match (projection, dsum) {
        // Training without a second input, in a loop of its own, for speed.
        (Some(Projection { g: Some(mean_g), gx }), None) => with_sink!(dx, len => for_spans!(len, span => {
            dx.store(span, projected::<S, MASK>(simd, gradient, span, stats, affine, mean_g, gx));
        })),
        _ => for_spans!(len, span => {
            let mut v = match projection {
                Some(Projection { g, gx }) => {
                    let mean_g = Same(g.map_or(V::splat(simd, 0.0), |g| g.at(simd, span)));
                    projected::<S, MASK>(simd, gradient, span, stats, affine, mean_g, gx)
                }
                None => {
                    let g = gradient.masked::<S, MASK>(simd, span, stats, affine);
                    g * affine.weight.at(simd, span) * stats.rstd.at(simd, span)
                }
            };
            if let Some(dsum) = dsum {
                v += span.load(simd, dsum);
            }
            dx.store(span, v);
        }),
    });
}
