//! Tensors that are written, of any element type and pitch, by several tasks at the same time.

use super::area::Area;
use super::input::{Input, Tile};
use super::nontemporal::{QUAD, is_aligned, stream};
use super::prefetch::Prefetch;
use super::sink::Sink;
use super::store_policy::StorePolicy;
use super::stream::{Half, Stream};
use crate::cpu::grid::{Grid, Rows};
use crate::cpu::pass::strip;
use crate::cpu::simd::half::narrow;
use crate::cpu::simd::lanes::{LANES, Number, STRIDE};
use crate::tensor::DType;
use fearless_simd::Simd;
use std::marker::PhantomData;

/// A tensor that tasks write, each an area of its own.
pub(crate) struct Output<'a> {
    pub dtype: DType,
    start: *mut u8,
    /// In bytes.
    len: usize,
    rows: Rows,
    policy: StorePolicy,
    of: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for a `&mut [u8]`, of which every thread gets parts that no other has: see `Output::new`.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// # Safety
    ///
    /// Threads that write at the same time, or read as [`super::input::Place::Own`], do so in areas that do not overlap.
    pub unsafe fn new(dtype: DType, bytes: &'a mut [u8], rows: Rows, policy: StorePolicy) -> Output<'a> {
        Output { dtype, start: bytes.as_mut_ptr(), len: bytes.len(), rows, policy, of: PhantomData }
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
        // Of sixteen rows each: there are no blocks of fewer, and a shorter last one is not written beside another.
        let ends = if strips { LANES * grid.width } else { self.rows.row | grid.width | piece.min(grid.width) };
        self.dtype == DType::F32
            && self.policy == StorePolicy::Around
            && self.rows.pitch(0, grid.all_rows()).is_some()
            && (strips || grid.width >= LONG)
            && self.in_quads(ends | self.rows.sample)
    }

    /// Whether rows that begin at, and end after, multiples of so many elements do so at multiples of [`QUAD`] bytes.
    #[inline(always)]
    fn in_quads(&self, elements: usize) -> bool {
        is_aligned(self.start) && (elements * self.dtype.size() as usize).is_multiple_of(QUAD)
    }

    /// Where an area is to be written: in place if it can be, otherwise by way of `scratch`. `prefetch` is asked for
    /// meanwhile.
    #[inline(always)]
    pub fn area<'t>(&'t self, area: Area, scratch: &'t mut [f32], prefetch: Prefetch) -> Destination<'t> {
        let Area { first, rows, at, len } = area;
        let start = self.rows.offset(first);
        let starts = if rows == 1 { start } else { self.rows.row | self.rows.sample };
        let in_place = self.rows.step == 1 && (self.policy == StorePolicy::Cached || self.in_quads(starts | at | len));
        let pitch = self.rows.pitch(first, rows);
        Destination { to: self, area, scratch, prefetch, in_place, start: start + at, pitch }
    }

    /// An area whose values are all there. `prefetch` is asked for meanwhile.
    #[inline(never)]
    pub fn write_area<S: Simd>(&self, simd: S, area: Area, values: &[f32], prefetch: Prefetch) {
        simd.vectorize(
            #[inline(always)]
            || {
                if self.policy == StorePolicy::Cached {
                    prefetch.ask_all();
                }
                let Area { first, rows, at, len } = area;
                let start = self.rows.offset(first) + at;
                if self.rows.pitch(first, rows) == Some(len) {
                    return self.write(simd, self.part(start, rows * len), &values[..rows * len], prefetch);
                }
                for (k, values) in values.chunks(len).take(rows).enumerate() {
                    let start = self.rows.offset(first + k) + at * self.rows.step;
                    if self.rows.step == 1 {
                        self.write(simd, self.part(start, len), values, prefetch.row(k));
                        continue;
                    }
                    for (i, value) in values.iter().enumerate() {
                        let element = self.part(start + i * self.rows.step, 1);
                        narrow(simd, self.dtype, std::slice::from_ref(value), element);
                    }
                }
            },
        )
    }

    #[inline(always)]
    fn write<S: Simd>(&self, simd: S, to: &mut [u8], values: &[f32], prefetch: Prefetch) {
        if self.policy == StorePolicy::Cached {
            return narrow(simd, self.dtype, values, to);
        }
        if self.dtype == DType::F32 {
            return stream(simd, bytemuck::cast_slice(values), to, prefetch);
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
            stream(simd, &piece[..len], &mut to[..len], prefetch.skip(done));
            done += len;
        }
    }

    /// Copies an area out of memory that is written.
    #[inline(never)]
    pub fn tile<'t, S: Simd>(&self, simd: S, area: Area, scratch: &'t mut [f32]) -> Tile<'t> {
        let Area { first, rows, at, len } = area;
        for k in 0..rows {
            let start = self.rows.offset(first + k) + at * self.rows.step;
            let row = Rows { per_sample: usize::MAX, row: 0, sample: 0, ..self.rows };
            let span = (len - 1) * self.rows.step + 1;
            let input = Input { dtype: self.dtype, bytes: self.part(start, span), rows: row };
            input.copy(simd, Area { first: 0, rows: 1, at: 0, len }, &mut scratch[k * len..][..len]);
        }
        Tile::dense(&scratch[..rows * len], len)
    }
}

/// An area that is written row by row, and then finished.
#[must_use]
pub(crate) struct Destination<'a> {
    to: &'a Output<'a>,
    area: Area,
    scratch: &'a mut [f32],
    prefetch: Prefetch,
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
        let (dtype, policy, prefetch) = (self.to.dtype, self.to.policy, self.prefetch.row(k));
        Sink::new(dtype, self.row_in_place(k), policy, prefetch)
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
        let (policy, prefetch) = (self.to.policy, self.prefetch.row(k));
        Half::new(self.row_in_place(k), policy, prefetch)
    }

    /// Where the only row goes, if it has such elements and goes around the caches from registers.
    #[inline(always)]
    pub fn stream<T: Number>(&mut self) -> Option<Stream<'_, T>> {
        if !self.takes::<T>() {
            return None;
        }
        let (policy, prefetch) = (self.to.policy, self.prefetch);
        match Half::new(self.row_in_place(0), policy, prefetch) {
            Half::Stream(stream) => Some(stream),
            Half::Plain(_) => None,
        }
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
            self.to.write_area(simd, self.area, self.scratch, self.prefetch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::exec::dispatch;
    use crate::cpu::memory::area::Scratch;
    use crate::cpu::memory::nontemporal::fence;
    use fearless_simd::Level;

    /// Two samples of two rows of five, with gaps everywhere.
    const ROWS: Rows = Rows { per_sample: 2, row: 7, sample: 20, step: 1 };

    /// In whole words, as callers' elements are aligned.
    fn written(dtype: DType, rows: Rows, policy: StorePolicy) -> Vec<u32> {
        let mut words = vec![0xa5a5_a5a5u32; 10 * dtype.size() as usize];
        // SAFETY: each thread has rows of its own.
        let output = unsafe { Output::new(dtype, bytemuck::cast_slice_mut(&mut words), rows, policy) };
        let values: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let run = |first: usize, values: &[f32]| {
            let area = Area { first, rows: 2, at: 0, len: 5 };
            dispatch!(Level::new(), simd => output.write_area(simd, area, values, Prefetch::default()));
            fence();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| run(0, &values[..10]));
            scope.spawn(|| run(2, &values[10..]));
        });
        words
    }

    #[test]
    fn areas_are_read_as_they_were_written() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (step, policy) in [(1, StorePolicy::Cached), (1, StorePolicy::Around), (2, StorePolicy::Cached)] {
                let rows = if step == 1 { ROWS } else { Rows { per_sample: 1, row: 0, sample: 10, step } };
                let words = written(dtype, rows, policy);
                let bytes: &[u8] = bytemuck::cast_slice(&words);
                let input = Input { dtype, bytes, rows };
                let mut scratch = Scratch::new();
                let mut read = Vec::new();
                for first in [0, 2] {
                    let area = Area { first, rows: 2, at: 1, len: 4 };
                    let tile = dispatch!(Level::new(), simd => input.tile(simd, area, &mut scratch.x));
                    read.extend((0..2).flat_map(|k| tile.row(k).to_vec()));
                }
                let expected: Vec<f32> = (0..20).filter(|i| i % 5 != 0).map(|i| i as f32).collect();
                assert_eq!(read, expected, "{dtype:?} step {step} {policy:?}");
                // Four rows of five elements: the rest is as it was.
                let untouched = bytes.iter().filter(|&&b| b == 0xa5).count();
                assert_eq!(untouched, 20 * dtype.size() as usize, "{dtype:?} step {step} {policy:?}");
            }
        }
    }
}
