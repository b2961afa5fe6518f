//! Areas of a tensor's rows, and room for what is in them.

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
