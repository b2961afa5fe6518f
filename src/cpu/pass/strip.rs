//! Short rows, worked on as one row: those of neighbouring channels, for which what belongs to a row is spread over its
//! elements once, and then used for every sample; and those of columns, for which what belongs to a row is copied.

use super::column_params::ColumnParams;
use super::params::RowParams;
use crate::cpu::grid::{Grid, Join};
use crate::cpu::memory::area::TILE;
use crate::cpu::memory::vectors::Repeat;
use crate::cpu::simd::lanes::{LANES, STRIDE};
use std::ops::Range;

/// Rows of so many elements are long enough to be worked on one by one.
const LONG: usize = STRIDE;

/// Rows of so many bytes go one by one by way of a buffer, where their length is no multiple of `QUAD` bytes.
const LONG_RAGGED: usize = 512;

// A strip begins where its block does: no area is a part of one.
const _: () = assert!(LONG * size_of::<f32>() <= LONG_RAGGED && LANES * LONG_RAGGED / size_of::<u16>() <= TILE);

/// Samples that are worth the spreading.
const SAMPLES: usize = 8;

/// The same of rows shorter than a vector.
const SAMPLES_OF_SHORT: usize = 2;

/// Whether rows of neighbouring channels are best worked on sixteen at a time: as a strip, or, of those that are long, one
/// after the other, which then end together at a multiple of `QUAD` bytes.
pub(crate) fn pays(grid: &Grid) -> bool {
    let long = if grid.is_ragged { LONG_RAGGED / grid.size } else { LONG };
    let samples = if grid.width < LANES { SAMPLES_OF_SHORT } else { SAMPLES };
    grid.join == Join::Samples && !grid.columns && grid.width < long && grid.samples >= samples
}

/// Whether most vectors lie within a row: what belongs to it is then loaded once for them, not element by element, if it can
/// be.
fn is_long(grid: &Grid) -> bool {
    grid.width >= LONG
}

/// Elements of a strip for many samples: what belongs to them stays in the first-level cache.
const STRIP: usize = TILE / 2;

/// Channels and samples that make up the tensor: strips, and as many samples as make up for the spreading.
pub(crate) fn pieces(grid: &Grid) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (rows, samples) = (grid.rows, grid.samples);
    // Whole vectors, so that strips begin and end where lines do.
    let channels = ((STRIP / (grid.width * LANES)).max(1) * LANES).min(rows);
    let many = (STRIP * SAMPLES).div_ceil(channels * grid.width).max(4 * SAMPLES);
    (0..rows).step_by(channels).flat_map(move |first| {
        let channels = first..(first + channels).min(rows);
        (0..samples).step_by(many).map(move |n| (channels.clone(), n..(n + many).min(samples)))
    })
}

/// The parameters of a sample's rows of some channels, one number an element. None where that does not pay. `runs`: whether
/// rows can be written as one without that.
pub(crate) fn params<C: ColumnParams>(grid: &Grid, rows: &RowParams, channels: Range<usize>, runs: bool) -> Option<C> {
    (pays(grid) && !(runs && is_long(grid))).then(|| {
        let stats = rows.stats.range(channels.clone());
        C::new(stats, rows.affine, channels.start, Repeat::Each(grid.width))
    })
}

/// Strips of columns that are worth the copying.
const COPIES: usize = 4;

/// Columns that are enough for a row.
const WIDE: usize = STRIP / 4;

/// Rows of columns that are worked on as one: a power of two, so that strips end where lines do; 1 where it does not pay.
pub(crate) fn rows_of_columns(grid: &Grid) -> usize {
    if !(grid.columns && grid.join == Join::Samples && grid.is_dense && grid.width < WIDE) {
        return 1;
    }
    1 << (STRIP / grid.width).min(grid.all_rows() / COPIES).max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::{SAMPLES, SAMPLES_OF_SHORT};
    use crate::cpu::tests::{elements, noise};
    use crate::cpu::{Backward, Forward, Norm};
    use crate::*;

    /// Samples that are enough for strips have the bits of those that are not, or are enough for shorter ones.
    #[test]
    fn strips_have_the_bits_of_rows() {
        const CHANNELS: usize = 37;
        let vector = |seed| elements::<f32>(noise(seed, CHANNELS));
        let running = Running {
            running_mean: vector(1),
            running_var: vector(2).iter().map(|v| v.abs()).collect(),
            tracked: vec![1; CHANNELS],
            skipped: vec![0; CHANNELS],
        };
        let state = State { weight: Some(vector(3)), bias: Some(vector(4)), running: Some(running) };
        let norm = Norm::with_state(BatchNormDescriptor::new(CHANNELS), state).unwrap();
        let rows = [(1, false), (7, true), (49, false), (49, true), (63, true)];
        let both = [Format::ChannelsFirst, Format::ChannelsLast].map(|format| rows.map(|row| (format, row)));
        let samples = [SAMPLES / 2, SAMPLES_OF_SHORT / 2];
        let cases = both.into_iter().flatten().flat_map(|case| samples.map(|few| (case, few)));
        for ((format, (width, relu)), few) in cases {
            let len = 2 * few * CHANNELS * width;
            let (x, dy) = (elements::<f32>(noise(5, len)), elements::<f32>(noise(6, len)));
            let fusion = Fusion { relu, ..Fusion::default() };
            let pass = |samples: usize, x: &[f32], dy: &[f32]| {
                let [mut y, mut dx] = [(); 2].map(|()| vec![f32::NAN; x.len()]);
                let shape = [samples, CHANNELS, width];
                let tensor = TensorDescriptor { format, ..TensorDescriptor::new(&shape) };
                let saved = norm.forward_frozen::<f32, f32>(&tensor, fusion, Forward::new(x, &mut y)).unwrap();
                norm.backward::<f32, f32>(saved, Backward { dx: Some(&mut dx), ..Backward::new(x, dy) }).unwrap();
                [y, dx]
            };
            let [first, last] = [0..len / 2, len / 2..len].map(|half| pass(few, &x[half.clone()], &dy[half]));
            let all = pass(2 * few, &x, &dy);
            for k in 0..2 {
                assert!(
                    all[k] == [&first[k][..], &last[k]].concat(),
                    "{format:?}, width {width}, relu {relu}, result {k}"
                );
            }
        }
    }
}
