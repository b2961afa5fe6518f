//! Tensors in memory, of any element type and pitch, as tiles of their own elements or of `f32`.

use super::ahead::{Ahead, Rest};
use super::grid::{Grid, Rows};
use super::half::{narrow, widen};
use super::lanes::{LANES, Number, STRIDE};
use super::stream::{Half, QUAD, Sink, Way, is_aligned, stream};
use super::strip;
use crate::tensor::DType;
use fearless_simd::Simd;
use std::marker::PhantomData;
use std::ops::Range;

/// Most elements of a tile.
pub(crate) const TILE: usize = 4096;

/// Room for a tile.
pub(crate) type Buffer = [f32; TILE];

/// Where tiles are put that do not lie in memory as they are needed.
pub(crate) struct Scratch {
    pub x: Buffer,
    pub residual: Buffer,
    pub dy: Buffer,
    pub dsum: Buffer,
    pub out: Buffer,
}

impl Scratch {
    pub fn new() -> Box<Scratch> {
        let empty = [0.0; TILE];
        Box::new(Scratch { x: empty, residual: empty, dy: empty, dsum: empty, out: empty })
    }
}

/// Elements `at..at + len` of `rows` rows.
#[derive(Clone, Copy)]
pub(crate) struct Area {
    pub first: usize,
    pub rows: usize,
    pub at: usize,
    pub len: usize,
}

impl Area {
    /// The same of rows that lie so many further on; none if that is not known (0).
    #[inline(always)]
    pub fn further(self, rows: usize) -> Option<Area> {
        (rows > 0).then_some(Area { first: self.first + rows, ..self })
    }

    /// The same elements as one row, where rows have no gaps between them.
    #[inline(always)]
    pub fn flat(self) -> Area {
        Area { rows: 1, len: self.rows * self.len, ..self }
    }
}

/// Rows of an area, if it has more than a part of one.
#[inline(always)]
pub(crate) fn rows_of_area(width: usize) -> usize {
    (TILE / width).max(1)
}

/// Areas of rows: several rows each, or a part of one.
#[inline(always)]
pub(crate) fn areas(width: usize, rows: Range<usize>) -> impl Iterator<Item = Area> {
    let (once, pieces) = (rows_of_area(width), width.div_ceil(TILE));
    let first = rows.start;
    (0..rows.len().div_ceil(once) * pieces).map(move |i| {
        let (first, at) = (first + i / pieces * once, i % pieces * TILE);
        Area { first, rows: once.min(rows.end - first), at, len: TILE.min(width - at) }
    })
}

/// An area's values.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a, T = f32> {
    values: &'a [T],
    pitch: usize,
    len: usize,
}

impl<'a, T> Tile<'a, T> {
    #[inline(always)]
    pub fn row(&self, k: usize) -> &'a [T] {
        &self.values[k * self.pitch..][..self.len]
    }
}

/// A tensor that is read.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub dtype: DType,
    pub bytes: &'a [u8],
    pub rows: Rows,
}

impl<'a> Input<'a> {
    /// An area in place, if the tensor has such elements and neighbours lie side by side.
    #[inline(always)]
    pub fn plain<T: Number>(&self, area: Area) -> Option<Tile<'a, T>> {
        let Area { first, rows, at, len } = area;
        if self.dtype != T::DTYPE {
            return None;
        }
        let pitch = self.rows.pitch(first, rows)?;
        let elements: &[T] = bytemuck::cast_slice(self.bytes);
        let start = self.rows.offset(first) + at;
        Some(Tile { values: &elements[start..][..(rows - 1) * pitch + len], pitch, len })
    }

    /// An area: in place where it lies in memory as `f32`, otherwise in `scratch`.
    #[inline(always)]
    pub fn tile<'t, S: Simd>(&self, simd: S, area: Area, scratch: &'t mut [f32]) -> Tile<'t>
    where
        'a: 't,
    {
        if let Some(tile) = self.plain(area) {
            return tile;
        }
        let Area { rows, len, .. } = area;
        self.copy(simd, area, &mut scratch[..rows * len]);
        Tile { values: &scratch[..rows * len], pitch: len, len }
    }

    /// Whether every area of a grid lies in memory as `f32`.
    pub fn is_plain_f32(&self, grid: &Grid) -> bool {
        self.dtype == DType::F32 && self.rows.pitch(0, grid.all_rows()).is_some()
    }

    /// An area that will be read next; nothing if there is none, or it is scattered.
    #[inline(always)]
    pub fn ahead(&self, next: Option<Area>) -> Rest {
        let size = self.dtype.size() as usize;
        let Some((Area { first, rows, at, len }, pitch)) =
            next.and_then(|next| Some((next, self.rows.pitch(next.first, next.rows)?)))
        else {
            return Rest::default();
        };
        let start = self.rows.offset(first) + at;
        let end = start + (rows - 1) * pitch + len;
        let bytes = self.bytes.get(start * size..end * size).unwrap_or(&[]);
        Rest::new(bytes, pitch * size, LANES * size)
    }

    /// Copies an area row by row.
    #[inline(never)]
    fn copy<S: Simd>(&self, simd: S, Area { first, at, len, .. }: Area, to: &mut [f32]) {
        let (size, step) = (self.dtype.size() as usize, self.rows.step);
        for (k, to) in to.chunks_mut(len).enumerate() {
            let start = self.rows.offset(first + k) + at * step;
            if step == 1 {
                widen(simd, self.dtype, &self.bytes[start * size..][..len * size], to);
                continue;
            }
            for (i, to) in to.iter_mut().enumerate() {
                let element = &self.bytes[(start + i * step) * size..][..size];
                widen(simd, self.dtype, element, std::slice::from_mut(to));
            }
        }
    }
}

/// A tensor that tasks write, each an area of its own.
pub(crate) struct Output<'a> {
    dtype: DType,
    start: *mut u8,
    /// In bytes.
    len: usize,
    rows: Rows,
    way: Way,
    of: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for a `&mut [u8]`, of which every thread gets parts that no other has: see `Output::new`.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// # Safety
    ///
    /// Threads that write at the same time, or read as [`Place::Own`], do so in areas that do not overlap.
    pub unsafe fn new(dtype: DType, bytes: &'a mut [u8], rows: Rows, way: Way) -> Output<'a> {
        Output { dtype, start: bytes.as_mut_ptr(), len: bytes.len(), rows, way, of: PhantomData }
    }

    /// Elements `at..at + len` as bytes. Results of one thread must not be used at the same time.
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint, as who made this promised")]
    fn part(&self, at: usize, len: usize) -> &mut [u8] {
        let size = self.dtype.size() as usize;
        assert!((at + len) * size <= self.len, "an element outside of the tensor");
        // SAFETY: within the slice that `new` was given; no other thread has it, as who called `new` promised, and
        // the functions below have one part at a time.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at * size), len * size) }
    }

    /// Whether all of a grid's rows, in pieces of so many elements, go around the caches from registers, at the same
    /// distance from each other, and are so long that their ends matter little, or strips of very short ones.
    pub fn is_direct(&self, grid: &Grid, piece: usize) -> bool {
        const LONG: usize = 32 * LANES;
        let strips = strip::pays(grid) && grid.width < STRIDE;
        let ends = if strips { LANES * grid.width } else { self.rows.row | grid.width | piece.min(grid.width) };
        self.dtype == DType::F32
            && self.way == Way::Around
            && self.rows.pitch(0, grid.all_rows()).is_some()
            && (strips || grid.width >= LONG)
            && self.in_quads(ends | self.rows.sample)
    }

    /// Whether rows that begin at, and end after, multiples of so many elements do so at multiples of [`QUAD`] bytes.
    #[inline(always)]
    fn in_quads(&self, elements: usize) -> bool {
        is_aligned(self.start) && (elements * self.dtype.size() as usize).is_multiple_of(QUAD)
    }

    /// Where an area is to be written: in place if it can be, otherwise by way of `scratch`. `ahead` is asked for
    /// meanwhile.
    #[inline(always)]
    pub fn area<'t>(&'t self, area: Area, scratch: &'t mut [f32], ahead: Ahead) -> Destination<'t> {
        let Area { first, rows, at, len } = area;
        let start = self.rows.offset(first);
        let starts = if rows == 1 { start } else { self.rows.row | self.rows.sample };
        let in_place = self.rows.step == 1 && (self.way == Way::Cached || self.in_quads(starts | at | len));
        let pitch = self.rows.pitch(first, rows);
        Destination { to: self, area, scratch, ahead, in_place, start: start + at, pitch }
    }

    #[inline(never)]
    fn write_area<S: Simd>(&self, simd: S, area: Area, values: &[f32], ahead: Ahead) {
        if self.way == Way::Cached {
            ahead.ask_all();
        }
        let Area { first, rows, at, len } = area;
        let start = self.rows.offset(first) + at;
        if self.rows.pitch(first, rows) == Some(len) {
            return self.write(simd, self.part(start, rows * len), &values[..rows * len], ahead);
        }
        for (k, values) in values.chunks(len).take(rows).enumerate() {
            let start = self.rows.offset(first + k) + at * self.rows.step;
            if self.rows.step == 1 {
                self.write(simd, self.part(start, len), values, ahead.row(k));
                continue;
            }
            for (i, value) in values.iter().enumerate() {
                let element = self.part(start + i * self.rows.step, 1);
                narrow(simd, self.dtype, std::slice::from_ref(value), element);
            }
        }
    }

    #[inline(always)]
    fn write<S: Simd>(&self, simd: S, to: &mut [u8], values: &[f32], ahead: Ahead) {
        if self.way == Way::Cached {
            return narrow(simd, self.dtype, values, to);
        }
        if self.dtype == DType::F32 {
            return stream(bytemuck::cast_slice(values), to, ahead);
        }
        // By way of the first-level cache, a piece at a time; the first ends where a cache line does.
        let size = self.dtype.size() as usize;
        let mut piece = [0u16; 512];
        let piece: &mut [u8] = bytemuck::cast_slice_mut(&mut piece);
        let mut done = 0;
        while done < to.len() {
            let to = &mut to[done..];
            let misaligned = to.as_ptr() as usize % 64;
            let len = (piece.len() - misaligned).min(to.len());
            narrow(simd, self.dtype, &values[done / size..(done + len) / size], &mut piece[..len]);
            stream(&piece[..len], &mut to[..len], ahead.from(done));
            done += len;
        }
    }

    /// Copies an area out of memory that is written.
    #[inline(never)]
    fn tile<'t, S: Simd>(&self, simd: S, area: Area, scratch: &'t mut [f32]) -> Tile<'t> {
        let Area { first, rows, at, len } = area;
        for k in 0..rows {
            let start = self.rows.offset(first + k) + at * self.rows.step;
            let row = Rows { per_sample: usize::MAX, row: 0, sample: 0, ..self.rows };
            let span = (len - 1) * self.rows.step + 1;
            let input = Input { dtype: self.dtype, bytes: self.part(start, span), rows: row };
            input.copy(simd, Area { first: 0, rows: 1, at: 0, len }, &mut scratch[k * len..][..len]);
        }
        Tile { values: &scratch[..rows * len], pitch: len, len }
    }
}

/// An area that is written row by row, and then finished.
#[must_use]
pub(crate) struct Destination<'a> {
    to: &'a Output<'a>,
    area: Area,
    scratch: &'a mut [f32],
    ahead: Ahead,
    in_place: bool,
    /// Element where it starts, if it is in place.
    start: usize,
    /// Distance of its rows, if there is one.
    pitch: Option<usize>,
}

impl Destination<'_> {
    /// Where row k goes.
    #[inline(always)]
    pub fn row(&mut self, k: usize) -> Sink<'_> {
        if !self.in_place {
            let len = self.area.len;
            return Sink::Plain(&mut self.scratch[k * len..][..len]);
        }
        let (dtype, way, ahead) = (self.to.dtype, self.to.way, self.ahead.row(k));
        Sink::new(dtype, self.row_in_place(k), way, ahead)
    }

    /// Whether rows of these halves are written where they belong, which leaves nothing to finish.
    #[inline(always)]
    pub fn takes<T: Number>(&self) -> bool {
        self.in_place && self.to.dtype == T::DTYPE
    }

    /// Where row k goes, for [`Destination::takes`].
    #[inline(always)]
    pub fn halves<T: Number>(&mut self, k: usize) -> Half<'_, T> {
        debug_assert!(self.takes::<T>(), "rows of another type, or by way of scratch memory");
        let (way, ahead) = (self.to.way, self.ahead.row(k));
        Half::new(self.row_in_place(k), way, ahead)
    }

    #[inline(always)]
    fn row_in_place(&mut self, k: usize) -> &mut [u8] {
        let Area { first, at, len, .. } = self.area;
        let start = self.pitch.map_or_else(|| self.to.rows.offset(first + k) + at, |pitch| self.start + k * pitch);
        self.to.part(start, len)
    }

    /// When all rows have been written.
    #[inline(always)]
    pub fn finish<S: Simd>(self, simd: S) {
        if !self.in_place {
            self.to.write_area(simd, self.area, self.scratch, self.ahead);
        }
    }
}

/// Where an input is.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In memory that nobody writes.
    In(Input<'a>),
    /// Where the call writes, too: a task reads what it alone writes.
    Own(&'a Output<'a>),
}

impl<'a> Place<'a> {
    /// See [`Input::tile`].
    #[inline(always)]
    pub fn tile<'t, S: Simd>(&self, simd: S, area: Area, scratch: &'t mut [f32]) -> Tile<'t>
    where
        'a: 't,
    {
        match self {
            Place::In(input) => input.tile(simd, area, scratch),
            Place::Own(output) => output.tile(simd, area, scratch),
        }
    }

    /// See [`Input::plain`].
    #[inline(always)]
    pub fn plain<T: Number>(&self, area: Area) -> Option<Tile<'a, T>> {
        match self {
            Place::In(input) => input.plain(area),
            Place::Own(_) => None,
        }
    }

    /// See [`Input::ahead`].
    #[inline(always)]
    pub fn ahead(&self, next: Option<Area>) -> Rest {
        match self {
            Place::In(input) => input.ahead(next),
            Place::Own(_) => Rest::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::exec::dispatch;
    use fearless_simd::Level;

    /// Two samples of two rows of five, with gaps everywhere.
    const ROWS: Rows = Rows { per_sample: 2, row: 7, sample: 20, step: 1 };

    fn written(dtype: DType, rows: Rows, way: Way) -> Vec<u8> {
        let mut bytes = vec![0xa5; 40 * dtype.size() as usize];
        let bytes_of = bytemuck::cast_slice_mut::<u8, u8>(&mut bytes);
        // SAFETY: each thread has rows of its own.
        let output = unsafe { Output::new(dtype, bytes_of, rows, way) };
        let values: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let run = |first: usize, values: &[f32]| {
            dispatch!(Level::new(), simd => output.write_area(simd, Area { first, rows: 2, at: 0, len: 5 }, values, Ahead::default()));
            crate::cpu::stream::fence();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| run(0, &values[..10]));
            scope.spawn(|| run(2, &values[10..]));
        });
        bytes
    }

    #[test]
    fn areas_are_read_as_they_were_written() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (step, way) in [(1, Way::Cached), (1, Way::Around), (2, Way::Cached)] {
                let rows = if step == 1 { ROWS } else { Rows { per_sample: 1, row: 0, sample: 10, step } };
                let bytes = written(dtype, rows, way);
                let input = Input { dtype, bytes: &bytes, rows };
                let mut scratch = Scratch::new();
                let mut read = Vec::new();
                for first in [0, 2] {
                    let area = Area { first, rows: 2, at: 1, len: 4 };
                    let tile = dispatch!(Level::new(), simd => input.tile(simd, area, &mut scratch.x));
                    read.extend((0..2).flat_map(|k| tile.row(k).to_vec()));
                }
                let expected: Vec<f32> = (0..20).filter(|i| i % 5 != 0).map(|i| i as f32).collect();
                assert_eq!(read, expected, "{dtype:?} step {step} {way:?}");
                // Four rows of five elements: the rest is as it was.
                let untouched = bytes.iter().filter(|&&b| b == 0xa5).count();
                assert_eq!(untouched, 20 * dtype.size() as usize, "{dtype:?} step {step} {way:?}");
            }
        }
    }
}
