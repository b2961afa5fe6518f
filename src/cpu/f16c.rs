//! binary16 by the conversions that x86 processors have had since 2012: the same bits as the integer arithmetic of
//! `half`, in a fifth of the instructions.

use std::arch::x86_64::{
    _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_loadu_ps,
    _mm256_storeu_ps,
};

fn available() -> bool {
    !cfg!(miri) && is_x86_feature_detected!("avx") && is_x86_feature_detected!("f16c")
}

/// Widens all elements, if the processor can.
pub(super) fn widen(from: &[u16], to: &mut [f32]) -> bool {
    let available = available();
    if available {
        // SAFETY: the processor has the instructions.
        unsafe { widen_all(from, to) };
    }
    available
}

/// Rounds all elements to nearest even, if the processor can.
pub(super) fn narrow(from: &[f32], to: &mut [u16]) -> bool {
    let available = available();
    if available {
        // SAFETY: the processor has the instructions.
        unsafe { narrow_all(from, to) };
    }
    available
}

#[target_feature(enable = "avx,f16c")]
fn widen_all(from: &[u16], to: &mut [f32]) {
    let (from, from_rest) = from.as_chunks::<8>();
    let (to, to_rest) = to.as_chunks_mut::<8>();
    let widen = |from: &[u16; 8], to: &mut [f32; 8]| {
        // SAFETY: both have eight elements.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) }
    };
    for (from, to) in from.iter().zip(to) {
        widen(from, to);
    }
    let (mut padded, mut converted) = ([0; 8], [0.0; 8]);
    padded[..from_rest.len()].copy_from_slice(from_rest);
    widen(&padded, &mut converted);
    to_rest.copy_from_slice(&converted[..to_rest.len()]);
}

#[target_feature(enable = "avx,f16c")]
fn narrow_all(from: &[f32], to: &mut [u16]) {
    let (from, from_rest) = from.as_chunks::<8>();
    let (to, to_rest) = to.as_chunks_mut::<8>();
    let narrow = |from: &[f32; 8], to: &mut [u16; 8]| {
        // SAFETY: both have eight elements.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()));
            _mm_storeu_si128(to.as_mut_ptr().cast(), halves);
        }
    };
    for (from, to) in from.iter().zip(to) {
        narrow(from, to);
    }
    let (mut padded, mut converted) = ([0.0; 8], [0; 8]);
    padded[..from_rest.len()].copy_from_slice(from_rest);
    narrow(&padded, &mut converted);
    to_rest.copy_from_slice(&converted[..to_rest.len()]);
}
