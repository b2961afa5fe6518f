//! Sixteen-bit elements in lanes, by integer arithmetic, so that no instruction set needs a feature for them.

use super::lanes::{Lanes, V};
use fearless_simd::{Select, Simd, SimdBase, SimdFloat, u16x16, u32x16};
use half::{bf16, f16};

#[inline(always)]
fn load_bits<S: Simd>(simd: S, from: &[u16]) -> u32x16<S> {
    let (low, high) = simd.widen_u16x16(u16x16::from_slice(simd, from));
    simd.combine_u32x8(low, high)
}

#[inline(always)]
fn store_bits<S: Simd>(simd: S, bits: u32x16<S>, to: &mut [u16]) {
    let (low, high) = simd.split_u32x16(bits);
    simd.narrow_u32x8(low, high).store_slice(to);
}

impl Lanes for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[bf16]) -> V<S> {
        V::from_bits(load_bits(simd, bytemuck::cast_slice(from)) << 16)
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, value: V<S>, to: &mut [bf16]) {
        let bits = value.to_bits();
        let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        let nan = bits >> 16 | 0x40;
        store_bits(simd, value.is_nan().select(nan, rounded), bytemuck::cast_slice_mut(to));
    }
}

impl Lanes for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[f16]) -> V<S> {
        let bits = load_bits(simd, bytemuck::cast_slice(from));
        let magnitude = bits & 0x7fff;
        // Exact for subnormals too: a multiplication renormalises them.
        let finite = (V::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
        let special = magnitude << 13 | 0x7f80_0000;
        let value = magnitude.simd_ge(0x7c00).select(special, finite);
        V::from_bits(value | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, value: V<S>, to: &mut [f16]) {
        let bits = value.to_bits();
        let magnitude = bits & 0x7fff_ffff;
        // Normal: the exponent's bias changes from 127 to 15, and a carry out of the rounding is right.
        let normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112 << 23)) >> 13;
        // Subnormal: adding 1/2 lets the adder round at the last place of the result.
        let subnormal = (V::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits();
        let infinity = u32x16::splat(simd, 0x7c00);
        let nan = u32x16::splat(simd, 0x7e00);
        let large = magnitude.simd_gt(0x7f80_0000).select(nan, infinity);
        let small = magnitude.simd_lt(0x3880_0000).select(subnormal, normal);
        let half = magnitude.simd_ge(0x4780_0000).select(large, small);
        store_bits(simd, half | (bits >> 16 & 0x8000), bytemuck::cast_slice_mut(to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;
    use fearless_simd::{Level, dispatch};

    fn check<T: Element + PartialEq + std::fmt::Debug>(bits: impl Fn(T) -> u16, of: impl Fn(u16) -> T) {
        let level = Level::new();
        for start in (0..=u16::MAX).step_by(16) {
            let halves: Vec<T> = (0..16).map(|i| of(start + i)).collect();
            let mut floats = [0f32; 16];
            dispatch!(level, simd => T::load(simd, &halves).store_slice(&mut floats));
            for (&h, f) in halves.iter().zip(floats) {
                assert!(h.to_f32().to_bits() == f.to_bits() || (h.to_f32().is_nan() && f.is_nan()), "{h:?} {f}");
            }
        }
        // Every upper half, with lower halves on both sides of every tie.
        for high in 0..=u16::MAX {
            let low = [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001];
            let values: [f32; 16] =
                std::array::from_fn(|i| f32::from_bits(u32::from(high) << 16 | low.get(i).unwrap_or(&0xffff)));
            let mut halves = [T::from_f32(0.0); 16];
            dispatch!(level, simd => T::store(simd, V::from_slice(simd, &values), &mut halves));
            for (v, h) in values.into_iter().zip(halves) {
                let expected = T::from_f32(v);
                assert!(
                    bits(expected) == bits(h) || (expected.to_f32().is_nan() && h.to_f32().is_nan()),
                    "{v} {h:?} {expected:?}"
                );
            }
        }
    }

    #[test]
    fn conversions_are_those_of_the_half_crate() {
        check(half::f16::to_bits, half::f16::from_bits);
        check(half::bf16::to_bits, half::bf16::from_bits);
    }
}
