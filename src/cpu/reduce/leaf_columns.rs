//! Leaves of columns: moments and sums over a few rows, each column a lane.

use super::leaf::{Shifted, few, near_mean, shifted};
use super::partial::{Mean, Partial, Sums};
use crate::cpu::exec::apart;
use crate::cpu::memory::area::TILE;
use crate::cpu::memory::prefetch::{Prefetch, begins_line};
use crate::cpu::simd::formula::{Gradient, Made, Param, Same, Stats, Weights, low, with_mask};
use crate::cpu::simd::lanes::{LANES, Number, Span, TURNS, V, for_spans, for_strides, unrolled};
use crate::moments::two_sum;
use fearless_simd::{Select, Simd, SimdBase, SimdMask};
use std::ops::Range;

/// Columns that are reduced side by side.
pub(crate) const WIDE: usize = 256;

/// Rows of them that fit a tile, and the most leaves that are merged at once.
pub(crate) const TALL: usize = TILE / WIDE;

/// Rows, of all tensors together, that may lie on a page of memory each: processors know about as many without looking them
/// up.
pub(crate) const PAGES: usize = 64;

/// Moments of columns over a few rows: one of `to` a span.
#[inline(always)]
pub(crate) fn moments_of_columns<'a, S: Simd, T: Number>(
    simd: S,
    leaves: Leaves,
    len: usize,
    centred: bool,
    row: impl Fn(usize) -> &'a [T],
    prefetch: Prefetch<1>,
    to: &mut [Mean<S>],
) {
    if centred && leaves.leaf == 1 && leaves.rows > 1 && leaves.rows.is_power_of_two() {
        let mut waiting: Waiting<_, 1> = [[Mean::empty(simd)]; _];
        // Two leaves of one row each are merged at once.
        for_spans!(len, (i, span) => {
            Leaves { leaf: 2, ..leaves }.merge(
                true,
                &mut waiting,
                &mut to[i..],
                #[inline(always)]
                |rows| [moments_of_two(simd, rows.start, span, &row, prefetch)],
            );
        });
        return;
    }
    let mut waiting: Waiting<_, TURNS> = [[Mean::empty(simd); TURNS]; _];
    for_strides!(len, (i, spans) => {
        leaves.merge(
            false,
            &mut waiting,
            &mut to[i..],
            #[inline(always)]
            |rows| moments_of_spans(simd, rows, spans, centred, &row, prefetch),
        );
    });
}

/// Two leaves of one row each, merged: what [`Partial::merge`] makes of means without error and of no deviation.
#[inline(always)]
fn moments_of_two<'a, S: Simd, T: Number>(
    simd: S,
    first: usize,
    span: Span,
    row: &impl Fn(usize) -> &'a [T],
    prefetch: Prefetch<1>,
) -> Mean<S> {
    prefetch.row(first).ask(span.index());
    prefetch.row(first + 1).ask(span.index());
    let x = span.load(simd, row(first));
    let delta = span.load(simd, row(first + 1)) - x;
    let (hi, lo) = two_sum(x, delta * 0.5);
    Mean { hi, lo, m2: delta * delta * 0.5 }
}

/// Moments of a leaf's rows and a few spans.
#[inline(always)]
fn moments_of_spans<'a, S: Simd, T: Number, const N: usize>(
    simd: S,
    rows: Range<usize>,
    spans: [Span; N],
    centred: bool,
    row: &impl Fn(usize) -> &'a [T],
    prefetch: Prefetch<1>,
) -> [Mean<S>; N] {
    let zero = V::splat(simd, 0.0);
    let mut moments = [Mean { hi: zero, lo: zero, m2: zero }; N];
    if centred && rows.len() == 1 {
        // The same numbers, sooner.
        let (first, prefetch) = (row(rows.start), prefetch.row(rows.start));
        for k in 0..N {
            prefetch.ask(spans[k].index());
            let x = spans[k].load(simd, first);
            #[expect(clippy::eq_op, reason = "0, or NaN where x is not finite")]
            let deviation = x - x;
            moments[k] = Mean { hi: x + deviation, lo: deviation, m2: deviation };
        }
        return moments;
    }
    // One pass, about a number that is near the mean; or about 0, where the sum is not needed.
    let (mut pivot, mut sum, mut about_pivot) = ([zero; N], [zero; N], [zero; N]);
    if centred {
        let [a, b, c, d] = few(rows.len());
        let [a, b, c, d] = [row(rows.start + a), row(rows.start + b), row(rows.start + c), row(rows.start + d)];
        unrolled!(N, k => {
            let load = {
                #[inline(always)]
                |row| spans[k].load(simd, row)
            };
            pivot[k] = near_mean([load(a), load(b), load(c), load(d)]);
        });
    }
    for r in rows.clone() {
        let (row, prefetch) = (row(r), prefetch.row(r));
        unrolled!(N, k => {
            if begins_line::<T>(k) {
                prefetch.ask(spans[k].index());
            }
            let deviation = spans[k].load(simd, row) - pivot[k];
            sum[k] += deviation;
            about_pivot[k] += deviation * deviation;
        });
    }
    if !centred {
        unrolled!(N, k => {
            moments[k].m2 = about_pivot[k];
        });
        return moments;
    }
    unrolled!(N, k => {
        let Shifted { mean, mut m2, is_near } = shifted(simd, [sum[k], about_pivot[k]], rows.len());
        if !is_near.all_true() {
            m2 = is_near.select(m2, about_mean(simd, rows.clone(), spans[k], row, [pivot[k], mean]));
        }
        let (hi, lo) = two_sum(pivot[k], mean);
        moments[k] = Mean { hi, lo, m2 };
    });
    moments
}

/// Sums of squares about a mean, in two parts.
#[cold]
#[inline(never)]
fn about_mean<'a, S: Simd, T: Number>(
    simd: S,
    rows: Range<usize>,
    span: Span,
    row: &impl Fn(usize) -> &'a [T],
    [pivot, mean]: [V<S>; 2],
) -> V<S> {
    simd.vectorize(
        #[inline(always)]
        || {
            let mut sum = V::splat(simd, 0.0);
            for r in rows {
                let deviation = (span.load(simd, row(r)) - pivot) - mean;
                sum += deviation * deviation;
            }
            sum
        },
    )
}

/// Sums of g and of g times the normalised input, of columns over a few rows. `alike`: all rows have the same statistics.
/// `prefetch`: what is asked for meanwhile; here a test costs less than to ask for nothing, as there is one for several spans.
#[inline(always)]
pub(crate) fn sums_of_columns<'a, S: Simd, T: Number, P: Param<S>, Q: Param<S>>(
    simd: S,
    leaves: Leaves,
    len: usize,
    alike: bool,
    row: impl Fn(usize) -> (Gradient<'a, T>, Stats<P>, Weights<Q>),
    prefetch: Option<Prefetch>,
    to: &mut [Sums<S>],
) {
    if alike && leaves.leaf == 1 {
        // What belongs to a column stays in registers.
        let (gradient, stats, weights) = row(0);
        return with_mask!(gradient, MASK => apart!(simd, {
            // The compiler is to see that no leaf has a loop.
            let leaves = Leaves { leaf: 1, ..leaves };
            let mut waiting: Waiting<_, 1> = [[Sums::empty(simd)]; _];
            for_spans!(len, (i, span) => {
                let stats =
                    Stats { hi: stats.hi.at(simd, span), lo: stats.lo.at(simd, span), rstd: stats.rstd.at(simd, span) };
                let stats = Stats { hi: Same(stats.hi), lo: Same(stats.lo), rstd: Same(stats.rstd) };
                let weights = Weights { weight: weights.weight.at(simd, span), bias: weights.bias.at(simd, span) };
                let weights = Weights { weight: Same(weights.weight), bias: Same(weights.bias) };
                let of = {
                    #[inline(always)]
                    |k| (row(k).0, stats, weights)
                };
                leaves.merge(
                    false,
                    &mut waiting,
                    &mut to[i..],
                    #[inline(always)]
                    |rows| sums_of_spans::<S, T, Same<S>, Same<S>, MASK, 1>(simd, rows, [span], true, &of, prefetch),
                );
            })
        }));
    }
    with_mask!(row(0).0, MASK => apart!(simd, {
        let mut waiting: Waiting<_, TURNS> = [[Sums::empty(simd); TURNS]; _];
        for_strides!(len, (i, spans) => {
            leaves.merge(
                false,
                &mut waiting,
                &mut to[i..],
                #[inline(always)]
                |rows| sums_of_spans::<S, T, P, Q, MASK, _>(simd, rows, spans, alike, &row, prefetch),
            );
        })
    }));
}

/// Sums of a leaf's rows and a few spans.
#[inline(always)]
fn sums_of_spans<'a, S: Simd, T: Number, P: Param<S>, Q: Param<S>, const MASK: u8, const N: usize>(
    simd: S,
    rows: Range<usize>,
    spans: [Span; N],
    alike: bool,
    row: &impl Fn(usize) -> (Gradient<'a, T>, Stats<P>, Weights<Q>),
    prefetch: Option<Prefetch>,
) -> [Sums<S>; N] {
    let all = row(rows.start).1;
    let mut indices = [0; N];
    for k in 0..N {
        indices[k] = spans[k].index();
    }
    let zero = V::splat(simd, 0.0);
    let (mut g_sum, mut gx_sum) = ([zero; N], [zero; N]);
    for r in rows {
        let (gradient, stats, affine) = row(r);
        if let Some(prefetch) = prefetch {
            prefetch.row(r).ask_vectors::<T, N>(indices);
        }
        unrolled!(N, k => {
            let g = gradient.masked::<S, MASK>(simd, spans[k], Made { stats, weights: affine });
            let xhat = if alike {
                spans[k].load(simd, gradient.x) - stats.hi.at(simd, spans[k])
            } else {
                gradient.xhat(simd, spans[k], stats)
            };
            g_sum[k] += g;
            gx_sum[k] += g * xhat;
        });
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

/// Room for a tree: of each size of subtree the last one that waits for its neighbour. Made once for all spans, as it is
/// about as large as what a stride of them reads.
type Waiting<P, const SPANS: usize> = [[P; SPANS]; TALL.ilog2() as usize + 1];

/// A few leaves of columns: so many rows, so many of each, the last may have fewer.
#[derive(Clone, Copy)]
pub(crate) struct Leaves {
    pub rows: usize,
    pub leaf: usize,
}

impl Leaves {
    /// Their tree, of what each leaf's rows give. `full`: whether they are as many as a power of two, and all alike, which a
    /// loop over few rows is faster for if it is known when it is compiled.
    #[inline(always)]
    fn merge<S: Simd, P: Partial<S>, const N: usize, const SPANS: usize>(
        self,
        full: bool,
        waiting: &mut Waiting<P, SPANS>,
        to: &mut [P],
        of: impl Fn(Range<usize>) -> [P; N],
    ) {
        let (rows, leaf) = (self.rows, self.leaf);
        let leaves = rows.div_ceil(leaf);
        for k in 0..leaves {
            let end = ((k + 1) * leaf).min(rows);
            let missing = (k + 1) * leaf - end;
            let (mut partial, mut level) = (of(k * leaf..end), 0);
            while k >> level & 1 == 1 {
                let left = leaf << level;
                let right = if full { left } else { left - missing };
                merge_into(&mut partial, &waiting[level], [left, right]);
                level += 1;
            }
            waiting[level][..N].copy_from_slice(&partial);
        }
        if full {
            return to[..N].copy_from_slice(&waiting[leaves.ilog2() as usize][..N]);
        }
        // As if there were as many as a power of two.
        let mut level = leaves.trailing_zeros() as usize;
        let mut middle = (leaves & (leaves - 1)) * leaf;
        to[..N].copy_from_slice(&waiting[level][..N]);
        while middle > 0 {
            level += 1;
            if leaves >> level & 1 == 1 {
                merge_into(&mut to[..N], &waiting[level], [leaf << level, rows - middle]);
                middle -= leaf << level;
            }
        }
    }
}

/// What is before each partial result, and so many rows of each.
#[inline(always)]
fn merge_into<S: Simd, P: Partial<S>>(partials: &mut [P], before: &[P], counts: [usize; 2]) {
    let counts = counts.map(|count| count as u32);
    for (partial, &before) in partials.iter_mut().zip(before) {
        *partial = before.merge(*partial, counts);
    }
}
