//! Writing around the caches, and asking for memory before it is needed.

use super::lanes::{LANES, Span, V};
use fearless_simd::{Simd, SimdBase};

/// Memory that will be read next. Asking for a line of it with each line that is written keeps memory busy in both
/// directions.
pub(crate) type Ahead<'a> = [&'a [u8]; 2];

/// A row that is written, span by span.
pub(crate) enum Sink<'a> {
    Plain(&'a mut [f32]),
    Stream(Stream<'a>),
}

impl<'a> Sink<'a> {
    /// Around the caches, if the row begins at a multiple of sixteen bytes.
    #[inline(always)]
    pub fn around(to: &'a mut [f32], ahead: Ahead<'a>) -> Sink<'a> {
        if is_aligned(to.as_ptr()) { Sink::Stream(Stream { to, ahead }) } else { Sink::Plain(to) }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        match self {
            Sink::Plain(to) => to.len(),
            Sink::Stream(Stream { to, .. }) => to.len(),
        }
    }
}

/// Runs a block that stores a row of so many elements, with the row in the form that it has. Not a function that takes a
/// closure, which would have to be generic.
macro_rules! with_sink {
    ($to:ident, $len:expr => $body:expr) => {
        match $to {
            Sink::Plain(to) => {
                // The compiler needs to see that all slices have one length.
                let mut $to = &mut to[..$len];
                $body
            }
            Sink::Stream(stream) => {
                let mut $to = stream.of_len($len);
                $body
            }
        }
    };
}
pub(crate) use with_sink;

/// Where spans of a row go.
pub(crate) trait Store {
    fn store<S: Simd>(&mut self, span: Span, value: V<S>);
}

impl Store for &mut [f32] {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        span.store(value, self);
    }
}

/// How what is written gets to memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// Through the caches, as it may soon be read.
    Cached,
    /// Around them, so that it is not read first; an area at a time by way of a buffer that the caches hold.
    Staged,
    /// Around them, number by number.
    Direct,
}

impl Way {
    /// Around the caches. Processors tell a load from the stores that are still on their way by the last twelve bits
    /// of their addresses: results that lie just behind what is read, page by page, have to go by a buffer.
    pub fn around<'a>(to: &[u8], mut from: impl Iterator<Item = &'a [u8]>) -> Way {
        const PAGE: usize = 4096;
        const PENDING: usize = 1024;
        let behind = |from: &[u8]| (to.as_ptr() as usize).wrapping_sub(from.as_ptr() as usize) % PAGE;
        let possible = is_aligned(to.as_ptr()) && cfg!(all(target_arch = "x86_64", not(miri)));
        if possible && from.all(|from| !(1..PENDING).contains(&behind(from))) { Way::Direct } else { Way::Staged }
    }
}

/// Numbers that are stored together.
const QUAD: usize = 4;

#[inline(always)]
fn is_aligned<T>(to: *const T) -> bool {
    (to as usize).is_multiple_of(size_of::<[f32; QUAD]>())
}

/// A row of whole spans that is written around the caches. With each line of it, one is asked for.
pub(crate) struct Stream<'a> {
    to: &'a mut [f32],
    ahead: Ahead<'a>,
}

impl<'a> Stream<'a> {
    #[inline(always)]
    pub fn of_len(self, len: usize) -> Stream<'a> {
        Stream { to: &mut self.to[..len], ..self }
    }
}

impl Store for Stream<'_> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        let Span::Whole(i) = span else { return span.store(value, self.to) };
        self.ahead.into_iter().filter_map(|bytes| bytes.get(64 * i..)).for_each(prefetch_line);
        let to = &mut self.to.as_chunks_mut::<LANES>().0[i];
        for (to, values) in to.as_chunks_mut::<QUAD>().0.iter_mut().zip(value.as_array().as_chunks::<QUAD>().0) {
            store_quad(to, values);
        }
    }
}

/// Stores four numbers at a multiple of sixteen bytes, as [`Sink::around`] has made sure.
#[inline(always)]
fn store_quad(to: &mut [f32; QUAD], values: &[f32; QUAD]) {
    debug_assert!(is_aligned(to));
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
        // SAFETY: both have four elements, and `to` is aligned. (Every x86-64 has SSE.)
        unsafe { _mm_stream_ps(to.as_mut_ptr(), _mm_loadu_ps(values.as_ptr())) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        *to = *values;
    }
}

/// Writes around the caches: what is written is not read first, which plain stores do.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) fn stream(from: &[u8], to: &mut [u8], ahead: Ahead) {
    // Up to where a cache line begins, and what is left over at the end.
    let head = to.as_ptr().align_offset(64).min(to.len());
    let (first, to) = to.split_at_mut(head);
    let (from_first, from) = from.split_at(head);
    first.copy_from_slice(from_first);
    let (lines, rest) = to.as_chunks_mut();
    let (from_lines, from_rest) = from.as_chunks();
    if is_x86_feature_detected!("avx") {
        // SAFETY: AVX is there; lines begin at multiples of 64 bytes.
        unsafe { stream_lines_avx(from_lines, lines, ahead) };
    } else {
        // SAFETY: lines begin at multiples of 64 bytes.
        unsafe { stream_lines(from_lines, lines, ahead) };
    }
    rest.copy_from_slice(from_rest);
}

/// # Safety
///
/// `lines` is aligned to 32 bytes, and the machine has AVX.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx")]
unsafe fn stream_lines_avx(from: &[[u8; 64]], lines: &mut [[u8; 64]], ahead: Ahead) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm256_stream_si256};
    for (i, (line, from)) in lines.iter_mut().zip(from).enumerate() {
        ahead.into_iter().filter_map(|bytes| bytes.get(64 * i..)).for_each(prefetch_line);
        for i in [0, 32] {
            let (from, to) = (from[i..].as_ptr(), line[i..].as_mut_ptr());
            // SAFETY: 32 bytes are left in both, and `line` is aligned, as the caller promises.
            unsafe { _mm256_stream_si256(to.cast(), _mm256_loadu_si256(from.cast())) };
        }
    }
}

/// # Safety
///
/// `lines` is aligned to 16 bytes. (Every x86-64 has SSE.)
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn stream_lines(from: &[[u8; 64]], lines: &mut [[u8; 64]], ahead: Ahead) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
    for (i, (line, from)) in lines.iter_mut().zip(from).enumerate() {
        ahead.into_iter().filter_map(|bytes| bytes.get(64 * i..)).for_each(prefetch_line);
        for i in [0, 16, 32, 48] {
            let (from, to) = (from[i..].as_ptr(), line[i..].as_mut_ptr());
            // SAFETY: 16 bytes are left in both, and `line` is aligned, as the caller promises.
            unsafe { _mm_stream_si128(to.cast(), _mm_loadu_si128(from.cast())) };
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
pub(super) fn stream(from: &[u8], to: &mut [u8], _: Ahead) {
    to.copy_from_slice(from);
}

/// Asks for memory that will be read soon.
#[inline(always)]
pub(super) fn prefetch(bytes: &[u8]) {
    bytes.chunks(64).for_each(prefetch_line);
}

/// Asks for the cache line where a slice begins.
#[inline(always)]
fn prefetch_line(bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: asking for an address does not fault, whatever it is.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = bytes;
}

/// Makes streamed stores visible to other threads: at the end of each task.
#[inline(always)]
pub(crate) fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE is there on every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}
