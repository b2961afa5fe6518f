//! A block of channels is written while the next is reduced, a sample of each by turns: memory is read and written all
//! the time, and what is reduced has only just been asked for.

use crate::cpu::grid::Grid;
use crate::cpu::memory::area::{Area, Scratch};
use crate::cpu::reduce::partial::Stack;
use crate::cpu::reduce::source::{PartialOf, Source};
use crate::cpu::reduce::{Parts, leaf_of_rows, rows, store};
use crate::cpu::simd::lanes::{LANES, Span};
use fearless_simd::Simd;
use std::ops::Range;

/// A few channels, no more than `rows_at_once`, and where their results go.
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
    /// Of how many samples the next block's rows fit the cache beside a block, and are asked for while that is written; 0 where
    /// rows cannot be written beside others.
    pub asked: usize,
    /// What is done with rows before they are reduced.
    pub prepare: B,
}

impl<K: Source, B: Fn(Range<usize>, &mut Scratch)> Relay<'_, K, B> {
    /// Goes through blocks. `write` gets each when it has been reduced, with the numbers of `Partial::parts`, one a channel; it
    /// goes through its samples by [`Turns`].
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
                |areas, scratch| leaf_of_rows(simd, self.source, areas, &[], scratch),
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
        tree.stack.push(&mut [cells], self.grid.width as u32);
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
        // Of a last block the neighbour, which is likely to come next.
        let distance = next.as_ref().map_or(channels.len(), |tree| tree.channels.start - channels.start);
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

#[cfg(test)]
mod tests {
    use crate::cpu::tests::{Inputs, elements, levels, noise, step};
    use crate::cpu::{Backward, Forward, Norm, Source};
    use crate::*;
    use fearless_simd::Level;
    use std::ops::Range;

    /// Channels of a tensor of three axes.
    fn channels<T: Copy>(all: &[T], [samples, of, width]: [usize; 3], range: Range<usize>) -> Vec<T> {
        let rows = (0..samples).map(|n| &all[(n * of + range.start) * width..(n * of + range.end) * width]);
        rows.collect::<Vec<_>>().concat()
    }

    /// Large calls are written beside what is reduced, by strips, or as runs of rows; small ones are not: a channel has the same
    /// bits in both.
    #[test]
    fn channels_have_the_bits_of_small_calls() {
        let shapes = [
            ([42, 64, 784], false),
            ([66, 64, 516], true),
            ([20, 52, 2300], false),
            ([36, 320, 225], true),
            ([40, 480, 121], false),
            ([66, 660, 49], true),
            ([66, 662, 49], false),
            ([40, 836, 63], false),
            // A channel of which half fits beside what is asked for.
            ([48, 24, 3136], false),
            // Rows that end within a line, written as one; of few samples and shorter than a stride, and of halves within a
            // vector, too (below).
            ([32, 640, 196], false),
            ([4, 21_000, 52], true),
        ];
        let fusion = |relu, residual| Fusion { relu, residual };
        for (i, (shape, relu)) in shapes.into_iter().enumerate() {
            let [best, older @ ..] = &levels()[..] else { unreachable!() };
            check_channels::<f32>(shape, fusion(relu, Residual::None), *best);
            // Each older instruction set at some of the shapes.
            if let Some(&level) = older.get(i % older.len().max(1)) {
                check_channels::<f32>(shape, fusion(relu, Residual::None), level);
            }
        }
        for level in levels() {
            for relu in [false, true] {
                check_channels::<half::f16>([36, 640, 196], fusion(relu, Residual::None), level);
                check_channels::<f32>([32, 320, 196], fusion(relu, Residual::After), level);
            }
            check_channels::<half::bf16>([44, 1000, 100], fusion(false, Residual::None), level);
            check_channels::<half::bf16>([44, 700, 100], fusion(true, Residual::After), level);
        }
    }

    /// All channels on this instruction set, with and without gaps between samples, and some of them on the best.
    fn check_channels<T: Element + PartialEq>(shape: [usize; 3], fusion: Fusion, level: Level) {
        // Few threads, so that each has several blocks in a row.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let [samples, of, width] = shape;
        let len = samples * of * width;
        let [x, dy, residual] = [3, 4, 5].map(|seed| elements::<T>(noise(seed, len)));
        let [weight, bias] = [6, 7].map(|seed| elements::<f32>(noise(seed, of)));
        let train = |range: Range<usize>, [x, dy, residual]: [&[T]; 3], pitch: Pitch, level: Level| {
            let residual = (fusion.residual == Residual::After).then_some(residual);
            let c = range.len();
            let [weight, bias] = [&weight, &bias].map(|v| Some(v[range.clone()].to_vec()));
            let state = State { weight, bias, ..State::new(BatchNormDescriptor::new(c)).unwrap() };
            let mut norm = Norm::with_state(BatchNormDescriptor::new(c), state).unwrap();
            norm.level = level;
            let shape = [samples, c, width];
            let tensor = TensorDescriptor { dtype: T::DTYPE, ..TensorDescriptor::new(&shape) };
            let [mut y, mut dx, mut dresidual] = [(); 3].map(|()| vec![T::from_f32(f32::NAN); dy.len()]);
            let pitches = ForwardPitches { x: pitch, ..ForwardPitches::default() };
            let io = Forward { residual: residual.map(Source::From), pitches, ..Forward::new(x, &mut y) };
            let saved = norm.forward_train::<T, T>(&tensor, fusion, io, Commit::Skip).unwrap();
            let wanted = Backward {
                residual: residual.filter(|_| fusion.relu),
                dx: Some(&mut dx),
                dresidual: residual.map(|_| &mut dresidual[..]),
                pitches: BackwardPitches { x: pitch, ..BackwardPitches::default() },
                ..Backward::new(x, dy)
            };
            norm.backward::<T, T>(saved, wanted).unwrap();
            if residual.is_none() {
                dresidual.clear();
            }
            [y, dx, dresidual]
        };
        let all = pool.install(|| train(0..of, [&x, &dy, &residual], Pitch::default(), level));
        // Samples still begin where vectors may.
        let (sample, gap) = (of * width, 8);
        let apart: Vec<T> = x.chunks(sample).flat_map(|x| [x, &[T::from_f32(f32::NAN); 8]].concat()).collect();
        let pitch = Pitch { sample: Some((sample + gap) as u64), ..Pitch::default() };
        let inputs = [&apart[..apart.len() - gap], &dy, &residual];
        assert!(pool.install(|| train(0..of, inputs, pitch, level)) == all, "{shape:?}, with gaps");
        for range in [0..of / 4, of / 4..of / 2, of / 2..of] {
            let part = |v: &[T]| channels(v, shape, range.clone());
            let inputs = [&x, &dy, &residual].map(|v| part(v));
            let inputs = inputs.each_ref().map(|v| &v[..]);
            let expected = train(range.clone(), inputs, Pitch::default(), Level::new());
            for (all, expected) in all.iter().zip(expected) {
                assert!(all.is_empty() && expected.is_empty() || part(all) == expected, "{shape:?}, {range:?}");
            }
        }
    }

    /// The same of rows and groups, and of types that are not written beside anything. Gradients of weight and bias are those
    /// of a quarter's rows added up, where quarters are branches of the tree.
    #[test]
    fn rows_have_the_bits_of_small_calls() {
        fn check<I: Element + PartialEq, O: Element>(norm: &NormDescriptor, shape: &[usize], relu: bool) {
            let len = shape.iter().product::<usize>();
            let (x, dy) = (elements::<I>(noise(3, len)), elements::<O>(noise(4, len)));
            let fusion = Fusion { relu, ..Fusion::default() };
            let step = |shape: &[usize], x: &[I], dy: &[O]| {
                let tensor = TensorDescriptor { dtype: I::DTYPE, ..TensorDescriptor::new(shape) };
                step(norm.clone(), tensor, fusion, Inputs { x, residual: None, dy })
            };
            let [y, dx, dweight, dbias] = step(shape, &x, &dy);
            let mut few = shape.to_vec();
            few[0] /= 4;
            let mut of_parts = vec![];
            for at in (0..len).step_by(len / 4) {
                let part = at..at + len / 4;
                let [some_y, some_dx, dweight, dbias] = step(&few, &x[part.clone()], &dy[part.clone()]);
                assert!(y[part.clone()] == some_y && dx[part] == some_dx, "{norm:?} of {shape:?}");
                of_parts.push([dweight, dbias]);
            }
            for (k, whole) in [dweight, dbias].iter().enumerate() {
                for (i, &v) in whole.iter().enumerate() {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|part: usize| of_parts[part][k][i]);
                    let (sum, terms) = ((a + b) + (c + d), (len / whole.len()) as f32);
                    let is_branch = few[0].is_multiple_of(16) && few[0].is_power_of_two();
                    let same = if is_branch { v == sum } else { (v - sum).abs() <= 1e-7 * terms };
                    assert!(same, "{k}[{i}] is {v}, of parts {sum}: {norm:?} of {shape:?}");
                }
            }
        }
        let instance = InstanceNormDescriptor { affine: true, ..InstanceNormDescriptor::new(6) };
        for relu in [false, true] {
            check::<f32, f32>(&LayerNormDescriptor::new(&[520]).into(), &[4120, 520], relu);
            check::<f32, f32>(&LayerNormDescriptor::new(&[520]).into(), &[4096, 520], relu);
            check::<f32, f32>(&RmsNormDescriptor::new(&[2052]).into(), &[1048, 2052], relu);
            check::<f32, f32>(&LayerNormDescriptor::new(&[4104]).into(), &[512, 4104], relu);
            check::<f32, f32>(&GroupNormDescriptor::new(2, 6).into(), &[352, 6, 1028], relu);
            check::<half::f16, half::f16>(&LayerNormDescriptor::new(&[520]).into(), &[8120, 520], relu);
            check::<half::bf16, half::bf16>(&LayerNormDescriptor::new(&[520]).into(), &[8120, 520], relu);
            check::<half::f16, half::f16>(&GroupNormDescriptor::new(2, 6).into(), &[1408, 6, 520], relu);
            check::<half::f16, half::f16>(&instance.clone().into(), &[1408, 6, 520], relu);
            check::<half::f16, f32>(&LayerNormDescriptor::new(&[520]).into(), &[5600, 520], relu);
            check::<f32, half::f16>(&LayerNormDescriptor::new(&[520]).into(), &[5600, 520], relu);
        }
    }
}
