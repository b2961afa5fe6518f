//! Leaves of rows: moments and sums of short runs, each a lane.

use super::partial::{Mean, Sums};
use super::transposed;
use crate::cpu::memory::prefetch::Prefetch;
use crate::cpu::simd::formula::{Gradient, Made, Param, Stats, Weights};
use crate::cpu::simd::lanes::{LANES, Length, Number, STRIDE, Span, V, fold, sum_row};
use crate::moments::two_sum;
use fearless_simd::{Simd, SimdBase, SimdMask, mask32x16};
use std::cell::Cell;
use std::ops::{Add, Mul};

/// What is done with other rows of the same length while rows are reduced, so that arithmetic and memory are busy at the
/// same time.
pub(crate) trait Meanwhile<S: Simd> {
    /// Whether rows are shorter than a stride, if that is known when it is compiled; `Some(false)`: they may be longer.
    const SHORT: Option<bool>;

    /// What is done with row k, span by span: see [`sum_row`].
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(Span);
}

/// Nothing.
impl<S: Simd> Meanwhile<S> for () {
    const SHORT: Option<bool> = None;

    #[inline(always)]
    fn row(&mut self, _: S, _: usize) -> impl FnMut(Span) {
        #[inline(always)]
        |_| ()
    }
}

/// Moments of up to sixteen runs of one length: those of run k in lane k. Without `centred`, mean squares. `prefetch` is
/// asked for meanwhile.
#[inline(always)]
pub(crate) fn moments_of_rows<'a, S: Simd, T: Number, M: Meanwhile<S>>(
    simd: S,
    runs: usize,
    len: usize,
    centred: bool,
    run: impl Fn(usize) -> &'a [T],
    prefetch: Prefetch<1>,
    meanwhile: M,
) -> Mean<S> {
    let zero = V::splat(simd, 0.0);
    // One pass, about a number that is near the mean; or about 0, where the sum is not needed.
    let mut pivot = zero;
    let [sum, about_pivot] = if transposed::is_short::<S, M>((runs, len)) {
        let x = transposed::elements(runs, len, &run);
        if centred {
            let [a, b, c, d] = few(len);
            let number = {
                #[inline(always)]
                |i| Span::Whole(i).load(simd, &x)
            };
            pivot += near_mean([number(a), number(b), number(c), number(d)]);
        }
        transposed::sum(
            simd,
            len,
            #[inline(always)]
            |span| {
                prefetch.ask(span.index());
                let deviation = span.load(simd, &x) - pivot;
                [deviation, deviation * deviation]
            },
        )
    } else {
        if centred {
            let mut near = [zero; LANES];
            for (k, near) in near.iter_mut().enumerate().take(runs) {
                *near = sample(simd, &run(k)[..len]);
            }
            pivot = fold(&near, runs);
        }
        let pivots = pivot.to_array();
        sum_rows(
            simd,
            (runs, len),
            prefetch,
            meanwhile,
            #[inline(always)]
            |k| {
                let (run, pivot) = (&run(k)[..len], V::splat(simd, pivots[k]));
                #[inline(always)]
                move |span: Span| {
                    let deviation = span.load(simd, run) - pivot;
                    [deviation, deviation * deviation]
                }
            },
        )
    };
    if !centred {
        return Mean { hi: zero, lo: zero, m2: about_pivot };
    }
    let Shifted { mean, mut m2, is_near } = shifted(simd, [sum, about_pivot], len);
    if !is_near.all_true() {
        let (pivots, means) = (pivot.to_array(), mean.to_array());
        for k in (0..runs).filter(|&k| is_near.to_bitmask() >> k & 1 == 0) {
            let (pivot, mean) = (V::splat(simd, pivots[k]), V::splat(simd, means[k]));
            m2.as_mut_array()[k] = about_mean(simd, &run(k)[..len], pivot, mean);
        }
    }
    let (hi, lo) = two_sum(pivot, mean);
    Mean { hi, lo, m2 }
}

/// What sums about a pivot come to.
pub(crate) struct Shifted<S: Simd> {
    /// The mean, less the pivot.
    pub mean: V<S>,
    /// Sum of squares about the mean.
    pub m2: V<S>,
    /// Whether that can be told. If not, the pivot's distance was most of it, or may alone have made it infinite: it takes a
    /// second pass, about the mean.
    pub is_near: mask32x16<S>,
}

/// Of sums of so many numbers' deviations from a pivot, and of their squares.
#[inline(always)]
pub(crate) fn shifted<S: Simd>(simd: S, [sum, about_pivot]: [V<S>; 2], count: usize) -> Shifted<S> {
    // The same number, sooner.
    let mean = if count.is_power_of_two() { sum * (1.0 / count as f32) } else { sum / count as f32 };
    let m2 = about_pivot - sum * mean;
    let most = (m2 * 4.0).min(V::splat(simd, f32::MAX));
    Shifted { mean, m2, is_near: about_pivot.simd_le(most) }
}

/// Which of so many numbers are looked at for one near their mean.
#[inline(always)]
pub(crate) fn few(len: usize) -> [usize; 4] {
    [0, len / 4, len / 2, 3 * len / 4]
}

/// The mean of a few numbers, or near it. If they are all the same, it is theirs.
#[inline(always)]
pub(crate) fn near_mean<T: Copy + Add<Output = T> + Mul<f32, Output = T>>([a, b, c, d]: [T; 4]) -> T {
    (a * 0.25 + b * 0.25) + (c * 0.25 + d * 0.25)
}

/// In its sum over lanes a number near the mean of a run: that of four spans of it, of the first if it has no more than
/// three, or of a few elements of a run that has none. A constant run's is its constant.
#[inline(always)]
fn sample<S: Simd, T: Number>(simd: S, run: &[T]) -> V<S> {
    let full = run.len() / LANES;
    if full == 0 {
        let mut one = [0.0; LANES];
        one[0] = near_mean(few(run.len()).map(|i| run[i].to_f32()));
        return V::from_slice(simd, &one);
    }
    if full < 4 {
        return Span::Whole(0).load(simd, run) * (1.0 / LANES as f32);
    }
    let part = {
        #[inline(always)]
        |k: usize| Span::at(k * full / 4, run.len()).load(simd, run) * (0.25 / LANES as f32)
    };
    (part(0) + part(1)) + (part(2) + part(3))
}

/// Sum of squares about a mean.
#[cold]
#[inline(never)]
fn about_mean<S: Simd, T: Number>(simd: S, run: &[T], pivot: V<S>, mean: V<S>) -> f32 {
    simd.vectorize(
        #[inline(always)]
        || {
            let [sum] = sum_row(
                simd,
                (run.len(), Length::Any),
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

/// Sums of g and of g times the normalised input, times the weight if `weighted`, of up to sixteen runs. If `DOWN`, `down`
/// has the sums of columns, to which these rows' are added, one a span. `prefetch` is asked for meanwhile.
#[inline(always)]
pub(crate) fn sums_of_rows<'a, S: Simd, T: Number, Q: Param<S>, M: Meanwhile<S>, const MASK: u8, const DOWN: bool>(
    simd: S,
    (runs, len): (usize, usize),
    weighted: bool,
    run: impl Fn(usize) -> (Gradient<'a, T>, [f32; 3], Weights<Q>),
    down: &[Cell<Sums<S>>],
    prefetch: Prefetch,
    meanwhile: M,
) -> Sums<S> {
    if !DOWN && !weighted && transposed::is_short::<S, M>((runs, len)) {
        return transposed::sums_of_rows::<S, T, Q, MASK>(simd, (runs, len), &run, prefetch);
    }
    let (mut lows, mut rstds) = ([0.0; LANES], [0.0; LANES]);
    let [g, gx] = sum_rows(
        simd,
        (runs, len),
        prefetch,
        meanwhile,
        #[inline(always)]
        |k| {
            let (gradient, numbers, affine) = run(k);
            let (gradient, stats) = (gradient.of_len(len), Stats::same(simd, numbers));
            [_, lows[k], rstds[k]] = numbers;
            #[inline(always)]
            move |span: Span| {
                let mut g = gradient.masked::<S, MASK>(simd, span, Made { stats, weights: affine });
                if DOWN {
                    let sums = span.one_of(down);
                    let Sums([g_sum, gx_sum]) = sums.get();
                    sums.set(Sums([g_sum + g, gx_sum + g * gradient.xhat(simd, span, stats)]));
                }
                if weighted {
                    g *= affine.weight.at(simd, span);
                }
                [g, g * (span.load(simd, gradient.x) - stats.hi.at(simd, span))]
            }
        },
    );
    let (lo, rstd) = (V::from_slice(simd, &lows), V::from_slice(simd, &rstds));
    Sums([g, gx * rstd - lo * rstd * g])
}

/// Sums `N` terms of every element of up to sixteen rows of one length: those of row k in lane k. `terms` gives what a row's
/// terms are.
#[inline(always)]
fn sum_rows<S: Simd, M: Meanwhile<S>, F: FnMut(Span) -> [V<S>; N], const N: usize, const A: usize>(
    simd: S,
    (rows, len): (usize, usize),
    prefetch: Prefetch<A>,
    mut meanwhile: M,
    mut terms: impl FnMut(usize) -> F,
) -> [V<S>; N] {
    let zero = V::splat(simd, 0.0);
    let mut sums = [[zero; LANES]; N];
    let mut sum = {
        #[inline(always)]
        |k: usize, known: Length| {
            let (mut terms, prefetch) = (terms(k), prefetch.row(k));
            let of_row = sum_row(
                simd,
                (len, known),
                meanwhile.row(simd, k),
                #[inline(always)]
                |span| {
                    prefetch.ask(span.index());
                    terms(span)
                },
            );
            for i in 0..N {
                sums[i][k] = of_row[i];
            }
        }
    };
    if !M::SHORT.unwrap_or(len < STRIDE) {
        for k in 0..rows {
            sum(k, Length::Any);
        }
    } else if Length::of_short(len) == Length::NearlyStride {
        for k in 0..rows {
            sum(k, Length::NearlyStride);
        }
    } else {
        for k in 0..rows {
            sum(k, Length::Short);
        }
    }
    let mut folded = [zero; N];
    for i in 0..N {
        folded[i] = fold(&sums[i], rows);
    }
    folded
}
