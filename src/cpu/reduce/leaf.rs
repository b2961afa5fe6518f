//! Leaves of rows: moments and sums of short runs, each a lane.

use super::partial::{Mean, Sums};
use super::transposed;
use crate::cpu::memory::prefetch::Prefetch;
use crate::cpu::simd::formula::{Gradient, Made, Param, Stats, Weights};
use crate::cpu::simd::lanes::{LANES, Length, Number, STRIDE, Span, V, fold, sum_row};
use crate::moments::two_sum;
use fearless_simd::{Simd, SimdBase, SimdMask};
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
            pivot += first_few(len, |i| Span::Whole(i).load(simd, &x));
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
    let mean = sum / len as f32;
    let mut m2 = about_pivot - sum * mean;
    // The pivot's distance is most of it, or may alone have made it infinite: a second pass, about the mean.
    let most = (m2 * 4.0).min(V::splat(simd, f32::MAX));
    if !about_pivot.simd_le(most).all_true() {
        let (most, about_pivot, means) = (most.to_array(), about_pivot.to_array(), mean.to_array());
        let pivots = pivot.to_array();
        for k in 0..runs {
            let near = about_pivot[k] <= most[k];
            if !near {
                let (pivot, mean) = (V::splat(simd, pivots[k]), V::splat(simd, means[k]));
                m2.as_mut_array()[k] = about_mean(simd, &run(k)[..len], pivot, mean);
            }
        }
    }
    let (hi, lo) = two_sum(pivot, mean);
    Mean { hi, lo, m2 }
}

/// A number near the mean of a short run.
#[inline(always)]
fn first_few<T: Copy + Add<Output = T> + Mul<f32, Output = T>>(len: usize, element: impl Fn(usize) -> T) -> T {
    match len {
        1 => element(0),
        2 | 3 => element(0) * 0.5 + element(1) * 0.5,
        _ => (element(0) * 0.25 + element(1) * 0.25) + (element(2) * 0.25 + element(3) * 0.25),
    }
}

/// In its sum over lanes a number near the mean of a run: that of four spans of it, of the first if it has no more than
/// three, or of the first few elements of a run that has none. A constant run's is its constant.
#[inline(always)]
fn sample<S: Simd, T: Number>(simd: S, run: &[T]) -> V<S> {
    let full = run.len() / LANES;
    if full == 0 {
        let mut one = [0.0; LANES];
        one[0] = first_few(run.len(), |i| run[i].to_f32());
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
