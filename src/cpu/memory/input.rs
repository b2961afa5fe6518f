//! Tensors that are read, of any element type and pitch, as tiles of their own elements or of `f32`.

use super::area::Area;
use super::output::Output;
use super::prefetch::Rest;
use crate::cpu::grid::{Grid, Rows};
use crate::cpu::reduce::abreast::{Panel, gather};
use crate::cpu::simd::half::{widen, with_element};
use crate::cpu::simd::lanes::{LANES, Number};
use crate::tensor::DType;
use fearless_simd::Simd;

/// An area's values.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a, T = f32> {
    values: &'a [T],
    pitch: usize,
    len: usize,
}

impl<'a, T> Tile<'a, T> {
    /// Of rows that follow each other.
    #[inline(always)]
    pub fn dense(values: &'a [T], len: usize) -> Self {
        Tile { values, pitch: len, len }
    }

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
        Tile::dense(&scratch[..rows * len], len)
    }

    /// The same of a panel, whose pieces lie side by side, if there are several.
    #[inline(always)]
    pub fn tile_of_panel<'t, S: Simd>(&self, simd: S, panel: Panel, scratch: &'t mut [f32]) -> Tile<'t>
    where
        'a: 't,
    {
        if panel.pieces == 0 {
            return self.tile(simd, panel.area, scratch);
        }
        self.copy_pieces(simd, panel, scratch);
        Tile::dense(&scratch[..panel.rows() * panel.len()], panel.len())
    }

    #[inline(never)]
    fn copy_pieces<S: Simd>(&self, simd: S, panel: Panel, to: &mut [f32]) {
        simd.vectorize(
            #[inline(always)]
            || with_element!(self.dtype, T => gather::<S, T>(simd, bytemuck::cast_slice(self.bytes), self.rows, panel, to)),
        )
    }

    /// Whether every area of a grid lies in memory as `f32`.
    pub fn is_plain_f32(&self, grid: &Grid) -> bool {
        self.dtype == DType::F32 && self.rows.pitch(0, grid.all_rows()).is_some()
    }

    /// An area that will be read next; nothing if there is none, or it is scattered.
    #[inline(always)]
    pub fn prefetch(&self, next: Option<Area>) -> Rest {
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
    pub fn copy<S: Simd>(&self, simd: S, Area { first, rows, at, len }: Area, to: &mut [f32]) {
        let (size, step) = (self.dtype.size() as usize, self.rows.step);
        if self.rows.pitch(first, rows) == Some(len) {
            return widen(simd, self.dtype, &self.bytes[self.rows.offset(first) * size..][..rows * len * size], to);
        }
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

/// Where an input is.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In memory that nobody writes.
    In(Input<'a>),
    /// Where the call writes, too: a task reads what it alone writes.
    Own(&'a Output<'a>),
    /// In the scratch memory of who reads an area, as `f32`: all of the area, and only that.
    Held,
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
            Place::Held => Tile::dense(&scratch[..area.rows * area.len], area.len),
        }
    }

    /// See [`Input::plain`].
    #[inline(always)]
    pub fn plain<T: Number>(&self, area: Area) -> Option<Tile<'a, T>> {
        match self {
            Place::In(input) => input.plain(area),
            Place::Own(_) | Place::Held => None,
        }
    }

    /// See [`Input::prefetch`].
    #[inline(always)]
    pub fn prefetch(&self, next: Option<Area>) -> Rest {
        match self {
            Place::In(input) => input.prefetch(next),
            Place::Own(_) | Place::Held => Rest::default(),
        }
    }
}
