//! bfloat16 by the conversion that some x86 processors have (AVX512_BF16): the same bits as integer arithmetic, in a
//! quarter of the instructions.

use super::lanes::LANES;
use fearless_simd::Avx512;
use std::arch::asm;
use std::arch::x86_64::{__m256i, __m512, _mm512_fpclass_ps_mask};

/// Sixteen numbers, rounded to nearest even. None where the processor does not have the conversion, or where it would
/// round to 0 what is not 0: subnormal numbers.
#[inline(always)]
pub(super) fn narrow(_: Avx512, from: &[f32; LANES]) -> Option<[u16; LANES]> {
    /// As assembly, since a function that needs a feature beyond those of its caller would not be inlined.
    ///
    /// # Safety
    ///
    /// The processor has AVX512_BF16.
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn narrow(from: &[f32; LANES]) -> Option<[u16; LANES]> {
        const SUBNORMAL: i32 = 0x20;
        let from: __m512 = bytemuck::pod_read_unaligned(bytemuck::bytes_of(from));
        if _mm512_fpclass_ps_mask::<SUBNORMAL>(from) != 0 {
            return None;
        }
        let to: __m256i;
        // SAFETY: the processor has the instruction, as the caller promised; it reads and writes registers alone.
        unsafe {
            asm!("vcvtneps2bf16 {to:y}, {from:z}", to = lateout(ymm_reg) to, from = in(zmm_reg) from,
                options(pure, nomem, nostack, preserves_flags));
        }
        Some(bytemuck::cast(to))
    }
    if !is_x86_feature_detected!("avx512bf16") {
        return None;
    }
    // SAFETY: it has AVX512_BF16, and the level means that it has the other instructions.
    unsafe { narrow(from) }
}
