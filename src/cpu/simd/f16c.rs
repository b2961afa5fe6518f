//! binary16 by the conversions that x86 processors have had since 2012 (F16C): the same bits as the integer arithmetic of
//! `half`, in a fifth of the instructions.

use super::lanes::LANES;
use fearless_simd::{Avx2, Avx512};
use std::arch::x86_64::{
    __m128i, __m256, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm512_cvtps_ph,
};

/// Sixteen halves as `f32`.
#[inline(always)]
pub(super) fn widen(_: Avx2, from: &[u16; LANES]) -> [f32; LANES] {
    #[target_feature(enable = "avx,f16c")]
    fn widen(from: &[u16; LANES]) -> [f32; LANES] {
        let halves: [__m128i; 2] = bytemuck::pod_read_unaligned(bytemuck::cast_slice(from));
        let wide: [__m256; 2] = [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])];
        bytemuck::cast(wide)
    }
    // SAFETY: the level means that the processor has the instructions.
    unsafe { widen(from) }
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// Sixteen halves, rounded to nearest even.
#[inline(always)]
pub(super) fn narrow(_: Avx2, from: &[f32; LANES]) -> [u16; LANES] {
    #[target_feature(enable = "avx,f16c")]
    fn narrow(from: &[f32; LANES]) -> [u16; LANES] {
        let wide: [__m256; 2] = bytemuck::pod_read_unaligned(bytemuck::cast_slice(from));
        let halves: [__m128i; 2] = [_mm256_cvtps_ph::<NEAREST>(wide[0]), _mm256_cvtps_ph::<NEAREST>(wide[1])];
        bytemuck::cast(halves)
    }
    // SAFETY: the level means that the processor has the instructions.
    unsafe { narrow(from) }
}

/// The same at once.
#[inline(always)]
pub(super) fn narrow_at_once(_: Avx512, from: &[f32; LANES]) -> [u16; LANES] {
    #[target_feature(enable = "avx512f")]
    fn narrow(from: &[f32; LANES]) -> [u16; LANES] {
        bytemuck::cast(_mm512_cvtps_ph::<NEAREST>(bytemuck::pod_read_unaligned(bytemuck::bytes_of(from))))
    }
    // SAFETY: the level means that the processor has the instruction.
    unsafe { narrow(from) }
}
