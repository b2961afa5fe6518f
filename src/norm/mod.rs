//! The five norms as descriptors in PyTorch's terms. Each is a thin description of a layout.

mod batch;
mod group;
mod instance;
mod layer;
mod rms;

pub use batch::BatchNormDescriptor;
pub use group::GroupNormDescriptor;
pub use instance::InstanceNormDescriptor;
pub use layer::LayerNormDescriptor;
pub use rms::RmsNormDescriptor;

use crate::error::Error;
use crate::layout::{Layout, Nchw};
use crate::op::Statistics;
use crate::tensor::{Format, TensorDescriptor, product};

/// All six vectors of a layer can be counted in 32 bits.
const MOST_WEIGHTS: u64 = 1 << 29;

/// Weight of a new batch in the running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Momentum {
    /// `running = (1 - m) * running + m * batch`, m in 0..=1. PyTorch's default is 0.1.
    Exponential(f32),
    /// The plain average of all batches so far: PyTorch's `momentum=None`.
    Cumulative,
}

impl Momentum {
    /// Stands for the cumulative average.
    pub(crate) const CUMULATIVE: f32 = -1.0;

    /// As one number.
    pub(crate) fn number(self) -> f32 {
        match self {
            Momentum::Exponential(momentum) => momentum,
            Momentum::Cumulative => Momentum::CUMULATIVE,
        }
    }
}

impl Default for Momentum {
    fn default() -> Self {
        Momentum::Exponential(0.1)
    }
}

/// What a channel whose batch mean or variance is NaN or infinite does to its running statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NonFinite {
    /// The channel keeps its running statistics and counts the batch as skipped.
    #[default]
    Skip,
    /// The running statistics take it in and are not finite from then on, as PyTorch's are. (Which of NaN and infinity they
    /// become can differ.)
    Poison,
}

/// Running statistics of a layer, as a descriptor asks for them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunningStats {
    /// Weight of a new batch.
    pub momentum: Momentum,
    /// What a batch that is not finite does.
    pub non_finite: NonFinite,
}

/// Which of weight and bias a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Affine {
    /// Multiply by a learnable weight.
    pub weight: bool,
    /// Add a learnable bias.
    pub bias: bool,
}

impl Affine {
    /// Checks that of weight and bias, or of their gradients, only what the layer has is given. [`Error::Unexpected`]
    pub(crate) fn check(self, names: [&'static str; 2], given: [bool; 2]) -> Result<(), Error> {
        for ((name, given), has) in names.into_iter().zip(given).zip([self.weight, self.bias]) {
            if given && !has {
                return Err(Error::Unexpected { name, reason: "the layer was made without it" });
            }
        }
        Ok(())
    }
}

/// Any of the five norms.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NormDescriptor {
    /// Statistics per channel over batch and space.
    Batch(BatchNormDescriptor),
    /// Statistics per sample over trailing axes.
    Layer(LayerNormDescriptor),
    /// Statistics per sample and group of channels.
    Group(GroupNormDescriptor),
    /// Statistics per sample and channel.
    Instance(InstanceNormDescriptor),
    /// Root mean square per sample over trailing axes.
    Rms(RmsNormDescriptor),
}

macro_rules! each {
    ($self:ident, $d:ident => $e:expr) => {
        match $self {
            NormDescriptor::Batch($d) => $e,
            NormDescriptor::Layer($d) => $e,
            NormDescriptor::Group($d) => $e,
            NormDescriptor::Instance($d) => $e,
            NormDescriptor::Rms($d) => $e,
        }
    };
}

impl NormDescriptor {
    /// The name of the layer in PyTorch.
    pub fn name(&self) -> &'static str {
        match self {
            NormDescriptor::Batch(_) => "BatchNorm",
            NormDescriptor::Layer(_) => "LayerNorm",
            NormDescriptor::Group(_) => "GroupNorm",
            NormDescriptor::Instance(_) => "InstanceNorm",
            NormDescriptor::Rms(_) => "RMSNorm",
        }
    }

    /// Checks the descriptor's own parameters: [`Error::Parameter`], [`Error::Empty`], [`Error::Groups`], [`Error::TooLarge`].
    pub fn validate(&self) -> Result<(), Error> {
        each!(self, d => d.validate())?;
        let required = self.affine_len();
        if required > MOST_WEIGHTS {
            return Err(Error::TooLarge { what: "weights of a layer", required, limit: MOST_WEIGHTS });
        }
        let eps = self.eps();
        // Devices may take smaller numbers for 0.
        if !(eps >= f32::MIN_POSITIVE && eps.is_finite()) {
            let expected = "positive and finite, and not below 1.2e-38";
            return Err(Error::Parameter { name: "eps", value: eps.into(), expected });
        }
        if let Some(RunningStats { momentum: Momentum::Exponential(m), .. }) = self.running_stats()
            && !(0.0..=1.0).contains(&m)
        {
            return Err(Error::Parameter { name: "momentum", value: m.into(), expected: "in 0..=1" });
        }
        Ok(())
    }

    /// How the norm lies over a tensor of this shape. Checks the shape: [`Error::Rank`], [`Error::Axis`], [`Error::Empty`],
    /// [`Error::Unexpected`] (a format that the norm does not have), [`Error::TooLarge`].
    pub fn layout(&self, tensor: &TensorDescriptor) -> Result<Layout, Error> {
        each!(self, d => d.layout(tensor))
    }

    /// Checks that there are statistics over the batch, which a group can merge. [`Error::Unexpected`]
    pub(crate) fn check_batch(&self) -> Result<(), Error> {
        match self {
            NormDescriptor::Batch(_) => Ok(()),
            _ => {
                let reason = "only batch norm has statistics over the batch, other norms need no group";
                Err(Error::Unexpected { name: "a synchronised call", reason })
            }
        }
    }

    /// Number of weights.
    pub fn affine_len(&self) -> u64 {
        each!(self, d => d.affine_len())
    }

    /// Which of weight and bias the layer has.
    pub fn affine(&self) -> Affine {
        each!(self, d => d.affine())
    }

    /// Added to the variance (or mean square) inside the root.
    pub fn eps(&self) -> f32 {
        each!(self, d => d.eps)
    }

    /// How running statistics are kept, if they are.
    pub fn running_stats(&self) -> Option<RunningStats> {
        let (track, momentum, non_finite) = match self {
            NormDescriptor::Batch(d) => (d.track_running_stats, d.momentum, d.non_finite),
            NormDescriptor::Instance(d) => (d.track_running_stats, d.momentum, d.non_finite),
            _ => return None,
        };
        track.then_some(RunningStats { momentum, non_finite })
    }

    /// What evaluation normalises with: the running statistics where there are any.
    pub(crate) fn evaluation(&self) -> Statistics {
        if self.running_stats().is_some() { Statistics::Running } else { Statistics::Batch }
    }

    /// Whether the mean is subtracted (all but RMSNorm).
    pub fn is_centred(&self) -> bool {
        !matches!(self, NormDescriptor::Rms(_))
    }
}

macro_rules! from {
    ($($variant:ident $descriptor:ident),*) => {$(
        impl From<$descriptor> for NormDescriptor {
            fn from(d: $descriptor) -> Self {
                NormDescriptor::$variant(d)
            }
        }
    )*};
}
from!(Batch BatchNormDescriptor, Layer LayerNormDescriptor, Group GroupNormDescriptor, Instance InstanceNormDescriptor, Rms RmsNormDescriptor);

impl From<&NormDescriptor> for NormDescriptor {
    fn from(descriptor: &NormDescriptor) -> Self {
        descriptor.clone()
    }
}

/// Splits a shape into samples, channels and positions, and checks the channels.
fn nchw(layer: &'static str, tensor: &TensorDescriptor, channels: usize) -> Result<Nchw, Error> {
    let shape = tensor.shape;
    if !(2..=5).contains(&shape.len()) {
        return Err(Error::Rank {
            layer,
            expected: "(N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W): 2 to 5",
            shape: shape.to_vec(),
        });
    }
    if shape[1] != channels {
        return Err(Error::Axis {
            axis: "the channel axis (1)",
            shape: shape.to_vec(),
            expected: channels,
            actual: shape[1],
        });
    }
    if let Some(axis) = shape.iter().position(|&d| d == 0) {
        return Err(Error::Empty { what: ["N", "C", "spatial axis 2", "spatial axis 3", "spatial axis 4"][axis] });
    }
    product("elements of the tensor", shape)?;
    Ok(Nchw { n: shape[0] as u64, c: shape[1] as u64, s: product("positions", &shape[2..])?, format: tensor.format })
}

/// Names of axes, from the last one on.
const LAST_AXES: [&str; 3] = ["the last axis", "the last axis but one", "the last axis but two"];

/// Splits a shape into rows of the trailing `normalized_shape`.
fn trailing_rows(layer: &'static str, tensor: &TensorDescriptor, normalized_shape: &[usize]) -> Result<Layout, Error> {
    let shape = tensor.shape;
    if shape.len() < normalized_shape.len() {
        return Err(Error::Rank { layer, expected: "no fewer than normalized_shape's", shape: shape.to_vec() });
    }
    if tensor.format != Format::ChannelsFirst {
        return Err(Error::Unexpected {
            name: "Format::ChannelsLast",
            reason: "a norm over trailing axes has no channel axis: give the shape as it lies in memory",
        });
    }
    let (leading, trailing) = shape.split_at(shape.len() - normalized_shape.len());
    for (i, (&actual, &expected)) in trailing.iter().rev().zip(normalized_shape.iter().rev()).enumerate() {
        if actual != expected {
            let axis = *LAST_AXES.get(i).unwrap_or(&"an axis of normalized_shape");
            return Err(Error::Axis { axis, shape: shape.to_vec(), expected, actual });
        }
    }
    if shape.contains(&0) {
        return Err(Error::Empty { what: "an axis of the shape" });
    }
    product("elements of the tensor", shape)?;
    let (rows, samples) = leading.split_last().unwrap_or((&1, &[]));
    // A single leading axis is one of samples.
    let (samples, rows) =
        if samples.is_empty() { (*rows as u64, 1) } else { (product("rows", samples)?, *rows as u64) };
    Ok(crate::layout::rows(samples, rows, product("row length", trailing)?))
}

fn check_normalized_shape(normalized_shape: &[usize]) -> Result<(), Error> {
    if normalized_shape.is_empty() {
        return Err(Error::Empty { what: "the number of axes of normalized_shape" });
    }
    if normalized_shape.contains(&0) {
        return Err(Error::Empty { what: "an axis of normalized_shape" });
    }
    product("normalized_shape", normalized_shape).map(|_| ())
}
