//! A block of channels is written while the next is reduced, a sample of each by turns: memory is read and written all
//! the time, and what is reduced has only just been asked for.

use super::grid::Grid;
use super::lanes::{LANES, Span};
use super::memory::{Area, Scratch};
use super::partial::Stack;
use super::reduce::{Parts, leaf_of_rows, rows, store};
use super::source::{PartialOf, Source};
use fearless_simd::Simd;
use std::ops::Range;

/// A few channels, no more than [`super::reduce::rows_at_once`], and where their results go.
pub(crate) struct Block<T> {
    pub channels: Range<usize>,
    pub to: T,
}

/// The tree over a block's rows, as far as it has come.
struct Tree<S: Simd, K: Source> {
    channels: Range<usize>,
    stack: Stack<PartialOf<K::Kind, S>>,
}

/// What blocks are made of.
pub(crate) struct Relay<'a, K, B> {
    pub grid: &'a Grid,
    pub source: &'a K,
    /// Of how many samples the next block's rows fit the cache beside a block.
    pub asked: usize,
    /// What is done with rows before they are reduced.
    pub prepare: B,
}

impl<K: Source, B: Fn(Range<usize>, &mut Scratch)> Relay<'_, K, B> {
    /// Goes through blocks. `write` gets each when it has been reduced, with the numbers of [`super::partial::Partial::parts`], one a
    /// channel; it goes through its samples by [`Turns`].
    #[inline(always)]
    pub fn run<S: Simd, T>(
        &self,
        simd: S,
        blocks: &mut dyn Iterator<Item = Block<T>>,
        scratch: &mut Scratch,
        write: impl Fn(Block<T>, [[f32; LANES]; 3], Turns<S, K, B>, &mut Scratch),
    ) {
        let tree =
            |block: &Block<T>| Tree { channels: block.channels.clone(), stack: Stack::new(simd, 1, self.grid.samples) };
        let Some(mut block) = blocks.next() else { return };
        let mut reduced = tree(&block);
        self.reduce(simd, &mut reduced, 0, scratch);
        loop {
            let parts = reduced.finish(simd);
            let next = blocks.next();
            let mut tree = next.as_ref().map(tree);
            let turns = Turns { simd, relay: self, channels: block.channels.clone(), next: tree.as_mut() };
            write(block, parts, turns, scratch);
            let (Some(next), Some(tree)) = (next, tree) else { return };
            (block, reduced) = (next, tree);
        }
    }

    /// All samples of a block. Those of the first `asked` are on their way.
    #[inline(always)]
    fn reduce<S: Simd>(&self, simd: S, tree: &mut Tree<S, K>, asked: usize, scratch: &mut Scratch) {
        for sample in 0..self.grid.samples {
            let next = if sample + 1 >= asked { self.grid.rows } else { 0 };
            self.push(
                simd,
                tree,
                sample,
                next,
                scratch,
                #[inline(always)]
                |areas, scratch| leaf_of_rows(simd, self.source, areas, scratch),
            );
        }
    }

    /// One sample of a block. `next`: how many rows further the rows are that are to be asked for, 0 if none are.
    #[inline(always)]
    fn push<S: Simd>(
        &self,
        simd: S,
        tree: &mut Tree<S, K>,
        sample: usize,
        next: usize,
        scratch: &mut Scratch,
        mut leaf: impl FnMut((Area, Option<Area>), &mut Scratch) -> PartialOf<K::Kind, S>,
    ) {
        let (first, len) = (sample * self.grid.rows + tree.channels.start, tree.channels.len());
        (self.prepare)(first..first + len, scratch);
        let cells = rows(
            simd,
            self.grid,
            (first, len),
            next,
            #[inline(always)]
            |areas| leaf(areas, scratch),
        );
        tree.stack.push(0, &mut [cells], self.grid.width as u32);
    }
}

impl<S: Simd, K: Source> Tree<S, K> {
    #[inline(always)]
    fn finish(&self, simd: S) -> [[f32; LANES]; 3] {
        let (mut parts, len) = ([[0.0; LANES]; 3], self.channels.len());
        let [a, b, c] = &mut parts;
        let mut to: Parts = [&mut a[..len], &mut b[..len], &mut c[..len]];
        store(simd, self.stack.finish(simd, 0), Span::Part { at: 0, len }, &mut to);
        parts
    }
}

/// The samples of a block, in the order in which they are to be written.
pub(crate) struct Turns<'a, S: Simd, K: Source, B> {
    simd: S,
    relay: &'a Relay<'a, K, B>,
    channels: Range<usize>,
    next: Option<&'a mut Tree<S, K>>,
}

impl<S: Simd, K: Source, B: Fn(Range<usize>, &mut Scratch)> Turns<'_, S, K, B> {
    /// Writes every sample's rows. `write` gets how many rows further those are that will be read next, 0 if none are.
    /// `beside`, if it is there, reduces a leaf and meanwhile writes rows that are so many rows before it.
    #[inline(always)]
    pub fn each(
        self,
        scratch: &mut Scratch,
        mut write: impl FnMut(Range<usize>, usize, &mut Scratch),
        beside: Option<impl FnMut(usize, (Area, Option<Area>), &mut Scratch) -> PartialOf<K::Kind, S>>,
    ) {
        let Turns { simd, relay, channels, next } = self;
        let Grid { samples, rows, .. } = *relay.grid;
        let distance = next.as_ref().map_or(0, |tree| tree.channels.start - channels.start);
        match (next, beside) {
            (Some(tree), Some(mut beside)) if relay.asked == samples && tree.channels.len() == channels.len() => {
                for n in 0..samples {
                    relay.push(
                        simd,
                        tree,
                        n,
                        rows,
                        scratch,
                        #[inline(always)]
                        |areas, scratch| beside(distance, areas, scratch),
                    );
                }
            }
            // What was read last comes first: where a block does not fit the cache, it is what the cache still holds.
            (next, _) => {
                for n in (0..samples).rev() {
                    let of_sample = n * rows + channels.start..n * rows + channels.end;
                    write(of_sample, if n < relay.asked { distance } else { 0 }, scratch);
                }
                if let Some(tree) = next {
                    relay.reduce(simd, tree, relay.asked, scratch);
                }
            }
        }
    }
}
