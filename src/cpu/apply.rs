//! Element by element: y from x, dx from dy.

use super::lanes::{Lanes, Span, V, each_span};
use super::leaf::{Gradient, Param, Stats, Weights, normalise};
use fearless_simd::{Select, Simd, SimdBase};

/// Where a row of an input is.
#[derive(Clone, Copy)]
pub(crate) enum Row<'a, T> {
    /// There is none.
    None,
    /// In memory of its own.
    At(&'a [T]),
    /// Where the output goes.
    InPlace,
}

/// Elements that are copied aside at a time when the output replaces an input.
const ASIDE: usize = 512;

/// y of one row.
#[inline(always)]
pub(crate) fn forward_row<S: Simd, I: Lanes, O: Lanes>(
    simd: S,
    (x, residual): (Row<I>, Row<I>),
    y: &mut [O],
    relu: bool,
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
) {
    let mut aside = [I::zeroed(); ASIDE];
    let in_place = matches!(x, Row::InPlace) || matches!(residual, Row::InPlace);
    let step = if in_place { ASIDE } else { y.len() };
    let mut at = 0;
    while at < y.len() {
        let len = step.min(y.len() - at);
        let y = &mut y[at..at + len];
        if in_place {
            // What is still to be read is copied aside before it is written.
            aside[..len].copy_from_slice(bytemuck::cast_slice(y));
        }
        let pick = |row| match row {
            Row::None => None,
            Row::At(row) => Some(&row[at..at + len]),
            Row::InPlace => Some(&aside[..len]),
        };
        let x: &[I] = pick(x).unwrap_or(&[]);
        forward_span(simd, at, x, pick(residual), y, relu, stats, affine);
        at += len;
    }
}

/// Elements `start..` of a row; `start` counts for what belongs to columns.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
fn forward_span<S: Simd, I: Lanes, O: Lanes>(
    simd: S,
    start: usize,
    x: &[I],
    residual: Option<&[I]>,
    y: &mut [O],
    relu: bool,
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
) {
    each_span(y.len(), |span| {
        let column = Span { at: start + span.at, ..span };
        let mut v = normalise(simd, span.load(simd, x), column, stats, affine);
        if let Some(residual) = residual {
            v += span.load(simd, residual);
        }
        if relu {
            v = v.simd_le(0.0).select(V::splat(simd, 0.0), v);
        }
        span.store(simd, v, y);
    });
}

/// x + residual of a row, rounded to their type.
#[inline(always)]
pub(crate) fn add_row<S: Simd, I: Lanes>(simd: S, x: &[I], residual: &[I], sum: &mut [I]) {
    each_span(sum.len(), |span| span.store(simd, span.load(simd, x) + span.load(simd, residual), sum));
}

/// Sums over a statistic's elements, divided by their number: what is taken out of the gradient again.
#[derive(Clone, Copy)]
pub(crate) struct Projection<P> {
    /// Mean of g times weight; none where the mean is not subtracted.
    pub g: Option<P>,
    /// Mean of g times weight times the normalised input.
    pub gx: P,
}

/// dx and dresidual of one row, whichever are wanted. `projection`: `None` for statistics that do not depend
/// on x. `dsum`: a gradient that is added to dx.
#[inline(always)]
pub(crate) fn backward_row<S: Simd, I: Lanes, O: Lanes, P: Param<S>>(
    simd: S,
    gradient: Gradient<I, O>,
    dsum: Option<&[I]>,
    (dx, dresidual): (Option<&mut [I]>, Option<&mut [I]>),
    stats: Stats<P>,
    affine: Weights<impl Param<S>>,
    projection: Option<Projection<P>>,
) {
    if let Some(dresidual) = dresidual {
        each_span(dresidual.len(), |span| {
            span.store(simd, gradient.masked(simd, span, stats, affine), dresidual);
        });
    }
    if let Some(dx) = dx {
        each_span(dx.len(), |span| {
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
            span.store(simd, v, dx);
        });
    }
}
