//! Sixteen numbers at a time, on every instruction set alike.
//!
//! Lanes are virtual: an instruction set with narrower registers uses several. Nothing here contracts a product
//! and a sum into one rounding, so all levels give the same bits.

use fearless_simd::{Select, Simd, SimdBase, SimdMask, f32x16, mask32x16};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32`.
pub(crate) type V<S> = f32x16<S>;

/// How elements come into lanes and out of them.
pub trait Lanes: bytemuck::Pod {
    /// Loads the sixteen elements of a slice.
    fn load<S: Simd>(simd: S, from: &[Self]) -> f32x16<S>;
    /// Stores to the sixteen elements of a slice, rounding to nearest even.
    fn store<S: Simd>(simd: S, value: f32x16<S>, to: &mut [Self]);
}

impl Lanes for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[f32]) -> V<S> {
        V::from_slice(simd, from)
    }
    #[inline(always)]
    fn store<S: Simd>(_: S, value: V<S>, to: &mut [f32]) {
        value.store_slice(to);
    }
}

/// A run of at most sixteen elements; all but the only run of a short row have sixteen.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub at: usize,
    pub len: usize,
}

impl Span {
    #[inline(always)]
    pub fn full(at: usize) -> Span {
        Span { at, len: LANES }
    }

    /// Loads the span of a row; lanes past the end are 0.
    #[inline(always)]
    pub fn load<S: Simd, T: Lanes>(self, simd: S, row: &[T]) -> V<S> {
        let buffer;
        let from = if self.len == LANES {
            &row[self.at..self.at + LANES]
        } else {
            buffer = padded(&row[self.at..self.at + self.len]);
            &buffer
        };
        T::load(simd, from)
    }

    /// Stores the span of a row.
    #[inline(always)]
    pub fn store<S: Simd, T: Lanes>(self, simd: S, value: V<S>, row: &mut [T]) {
        if self.len == LANES {
            return T::store(simd, value, &mut row[self.at..self.at + LANES]);
        }
        let mut buffer = [T::zeroed(); LANES];
        T::store(simd, value, &mut buffer);
        row[self.at..self.at + self.len].copy_from_slice(&buffer[..self.len]);
    }
}

/// Out of line, because it is rare and loads are everywhere.
#[inline(never)]
fn padded<T: Lanes>(short: &[T]) -> [T; LANES] {
    let mut buffer = [T::zeroed(); LANES];
    buffer[..short.len()].copy_from_slice(short);
    buffer
}

/// Every element of a row, in spans. The last span of a row that is no multiple of sixteen overlaps the one
/// before, so what is done to an element may be done twice.
#[inline(always)]
pub(crate) fn each_span(len: usize, mut f: impl FnMut(Span)) {
    let (last, width) = (len.saturating_sub(LANES), len.min(LANES));
    for at in (0..len).step_by(LANES) {
        f(Span { at: at.min(last), len: width });
    }
}

/// Accumulators that take turns, so that additions need not wait for each other.
const TURNS: usize = 4;

#[inline(always)]
fn add_turns<S: Simd, const N: usize>(a: [[V<S>; N]; TURNS]) -> [V<S>; N] {
    core::array::from_fn(|k| (a[0][k] + a[1][k]) + (a[2][k] + a[3][k]))
}

/// Sums `N` terms of every element of a row, once each, lane by lane in a fixed order.
#[inline(always)]
pub(crate) fn sum_row<S: Simd, const N: usize>(simd: S, len: usize, mut f: impl FnMut(Span) -> [V<S>; N]) -> [V<S>; N] {
    let zero = V::splat(simd, 0.0);
    let mut a = [[zero; N]; TURNS];
    let (full, rest) = (len / LANES, len % LANES);
    let mut i = 0;
    while i + TURNS <= full {
        for (u, a) in a.iter_mut().enumerate() {
            let term = f(Span::full((i + u) * LANES));
            for k in 0..N {
                a[k] += term[k];
            }
        }
        i += TURNS;
    }
    // What is left, once each: a last span that overlaps the one before counts its new elements alone.
    let (last, width) = (len.saturating_sub(LANES), len.min(LANES));
    for at in (i * LANES..len).step_by(LANES) {
        let new = if at <= last || full == 0 { (1 << width) - 1 } else { 0xffff << (LANES - rest) & 0xffff };
        let term = f(Span { at: at.min(last), len: width });
        let mask = mask32x16::from_bitmask(simd, new);
        for k in 0..N {
            a[0][k] += mask.select(term[k], zero);
        }
    }
    add_turns(a)
}

/// Sums `N` terms over rows, each lane a column of its own.
#[inline(always)]
pub(crate) fn sum_column<S: Simd, const N: usize>(
    simd: S,
    rows: usize,
    mut f: impl FnMut(usize) -> [V<S>; N],
) -> [V<S>; N] {
    let mut a = [[V::splat(simd, 0.0); N]; TURNS];
    for row in 0..rows {
        let term = f(row);
        for k in 0..N {
            a[row % TURNS][k] += term[k];
        }
    }
    add_turns(a)
}

/// Sums of neighbours: of the first vector in the lower lanes, of the second in the upper.
#[inline(always)]
fn pairs<S: Simd>(a: V<S>, b: V<S>) -> V<S> {
    a.unzip_low(b) + a.unzip_high(b)
}

/// Lane k becomes the sum of the lanes of vector k, added as a binary tree of neighbours.
#[inline(always)]
pub(crate) fn fold<S: Simd>(v: &[V<S>; LANES], used: usize) -> V<S> {
    if used == 1 {
        let a = pairs(v[0], v[0]);
        let a = pairs(a, a);
        let a = pairs(a, a);
        return pairs(a, a);
    }
    let b: [V<S>; 8] = core::array::from_fn(|i| pairs(v[2 * i], v[2 * i + 1]));
    let c: [V<S>; 4] = core::array::from_fn(|i| pairs(b[2 * i], b[2 * i + 1]));
    pairs(pairs(c[0], c[1]), pairs(c[2], c[3]))
}
