//! Stores that go around the caches: what is written is not read first, which plain stores do.

use super::prefetch::{LINE, Prefetch};
use crate::cpu::simd::lanes::{LANES, Number, Span, V};
use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

/// Bytes that are stored together: what every x86-64 can.
pub(in crate::cpu) const QUAD: usize = 16;

/// To [`QUAD`] bytes.
#[inline(always)]
pub(super) fn is_aligned<T>(to: *const T) -> bool {
    (to as usize).is_multiple_of(QUAD)
}

/// Sixteen numbers that are stored together: a cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; LANES]);

/// Sixteen halves: half a line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(32))]
pub(crate) struct HalfLine([u16; LANES]);

/// Copies around the caches.
#[inline(always)]
pub(super) fn stream<S: Simd>(simd: S, from: &[u8], to: &mut [u8], prefetch: Prefetch) {
    // A line that is partly written through the caches would be read first, so that is what the fewest bytes do.
    let head = to.as_ptr().align_offset(QUAD).min(to.len());
    let (first, to) = to.split_at_mut(head);
    let (from_first, from) = from.split_at(head);
    first.copy_from_slice(from_first);
    let (to, last) = to.split_at_mut(to.len() / QUAD * QUAD);
    let (from, from_last) = from.split_at(to.len());
    last.copy_from_slice(from_last);
    let (first, lines, last) = bytemuck::pod_align_to_mut::<u8, Line>(to);
    let (from_first, from) = from.split_at(first.len());
    let (from, from_last) = from.as_chunks::<LINE>();
    // SAFETY: what is left, if anything, begins at a multiple of `QUAD`, and lines are multiples of it long.
    unsafe { stream_quads(from_first, first) };
    for (i, (to, from)) in lines.iter_mut().zip(from).enumerate() {
        prefetch.ask_line(i);
        stream_bytes(simd, from, to);
    }
    // SAFETY: as above.
    unsafe { stream_quads(from_last, last) };
}

/// Writes a span of a row.
///
/// # Safety
///
/// `to` begins at a multiple of [`QUAD`] bytes, and is a multiple of it long.
#[inline(always)]
pub(super) unsafe fn stream_span<T: Pod>(to: &mut [T], span: Span, value: &[T; LANES], prefetch: Prefetch) {
    if let Span::Part { at, len } = span {
        debug_assert_eq!(at + len, to.len(), "a part is the last of its row");
        // The last numbers of the row alone: those before have been written. A short row has no others.
        let rest = to.as_chunks_mut::<LANES>().1;
        let last = &value[len - rest.len()..len];
        // SAFETY: vectors are multiples of `QUAD` bytes, so what is behind them is aligned, too.
        return unsafe { stream_quads(bytemuck::cast_slice(last), bytemuck::cast_slice_mut(rest)) };
    }
    prefetch.ask(span.index());
    if let Ok(to) = span.of_mut(to) {
        // SAFETY: as above.
        unsafe { stream_quads(bytemuck::bytes_of(value), bytemuck::bytes_of_mut(to)) };
    }
}

/// Writes sixteen elements around the caches.
#[inline(always)]
pub(super) fn stream_whole<S: Simd, T: Number>(simd: S, value: V<S>, to: &mut T::Whole) {
    stream_bytes(simd, bytemuck::bytes_of(&T::of_vector(value)), to);
}

/// Writes the bytes of a line, or of half of one, around the caches, with as few instructions as there are.
#[inline(always)]
fn stream_bytes<S: Simd, W: Pod>(simd: S, from: &[u8], to: &mut W) {
    const { assert!(align_of::<W>() == size_of::<W>() && size_of::<W>().is_multiple_of(32)) };
    let to = bytemuck::bytes_of_mut(to);
    debug_assert_eq!(from.len(), to.len());
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm256_stream_si256, _mm512_loadu_si512, _mm512_stream_si512};
        #[target_feature(enable = "avx512f")]
        unsafe fn line(from: &[u8; LINE], to: &mut [u8; LINE]) {
            // SAFETY: 64 bytes each, and `to` is aligned, as the caller promises.
            unsafe { _mm512_stream_si512(to.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast())) };
        }
        #[target_feature(enable = "avx")]
        unsafe fn halves(from: &[u8], to: &mut [u8]) {
            for (to, from) in to.as_chunks_mut::<32>().0.iter_mut().zip(from.as_chunks::<32>().0) {
                // SAFETY: 32 bytes each, and `to` is aligned, as the caller promises.
                unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), _mm256_loadu_si256(from.as_ptr().cast())) };
            }
        }
        let level = simd.level();
        // SAFETY: the level means that the processor has the instructions; `W` is aligned to its size.
        unsafe {
            if let (true, [from], [to]) = (level.as_avx512().is_some(), from.as_chunks().0, to.as_chunks_mut().0) {
                return line(from, to);
            }
            if level.as_avx2().is_some() {
                return halves(from, to);
            }
        }
    }
    let _ = simd;
    // SAFETY: `W` begins at a multiple of its size, which is one of `QUAD`.
    unsafe { stream_quads(from, to) };
}

/// Writes a multiple of [`QUAD`] bytes.
///
/// # Safety
///
/// `to` begins at a multiple of [`QUAD`] bytes, or is empty.
#[inline(always)]
pub(super) unsafe fn stream_quads(from: &[u8], to: &mut [u8]) {
    debug_assert!(to.is_empty() || is_aligned(to.as_ptr()) && to.len().is_multiple_of(QUAD));
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for (to, from) in to.as_chunks_mut::<QUAD>().0.iter_mut().zip(from.as_chunks::<QUAD>().0) {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
        // SAFETY: sixteen bytes each, and `to` is aligned, as the caller promises. (Every x86-64 has SSE2.)
        unsafe { _mm_stream_si128(to.as_mut_ptr().cast(), _mm_loadu_si128(from.as_ptr().cast())) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    to.copy_from_slice(from);
}

/// Makes streamed stores visible to other threads: at the end of each task.
#[inline(always)]
pub(in crate::cpu) fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE is there on every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}
