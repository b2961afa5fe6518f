use super::{Affine, Momentum, NonFinite, nchw};
use crate::error::Error;
use crate::layout::Layout;
use crate::tensor::TensorDescriptor;

/// Batch normalisation over (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
///
/// `y = (x - mean) / sqrt(var + eps) * weight + bias` with one mean and (biased) variance a channel; training
/// moves `running_mean` and `running_var` (unbiased) towards them, evaluation uses those. Ioffe and Szegedy,
/// 2015; [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html).
///
/// ```
/// use wgpu_norm::{BatchNormDescriptor, Momentum};
/// let descriptor = BatchNormDescriptor { momentum: Momentum::Cumulative, ..BatchNormDescriptor::new(64) };
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormDescriptor {
    /// Channels: C of the input.
    pub num_features: usize,
    /// Added to the variance inside the root: 1.2e-38 ([`f32::MIN_POSITIVE`]) at least; default: 1e-5.
    pub eps: f32,
    /// Weight of a new batch in the running statistics; default: 0.1.
    pub momentum: Momentum,
    /// Learnable weight and bias; default: on.
    pub affine: bool,
    /// Keep running statistics; default: on. Without them evaluation uses the batch's own.
    pub track_running_stats: bool,
    /// What a batch that is not finite does to the running statistics; default: skipped.
    pub non_finite: NonFinite,
}

impl BatchNormDescriptor {
    /// PyTorch's defaults.
    pub fn new(num_features: usize) -> Self {
        BatchNormDescriptor {
            num_features,
            eps: 1e-5,
            momentum: Momentum::default(),
            affine: true,
            track_running_stats: true,
            non_finite: NonFinite::Skip,
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.num_features == 0 { Err(Error::Empty { what: "num_features" }) } else { Ok(()) }
    }

    pub(super) fn layout(&self, tensor: &TensorDescriptor) -> Result<Layout, Error> {
        Ok(nchw("BatchNorm", tensor, self.num_features)?.batch())
    }

    pub(super) fn affine_len(&self) -> u64 {
        self.num_features as u64
    }

    pub(super) fn affine(&self) -> Affine {
        Affine { weight: self.affine, bias: self.affine }
    }
}
