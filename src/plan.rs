//! From a descriptor and a shape to passes: pure data, no device.

mod backward;
mod channels;
mod columns;
mod elements;
mod geometry;
mod planner;
mod window;

pub use geometry::{Geometry, Tree};
pub(crate) use geometry::{PARTIAL, UNIT};
pub use window::Dispatch;
pub(crate) use window::MOST_BYTES;

use crate::error::Error;
use crate::layout::{Layout, Memory, Walk};
use crate::norm::{Affine, NormDescriptor};
use crate::op::{Direction, Fusion, Op, Residual, Statistics};
use crate::profile::Profile;
use crate::tensor::{BackwardPitches, DType, ForwardPitches, Pitch, TensorDescriptor};
use planner::Planner;

/// What is to be computed: a norm over a shape, and the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Where the elements of each statistic and each weight lie.
    pub layout: Layout,
    /// Which of weight and bias there are.
    pub affine: Affine,
    /// Whether the mean is subtracted.
    pub centred: bool,
    /// Where mean and variance come from.
    pub statistics: Statistics,
    /// What is fused.
    pub fusion: Fusion,
    /// Forward, backward, or the first half of a synchronised step.
    pub op: Op,
    /// Whether running statistics are kept.
    pub tracks: bool,
    /// Element type of x, residual, dx and dresidual.
    pub input: DType,
    /// Element type of y and dy.
    pub output: DType,
    /// How each [`Tensor`] lies in memory.
    pub memories: [Memory; 5],
}

impl Problem {
    /// Checks descriptor and shape, and describes the call. Errors as [`NormDescriptor::validate`] and
    /// [`NormDescriptor::layout`]; [`Error::Missing`] without the running statistics that are asked for,
    /// [`Error::TooFewValues`], [`Error::TooLarge`].
    pub fn new(
        descriptor: &NormDescriptor,
        tensor: &TensorDescriptor,
        statistics: Statistics,
        fusion: Fusion,
        op: Op,
    ) -> Result<Problem, Error> {
        descriptor.validate()?;
        let mut layout = match tensor.shape {
            [0, rest @ ..] if op.is_synchronised() => {
                let one: Vec<usize> = [&[1], rest].concat();
                descriptor.layout(&TensorDescriptor { shape: &one, ..*tensor })?.empty()
            }
            _ => descriptor.layout(tensor)?,
        };
        let running = statistics == Statistics::Running;
        if running && descriptor.running_stats().is_none() {
            return Err(Error::Missing { name: "running statistics", hint: "the layer does not track them" });
        }
        if running {
            // Given statistics belong to channels, whatever the norm.
            layout = layout.per_channel();
        }
        let count = layout.stats.count();
        let per_channel = matches!(descriptor, NormDescriptor::Batch(_) | NormDescriptor::Instance(_));
        if !running && per_channel && count < 2 && !op.is_synchronised() {
            return Err(Error::TooFewValues { count, shape: tensor.shape.to_vec() });
        }
        if count > u32::MAX.into() {
            return Err(Error::TooLarge { what: "values of one statistic", required: count, limit: u32::MAX.into() });
        }
        Ok(Problem {
            layout,
            affine: descriptor.affine(),
            centred: descriptor.is_centred(),
            statistics,
            fusion,
            op,
            tracks: descriptor.running_stats().is_some(),
            input: tensor.dtype,
            output: tensor.dtype,
            memories: [layout.memory; 5],
        })
    }

    /// A backward pass of this forward pass. [`Error::Foreign`] if one is a part of a synchronised step and the other is not.
    pub(crate) fn backward(self, op: Op) -> Result<Problem, Error> {
        if self.op.is_synchronised() != op.is_synchronised() {
            return Err(Error::Foreign { what: "kind of pass (synchronised or not)" });
        }
        Ok(Problem { op, ..self })
    }

    /// Checks the element types that a backward pass is given. [`Error::DType`]
    pub(crate) fn check_types(&self, x: DType, dy: DType) -> Result<(), Error> {
        for (name, expected, actual) in [("x", self.input, x), ("dy", self.output, dy)] {
            if expected != actual {
                return Err(Error::DType { name, expected, actual });
            }
        }
        Ok(())
    }

    /// The same with tensors that have gaps. [`Error::Pitch`] if rows or samples of one would overlap, [`Error::TooLarge`],
    /// [`Error::Unexpected`] for two different pitches where rows are samples.
    pub fn with_forward_pitches(self, pitches: &ForwardPitches) -> Result<Problem, Error> {
        let ForwardPitches { x, residual, y, sum } = *pitches;
        self.with_pitches([x, residual, Pitch::default(), y, sum])
    }

    /// As [`Problem::with_forward_pitches`].
    pub fn with_backward_pitches(self, pitches: &BackwardPitches) -> Result<Problem, Error> {
        let BackwardPitches { x, residual, dy, dsum, dx, dresidual } = *pitches;
        let residual = if self.fusion.residual == Residual::Before { dsum } else { residual };
        self.with_pitches([x, residual, dy, dx, dresidual])
    }

    fn with_pitches(mut self, pitches: [Pitch; 5]) -> Result<Problem, Error> {
        self.memories = [self.layout.memory; 5];
        // Of one position that is channels-last a row has no neighbour, and no distance from it.
        let Walk { len, stride, .. } = self.layout.affine;
        let rows_are_samples = self.layout.memory.rows == 1 && (stride != 1 || len > 1);
        for (tensor, pitch) in Tensor::ALL.into_iter().zip(pitches).filter(|(_, pitch)| *pitch != Pitch::default()) {
            if rows_are_samples && pitch.row.zip(pitch.sample).is_some_and(|(row, sample)| row != sample) {
                return Err(Error::Unexpected {
                    name: "a row's pitch other than a sample's",
                    reason: "each sample is one row here, and rows are equally far apart (layer and RMS norm take all \
                             leading axes as one)",
                });
            }
            self.memories[tensor as usize] = self.layout.memory.with_pitch(self.name(tensor), pitch)?;
        }
        Ok(self)
    }

    /// What a call's caller knows a tensor as.
    pub(crate) const fn name(&self, tensor: Tensor) -> &'static str {
        let backward = matches!(self.op.direction(), Direction::Backward);
        match tensor {
            Tensor::Input => "x",
            Tensor::Residual if backward && matches!(self.fusion.residual, Residual::Before) => "dsum",
            Tensor::Residual => "residual",
            Tensor::Gradient => "dy",
            Tensor::Output if backward => "dx",
            Tensor::Output => "y",
            Tensor::SecondOutput if backward => "dresidual",
            Tensor::SecondOutput => "sum",
        }
    }

    /// How a tensor lies in memory.
    pub const fn memory(&self, tensor: Tensor) -> &Memory {
        &self.memories[tensor as usize]
    }

    /// Element type of a tensor of the call.
    pub fn dtype(&self, tensor: Tensor) -> DType {
        match (tensor, self.op) {
            (Tensor::Gradient, _) => self.output,
            (Tensor::Output, op) if op.direction() == Direction::Forward => self.output,
            _ => self.input,
        }
    }

    /// Bytes of some tensors' elements.
    pub(crate) fn bytes(&self, tensors: impl IntoIterator<Item = Tensor>) -> u64 {
        let sizes = tensors.into_iter().map(|tensor| self.dtype(tensor).size());
        self.layout.elements.saturating_mul(sizes.sum())
    }

    /// Whether no tensor has gaps.
    pub(crate) fn is_dense(&self) -> bool {
        self.memories.iter().all(|memory| *memory == self.layout.memory)
    }

    /// Whether samples lie so near each other that the smallest binding has room for several, whatever their pitch.
    fn neighbours_fit(&self) -> bool {
        self.memories.iter().all(|memory| memory.sample_pitch <= geometry::MOST_SPAN / 8)
    }

    /// The walk over tensors without gaps, which decides about trees: the same bits whatever the pitch.
    fn walk(&self, over: Over) -> Walk {
        match over {
            Over::Stats if self.layout.is_per_channel() && self.neighbours_fit() => self.layout.stats.joined(),
            Over::Stats => self.layout.stats,
            Over::Channels => self.layout.channels_of_stats(),
            Over::Instances => self.layout.instances(),
            Over::Affine => self.layout.affine,
            Over::Samples => self.layout.samples(),
            Over::WideRows => self.layout.columns_of_rows(),
        }
    }
}

/// A full-size tensor of a call. Its place is the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tensor {
    /// The layer's input x.
    Input,
    /// The residual; in a backward pass with [`Residual::Before`] the gradient of the sum.
    Residual,
    /// dy.
    Gradient,
    /// y, or dx.
    Output,
    /// x + residual, or dresidual.
    SecondOutput,
}

impl Tensor {
    /// All of them, in the order of their places.
    pub const ALL: [Tensor; 5] =
        [Tensor::Input, Tensor::Residual, Tensor::Gradient, Tensor::Output, Tensor::SecondOutput];
}

/// A kernel: one shader in `shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Targets that one workgroup takes: read, reduce, finish, write. Where leaves have parts, elements are read a second time,
    /// from a cache; [`Plan::bytes`] counts them once.
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
