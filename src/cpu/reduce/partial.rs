//! Partial results of sixteen targets, and the fixed tree that merges them.

use crate::cpu::simd::lanes::V;
use crate::moments::merged;
use fearless_simd::{Simd, SimdBase};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;

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

/// [`crate::Moments`], without their count.
#[derive(Clone, Copy)]
pub(crate) struct Mean<S: Simd> {
    pub hi: V<S>,
    pub lo: V<S>,
    pub m2: V<S>,
}

impl<S: Simd> Partial<S> for Mean<S> {
    #[inline(always)]
    fn empty(simd: S) -> Self {
        let zero = V::splat(simd, 0.0);
        Mean { hi: zero, lo: zero, m2: zero }
    }

    #[inline(always)]
    fn merge(self, other: Self, counts: [u32; 2]) -> Self {
        let [hi, lo, m2] = merged([self.hi, self.lo, self.m2], [other.hi, other.lo, other.m2], counts);
        Mean { hi, lo, m2 }
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

/// Levels of a tree that asks for no memory: there may be one for every row.
const LEVELS: usize = 8;

/// The binary tree over leaves that are pushed in order, for several spans side by side whose counts are the same.
pub(crate) struct Stack<P> {
    /// For each level one partial result a span, of 2^level leaves.
    levels: SmallVec<[P; LEVELS]>,
    counts: SmallVec<[u32; LEVELS]>,
    spans: usize,
    pushed: u64,
}

impl<P: Copy> Stack<P> {
    /// For so many leaves.
    #[inline(always)]
    pub fn new<S: Simd>(simd: S, spans: usize, leaves: usize) -> Self
    where
        P: Partial<S>,
    {
        let levels = leaves.next_power_of_two().ilog2() as usize + 1;
        Stack { levels: smallvec![P::empty(simd); levels * spans], counts: smallvec![0; levels], spans, pushed: 0 }
    }

    /// The next leaf: one partial result a span, each of `count` elements.
    #[inline(always)]
    pub fn push<S: Simd>(&mut self, partials: &mut [P], count: u32)
    where
        P: Partial<S>,
    {
        self.push_tree(0..0, partials, count);
    }

    /// The next 2^levels.start leaves, merged. They end a tree of 2^levels.end, as if it were padded with more of them.
    #[inline(always)]
    pub fn push_tree<S: Simd>(&mut self, levels: Range<usize>, partials: &mut [P], mut count: u32)
    where
        P: Partial<S>,
    {
        let mut at = levels.start;
        loop {
            let waits = self.pushed >> at & 1 == 1;
            if waits {
                let counts = [self.counts[at], count];
                for (left, right) in self.levels[at * self.spans..].iter().zip(partials.iter_mut()) {
                    *right = left.merge(*right, counts);
                }
                count = count.saturating_add(counts[0]);
            } else if at >= levels.end {
                break;
            }
            at += 1;
        }
        self.levels[at * self.spans..][..self.spans].copy_from_slice(partials);
        self.counts[at] = count;
        self.pushed = ((self.pushed >> levels.end) + 1) << levels.end;
    }

    /// The root of one span's tree, as if it were padded to a power of two.
    #[inline(always)]
    pub fn finish<S: Simd>(&self, simd: S, span: usize) -> P
    where
        P: Partial<S>,
    {
        let mut root = (P::empty(simd), 0);
        for (level, &count) in self.counts.iter().enumerate() {
            if self.pushed >> level & 1 == 1 {
                let left = self.levels[level * self.spans + span];
                root = match root {
                    (_, 0) => (left, count),
                    (right, after) => (left.merge(right, [count, after]), count.saturating_add(after)),
                };
            }
        }
        root.0
    }
}
