//! Few columns: where a vector has more lanes than a row has elements, pieces of the rows lie side by side, as if their
//! columns were those of one wide row. The tree over a column stays as it is: pieces are branches of it.

use super::leaf_columns::{TALL, WIDE};
use super::partial::Partial;
use super::store;
use crate::cpu::grid::Rows;
use crate::cpu::memory::area::Area;
use crate::cpu::memory::vectors::Repeat;
use crate::cpu::simd::formula::{Each, Stats, Weights};
use crate::cpu::simd::lanes::{LANES, Number, Span};
use fearless_simd::{Simd, SimdBase};

/// Columns that are few: of sixteen, a vector has all.
const FEW: usize = LANES - 1;

/// Columns of a few rows that are reduced together.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub area: Area,
    /// What is asked for meanwhile.
    pub next: Option<Area>,
    /// Rows of a leaf; the last may have fewer.
    pub leaf: usize,
    /// The area's rows are 2^this pieces that lie side by side.
    pub pieces: u32,
}

impl Panel {
    /// Rows of a piece.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.area.rows >> self.pieces
    }

    /// Columns of all pieces.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.area.len << self.pieces
    }
}

/// The most pieces, as a power of two, of [`TALL`] rows each; 0 if they do not pay.
#[inline(always)]
pub(crate) fn most_pieces(width: usize, leaf: usize) -> u32 {
    if width > FEW || !TALL.is_multiple_of(leaf) {
        return 0;
    }
    (WIDE / width.max(1)).ilog2()
}

/// Copies an area's rows. Pieces that follow each other lie half of a row apart, as do pairs of pairs in that half and so
/// on, so that [`fold`] merges whole vectors.
#[inline(always)]
pub(crate) fn gather<S: Simd, T: Number>(simd: S, elements: &[T], rows: Rows, panel: Panel, to: &mut [f32]) {
    match panel.area.len {
        ..=4 => gather_by::<S, T, 4>(simd, elements, rows, panel, to),
        5..=8 => gather_by::<S, T, 8>(simd, elements, rows, panel, to),
        _ => gather_by::<S, T, LANES>(simd, elements, rows, panel, to),
    }
}

/// `N` elements at a time: what is beyond a row is overwritten by the pieces behind, if there are as many.
#[inline(always)]
fn gather_by<S: Simd, T: Number, const N: usize>(simd: S, elements: &[T], rows: Rows, panel: Panel, to: &mut [f32]) {
    let Area { first, at, len, .. } = panel.area;
    let pieces = 1usize << panel.pieces;
    for place in 0..pieces {
        let piece = place.reverse_bits() >> (usize::BITS - panel.pieces);
        let first = first + piece * panel.rows();
        for k in 0..panel.rows() {
            let from = &elements[rows.offset(first + k) + at..];
            let to = &mut to[k * panel.len()..][..panel.len()][place * len..];
            match (from.first_chunk::<LANES>(), to.first_chunk_mut::<N>()) {
                (Some(from), Some(to)) => {
                    to.copy_from_slice(&T::to_vector(simd, from).as_array()[..N]);
                }
                _ => to.iter_mut().zip(&from[..len]).for_each(|(to, from)| *to = from.to_f32()),
            }
        }
    }
}

/// Merges partial results of pieces, one a column, to those of the columns.
#[inline(always)]
pub(crate) fn fold<S: Simd, P: Partial<S>>(simd: S, panel: Panel, spans: &[P]) -> P {
    let mut numbers = [[0.0; WIDE]; 3];
    let mut parts = numbers.each_mut().map(|part| &mut part[..]);
    for (i, &partial) in spans.iter().enumerate() {
        store(simd, partial, Span::at(i, panel.len()), &mut parts);
    }
    let load = |parts: &[&mut [f32]; 3], at| {
        let span = Span::Part { at, len: LANES };
        P::from_parts([span.load(simd, &*parts[0]), span.load(simd, &*parts[1]), span.load(simd, &*parts[2])])
    };
    let mut rows = panel.rows() as u32;
    for level in (0..panel.pieces).rev() {
        let half = panel.area.len << level;
        for at in (0..half).step_by(LANES) {
            let merged = load(&parts, at).merge(load(&parts, half + at), [rows; 2]);
            store(simd, merged, Span::Part { at, len: LANES }, &mut parts);
        }
        rows *= 2;
    }
    load(&parts, 0)
}

/// What belongs to columns, once for each piece.
pub(crate) struct Repeated([[f32; WIDE]; 5]);

impl Repeated {
    #[inline(always)]
    pub fn new(pieces: u32, stats: Stats<Each>, weights: Weights<Each>) -> Self {
        let mut repeated = [[0.0; WIDE]; 5];
        let of = [stats.hi, stats.lo, stats.rstd, weights.weight, weights.bias];
        for (to, Each(from)) in repeated.iter_mut().zip(of) {
            let to = &mut to[..from.len() << pieces];
            to[..from.len()].copy_from_slice(from);
            Repeat::All(1 << pieces).spread([to]);
        }
        Repeated(repeated)
    }

    #[inline(always)]
    pub fn each(&self, len: usize) -> (Stats<Each<'_>>, Weights<Each<'_>>) {
        let [hi, lo, rstd, weight, bias] = self.0.each_ref().map(|numbers| Each(&numbers[..len]));
        (Stats { hi, lo, rstd }, Weights { weight, bias })
    }
}

#[cfg(test)]
mod tests {
    use super::FEW;
    use crate::cpu::tests::{Inputs, elements, noise, step};
    use crate::*;

    /// Columns beside which others are have whole vectors to themselves.
    #[test]
    fn few_columns_have_the_bits_of_columns_among_others() {
        fn check<T: Element>(format: Format, [samples, few, positions]: [usize; 3]) {
            let (rows, many) = (samples * positions, few + FEW);
            let all = [3, 4, 5].map(|seed| elements::<T>(noise(seed, rows * many)));
            let among = |v: &[f32]| v.chunks(many).flat_map(|row| row[..few].to_vec()).collect::<Vec<_>>();
            let of_few = all.each_ref().map(|v| v.chunks(many).flat_map(|row| row[..few].to_vec()).collect::<Vec<T>>());
            let instance = |channels| {
                NormDescriptor::from(InstanceNormDescriptor { affine: true, ..InstanceNormDescriptor::new(channels) })
            };
            for relu in [false, true] {
                for is_batch in [true, false].into_iter().filter(|&is_batch| is_batch || positions > 1) {
                    let step = |channels: usize, of: &[Vec<T>; 3]| {
                        let shape = [samples, channels, positions];
                        let tensor = TensorDescriptor { dtype: T::DTYPE, format, ..TensorDescriptor::new(&shape) };
                        let batch = || BatchNormDescriptor::new(channels).into();
                        let norm = if is_batch { batch() } else { instance(channels) };
                        let fusion = Fusion { residual: Residual::After, relu };
                        let [x, residual, dy] = of.each_ref().map(|v| &v[..]);
                        step(norm, tensor, fusion, Inputs { x, residual: Some(residual), dy })
                    };
                    let (results, expected) = (step(few, &of_few), step(many, &all));
                    let case =
                        format!("{:?} {samples}x{few}x{positions}, relu {relu}, batch norm {is_batch}", T::DTYPE);
                    for k in 0..4 {
                        assert!(results[k] == among(&expected[k]), "result {k} of {case}");
                    }
                }
            }
        }
        for few in [1, 2, 3, 4, 5, 8, 9, FEW, FEW + 1] {
            // All sizes of pieces, and what is left of them; more than one entry.
            for samples in [31, 32, 33, 1100, 70_001] {
                check::<f32>(Format::ChannelsFirst, [samples, few, 1]);
            }
            check::<half::bf16>(Format::ChannelsFirst, [1100, few, 1]);
        }
        for few in [2, 3, 4, 8, 9, FEW] {
            // No whole number of leaves, too.
            for shape in [[3, few, 777], [2, few, 32], [5, few, 49], [2, few, 20_007]] {
                check::<f32>(Format::ChannelsLast, shape);
            }
            check::<half::f16>(Format::ChannelsLast, [3, few, 777]);
        }
    }
}
