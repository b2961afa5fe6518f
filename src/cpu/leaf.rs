//! Leaves: moments and sums of short runs, which the first-level cache holds for a second pass, where there is one.

use super::lanes::{LANES, Span, TURNS, V, fold, for_strides, sum_row};
use super::memory::TILE;
use super::partial::{Mean, Partial, Sums, two_sum};
use super::stream::Ahead;
use fearless_simd::{Select, Simd, SimdBase, SimdMask};
use std::ops::Range;

/// Columns that are reduced side by side.
pub(crate) const WIDE: usize = 256;

/// Rows that are looked at together.
pub(crate) const TALL: usize = TILE / WIDE;

/// A number that goes with elements: the same for a whole row, or one a column.
pub(crate) trait Param<S: Simd>: Copy {
    fn at(self, simd: S, span: Span) -> V<S>;
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
}

impl<S: Simd> Param<S> for Each<'_> {
    #[inline(always)]
    fn at(self, simd: S, span: Span) -> V<S> {
        span.load(simd, self.0)
    }
}

/// Mean (a pair) and 1/std.
#[derive(Clone, Copy)]
pub(crate) struct Stats<P> {
    pub hi: P,
    pub lo: P,
    pub rstd: P,
}

/// Weight and bias.
#[derive(Clone, Copy)]
pub(crate) struct Weights<P> {
    pub weight: P,
    pub bias: P,
}

/// `norm(x)`, the same operations wherever it is needed, so that a mask that is computed again is the same: three, where
/// a row has one mean and one weight.
#[inline(always)]
pub(crate) fn normalise<S: Simd>(
    simd: S,
    x: V<S>,
    span: Span,
    stats: Stats<impl Param<S>>,
    affine: Weights<impl Param<S>>,
) -> V<S> {
    let scale = affine.weight.at(simd, span) * stats.rstd.at(simd, span);
    let shift = affine.bias.at(simd, span) - stats.lo.at(simd, span) * scale;
    (x - stats.hi.at(simd, span)) * scale + shift
}

/// What a row's gradient is made of.
#[derive(Clone, Copy)]
pub(crate) struct Gradient<'a> {
    pub x: &'a [f32],
    pub dy: &'a [f32],
    /// With a ReLU: it was where `norm(x) + residual` is not positive that nothing came through.
    pub relu: bool,
    pub residual: Option<&'a [f32]>,
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
                const $mask: u8 = $crate::cpu::leaf::mask::NONE;
                $run
            }
            (true, None) => {
                const $mask: u8 = $crate::cpu::leaf::mask::RELU;
                $run
            }
            (true, Some(_)) => {
                const $mask: u8 = $crate::cpu::leaf::mask::RESIDUAL;
                $run
            }
        }
    };
}
pub(crate) use with_mask;

impl<'a> Gradient<'a> {
    /// Of so many elements: the compiler needs to see that all slices have them.
    #[inline(always)]
    pub fn of_len(self, len: usize) -> Gradient<'a> {
        Gradient { x: &self.x[..len], dy: &self.dy[..len], residual: self.residual.map(|r| &r[..len]), ..self }
    }

    /// dy behind the mask.
    #[inline(always)]
    pub fn masked<S: Simd, const MASK: u8>(
        &self,
        simd: S,
        span: Span,
        stats: Stats<impl Param<S>>,
        affine: Weights<impl Param<S>>,
    ) -> V<S> {
        let dy = span.load(simd, self.dy);
        if MASK == mask::NONE {
            return dy;
        }
        let mut y = normalise(simd, span.load(simd, self.x), span, stats, affine);
        if MASK == mask::RESIDUAL {
            y += span.load(simd, self.residual.unwrap_or_default());
        }
        y.simd_gt(0.0).select(dy, V::splat(simd, 0.0))
    }

    /// The normalised input.
    #[inline(always)]
    pub fn xhat<S: Simd>(&self, simd: S, span: Span, stats: Stats<impl Param<S>>) -> V<S> {
        (span.load(simd, self.x) - stats.hi.at(simd, span)) * stats.rstd.at(simd, span) - low(simd, span, stats)
    }
}

/// What is done with other rows of the same length while rows are reduced, so that arithmetic and memory are busy at the
/// same time.
pub(crate) trait Meanwhile<S: Simd> {
    /// What is done with each stride of row k in turn, and then with what is behind them, as if it were one more.
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(usize);
}

/// Nothing.
impl<S: Simd> Meanwhile<S> for () {
    #[inline(always)]
    fn row(&mut self, _: S, _: usize) -> impl FnMut(usize) {
        #[inline(always)]
        |_| ()
    }
}

/// Moments of up to sixteen runs of one length: those of run k in lane k. Without `centred`, mean squares. `ahead` is
/// asked for meanwhile.
#[inline(always)]
pub(crate) fn moments_of_rows<'a, S: Simd>(
    simd: S,
    runs: usize,
    len: usize,
    centred: bool,
    run: impl Fn(usize) -> &'a [f32],
    ahead: Ahead,
    mut meanwhile: impl Meanwhile<S>,
) -> Mean<S> {
    let zero = V::splat(simd, 0.0);
    // One pass, about a number that is near the mean; or about 0, where the sum is not needed.
    let mut pivot = zero;
    if centred {
        let mut near = [zero; LANES];
        for (k, near) in near.iter_mut().enumerate().take(runs) {
            *near = sample(simd, &run(k)[..len]);
        }
        pivot = fold(&near, runs);
    }
    let pivots = pivot.to_array();
    let (mut sums, mut squares) = ([zero; LANES], [zero; LANES]);
    for k in 0..runs {
        let (run, pivot, ahead) = (&run(k)[..len], V::splat(simd, pivots[k]), ahead.row(k));
        let meanwhile = meanwhile.row(simd, k);
        [sums[k], squares[k]] = sum_row(
            simd,
            len,
            meanwhile,
            #[inline(always)]
            |span| {
                ahead.ask(span.index());
                let deviation = span.load(simd, run) - pivot;
                [deviation, deviation * deviation]
            },
        );
    }
    let (sum, about_pivot) = (fold(&sums, runs), fold(&squares, runs));
    if !centred {
        return Mean { hi: zero, lo: zero, m2: about_pivot };
    }
    let mean = sum / len as f32;
    let mut m2 = about_pivot - sum * mean;
    // Most of it is the pivot's distance, or it is no number: a second pass, about the mean.
    if !about_pivot.simd_le(m2 * 4.0).all_true() {
        let (of, about_pivot, means) = (m2.to_array(), about_pivot.to_array(), mean.to_array());
        for k in 0..runs {
            let near = about_pivot[k] <= of[k] * 4.0;
            if !near {
                let (pivot, mean) = (V::splat(simd, pivots[k]), V::splat(simd, means[k]));
                m2.as_mut_array()[k] = about_mean(simd, &run(k)[..len], pivot, mean);
            }
        }
    }
    let (hi, lo) = two_sum(pivot, mean);
    Mean { hi, lo, m2 }
}

/// In its sum over lanes a number near the mean of a run: that of four spans of it, or one of a short run's elements. A
/// constant run's is its constant.
#[inline(always)]
fn sample<S: Simd>(simd: S, run: &[f32]) -> V<S> {
    let full = run.len() / LANES;
    if full == 0 {
        let mut one = [0.0; LANES];
        one[0] = run[0];
        return V::from_slice(simd, &one);
    }
    let part = |k: usize| Span::at(k * full / 4, run.len()).load(simd, run) * (0.25 / LANES as f32);
    (part(0) + part(1)) + (part(2) + part(3))
}

/// Sum of squares about a mean.
#[cold]
#[inline(never)]
fn about_mean<S: Simd>(simd: S, run: &[f32], pivot: V<S>, mean: V<S>) -> f32 {
    simd.vectorize(
        #[inline(always)]
        || {
            let [sum] = sum_row(
                simd,
                run.len(),
                |_| (),
                #[inline(always)]
                |span| {
                    let deviation = (span.load(simd, run) - pivot) - mean;
                    [deviation * deviation]
                },
            );
            fold(&[sum; LANES], 1).as_array()[0]
        },
    )
}

/// Moments of columns over a few rows: one of `to` a span.
#[inline(always)]
pub(crate) fn moments_of_columns<'a, S: Simd>(
    simd: S,
    leaves: Leaves,
    len: usize,
    centred: bool,
    row: impl Fn(usize) -> &'a [f32],
    ahead: Ahead,
    to: &mut [Mean<S>],
) {
    if centred && leaves.leaf == 1 && leaves.rows > 1 {
        // Two leaves of one row each are merged at once.
        for_strides!(len, (i, spans) => {
            let moments = Leaves { leaf: 2, ..leaves }.merge(
                simd,
                #[inline(always)]
                |rows| moments_of_two(simd, rows.start, spans, &row, ahead),
            );
            to[i..][..moments.len()].copy_from_slice(&moments);
        });
        return;
    }
    for_strides!(len, (i, spans) => {
        let moments = leaves.merge(
            simd,
            #[inline(always)]
            |rows| moments_of_spans(simd, rows, spans, centred, &row, ahead),
        );
        to[i..][..moments.len()].copy_from_slice(&moments);
    });
}

/// Two leaves of one row each, merged: what [`Partial::merge`] makes of means without error and of no deviation.
#[inline(always)]
fn moments_of_two<'a, S: Simd, const N: usize>(
    simd: S,
    first: usize,
    spans: [Span; N],
    row: &impl Fn(usize) -> &'a [f32],
    ahead: Ahead,
) -> [Mean<S>; N] {
    let zero = V::splat(simd, 0.0);
    let mut moments = [Mean { hi: zero, lo: zero, m2: zero }; N];
    let (upper, lower) = (row(first), row(first + 1));
    let (ahead, below) = (ahead.row(first), ahead.row(first + 1));
    for k in 0..N {
        ahead.ask(spans[k].index());
        below.ask(spans[k].index());
        let x = spans[k].load(simd, upper);
        let delta = spans[k].load(simd, lower) - x;
        let (hi, lo) = two_sum(x, delta * 0.5);
        moments[k] = Mean { hi, lo, m2: delta * delta * 0.5 };
    }
    moments
}

/// The same of a leaf's rows and a few spans.
#[inline(always)]
fn moments_of_spans<'a, S: Simd, const N: usize>(
    simd: S,
    rows: Range<usize>,
    spans: [Span; N],
    centred: bool,
    row: &impl Fn(usize) -> &'a [f32],
    ahead: Ahead,
) -> [Mean<S>; N] {
    let zero = V::splat(simd, 0.0);
    let (mut pivot, mut mean) = ([zero; N], [zero; N]);
    let mut moments = [Mean { hi: zero, lo: zero, m2: zero }; N];
    if centred && rows.len() == 1 {
        // The same numbers, sooner.
        let (first, ahead) = (row(rows.start), ahead.row(rows.start));
        for k in 0..N {
            ahead.ask(spans[k].index());
            let x = spans[k].load(simd, first);
            #[expect(clippy::eq_op, reason = "0, or NaN where x is not finite")]
            let deviation = x - x;
            moments[k] = Mean { hi: x + deviation, lo: deviation, m2: deviation };
        }
        return moments;
    }
    if centred {
        let first = row(rows.start);
        for (pivot, span) in pivot.iter_mut().zip(spans) {
            *pivot = span.load(simd, first);
        }
        for r in rows.clone() {
            let row = row(r);
            for k in 0..N {
                mean[k] += spans[k].load(simd, row) - pivot[k];
            }
        }
    }
    for k in 0..N {
        mean[k] /= rows.len() as f32;
        (moments[k].hi, moments[k].lo) = two_sum(pivot[k], mean[k]);
    }
    for r in rows {
        let (row, ahead) = (row(r), ahead.row(r));
        for k in 0..N {
            ahead.ask(spans[k].index());
            let deviation = (spans[k].load(simd, row) - pivot[k]) - mean[k];
            moments[k].m2 += deviation * deviation;
        }
    }
    moments
}

/// Sums of g and of g times the normalised input, times the weight if `weighted`, of up to sixteen runs.
/// `ahead` is asked for meanwhile.
#[inline(always)]
pub(crate) fn sums_of_rows<'a, S: Simd, const MASK: u8, P: Param<S>, Q: Param<S>>(
    simd: S,
    runs: usize,
    len: usize,
    weighted: bool,
    run: impl Fn(usize) -> (Gradient<'a>, Stats<P>, Weights<Q>),
    ahead: Ahead,
    mut meanwhile: impl Meanwhile<S>,
) -> Sums<S> {
    let (mut g_sums, mut gx_sums) = ([V::splat(simd, 0.0); LANES], [V::splat(simd, 0.0); LANES]);
    for (k, (g_sum, gx_sum)) in g_sums.iter_mut().zip(&mut gx_sums).enumerate().take(runs) {
        let (gradient, stats, affine) = run(k);
        let (gradient, ahead, meanwhile) = (gradient.of_len(len), ahead.row(k), meanwhile.row(simd, k));
        [*g_sum, *gx_sum] = sum_row(
            simd,
            len,
            meanwhile,
            #[inline(always)]
            |span| {
                ahead.ask(span.index());
                let mut g = gradient.masked::<S, MASK>(simd, span, stats, affine);
                if weighted {
                    g *= affine.weight.at(simd, span);
                }
                [g, g * (span.load(simd, gradient.x) - stats.hi.at(simd, span))]
            },
        );
        let all = Span::Whole(0);
        *gx_sum = *gx_sum * stats.rstd.at(simd, all) - low(simd, all, stats) * *g_sum;
    }
    Sums([fold(&g_sums, runs), fold(&gx_sums, runs)])
}

/// What the mean's low part takes off every normalised input: taken off the sums, not off each element, where it
/// would be lost in the rounding, always to the same side.
#[inline(always)]
fn low<S: Simd>(simd: S, span: Span, stats: Stats<impl Param<S>>) -> V<S> {
    stats.lo.at(simd, span) * stats.rstd.at(simd, span)
}

/// The same of columns over a few rows, without weights. `alike`: all rows have the same statistics.
#[inline(always)]
pub(crate) fn sums_of_columns<'a, S: Simd, P: Param<S>, Q: Param<S>>(
    simd: S,
    leaves: Leaves,
    len: usize,
    alike: bool,
    row: impl Fn(usize) -> (Gradient<'a>, Stats<P>, Weights<Q>),
    ahead: Ahead,
    to: &mut [Sums<S>],
) {
    with_mask!(row(0).0, MASK => for_strides!(len, (i, spans) => {
        let sums = leaves.merge(
            simd,
            #[inline(always)]
            |rows| sums_of_spans::<S, P, Q, MASK, _>(simd, rows, spans, alike, &row, ahead),
        );
        to[i..][..sums.len()].copy_from_slice(&sums);
    }));
}

/// The same of a leaf's rows and a few spans.
#[inline(always)]
fn sums_of_spans<'a, S: Simd, P: Param<S>, Q: Param<S>, const MASK: u8, const N: usize>(
    simd: S,
    rows: Range<usize>,
    spans: [Span; N],
    alike: bool,
    row: &impl Fn(usize) -> (Gradient<'a>, Stats<P>, Weights<Q>),
    ahead: Ahead,
) -> [Sums<S>; N] {
    let all = row(rows.start).1;
    let zero = V::splat(simd, 0.0);
    let (mut g_sum, mut gx_sum) = ([zero; N], [zero; N]);
    for r in rows {
        let ((gradient, stats, affine), ahead) = (row(r), ahead.row(r));
        // Short loops, so that the compiler unrolls them and keeps the sums in registers.
        let (mut g, mut xhat) = ([zero; N], [zero; N]);
        for span in spans {
            ahead.ask(span.index());
        }
        for k in 0..N {
            g[k] = gradient.masked::<S, MASK>(simd, spans[k], stats, affine);
        }
        for k in 0..N {
            xhat[k] = if alike {
                spans[k].load(simd, gradient.x) - stats.hi.at(simd, spans[k])
            } else {
                gradient.xhat(simd, spans[k], stats)
            };
        }
        for k in 0..N {
            g_sum[k] += g[k];
            gx_sum[k] += g[k] * xhat[k];
        }
    }
    let mut sums = [Sums([V::splat(simd, 0.0); 2]); N];
    for k in 0..N {
        if alike {
            gx_sum[k] = gx_sum[k] * all.rstd.at(simd, spans[k]) - low(simd, spans[k], all) * g_sum[k];
        }
        sums[k] = Sums([g_sum[k], gx_sum[k]]);
    }
    sums
}

/// A few leaves of columns, as many as a power of two: so many rows, so many of each; or one that is shorter.
#[derive(Clone, Copy)]
pub(crate) struct Leaves {
    pub rows: usize,
    pub leaf: usize,
}

impl Leaves {
    /// Their tree, of what each leaf's rows give.
    #[inline(always)]
    fn merge<S: Simd, P: Partial<S>, const N: usize>(self, simd: S, of: impl Fn(Range<usize>) -> [P; N]) -> [P; N] {
        let (rows, leaf) = (self.rows, self.leaf);
        // Of each size of subtree the last one that waits for its neighbour.
        let mut waiting = [[P::empty(simd); N]; TALL.ilog2() as usize + 1];
        let mut whole = 0;
        for k in 0..rows.div_ceil(leaf) {
            let (mut partial, mut level) = (of(k * leaf..((k + 1) * leaf).min(rows)), 0);
            while k >> level & 1 == 1 {
                let count = (leaf << level) as u32;
                for (partial, left) in partial.iter_mut().zip(waiting[level]) {
                    *partial = left.merge(*partial, [count, count]);
                }
                level += 1;
            }
            (waiting[level], whole) = (partial, level);
        }
        waiting[whole]
    }
}
