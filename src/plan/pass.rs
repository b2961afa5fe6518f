//! One pass: its kernel, what it goes over, and what comes in and goes out.

use super::{Dispatch, Geometry, Problem, Tensor};
use crate::op::Direction;

/// A kernel: one shader in `shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Targets that one workgroup takes: read, reduce, finish, write. Where leaves have parts, elements are read a second time,
    /// from a cache; [`Plan::bytes`](super::Plan::bytes) counts them once.
    Rows,
    /// Tiles of targets to partial results.
    Reduce,
    /// Partial results to fewer, or to results.
    Merge,
    /// Merge what partial results are left and finish, or take what is finished, and write element by element. Sums of
    /// columns (layer norm) are made on the way, or alone.
    Apply,
    /// Running statistics from the average over samples (instance norm only).
    Running,
}

/// What the targets of a pass are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    /// Statistics.
    Stats,
    /// Statistics of groups of whole channels (group norm), whose segments are these channels.
    Channels,
    /// Each sample's channels (group norm), several of which share a statistic.
    Instances,
    /// Affine parameters.
    Affine,
    /// Samples of halves whose channels share words (7x7 images), where those are not taken by columns: what belongs to an
    /// element's channel is looked up where it is written.
    Samples,
    /// Columns of rows of all channels, which each belong to a channel: samples (7x7 images: 49 columns a channel), or pixels
    /// of channels-last tensors, several taken as one (three channels of 32 pixels are 96 columns).
    WideRows,
}

/// One pass over the data, or over partial results.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pass {
    /// The kernel.
    pub kernel: Kernel,
    /// Which of its two bodies: moments and y, or sums and dx.
    pub direction: Direction,
    /// What its targets are.
    pub over: Over,
    /// How elements become leaves, and leaves tiles.
    pub geometry: Geometry,
    /// Whether sums of its targets (or partial results of them) are used; otherwise the pass is element-wise, but for sums of
    /// columns.
    pub reduces: bool,
    /// Whether results per target (saved statistics, gradients of weight and bias) are written.
    pub finishes: bool,
    /// Partial results per target that come in (Merge, Apply), or per statistic that targets share.
    pub partials_in: u64,
    /// Where they begin in the scratch buffer, counted in partial results.
    pub partials_in_at: u64,
    /// Whether they lie in planes of one of each target, one after the other (of shards, samples, blocks of rows), and not
    /// target after target.
    pub planes_in: bool,
    /// Whether sums of a group's channels are weighed as they are merged.
    pub weighs: bool,
    /// Partial results per target that go out (Reduce, Merge, and where a target's sums are of use to another walk).
    pub partials_out: u64,
    /// Where they begin.
    pub partials_out_at: u64,
    /// Tensors read.
    pub reads: Vec<Tensor>,
    /// Tensors written.
    pub writes: Vec<Tensor>,
    /// Whether it begins with the last elements: the pass that reduced them, over the same targets or (group norm) in the
    /// same order, read these last, and some may still be in a cache. (Columns of samples are in another order.)
    pub reversed: bool,
    /// One or more dispatches, each with a window of the tensors that fits a binding.
    pub dispatches: Vec<Dispatch>,
}

impl Pass {
    /// Whether sums over affine parameters go out, each of a workgroup's targets: planes of partial results, one after the
    /// other, or the results.
    pub fn sums_columns(&self) -> bool {
        self.geometry.rounds > 1
    }

    /// Partial results that come in, of all targets.
    pub fn all_partials_in(&self, problem: &Problem) -> u64 {
        self.partials_in.saturating_mul(problem.walk(self.partials_of()).targets())
    }

    /// Partial results that go out, of all targets.
    pub fn all_partials_out(&self, problem: &Problem) -> u64 {
        let targets = problem.walk(self.over).targets();
        let columns = self.sums_columns() && !self.finishes;
        let planes = if columns { self.geometry.blocks(targets) } else { 0 };
        let of_columns = planes.saturating_mul(problem.walk(Over::Affine).targets());
        self.partials_out.saturating_mul(targets).saturating_add(of_columns)
    }

    /// What partial results that come in belong to.
    pub fn partials_of(&self) -> Over {
        match self.over {
            Over::Instances if self.kernel == Kernel::Apply => Over::Stats,
            Over::WideRows => Over::Stats,
            over => over,
        }
    }

    /// Whether the pass reads or writes a tensor.
    pub fn touches(&self, tensor: Tensor) -> bool {
        self.reads.contains(&tensor) || self.writes.contains(&tensor)
    }
}
