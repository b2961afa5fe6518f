//! Elements of any type to `f32` and back. Halves by integer arithmetic, so that no instruction set needs a feature
//! for them; by the processor's own conversions where it has them.

#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::f16c;
use super::lanes::{LANES, Number, Span, V, for_spans};
use crate::cpu::exec::is_baseline;
use crate::cpu::memory::nontemporal::HalfLine;
use crate::cpu::memory::prefetch::Prefetch;
use crate::cpu::memory::sink::{Sink, Store, with_sink};
use crate::cpu::memory::store_policy::StorePolicy;
use crate::tensor::DType;
use fearless_simd::{Select, Simd, SimdBase, SimdFloat, u16x16, u32x16};
use half::{bf16, f16};

/// Whether halves are read where they are needed, or widened before, and rows that follow each other written as one. Each loop
/// is compiled once more for each type, which this as a constant spares SSE2, where there is not much to be won, and other
/// processors, where it was not measured.
pub(crate) const fn in_registers<S: Simd>() -> bool {
    cfg!(target_arch = "x86_64") && !is_baseline::<S>()
}

/// Runs code that gives an `Option`, with `$t` as each type of halves until there is something; see [`in_registers`].
macro_rules! first_half {
    ($s:ident, $t:ident => $run:expr) => {
        if const { $crate::cpu::simd::half::in_registers::<$s>() } {
            let first = {
                type $t = ::half::f16;
                $run
            };
            if first.is_some() {
                first
            } else {
                type $t = ::half::bf16;
                $run
            }
        } else {
            None
        }
    };
}
pub(crate) use first_half;

/// Runs code with `$t` as the type of a tensor's elements.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $run:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $t = f32;
                $run
            }
            $crate::tensor::DType::F16 => {
                type $t = ::half::f16;
                $run
            }
            $crate::tensor::DType::BF16 => {
                type $t = ::half::bf16;
                $run
            }
        }
    };
}
pub(crate) use with_element;

/// Elements as `f32`, as many as there are in `to`. Out of line: it is called from everywhere.
#[inline(never)]
pub(crate) fn widen<S: Simd>(simd: S, dtype: DType, from: &[u8], to: &mut [f32]) {
    simd.vectorize(
        #[inline(always)]
        || with_element!(dtype, T => widen_all::<S, T>(simd, bytemuck::cast_slice(from), to)),
    )
}

/// The type is known when it is compiled, so that the loop does not ask.
#[inline(always)]
fn widen_all<S: Simd, T: Number>(simd: S, from: &[T], to: &mut [f32]) {
    let from = &from[..to.len()];
    for_spans!(to.len(), span => { span.store(span.load(simd, from), to); });
}

/// What becomes of `f32` that are stored as elements, and read again.
#[inline(never)]
pub(crate) fn round<S: Simd>(simd: S, dtype: DType, values: &mut [f32]) {
    if dtype != DType::F32 {
        simd.vectorize(
            #[inline(always)]
            || {
                with_element!(dtype, T => for_spans!(values.len(), span => {
                    span.store(T::to_vector(simd, &T::of_vector(span.load(simd, values))), values);
                }))
            },
        );
    }
}

/// Elements from `f32`, rounded to nearest even. Out of line, too.
#[inline(never)]
pub(crate) fn narrow<S: Simd>(simd: S, dtype: DType, from: &[f32], to: &mut [u8]) {
    let sink = Sink::new(dtype, to, StorePolicy::Cached, Prefetch::default());
    simd.vectorize(
        #[inline(always)]
        || with_sink!(S, sink, from.len() => store_row(simd, from, sink)),
    );
}

#[inline(always)]
fn store_row<S: Simd>(simd: S, from: &[f32], mut to: impl Store) {
    for_spans!(from.len(), span => { to.store(span, span.load(simd, from)); });
}

impl Number for f16 {
    type Whole = HalfLine;

    #[inline(always)]
    fn to_vector<S: Simd>(simd: S, from: &[f16; LANES]) -> V<S> {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Some(avx2) = simd.level().as_avx2() {
            return V::from_slice(simd, &f16c::widen(avx2, bytemuck::cast_ref(from)));
        }
        of_f16(simd, bytemuck::cast_ref(from))
    }

    #[inline(always)]
    fn of_vector<S: Simd>(value: V<S>) -> [f16; LANES] {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let level = value.simd.level();
            if let Some(avx512) = level.as_avx512() {
                return bytemuck::cast(f16c::narrow_at_once(avx512, value.as_array()));
            }
            if let Some(avx2) = level.as_avx2() {
                return bytemuck::cast(f16c::narrow(avx2, value.as_array()));
            }
        }
        bytemuck::cast(to_f16(value))
    }
}

impl Number for bf16 {
    type Whole = HalfLine;

    #[inline(always)]
    fn to_vector<S: Simd>(simd: S, from: &[bf16; LANES]) -> V<S> {
        V::from_bits(load_bits(simd, bytemuck::cast_ref(from)) << 16)
    }

    #[inline(always)]
    fn of_vector<S: Simd>(value: V<S>) -> [bf16; LANES] {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Some(avx512) = value.simd.level().as_avx512()
            && let Some(halves) = super::bf16::narrow(avx512, value.as_array())
        {
            return bytemuck::cast(halves);
        }
        let bits = value.to_bits();
        let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        let nan = bits >> 16 | 0x40;
        bytemuck::cast(store_bits(value.simd, value.is_nan().select(nan, rounded)))
    }
}

#[inline(always)]
fn load_bits<S: Simd>(simd: S, from: &[u16; LANES]) -> u32x16<S> {
    let (low, high) = simd.widen_u16x16(u16x16::from_slice(simd, from));
    simd.combine_u32x8(low, high)
}

#[inline(always)]
fn store_bits<S: Simd>(simd: S, bits: u32x16<S>) -> [u16; LANES] {
    let (low, high) = simd.split_u32x16(bits);
    *simd.narrow_u32x8(low, high).as_array()
}

/// Out of line where the processor's own conversions are the rule, as the next: it takes dozens of instructions.
#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn of_f16<S: Simd>(simd: S, from: &[u16; LANES]) -> V<S> {
    simd.vectorize(
        #[inline(always)]
        || {
            let bits = load_bits(simd, from);
            let magnitude = bits & 0x7fff;
            // Exact for subnormals too: a multiplication renormalises them.
            let finite = (V::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
            let infinity = magnitude << 13 | 0x7f80_0000;
            let special = magnitude.simd_gt(0x7c00).select(infinity | 0x0040_0000, infinity);
            let value = magnitude.simd_ge(0x7c00).select(special, finite);
            V::from_bits(value | (bits & 0x8000) << 16)
        },
    )
}

#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn to_f16<S: Simd>(value: V<S>) -> [u16; LANES] {
    value.simd.vectorize(
        #[inline(always)]
        || {
            let bits = value.to_bits();
            let magnitude = bits & 0x7fff_ffff;
            // Normal: the exponent's bias changes from 127 to 15, and a carry out of the rounding is right.
            let normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112 << 23)) >> 13;
            // Subnormal: adding 1/2 lets the adder round at the last place of the result.
            let subnormal = (V::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits();
            let infinity = u32x16::splat(value.simd, 0x7c00);
            // Quiet, with what fits of its payload, as processors do it.
            let nan = (magnitude >> 13 & 0x3ff) | 0x7e00;
            let large = magnitude.simd_gt(0x7f80_0000).select(nan, infinity);
            let small = magnitude.simd_lt(0x3880_0000).select(subnormal, normal);
            let half = magnitude.simd_ge(0x4780_0000).select(large, small);
            store_bits(value.simd, half | (bits >> 16 & 0x8000))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;
    use crate::cpu::exec::dispatch;
    use fearless_simd::Level;

    fn check<T: Element + PartialEq + std::fmt::Debug>(bits: impl Fn(T) -> u16, of: impl Fn(u16) -> T) {
        for level in crate::cpu::tests::levels() {
            check_on(level, &bits, &of);
        }
    }

    fn check_on<T: Element + PartialEq + std::fmt::Debug>(
        level: Level,
        bits: impl Fn(T) -> u16,
        of: impl Fn(u16) -> T,
    ) {
        let halves: Vec<T> = (0..=u16::MAX).map(of).collect();
        // Not a multiple of sixteen.
        for halves in [&halves[..], &halves[..31745]] {
            let mut floats = vec![0f32; halves.len()];
            dispatch!(level, simd => widen(simd, T::DTYPE, bytemuck::cast_slice(halves), &mut floats));
            for (&h, f) in halves.iter().zip(floats) {
                assert!(h.to_f32().to_bits() == f.to_bits() || (h.to_f32().is_nan() && f.is_nan()), "{h:?} {f}");
            }
        }
        // Every upper half, with lower halves on both sides of every tie.
        let low = [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0xffff];
        let values: Vec<f32> =
            (0..=u16::MAX).flat_map(|high| low.map(|low| f32::from_bits(u32::from(high) << 16 | low))).collect();
        let mut halves = vec![T::from_f32(0.0); values.len()];
        dispatch!(level, simd => narrow(simd, T::DTYPE, &values, bytemuck::cast_slice_mut(&mut halves)));
        for (v, h) in values.into_iter().zip(halves) {
            let expected = T::from_f32(v);
            assert!(
                bits(expected) == bits(h) || (expected.to_f32().is_nan() && h.to_f32().is_nan()),
                "{v} {h:?} {expected:?}"
            );
        }
    }

    #[test]
    fn conversions_are_those_of_the_half_crate() {
        check(half::f16::to_bits, half::f16::from_bits);
        check(half::bf16::to_bits, half::bf16::from_bits);
    }
}
