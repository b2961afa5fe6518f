//! Rows that are shorter than a vector, transposed: a vector has an element of each of sixteen rows, and the tree over a
//! row's elements, which over lanes takes shuffles, is one over vectors. Its sums are those of [`super::leaf`].

use super::leaf::Meanwhile;
use super::partial::Sums;
use crate::cpu::exec::is_baseline;
use crate::cpu::memory::prefetch::Prefetch;
use crate::cpu::simd::formula::{Gradient, Made, Param, Same, Stats, Weights, mask};
use crate::cpu::simd::lanes::{LANES, Number, Span, V};
use fearless_simd::{Simd, SimdBase};

/// Elements of up to sixteen rows, as many as a vector has.
type Elements = [f32; LANES * LANES];

/// Rows that are worth it.
const FEW: usize = 4;

/// Whether rows of so many elements are transposed: where there is nothing else to be done with each.
#[inline(always)]
pub(crate) fn is_short<S: Simd, M: Meanwhile<S>>((rows, len): (usize, usize)) -> bool {
    M::SHORT.is_none() && !is_baseline::<S>() && len < LANES && rows >= FEW
}

/// Element i of row k as lane k of vector i.
#[inline(always)]
pub(crate) fn elements<'a, T: Number>(rows: usize, len: usize, row: impl Fn(usize) -> &'a [T]) -> Elements {
    let mut to = [0.0; LANES * LANES];
    for k in 0..rows {
        transpose(&row(k)[..len], k, &mut to);
    }
    to
}

#[inline(always)]
fn transpose<T: Number>(row: &[T], k: usize, to: &mut Elements) {
    for (to, from) in to[k..].iter_mut().step_by(LANES).zip(row) {
        *to = from.to_f32();
    }
}

/// Sums of terms of each row's elements, added as a binary tree of neighbours.
#[inline(always)]
pub(crate) fn sum<S: Simd, const N: usize>(simd: S, len: usize, mut terms: impl FnMut(Span) -> [V<S>; N]) -> [V<S>; N] {
    let zero = V::splat(simd, 0.0);
    let mut all = [[zero; N]; LANES];
    for (i, sums) in all.iter_mut().enumerate().take(len) {
        for (sum, term) in sums.iter_mut().zip(terms(Span::Whole(i))) {
            // Not -0, as where terms are added to 0.
            *sum = zero + term;
        }
    }
    let mut distance = 1;
    while distance < len {
        for i in (0..len - distance).step_by(2 * distance) {
            let right = all[i + distance];
            for (left, right) in all[i].iter_mut().zip(right) {
                *left += right;
            }
        }
        distance *= 2;
    }
    all[0]
}

/// See [`super::leaf::sums_of_rows`].
#[inline(always)]
pub(crate) fn sums_of_rows<'a, S: Simd, T: Number, Q: Param<S>, const MASK: u8>(
    simd: S,
    (rows, len): (usize, usize),
    row: impl Fn(usize) -> (Gradient<'a, T>, [f32; 3], Weights<Q>),
    prefetch: Prefetch,
) -> Sums<S> {
    let [mut hi, mut lo, mut rstd, mut weight, mut bias] = [[0.0; LANES]; 5];
    let [mut x, mut dy, mut residual]: [Elements; 3] = [[0.0; _]; 3];
    let mut relu = false;
    for k in 0..rows {
        let (gradient, numbers, affine) = row(k);
        [hi[k], lo[k], rstd[k]] = numbers;
        transpose(&gradient.x[..len], k, &mut x);
        transpose(&gradient.dy[..len], k, &mut dy);
        if MASK != mask::NONE {
            weight[k] = affine.weight.at(simd, Span::Whole(0)).as_array()[0];
            bias[k] = affine.bias.at(simd, Span::Whole(0)).as_array()[0];
        }
        if MASK == mask::RESIDUAL {
            transpose(&gradient.residual.unwrap_or_default()[..len], k, &mut residual);
        }
        relu = gradient.relu;
    }
    let same = {
        #[inline(always)]
        |numbers: &[f32; LANES]| Same(V::from_slice(simd, numbers))
    };
    let (lo, rstd) = (same(&lo), same(&rstd));
    let stats = Stats { hi: same(&hi), lo, rstd };
    let weights = Weights { weight: same(&weight), bias: same(&bias) };
    let gradient = Gradient { x: &x[..], dy: &dy, residual: Some(&residual), relu };
    let [g, gx] = sum(
        simd,
        len,
        #[inline(always)]
        |span| {
            prefetch.ask(span.index());
            let g = gradient.masked::<S, MASK>(simd, span, Made { stats, weights });
            [g, g * (span.load(simd, gradient.x) - stats.hi.0)]
        },
    );
    Sums([g, gx * rstd.0 - lo.0 * rstd.0 * g])
}
