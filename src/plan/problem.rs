//! What is to be computed: a norm over tensors of a shape, and the call.

use super::{Over, geometry};
use crate::error::Error;
use crate::layout::{Layout, Memory, Walk};
use crate::norm::{Affine, NormDescriptor};
use crate::op::{Direction, Fusion, Op, Residual, Statistics};
use crate::tensor::{BackwardPitches, DType, ForwardPitches, Pitch, TensorDescriptor};

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
    /// Forward, backward, or a step of a synchronised pass.
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
            return Err(Error::Missing {
                name: "a set of running statistics",
                hint: "the layer does not track them, and trains by forward_train",
            });
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
        let problem = Problem {
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
        };
        // With given statistics a forward pass on the CPU counts nothing; shaders do, see `Plan::new`.
        if !running || op != Op::Forward {
            problem.check_count()?;
        }
        Ok(problem)
    }

    /// Values of a statistic are counted with 32 bits. [`Error::TooLarge`]
    pub(super) fn check_count(&self) -> Result<(), Error> {
        let (count, limit) = (self.layout.stats.count(), u32::MAX.into());
        if count > limit {
            return Err(Error::TooLarge { what: "values of one statistic", required: count, limit });
        }
        Ok(())
    }

    /// A backward pass of this forward pass. [`Error::Foreign`] if one is a part of a synchronised step and the other is not,
    /// [`Error::TooLarge`] if this one had not to count what a backward pass counts.
    pub(crate) fn backward(self, op: Op) -> Result<Problem, Error> {
        if self.op.is_synchronised() != op.is_synchronised() {
            return Err(Error::Foreign { what: "kind of pass (synchronised or not)" });
        }
        self.check_count()?;
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
    /// [`Error::Unexpected`] for two different pitches where rows are samples, or have one element.
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
        let rows_are_samples = self.layout.rows_are_samples();
        for (tensor, pitch) in Tensor::ALL.into_iter().zip(pitches).filter(|(_, pitch)| *pitch != Pitch::default()) {
            if rows_are_samples && pitch.row.zip(pitch.sample).is_some_and(|(row, sample)| row != sample) {
                return Err(Error::Unexpected {
                    name: "a row's pitch other than a sample's",
                    reason: "each sample is one row here, and rows are equally far apart",
                });
            }
            let memory = self.layout.memory.with_pitch(self.name(tensor), pitch)?;
            // They would be taken for channels that lie side by side.
            if self.layout.has_weights_of_columns() && memory.width == 1 && memory.has_blocks_of_rows() {
                return Err(Error::Unexpected {
                    name: "a sample's pitch",
                    reason: "rows of one element are equally far apart: Pitch::row says how far",
                });
            }
            self.memories[tensor as usize] = memory;
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

    /// Whether statistics belong to rows that are not equally far apart in every tensor.
    fn has_blocks_of_rows(&self) -> bool {
        self.layout.has_weights_of_columns() && self.memories.iter().any(Memory::has_blocks_of_rows)
    }

    /// The walk over tensors without gaps, which decides about trees: the same bits whatever the pitch.
    pub(super) fn walk(&self, over: Over) -> Walk {
        match over {
            Over::Stats if self.layout.is_per_channel() && self.neighbours_fit() => self.layout.stats.joined(),
            Over::Stats if self.has_blocks_of_rows() => self.layout.rows_of_samples(),
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
