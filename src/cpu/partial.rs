//! Partial results of sixteen targets, and the fixed tree that merges them.

use super::lanes::V;
use fearless_simd::{Simd, SimdBase};

/// Partial results in lanes. Counts are the same for all lanes, so they are kept aside.
pub(crate) trait Partial<S: Simd>: Copy {
    /// Of no elements.
    fn empty(simd: S) -> Self;
    /// Of both sets together; neither count is 0.
    fn merge(self, other: Self, counts: [u32; 2]) -> Self;
    /// Loads lanes from a table; see [`Partial::parts`].
    fn from_parts(parts: [V<S>; 3]) -> Self;
    /// As vectors.
    fn parts(self, simd: S) -> [V<S>; 3];
}

/// The vector twin of [`crate::Moments`]: the same operations in the same order, so the same bits.
#[derive(Clone, Copy)]
pub(crate) struct Mean<S: Simd> {
    pub hi: V<S>,
    pub lo: V<S>,
    pub m2: V<S>,
}

/// [`crate::moments::two_sum`] in lanes.
#[inline(always)]
pub(crate) fn two_sum<S: Simd>(a: V<S>, b: V<S>) -> (V<S>, V<S>) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

impl<S: Simd> Partial<S> for Mean<S> {
    #[inline(always)]
    fn empty(simd: S) -> Self {
        let zero = V::splat(simd, 0.0);
        Mean { hi: zero, lo: zero, m2: zero }
    }

    #[inline(always)]
    fn merge(self, other: Self, [a, b]: [u32; 2]) -> Self {
        let ratio = b as f32 / a.saturating_add(b) as f32;
        let delta = (other.hi - self.hi) + (other.lo - self.lo);
        let (hi, error) = two_sum(self.hi, delta * ratio);
        let (hi, lo) = two_sum(hi, error + self.lo);
        let between = delta * delta * (a as f32 * ratio);
        Mean { hi, lo, m2: (self.m2 + other.m2) + between }
    }

    #[inline(always)]
    fn from_parts([hi, lo, m2]: [V<S>; 3]) -> Self {
        Mean { hi, lo, m2 }
    }

    #[inline(always)]
    fn parts(self, _: S) -> [V<S>; 3] {
        [self.hi, self.lo, self.m2]
    }
}

/// Sums of g and of g times the normalised input.
#[derive(Clone, Copy)]
pub(crate) struct Sums<S: Simd>(pub [V<S>; 2]);

impl<S: Simd> Partial<S> for Sums<S> {
    #[inline(always)]
    fn empty(simd: S) -> Self {
        Sums([V::splat(simd, 0.0); 2])
    }

    #[inline(always)]
    fn merge(self, other: Self, _: [u32; 2]) -> Self {
        Sums([self.0[0] + other.0[0], self.0[1] + other.0[1]])
    }

    #[inline(always)]
    fn from_parts([a, b, _]: [V<S>; 3]) -> Self {
        Sums([a, b])
    }

    #[inline(always)]
    fn parts(self, simd: S) -> [V<S>; 3] {
        [self.0[0], self.0[1], V::splat(simd, 0.0)]
    }
}

/// Levels of the deepest tree: 2^32 leaves.
const LEVELS: usize = 33;

/// The binary tree over leaves that are pushed in order: level k holds the result of 2^k of them.
pub(crate) struct Stack<P> {
    levels: [P; LEVELS],
    counts: [u32; LEVELS],
    pushed: u64,
}

impl<P: Copy> Stack<P> {
    #[inline(always)]
    pub fn new<S: Simd>(simd: S) -> Self
    where
        P: Partial<S>,
    {
        Stack { levels: [P::empty(simd); LEVELS], counts: [0; LEVELS], pushed: 0 }
    }

    #[inline(always)]
    fn merge<S: Simd>(a: (P, u32), b: (P, u32)) -> (P, u32)
    where
        P: Partial<S>,
    {
        match (a.1, b.1) {
            (_, 0) => a,
            (0, _) => b,
            counts => (a.0.merge(b.0, counts.into()), counts.0.saturating_add(counts.1)),
        }
    }

    /// The next leaf; a count of 0 is padding.
    #[inline(always)]
    pub fn push<S: Simd>(&mut self, partial: P, count: u32)
    where
        P: Partial<S>,
    {
        let mut top = (partial, count);
        let full = (self.pushed.trailing_ones() as usize).min(LEVELS - 1);
        for level in 0..full {
            top = Self::merge((self.levels[level], self.counts[level]), top);
        }
        (self.levels[full], self.counts[full]) = top;
        self.pushed += 1;
    }

    /// The tree's root, as if it were padded to a power of two.
    #[inline(always)]
    pub fn finish<S: Simd>(&self, simd: S) -> (P, u32)
    where
        P: Partial<S>,
    {
        let mut root = (P::empty(simd), 0);
        for level in 0..LEVELS {
            if self.pushed >> level & 1 == 1 {
                root = Self::merge((self.levels[level], self.counts[level]), root);
            }
        }
        root
    }
}

/// The same tree over single targets.
pub(crate) fn merge_all<T: Copy>(items: &[T], merge: &impl Fn(T, T) -> T) -> Option<T> {
    match items {
        [] => None,
        &[one] => Some(one),
        _ => {
            let (left, right) = items.split_at(items.len().next_power_of_two() / 2);
            Some(merge(merge_all(left, merge)?, merge_all(right, merge)?))
        }
    }
}

/// The same tree for several spans of columns side by side, whose counts are the same.
pub(crate) struct WideStack<P> {
    /// For each level one partial result a span.
    levels: Vec<P>,
    counts: Vec<u32>,
    spans: usize,
    pushed: u64,
}

impl<P: Copy> WideStack<P> {
    /// For so many leaves.
    #[inline(always)]
    pub fn new<S: Simd>(simd: S, spans: usize, leaves: usize) -> Self
    where
        P: Partial<S>,
    {
        let levels = leaves.next_power_of_two().ilog2() as usize + 1;
        WideStack { levels: vec![P::empty(simd); levels * spans], counts: vec![0; levels], spans, pushed: 0 }
    }

    /// The next 2^level leaves, merged: one partial result a span, each of `count` elements.
    #[inline(always)]
    pub fn push<S: Simd>(&mut self, level: usize, partials: &mut [P], mut count: u32)
    where
        P: Partial<S>,
    {
        let mut at = level;
        while self.pushed >> at & 1 == 1 {
            let counts = [self.counts[at], count];
            for (left, right) in self.levels[at * self.spans..].iter().zip(partials.iter_mut()) {
                *right = left.merge(*right, counts);
            }
            count += counts[0];
            at += 1;
        }
        self.levels[at * self.spans..][..self.spans].copy_from_slice(partials);
        self.counts[at] = count;
        self.pushed += 1 << level;
    }

    /// The root of one span's tree.
    #[inline(always)]
    pub fn finish<S: Simd>(&self, simd: S, span: usize) -> P
    where
        P: Partial<S>,
    {
        let mut root = (P::empty(simd), 0);
        for (level, &count) in self.counts.iter().enumerate() {
            if self.pushed >> level & 1 == 1 {
                let left = self.levels[level * self.spans + span];
                root = if root.1 == 0 { (left, count) } else { (left.merge(root.0, [count, root.1]), root.1 + count) };
            }
        }
        root.0
    }
}

/// The tree over leaves of `count` elements each, as many as a power of two.
#[inline(always)]
pub(crate) fn merge_equal<S: Simd, P: Partial<S>>(leaves: &mut [P], mut count: u32) {
    let mut len = leaves.len();
    while len > 1 {
        len /= 2;
        for i in 0..len {
            leaves[i] = leaves[2 * i].merge(leaves[2 * i + 1], [count, count]);
        }
        count *= 2;
    }
}
