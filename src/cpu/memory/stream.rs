//! Rows that go around the caches.

use super::nontemporal::{stream_quads, stream_span, stream_whole};
use super::prefetch::Prefetch;
use super::sink::{Store, Values};
use super::store_policy::StorePolicy;
use crate::cpu::simd::lanes::{LANE, LANES, Number, STRIDE, Span, TURNS, V, for_spans, unrolled};
use fearless_simd::{Select, Simd, SimdBase};
use std::mem;

/// A row that is written around the caches. It begins at a multiple of `QUAD` bytes and is a multiple of it long.
pub(crate) struct Stream<'a, T = f32> {
    to: &'a mut [T],
    prefetch: Prefetch,
}

impl<'a, T> Stream<'a, T> {
    /// # Safety
    ///
    /// What the struct says of the row.
    #[inline(always)]
    pub unsafe fn new(to: &'a mut [T], prefetch: Prefetch) -> Self {
        Stream { to, prefetch }
    }

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

/// A row that is written around the caches line by line, each beside a span of another row as long, in the order of
/// memory: what ends within a line is then joined by what begins there.
pub(crate) struct ByLines<'a, S, F> {
    simd: S,
    row: Lined<'a>,
    values: F,
    of_strides: F,
}

impl<'a, S: Simd, F: Values<S>> ByLines<'a, S, F> {
    /// What is before the first line is written at once.
    #[inline(always)]
    pub fn new(simd: S, row: Stream<'a>, values: F) -> Self {
        let mut row = Lined::new(row);
        row.head(simd, values);
        let of_strides = values.part(row.head.len(), row.lines.len() / TURNS * STRIDE);
        ByLines { simd, row, values, of_strides }
    }

    /// Writes a line beside a span of a stride, if the row has it, and all that is behind strides beside any other.
    #[inline(always)]
    pub fn beside(&mut self, span: Span) {
        let ByLines { simd, row, values, of_strides } = self;
        let (strides, rest) = row.lines.as_chunks_mut::<TURNS>();
        let in_strides = strides.len() * STRIDE;
        if let Span::InTurn(i, turn) = span {
            if let Some(lines) = strides.get_mut(i) {
                stream_whole::<S, f32>(*simd, of_strides.at(*simd, span), &mut lines[turn]);
            }
            return;
        }
        let of_rest = values.part(row.head.len() + in_strides, rest.len() * LANES);
        for (i, line) in rest.iter_mut().enumerate() {
            stream_whole::<S, f32>(*simd, of_rest.at(*simd, Span::Whole(i)), line);
        }
        row.tail(*simd, *values);
    }

    /// Writes a stride, and all that is behind strides as if it were one more; what is beyond does nothing.
    #[inline(always)]
    pub fn stride(&mut self, i: usize) {
        if i == self.row.len / STRIDE {
            return self.beside(Span::Whole(i * TURNS));
        }
        for turn in 0..TURNS {
            self.beside(Span::InTurn(i, turn));
        }
    }
}

impl<T: Number> Stream<'_, T> {
    /// Writes rows of `width` elements, at least as many as a line has, that follow each other: `next` has what belongs to
    /// the next row's elements. A line in which a row ends is made of both rows.
    #[inline(always)]
    pub fn write_rows<S: Simd, F: Values<S>>(
        self,
        simd: S,
        (rows, width): (usize, usize),
        mut next: impl FnMut() -> F,
    ) {
        debug_assert!(width >= LANES, "a line of three rows");
        let prefetch = self.prefetch;
        let mut run = Lined::new(self.of_len(rows * width));
        let (head, lines) = (run.head.len(), run.lines.len());
        let mut of_row = next();
        run.head(simd, of_row);
        let mut first = 0;
        for end in (width..=rows * width).step_by(width) {
            let last = ((end - head) / LANES).clamp(first, lines);
            let of_lines = of_row.part(head + first * LANES, (last - first) * LANES);
            write_lines::<S, T>(simd, &mut run.lines[first..last], of_lines, prefetch.vector(first));
            first = last;
            if end == rows * width {
                break;
            }
            let before = mem::replace(&mut of_row, next());
            let at = head + first * LANES;
            if at < end && first < lines {
                let span = Span::Part { at, len: LANES };
                let is_before = V::from_slice(simd, &LANE).simd_lt((end - at) as f32);
                let both = is_before.select(before.at(simd, span), of_row.at(simd, span));
                prefetch.ask(first);
                stream_whole::<S, T>(simd, both, &mut run.lines[first]);
                first += 1;
            }
        }
        run.tail(simd, of_row);
    }
}

/// Lines of a row, in strides where nothing is asked for.
#[inline(always)]
fn write_lines<S: Simd, T: Number>(simd: S, lines: &mut [T::Whole], values: impl Values<S>, prefetch: Prefetch) {
    if !prefetch.is_nothing() {
        for (i, line) in lines.iter_mut().enumerate() {
            prefetch.ask(i);
            stream_whole::<S, T>(simd, values.at(simd, Span::Whole(i)), line);
        }
        return;
    }
    let (strides, rest) = lines.as_chunks_mut::<TURNS>();
    let in_strides = strides.len() * STRIDE;
    let (of_strides, of_rest) = (values.part(0, in_strides), values.part(in_strides, rest.len() * LANES));
    for (i, lines) in strides.iter_mut().enumerate() {
        unrolled!(TURNS, turn => {
            stream_whole::<S, T>(simd, of_strides.at(simd, Span::InTurn(i, turn)), &mut lines[turn]);
        });
    }
    for (i, line) in rest.iter_mut().enumerate() {
        stream_whole::<S, T>(simd, of_rest.at(simd, Span::Whole(i)), line);
    }
}

impl<T: Number> Store for Stream<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        // SAFETY: as the struct says, the row begins at a multiple of `QUAD` bytes, and is one long.
        unsafe { stream_span(self.to, span, &T::of_vector(value), self.prefetch) };
    }

    #[inline(always)]
    fn write<S: Simd>(self, simd: S, len: usize, values: impl Values<S>) {
        let prefetch = self.prefetch;
        let mut row = Lined::new(self.of_len(len));
        row.head(simd, values);
        let of_lines = values.part(row.head.len(), row.lines.len() * LANES);
        write_lines::<S, T>(simd, row.lines, of_lines, prefetch);
        row.tail(simd, values);
    }
}

/// A row of halves, which may go around the caches.
pub(crate) enum Half<'a, T> {
    Plain(&'a mut [T]),
    Stream(Stream<'a, T>),
}

impl<'a, T: Number> Half<'a, T> {
    #[inline(always)]
    pub fn new(to: &'a mut [u8], policy: StorePolicy, prefetch: Prefetch) -> Self {
        let is_around = policy.is_around(to);
        let to = bytemuck::cast_slice_mut(to);
        // SAFETY: that is what `is_around` says.
        if is_around { Half::Stream(unsafe { Stream::new(to, prefetch) }) } else { Half::Plain(to) }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        match self {
            Half::Plain(to) => to.len(),
            Half::Stream(to) => to.len(),
        }
    }

    #[inline(always)]
    pub fn of_len(self, len: usize) -> Self {
        match self {
            Half::Plain(to) => Half::Plain(&mut to[..len]),
            Half::Stream(to) => Half::Stream(to.of_len(len)),
        }
    }
}

impl<T: Number> Store for Half<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, span: Span, value: V<S>) {
        match self {
            Half::Plain(to) => span.put(&T::of_vector(value), to),
            Half::Stream(to) => to.store(span, value),
        }
    }

    #[inline(always)]
    fn write<S: Simd>(self, simd: S, len: usize, values: impl Values<S>) {
        match self {
            Half::Plain(to) => {
                let (to, values) = (&mut to[..len], values.part(0, len));
                for_spans!(len, span => { span.put(&T::of_vector(values.at(simd, span)), to); });
            }
            Half::Stream(to) => to.write(simd, len, values),
        }
    }
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
