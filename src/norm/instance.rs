use super::{Affine, Momentum, NonFinite, nchw};
use crate::error::Error;
use crate::layout::Layout;
use crate::tensor::TensorDescriptor;

/// Instance normalisation: statistics per sample and channel over space. For style transfer.
///
/// Ulyanov et al., 2016;
/// [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html). As there, weight, bias
/// and running statistics are off unless asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceNormDescriptor {
    /// Channels: C of the input.
    pub num_features: usize,
    /// Added to the variance inside the root: 1.2e-38 ([`f32::MIN_POSITIVE`]) at least; default: 1e-5.
    pub eps: f32,
    /// Weight of a new batch in the running statistics; default: 0.1. [`Momentum::Cumulative`] averages all batches,
    /// where PyTorch's `InstanceNorm` with `momentum=None` leaves its statistics as they are.
    pub momentum: Momentum,
    /// Learnable weight and bias, one a channel; default: off.
    pub affine: bool,
    /// Keep running statistics (the average over samples), which evaluation uses; default: off.
    pub track_running_stats: bool,
    /// What a batch that is not finite does to the running statistics; default: skipped.
    pub non_finite: NonFinite,
}

impl InstanceNormDescriptor {
    /// PyTorch's defaults.
    pub fn new(num_features: usize) -> Self {
        InstanceNormDescriptor {
            num_features,
            eps: 1e-5,
            momentum: Momentum::default(),
            affine: false,
            track_running_stats: false,
            non_finite: NonFinite::Skip,
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.num_features == 0 { Err(Error::Empty { what: "num_features" }) } else { Ok(()) }
    }

    pub(super) fn layout(&self, tensor: &TensorDescriptor) -> Result<Layout, Error> {
        Ok(nchw("InstanceNorm", tensor, self.num_features)?.group(1))
    }

    pub(super) fn affine_len(&self) -> u64 {
        self.num_features as u64
    }

    pub(super) fn affine(&self) -> Affine {
        Affine { weight: self.affine, bias: self.affine }
    }
}
