//! Where a row is written, in the form that it has, and what its elements are to be.

use super::prefetch::Prefetch;
use super::store_policy::StorePolicy;
use super::stream::{Half, Stream};
use crate::cpu::simd::lanes::{LANES, Span, V, for_spans};
use crate::tensor::DType;
use fearless_simd::Simd;
use half::{bf16, f16};

/// A row that is written, span by span.
pub(crate) enum Sink<'a> {
    Plain(&'a mut [f32]),
    Stream(Stream<'a>),
    F16(Half<'a, f16>),
    Bf16(Half<'a, bf16>),
}

impl<'a> Sink<'a> {
    /// Memory of an element type. It goes around the caches, if it is to and begins and ends at multiples of `QUAD` bytes.
    #[inline(always)]
    pub fn new(dtype: DType, to: &'a mut [u8], policy: StorePolicy, prefetch: Prefetch) -> Sink<'a> {
        match dtype {
            DType::F32 if policy.is_around(to) => {
                // SAFETY: that is what `is_around` says.
                Sink::Stream(unsafe { Stream::new(bytemuck::cast_slice_mut(to), prefetch) })
            }
            DType::F32 => Sink::Plain(bytemuck::cast_slice_mut(to)),
            DType::F16 => Sink::F16(Half::new(to, policy, prefetch)),
            DType::BF16 => Sink::Bf16(Half::new(to, policy, prefetch)),
        }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        match self {
            Sink::Plain(to) => to.len(),
            Sink::Stream(stream) => stream.len(),
            Sink::F16(half) => half.len(),
            Sink::Bf16(half) => half.len(),
        }
    }

    #[inline(always)]
    pub fn of_len(self, len: usize) -> Sink<'a> {
        match self {
            Sink::Plain(to) => Sink::Plain(&mut to[..len]),
            Sink::Stream(stream) => Sink::Stream(stream.of_len(len)),
            Sink::F16(half) => Sink::F16(half.of_len(len)),
            Sink::Bf16(half) => Sink::Bf16(half.of_len(len)),
        }
    }
}

/// Runs a block that stores a row of so many elements, with the row in the form that it has: a copy of the block for
/// each, for loops that have to be fast (see [`crate::cpu::exec::is_baseline`]). Not a function that takes a closure, which
/// would have to be generic.
macro_rules! with_sink {
    ($simd:ty, $to:ident, $len:expr => $body:expr) => {
        match $to {
            to if const { $crate::cpu::exec::is_baseline::<$simd>() } => {
                let $to = to.of_len($len);
                $body
            }
            Sink::Plain(to) => {
                // The compiler needs to see that all slices have one length.
                let $to = &mut to[..$len];
                $body
            }
            Sink::Stream(stream) => {
                let $to = stream.of_len($len);
                $body
            }
            Sink::F16(half) => {
                let $to = half.of_len($len);
                $body
            }
            Sink::Bf16(half) => {
                let $to = half.of_len($len);
                $body
            }
        }
    };
}
pub(crate) use with_sink;

/// What a row's elements are to be.
pub(crate) trait Values<S: Simd>: Copy {
    fn at(self, simd: S, span: Span) -> V<S>;

    /// Of elements `at..at + len` of the row.
    fn part(self, at: usize, len: usize) -> Self;
}

/// Where a row goes.
pub(crate) trait Store: Sized {
    fn store<S: Simd>(&mut self, span: Span, value: V<S>);

    /// The whole row, of so many elements.
    #[inline(always)]
    fn write<S: Simd>(mut self, simd: S, len: usize, values: impl Values<S>) {
        let values = values.part(0, len);
        for_spans!(len, span => { self.store(span, values.at(simd, span)); });
    }
}

/// One copy of a loop for all forms, which asks with each span which it is: for loops that are rarer.
impl Store for Sink<'_> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        match self {
            Sink::Plain(to) => to.store(span, value),
            Sink::Stream(to) => to.store(span, value),
            Sink::F16(to) => to.store(span, value),
            Sink::Bf16(to) => to.store(span, value),
        }
    }
}

impl Store for &mut [f32] {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        span.store(value, self);
    }
}
