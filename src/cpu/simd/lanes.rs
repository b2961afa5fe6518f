//! Sixteen numbers at a time, on every instruction set alike.
//!
//! Lanes are virtual: an instruction set with narrower registers uses several. Nothing here contracts a product
//! and a sum into one rounding, so all levels give the same bits.

use crate::cpu::memory::nontemporal::Line;
use crate::element::Element;
use bytemuck::Pod;
use fearless_simd::{Select, Simd, SimdBase, f32x16};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32`.
pub(crate) type V<S> = f32x16<S>;

/// An element type, by the vector.
pub(crate) trait Number: Element + Default {
    /// Sixteen of them in memory, aligned to their size.
    type Whole: Pod;

    fn to_vector<S: Simd>(simd: S, from: &[Self; LANES]) -> V<S>;

    /// Rounds to nearest even.
    fn of_vector<S: Simd>(value: V<S>) -> [Self; LANES];
}

impl Number for f32 {
    type Whole = Line;

    #[inline(always)]
    fn to_vector<S: Simd>(simd: S, from: &[f32; LANES]) -> V<S> {
        V::from_slice(simd, from)
    }

    #[inline(always)]
    fn of_vector<S: Simd>(value: V<S>) -> [f32; LANES] {
        value.to_array()
    }
}

/// Vectors in a stride of a loop that is unrolled.
pub(crate) const TURNS: usize = 4;

/// Elements of it.
pub(crate) const STRIDE: usize = TURNS * LANES;

/// At most sixteen elements of a row. The first two kinds cost no test within a loop over rows whose length the compiler
/// has seen.
#[derive(Clone, Copy)]
pub(crate) enum Span {
    /// Vector `.0` of the row.
    Whole(usize),
    /// Vector `.1` of the row's stride `.0`.
    InTurn(usize, usize),
    /// Elements from `at` on; all but the only span of a short row have sixteen.
    Part { at: usize, len: usize },
}

impl Span {
    /// The last elements of a row that is no multiple of sixteen. It overlaps the span before.
    #[inline(always)]
    pub fn last(len: usize) -> Span {
        Span::at(len / LANES, len)
    }

    /// Span i of a row, full or the last, which only the compiler does not know: it is for loads.
    #[inline(always)]
    pub fn at(i: usize, len: usize) -> Span {
        Span::Part { at: (i * LANES).min(len.saturating_sub(LANES)), len: len.min(LANES) }
    }

    /// Which vector of the row it begins in.
    #[inline(always)]
    pub fn index(self) -> usize {
        match self {
            Span::Whole(i) => i,
            Span::InTurn(i, turn) => i * TURNS + turn,
            Span::Part { at, .. } => at / LANES,
        }
    }

    /// The span's elements of a row; `Err` if they are fewer than a vector has.
    #[inline(always)]
    pub fn of<T>(self, row: &[T]) -> Result<&[T; LANES], &[T]> {
        match self {
            Span::Whole(i) => Ok(&row.as_chunks().0[i]),
            Span::InTurn(i, turn) => Ok(&row.as_chunks::<STRIDE>().0[i].as_chunks().0[turn]),
            Span::Part { at, len: LANES } => Ok(&row[at..at + LANES].as_chunks().0[0]),
            Span::Part { at, len } => Err(&row[at..at + len]),
        }
    }

    /// As [`Span::of`].
    #[inline(always)]
    pub fn of_mut<T>(self, row: &mut [T]) -> Result<&mut [T; LANES], &mut [T]> {
        match self {
            Span::Whole(i) => Ok(&mut row.as_chunks_mut().0[i]),
            Span::InTurn(i, turn) => Ok(&mut row.as_chunks_mut::<STRIDE>().0[i].as_chunks_mut().0[turn]),
            Span::Part { at, len: LANES } => Ok(&mut row[at..at + LANES].as_chunks_mut().0[0]),
            Span::Part { at, len } => Err(&mut row[at..at + len]),
        }
    }

    /// Of a list of one for each span of a row, the span's. A part is the last.
    #[inline(always)]
    pub fn one_of<T>(self, list: &[T]) -> &T {
        match self {
            Span::Whole(i) => &list[i],
            Span::InTurn(i, turn) => &list.as_chunks::<TURNS>().0[i][turn],
            Span::Part { at, len } => {
                debug_assert_eq!((at + len).div_ceil(LANES), list.len(), "a part that is not the last");
                &list[list.len() - 1]
            }
        }
    }

    /// Loads the span of a row; lanes past the end are 0.
    #[inline(always)]
    pub fn load<S: Simd, T: Number>(self, simd: S, row: &[T]) -> V<S> {
        match self.of(row) {
            Ok(all) => T::to_vector(simd, all),
            Err(short) => T::to_vector(simd, &padded(short)),
        }
    }

    /// Stores the span of a row.
    #[inline(always)]
    pub fn store<S: Simd>(self, value: V<S>, row: &mut [f32]) {
        self.put(value.as_array(), row);
    }

    /// Puts elements where the span of a row is.
    #[inline(always)]
    pub fn put<T: Copy>(self, elements: &[T; LANES], row: &mut [T]) {
        match self.of_mut(row) {
            Ok(all) => *all = *elements,
            Err(short) => short.copy_from_slice(&elements[..short.len()]),
        }
    }
}

/// Out of line, because it is rare and loads are everywhere.
#[inline(never)]
fn padded<T: Copy + Default>(short: &[T]) -> [T; LANES] {
    let mut buffer = [T::default(); LANES];
    buffer[..short.len()].copy_from_slice(short);
    buffer
}

/// Runs a block for every element of a row, in spans. The last span of a row that is no multiple of sixteen overlaps
/// the one before, so what is done to an element may be done twice.
///
/// Not a function that takes a closure, which would lose the instruction set if it were not inlined; and two copies of
/// the block, so that the one for full spans knows that they are. The second form counts them.
macro_rules! for_spans {
    ($len:expr, $span:ident => $body:block) => {
        for_spans!($len, (_i, $span) => $body)
    };
    ($len:expr, ($i:ident, $span:ident) => $body:block) => {{
        let len: usize = $len;
        for $i in 0..len / LANES {
            let $span = Span::Whole($i);
            $body
        }
        if len % LANES > 0 {
            let ($i, $span) = (len / LANES, Span::last(len));
            $body
        }
    }};
}
pub(crate) use for_spans;

/// The same in strides of a few spans each, an array, as far as they go; then two spans, then one by one; counted by
/// spans.
macro_rules! for_strides {
    ($len:expr, ($i:ident, $spans:ident) => $body:block) => {{
        let len: usize = $len;
        let strides = len / (TURNS * LANES);
        for stride in 0..strides {
            let $i = stride * TURNS;
            let $spans =
                [Span::InTurn(stride, 0), Span::InTurn(stride, 1), Span::InTurn(stride, 2), Span::InTurn(stride, 3)];
            $body
        }
        let mut next = strides * TURNS;
        if len / LANES - next >= 2 {
            let ($i, $spans) = (next, [Span::Whole(next), Span::Whole(next + 1)]);
            next += 2;
            $body
        }
        for $i in next..len.div_ceil(LANES) {
            let $spans = [Span::at($i, len)];
            $body
        }
    }};
}
pub(crate) use for_strides;

/// Runs a block with each number below `$n`, of up to [`TURNS`]: what is indexed by it stays in registers, which in a loop it
/// may not.
macro_rules! unrolled {
    ($n:expr, $k:ident => $body:block) => {{
        const { assert!($n <= TURNS) };
        unrolled!($n, $k => $body, 0, 1, 2, 3);
    }};
    ($n:expr, $k:ident => $body:block, $($i:literal),+) => {
        $(if $n > $i {
            let $k: usize = $i;
            $body
        })+
    };
}
pub(crate) use unrolled;

/// Strides whose sums are added first: sums of long rows are sums of few numbers, too, as rounding grows with them.
const STRIDES: usize = 16;

/// What is known of a row's length where a loop over it is compiled.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Length {
    Any,
    /// Less than a stride.
    Short,
    /// Less than a stride, but more than all of its spans but one: 7x7 images.
    NearlyStride,
}

impl Length {
    /// Of a row that is shorter than a stride.
    #[inline(always)]
    pub fn of_short(len: usize) -> Length {
        if len > STRIDE - LANES { Length::NearlyStride } else { Length::Short }
    }
}

/// Sums `N` terms of every element of a row, once each, lane by lane in a fixed order. The spans of a stride are added
/// first, so that sums are short, need not wait for each other, and take few registers; then [`STRIDES`].
///
/// `meanwhile` is called before each span of a stride, with it, and once before what is behind strides, with a span that is
/// in none.
#[inline(always)]
pub(crate) fn sum_row<S: Simd, const N: usize>(
    simd: S,
    (len, known): (usize, Length),
    mut meanwhile: impl FnMut(Span),
    mut f: impl FnMut(Span) -> [V<S>; N],
) -> [V<S>; N] {
    let zero = V::splat(simd, 0.0);
    let (mut sum, mut behind) = ([zero; N], [zero; N]);
    let strides = if known == Length::Any { len / STRIDE } else { 0 };
    let full = if known == Length::NearlyStride { TURNS - 1 } else { len / LANES };
    let rest = len % LANES;
    for first in (0..strides).step_by(STRIDES) {
        let mut part = [zero; N];
        for i in first..strides.min(first + STRIDES) {
            // One store at a time: several in a row keep loads waiting.
            meanwhile(Span::InTurn(i, 0));
            let a = f(Span::InTurn(i, 0));
            meanwhile(Span::InTurn(i, 1));
            let b = f(Span::InTurn(i, 1));
            meanwhile(Span::InTurn(i, 2));
            let c = f(Span::InTurn(i, 2));
            meanwhile(Span::InTurn(i, 3));
            let d = f(Span::InTurn(i, 3));
            for k in 0..N {
                part[k] += (a[k] + b[k]) + (c[k] + d[k]);
            }
        }
        for k in 0..N {
            sum[k] += part[k];
        }
    }
    meanwhile(Span::Whole(strides * TURNS));
    for i in strides * TURNS..full {
        let term = f(Span::Whole(i));
        for k in 0..N {
            behind[k] += term[k];
        }
    }
    if rest > 0 {
        // A last span that overlaps the one before counts its new elements alone.
        let term = f(Span::last(len));
        let lane = V::from_slice(simd, &LANE);
        let new = if full > 0 { lane.simd_ge((LANES - rest) as f32) } else { lane.simd_lt(rest as f32) };
        for k in 0..N {
            behind[k] = new.select(behind[k] + term[k], behind[k]);
        }
    }
    for k in 0..N {
        sum[k] += behind[k];
    }
    sum
}

/// Each lane's number.
pub(crate) const LANE: [f32; LANES] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

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
    if used <= 2 {
        let a = pairs(v[0], v[1]);
        let a = pairs(a, a);
        let a = pairs(a, a);
        return pairs(a, a);
    }
    if used <= 4 {
        let a = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
        let a = pairs(a, a);
        return pairs(a, a);
    }
    // Not from_fn: its closure would lose the instruction set.
    let mut c = [v[0]; 4];
    for (i, c) in c.iter_mut().enumerate() {
        *c = pairs(pairs(v[4 * i], v[4 * i + 1]), pairs(v[4 * i + 2], v[4 * i + 3]));
    }
    pairs(pairs(c[0], c[1]), pairs(c[2], c[3]))
}
