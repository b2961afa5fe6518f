//! What passes go over that write elements and need no sums of their own: whatever lets them load and store whole words.

use super::planner::Planner;
use super::{Geometry, Kernel, Over, Tree, UNIT, window};
use crate::error::Error;
use crate::layout::Walk;
use crate::op::Direction;
use crate::tensor::DType;

impl Planner<'_> {
    pub(super) fn element_wise(&mut self, direction: Direction) -> Result<(), Error> {
        let over = if self.takes_rows_together() {
            Over::WideRows
        } else if direction == Direction::Forward && self.channels_share_words() {
            Over::Samples
        } else {
            Over::Stats
        };
        let geometry = self.element_geometry(over)?;
        self.push(Kernel::Apply, direction, over, geometry, |_| {})
    }

    pub(super) fn element_geometry(&self, over: Over) -> Result<Geometry, Error> {
        let walk = &self.problem.walk(over);
        window::fitting(Geometry::of_elements(walk, self.profile)?, over, self.problem, self.profile)
    }

    /// Whether channels are not loaded by fours where they lie, though those of several rows can be.
    pub(super) fn takes_rows_together(&self) -> bool {
        let problem = self.problem;
        let (walk, wide) = (&problem.layout.affine, problem.walk(Over::WideRows));
        problem.layout.is_per_channel()
            && problem.is_dense()
            && Tree::new(walk, self.profile).side_by_side
            && self.profile.abreast == 4
            && !walk.inner.is_multiple_of(UNIT)
            && wide.inner.is_multiple_of(UNIT)
            // Positions are counted in 32 bits.
            && wide.len <= u32::MAX.into()
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
        // As above.
        has_halves
            && fits
            && sample <= most
            && problem.memories.iter().all(|memory| memory.sample_pitch.is_multiple_of(UNIT))
    }
}
