//! Where rows are written, and how: through the caches or around them.

use super::ahead::{Ahead, LINE};
use super::lanes::{LANES, Number, STRIDE, Span, TURNS, V, for_spans};
use crate::tensor::DType;
use bytemuck::{Pod, Zeroable};
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
    /// Memory of an element type. It goes around the caches, if it is to and begins and ends at multiples of [`QUAD`]
    /// bytes.
    #[inline(always)]
    pub fn new(dtype: DType, to: &'a mut [u8], way: Way, ahead: Ahead) -> Sink<'a> {
        match dtype {
            DType::F32 if way.is_around(to) => Sink::Stream(Stream { to: bytemuck::cast_slice_mut(to), ahead }),
            DType::F32 => Sink::Plain(bytemuck::cast_slice_mut(to)),
            DType::F16 => Sink::F16(Half::new(to, way, ahead)),
            DType::BF16 => Sink::Bf16(Half::new(to, way, ahead)),
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
/// each, for loops that have to be fast. Not a function that takes a closure, which would have to be generic.
macro_rules! with_sink {
    ($to:ident, $len:expr => $body:expr) => {
        match $to {
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

/// How what is written gets to memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// Through the caches, as it may soon be read.
    Cached,
    /// Around them, so that it is not read first: from registers where rows begin and end at multiples of [`QUAD`]
    /// bytes, otherwise an area at a time by way of a buffer that the caches hold.
    Around,
}

impl Way {
    /// For what the caches could not hold: around them, where there are instructions for it.
    pub const LARGE: Way = if cfg!(target_arch = "x86_64") { Way::Around } else { Way::Cached };

    /// Whether a row goes around the caches from registers.
    #[inline(always)]
    fn is_around(self, row: &[u8]) -> bool {
        self == Way::Around && is_aligned(row.as_ptr()) && row.len().is_multiple_of(QUAD)
    }
}

#[inline(always)]
pub(super) fn is_aligned<T>(to: *const T) -> bool {
    (to as usize).is_multiple_of(QUAD)
}

/// A row that is written around the caches. It begins at a multiple of [`QUAD`] bytes and is a multiple of it long.
pub(crate) struct Stream<'a, T = f32> {
    to: &'a mut [T],
    ahead: Ahead,
}

impl<T> Stream<'_, T> {
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.to.len()
    }

    #[inline(always)]
    pub fn of_len(self, len: usize) -> Self {
        debug_assert_eq!(len, self.len(), "rows that go around the caches are written whole");
        Stream { to: &mut self.to[..len], ..self }
    }
}

/// Sixteen numbers that are stored together: a cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; LANES]);

/// Sixteen halves: half a line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(32))]
pub(crate) struct HalfLine([u16; LANES]);

/// A row that goes around the caches: what is before its first line and behind its last, and its lines.
struct Lined<'a, T: Number = f32> {
    head: &'a mut [T],
    lines: &'a mut [T::Whole],
    tail: &'a mut [T],
    len: usize,
}

impl<'a, T: Number> Lined<'a, T> {
    #[inline(always)]
    fn new(row: Stream<'a, T>) -> Self {
        let len = row.len();
        let (head, lines, tail) = bytemuck::pod_align_to_mut(row.to);
        Lined { head, lines, tail, len }
    }

    /// Writes what is before the first line.
    #[inline(always)]
    fn head<S: Simd>(&mut self, simd: S, values: impl Values<S>) {
        if !self.head.is_empty() {
            let first = T::of_vector(values.part(0, self.len).at(simd, Span::at(0, self.len)));
            let (from, to) = (&first[..self.head.len()], &mut *self.head);
            // SAFETY: the row begins at a multiple of `QUAD` bytes and is a multiple of it long, and so are its ends.
            unsafe { stream_quads(bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to)) };
        }
    }

    /// Writes what is behind the last line.
    #[inline(always)]
    fn tail<S: Simd>(&mut self, simd: S, values: impl Values<S>) {
        if !self.tail.is_empty() {
            let last = T::of_vector(values.part(0, self.len).at(simd, Span::last(self.len)));
            let end = self.len.min(LANES);
            let (from, to) = (&last[end - self.tail.len()..end], &mut *self.tail);
            // SAFETY: as above.
            unsafe { stream_quads(bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to)) };
        }
    }
}

/// Writes a row around the caches, a stride at a time, in the order of memory: what ends within a line is then joined by
/// what begins there. It is called with the number of each stride that a row of this length has, and one more; what is beyond
/// does nothing.
#[inline(always)]
pub(crate) fn by_strides<S: Simd>(simd: S, row: Stream, values: impl Values<S>) -> impl FnMut(usize) {
    let mut row = Lined::new(row);
    row.head(simd, values);
    let whole = row.lines.len() / TURNS;
    let (from, in_strides) = (row.head.len(), whole * STRIDE);
    let of_strides = values.part(from, in_strides);
    #[inline(always)]
    move |i| {
        let (strides, rest) = row.lines.as_chunks_mut::<TURNS>();
        if let Some(lines) = strides.get_mut(i) {
            for (u, line) in lines.iter_mut().enumerate() {
                stream_whole::<S, f32>(simd, of_strides.at(simd, Span::InTurn(i, u)), line);
            }
        }
        if i != row.len / STRIDE {
            return;
        }
        let of_rest = values.part(from + in_strides, rest.len() * LANES);
        for (i, line) in rest.iter_mut().enumerate() {
            stream_whole::<S, f32>(simd, of_rest.at(simd, Span::Whole(i)), line);
        }
        row.tail(simd, values);
    }
}

impl<T: Number> Store for Stream<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        // SAFETY: as the struct says, the row begins at a multiple of `QUAD` bytes, and is one long.
        unsafe { stream_span(self.to, span, &T::of_vector(value), self.ahead) };
    }

    #[inline(always)]
    fn write<S: Simd>(self, simd: S, len: usize, values: impl Values<S>) {
        let ahead = self.ahead;
        let mut row = Lined::new(self.of_len(len));
        row.head(simd, values);
        let of_lines = values.part(row.head.len(), row.lines.len() * LANES);
        for (i, line) in row.lines.iter_mut().enumerate() {
            ahead.ask(i);
            stream_whole::<S, T>(simd, of_lines.at(simd, Span::Whole(i)), line);
        }
        row.tail(simd, values);
    }
}

/// A row of halves, which may go `around` the caches: see [`Stream`].
pub(crate) struct Half<'a, T> {
    row: Stream<'a, T>,
    around: bool,
}

impl<'a, T: Number> Half<'a, T> {
    #[inline(always)]
    pub fn new(to: &'a mut [u8], way: Way, ahead: Ahead) -> Self {
        let around = way.is_around(to);
        Half { row: Stream { to: bytemuck::cast_slice_mut(to), ahead }, around }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.row.len()
    }

    #[inline(always)]
    pub fn of_len(self, len: usize) -> Self {
        debug_assert!(!self.around || len == self.len(), "rows that go around the caches are written whole");
        let Stream { to, ahead } = self.row;
        Half { row: Stream { to: &mut to[..len], ahead }, ..self }
    }
}

impl<T: Number> Store for Half<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        if self.around {
            return self.row.store(span, value);
        }
        span.put(&T::of_vector(value), self.row.to);
    }

    #[inline(always)]
    fn write<S: Simd>(self, simd: S, len: usize, values: impl Values<S>) {
        if self.around {
            return self.row.write(simd, len, values);
        }
        let (to, values) = (&mut self.row.to[..len], values.part(0, len));
        for_spans!(len, span => { span.put(&T::of_vector(values.at(simd, span)), to); });
    }
}

/// Writes around the caches: what is written is not read first, which plain stores do.
pub(super) fn stream(from: &[u8], to: &mut [u8], ahead: Ahead) {
    // A line that is partly written through the caches would be read first, so that is what the fewest bytes do.
    let head = to.as_ptr().align_offset(QUAD).min(to.len());
    let (first, to) = to.split_at_mut(head);
    let (from_first, from) = from.split_at(head);
    first.copy_from_slice(from_first);
    let (to, last) = to.split_at_mut(to.len() / QUAD * QUAD);
    let (from, from_last) = from.split_at(to.len());
    for (i, (to, from)) in to.chunks_mut(LINE).zip(from.chunks(LINE)).enumerate() {
        ahead.ask_line(i);
        // SAFETY: lines are multiples of `QUAD`, and so is where the first one begins.
        unsafe { stream_quads(from, to) };
    }
    last.copy_from_slice(from_last);
}

/// Bytes that are stored together: what every x86-64 can.
pub(super) const QUAD: usize = 16;

/// Writes a span of a row.
///
/// # Safety
///
/// `to` begins at a multiple of [`QUAD`] bytes, and is a multiple of it long.
#[inline(always)]
unsafe fn stream_span<T: Pod>(to: &mut [T], span: Span, value: &[T; LANES], ahead: Ahead) {
    if let Span::Part { at, len } = span {
        debug_assert_eq!(at + len, to.len(), "a part is the last of its row");
        // The last numbers of the row alone: those before have been written. A short row has no others.
        let rest = to.as_chunks_mut::<LANES>().1;
        let last = &value[len - rest.len()..len];
        // SAFETY: vectors are multiples of `QUAD` bytes, so what is behind them is aligned, too.
        return unsafe { stream_quads(bytemuck::cast_slice(last), bytemuck::cast_slice_mut(rest)) };
    }
    ahead.ask(span.index());
    if let Ok(to) = span.of_mut(to) {
        // SAFETY: as above.
        unsafe { stream_quads(bytemuck::bytes_of(value), bytemuck::bytes_of_mut(to)) };
    }
}

/// Writes sixteen elements around the caches, with as few instructions as there are.
#[inline(always)]
fn stream_whole<S: Simd, T: Number>(simd: S, value: V<S>, to: &mut T::Whole) {
    const { assert!(align_of::<T::Whole>() == size_of::<[T; LANES]>() && size_of::<T::Whole>() % 32 == 0) };
    let value = T::of_vector(value);
    let (from, to) = (bytemuck::bytes_of(&value), bytemuck::bytes_of_mut(to));
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
        // SAFETY: the level means that the processor has the instructions; what is `Whole` is aligned to its size.
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
    // SAFETY: what is `Whole` begins at a multiple of its size, which is one of `QUAD`.
    unsafe { stream_quads(from, to) };
}

/// Writes a multiple of [`QUAD`] bytes.
///
/// # Safety
///
/// `to` begins at a multiple of [`QUAD`] bytes.
#[inline(always)]
unsafe fn stream_quads(from: &[u8], to: &mut [u8]) {
    debug_assert!(is_aligned(to.as_ptr()) && to.len().is_multiple_of(QUAD));
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
pub(crate) fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE is there on every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}

#[cfg(test)]
mod tests {
    use crate::cpu::tests::{elements, noise};
    use crate::cpu::{Backward, Forward, Norm};
    use crate::*;

    /// Of large tensors results go around the caches, at once or by way of a buffer; of small ones they do not.
    #[test]
    fn large_tensors_get_the_bits_of_their_parts() {
        use Format::{ChannelsFirst as First, ChannelsLast as Last};
        // Rows shorter than a span, of whole spans or not; results as far into a page as what is read, just behind it,
        // far behind it, between lines, between sixteens of bytes.
        let rows = [(1, 0), (1, 260), (64, 0), (64, 4), (64, 260), (64, 1), (4112, 260), (49, 0), (100, 260), (225, 1)];
        check::<f32>(First, &rows);
        check::<f32>(Last, &[(1, 0), (64, 4), (49, 1)]);
        let rows = [(1, 0), (8, 0), (64, 0), (64, 8), (64, 4), (64, 520), (4112, 520), (49, 0), (56, 520), (100, 8)];
        check::<half::f16>(First, &rows);
        check::<half::bf16>(First, &rows[..4]);
        check::<half::bf16>(Last, &[(64, 8), (49, 1)]);
    }

    /// Widths of rows, and how far into its memory what is written begins.
    fn check<T: Element + PartialEq>(format: Format, rows: &[(usize, usize)]) {
        const CHANNELS: usize = 8;
        let numbers = |seed, len| elements::<f32>(noise(seed, len));
        let running = Running {
            running_mean: numbers(1, CHANNELS),
            running_var: vec![0.7; CHANNELS],
            tracked: vec![1; CHANNELS],
            skipped: vec![0; CHANNELS],
        };
        let state =
            State { weight: Some(numbers(2, CHANNELS)), bias: Some(numbers(3, CHANNELS)), running: Some(running) };
        let norm = Norm::with_state(BatchNormDescriptor::new(CHANNELS), state).unwrap();
        let pass = |shape: &[usize], x: &[T], dy: &[T], y: &mut [T], dx: &mut [T]| {
            let tensor = TensorDescriptor { dtype: T::DTYPE, format, ..TensorDescriptor::new(shape) };
            let saved = norm.forward_frozen::<T, T>(&tensor, Fusion::default(), Forward::new(x, y)).unwrap();
            norm.backward::<T, T>(saved, Backward { dx: Some(dx), ..Backward::new(x, dy) }).unwrap();
        };
        for &(width, offset) in rows {
            let sample = CHANNELS * width;
            // Input and output make up what goes around the caches; a part of them does not.
            let samples = ((16 << 20) / 2 / size_of::<T>()).div_ceil(sample).next_multiple_of(4);
            let len = samples * sample;
            let (x, dy) = (elements::<T>(noise(4, len)), elements::<T>(noise(5, len)));
            let [mut y, mut dx] = [(); 2].map(|()| vec![T::from_f32(f32::NAN); len + offset]);
            pass(&[samples, CHANNELS, width], &x, &dy, &mut y[offset..], &mut dx[offset..]);
            let [mut y_of_parts, mut dx_of_parts] = [(); 2].map(|()| vec![T::from_f32(f32::NAN); len]);
            for part in (0..len).step_by(len / 4).map(|at| at..at + len / 4) {
                let (y, dx) = (&mut y_of_parts[part.clone()], &mut dx_of_parts[part.clone()]);
                pass(&[samples / 4, CHANNELS, width], &x[part.clone()], &dy[part], y, dx);
            }
            assert!(
                y[offset..] == y_of_parts && dx[offset..] == dx_of_parts,
                "{format:?}, width {width}, offset {offset}"
            );
            assert!(
                y.iter().chain(&dx).filter(|v| v.to_f32().is_nan()).count() == 2 * offset,
                "{format:?}, width {width}, offset {offset}"
            );
        }
    }
}
