use super::{Affine, nchw};
use crate::error::Error;
use crate::layout::Layout;
use crate::tensor::TensorDescriptor;

/// Group normalisation: statistics per sample over groups of neighbouring channels and space.
///
/// The same in training and evaluation, and independent of the batch size: for detection and segmentation at
/// 2 to 4 images. Wu and He, 2018;
/// [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html). A group of one value gives its bias, also
/// for a single sample, where PyTorch raises an error.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormDescriptor {
    /// Groups; must divide the channels. 16 to 32 are usual.
    pub num_groups: usize,
    /// Channels: C of the input.
    pub num_channels: usize,
    /// Added to the variance inside the root: 1.2e-38 ([`f32::MIN_POSITIVE`]) at least; default: 1e-5.
    pub eps: f32,
    /// Learnable weight and bias, one a channel; default: on.
    pub affine: bool,
}

impl GroupNormDescriptor {
    /// PyTorch's defaults.
    pub fn new(num_groups: usize, num_channels: usize) -> Self {
        GroupNormDescriptor { num_groups, num_channels, eps: 1e-5, affine: true }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.num_channels == 0 {
            return Err(Error::Empty { what: "num_channels" });
        }
        if self.num_groups == 0 || !self.num_channels.is_multiple_of(self.num_groups) {
            return Err(Error::Groups { channels: self.num_channels, groups: self.num_groups });
        }
        Ok(())
    }

    pub(super) fn layout(&self, tensor: &TensorDescriptor) -> Result<Layout, Error> {
        let size = self.num_channels / self.num_groups;
        Ok(nchw("GroupNorm", tensor, self.num_channels)?.group(size as u64))
    }

    pub(super) fn affine_len(&self) -> u64 {
        self.num_channels as u64
    }

    pub(super) fn affine(&self) -> Affine {
        Affine { weight: self.affine, bias: self.affine }
    }
}
