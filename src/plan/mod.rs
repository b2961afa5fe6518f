//! From a descriptor and a shape to passes: pure data, no device.

mod backward;
mod channels;
mod columns;
mod elements;
mod geometry;
mod pass;
mod planner;
mod problem;
mod window;

pub use geometry::{Geometry, Tree};
pub(crate) use geometry::{PARTIAL, UNIT};
pub use pass::{Kernel, Over, Pass};
pub use problem::{Problem, Tensor};
pub use window::Dispatch;
pub(crate) use window::MOST_BYTES;

use crate::error::Error;
use crate::layout::Walk;
use crate::op::Op;
use crate::profile::Profile;
use crate::tensor::DType;
use planner::Planner;

/// The passes of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What is computed.
    pub problem: Problem,
    /// In order.
    pub passes: Vec<Pass>,
}

impl Plan {
    /// Plans a call for a kind of device. [`Error::TooLarge`] where that cannot hold it, [`Error::Parameter`] if its sizes
    /// make no sense.
    ///
    /// ```
    /// use wgpu_norm::{BatchNormDescriptor, Fusion, Op, Statistics, TensorDescriptor, plan::*, Profile};
    /// let (layer, images) = (BatchNormDescriptor::new(256).into(), TensorDescriptor::new(&[32, 256, 56, 56]));
    /// let problem = Problem::new(&layer, &images, Statistics::Batch, Fusion::default(), Op::Forward)?;
    /// let plan = Plan::new(problem, &Profile::GPU)?;
    /// let kernels: Vec<_> = plan.passes.iter().map(|p| p.kernel).collect();
    /// assert_eq!(kernels, [Kernel::Reduce, Kernel::Apply]);
    /// assert_eq!(plan.bytes(), 3 * images.size()?); // two reads, one write
    /// # Ok::<(), wgpu_norm::Error>(())
    /// ```
    pub fn new(problem: Problem, profile: &Profile) -> Result<Plan, Error> {
        profile.check()?;
        problem.check_count()?;
        let mut planner = Planner { problem: &problem, profile, passes: Vec::new(), kept: 0 };
        match problem.op {
            Op::Forward => planner.forward()?,
            Op::Backward(wanted) => planner.backward(wanted)?,
            Op::LocalSums(direction) => planner.local_sums(direction)?,
            Op::ApplyMoments | Op::ApplyGradientSums(_) => planner.apply_sums(problem.op.direction())?,
            Op::MergeSums(direction, shards) => planner.merge_sums(direction, shards)?,
        }
        let passes = planner.passes;
        Ok(Plan { problem, passes })
    }

    /// Bytes of the full-size tensors that the passes read and write. Vectors per channel are not counted.
    pub fn bytes(&self) -> u64 {
        self.problem.bytes(self.passes.iter().flat_map(|p| p.reads.iter().chain(&p.writes)).copied())
    }

    /// Dispatches of all passes.
    pub fn dispatches(&self) -> usize {
        self.passes.iter().map(|p| p.dispatches.len()).sum()
    }

    /// Bytes of the scratch buffer: partial results that passes leave for the next ones.
    pub fn scratch(&self) -> u64 {
        scratch(&self.problem, &self.passes)
    }

    /// Byte of the scratch buffer at which the last partial results are.
    pub fn result_at(&self) -> u64 {
        self.passes.last().map_or(0, |p| p.partials_out_at * PARTIAL)
    }

    /// The walk of a pass, over tensors without gaps.
    pub fn walk(&self, over: Over) -> Walk {
        self.problem.walk(over)
    }

    /// Distance of a unit's elements, in positions: see [`Tree`]. Two halves share a word, so those of a unit stay together.
    pub fn spacing(&self, pass: &Pass) -> u32 {
        let fours = self.walk(pass.over).len.is_multiple_of(UNIT);
        if fours || self.problem.input != DType::F32 { 1 } else { pass.geometry.tree.lanes }
    }

    /// The walk of a pass over one of its tensors.
    pub fn walk_of(&self, over: Over, tensor: Tensor) -> Walk {
        self.problem.memory(tensor).walk(&self.walk(over))
    }

    /// Whether any pass touches a tensor.
    pub fn uses(&self, tensor: Tensor) -> bool {
        self.passes.iter().any(|p| p.touches(tensor))
    }

    /// Whether any pass writes a tensor.
    pub fn writes(&self, tensor: Tensor) -> bool {
        self.passes.iter().any(|p| p.writes.contains(&tensor))
    }
}

/// See [`Plan::scratch`].
fn scratch(problem: &Problem, passes: &[Pass]) -> u64 {
    let end = |p: &Pass| {
        let [all_in, all_out] = [p.all_partials_in(problem), p.all_partials_out(problem)];
        p.partials_in_at.saturating_add(all_in).max(p.partials_out_at.saturating_add(all_out))
    };
    passes.iter().map(end).max().unwrap_or(0).saturating_mul(PARTIAL)
}
