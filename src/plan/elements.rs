//! What passes go over that write elements and need no sums of their own: whatever lets them load and store whole words.

use super::planner::Planner;
use super::{Geometry, Kernel, Over, UNIT, window};
use crate::error::Error;
use crate::layout::{Memory, Walk};
use crate::op::Direction;
use crate::tensor::DType;

impl Planner<'_> {
    pub(super) fn element_wise(&mut self, direction: Direction) -> Result<(), Error> {
        if let Some(geometry) = self.columns_of_rows() {
            return self.push(Kernel::Apply, direction, Over::WideRows, geometry, |_| {});
        }
        let by_samples = direction == Direction::Forward && self.channels_share_words();
        let over = if by_samples { Over::Samples } else { Over::Stats };
        let geometry = self.element_geometry(over)?;
        self.push(Kernel::Apply, direction, over, geometry, |_| {})
    }

    /// Elements are written by columns of rows. Several of these are one channel, whose one partial result the pass before has,
    /// and whose results that one writes.
    pub(super) fn apply_to_columns(&mut self, direction: Direction, columns: Geometry) -> Result<(), Error> {
        if direction == Direction::Forward {
            self.finish();
            return self.push(Kernel::Apply, direction, Over::WideRows, columns, |_| {});
        }
        if let Some(last) = self.passes.last_mut() {
            last.finishes = true;
        }
        self.push(Kernel::Apply, direction, Over::WideRows, columns, |p| {
            p.reduces = true;
            p.partials_in = 1;
        })
    }

    pub(super) fn element_geometry(&self, over: Over) -> Result<Geometry, Error> {
        let walk = &self.problem.walk(over);
        window::fitting(Geometry::of_elements(walk, self.profile)?, over, self.problem, self.profile)
    }

    /// How columns of rows are taken, if channels are not loaded by fours where they lie, and columns can be. Not of fewer
    /// rows than a unit has elements, most of which would not be there.
    pub(super) fn columns_of_rows(&self) -> Option<Geometry> {
        let (problem, layout) = (self.problem, &self.problem.layout);
        if !layout.is_per_channel() || self.profile.abreast != 4 {
            return None;
        }
        let (width, of_channel) = (layout.row_width(), layout.columns_of_channel());
        let columns = problem.walk(Over::WideRows);
        let pays = if of_channel == 1 {
            problem.is_dense() && width > 1 && !width.is_multiple_of(UNIT)
        } else {
            let fits = |memory: &Memory| columns.inner == width && memory.sample_pitch.is_multiple_of(UNIT);
            !of_channel.is_multiple_of(UNIT) && (problem.is_dense() || problem.memories.iter().all(fits))
        };
        // Both are counted in 32 bits.
        let can = columns.len.max(columns.inner) <= u32::MAX.into();
        if !pays || !can || columns.len < UNIT || !columns.inner.is_multiple_of(UNIT) {
            return None;
        }
        let geometry = self.element_geometry(Over::WideRows).ok()?;
        window::are_few(&geometry, Over::WideRows, problem, self.profile).then_some(geometry)
    }

    /// Whether elements of halves are written, two of which share a word.
    pub(super) fn writes_halves(&self, direction: Direction) -> bool {
        let written = self.tensors_written(Kernel::Apply, direction);
        written.into_iter().any(|tensor| self.problem.dtype(tensor) != DType::F32)
    }

    /// Whether channels share words of halves with their neighbours, and samples do not: an invocation that takes four
    /// elements of a sample stores words that are nobody else's, without atomics. They belong to two channels at most, whose
    /// numbers are looked up for each four, which costs more than it saves where elements are words.
    fn channels_share_words(&self) -> bool {
        let problem = self.problem;
        let Walk { inner, len, stride, .. } = problem.layout.affine;
        let has_halves = [problem.input, problem.output].iter().any(|&dtype| dtype != DType::F32);
        let (sample, most) = (inner * len, u32::MAX.into());
        let fits = stride == 1 && len > UNIT && !len.is_multiple_of(UNIT) && sample.is_multiple_of(UNIT);
        // Positions are counted in 32 bits.
        has_halves
            && fits
            && sample <= most
            && problem.memories.iter().all(|memory| memory.sample_pitch.is_multiple_of(UNIT))
    }
}
