use super::{Affine, check_normalized_shape, trailing_rows};
use crate::error::Error;
use crate::layout::Layout;
use crate::tensor::{TensorDescriptor, product};

/// Layer normalisation over the trailing axes `normalized_shape`, one weight and bias an element of them.
///
/// For transformers. Ba, Kiros and Hinton, 2016;
/// [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html).
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormDescriptor {
    /// Sizes of the trailing axes that share a statistic.
    pub normalized_shape: Vec<usize>,
    /// Added to the variance inside the root: 1.2e-38 ([`f32::MIN_POSITIVE`]) at least; default: 1e-5.
    pub eps: f32,
    /// Learnable weight; default: on (PyTorch's `elementwise_affine`).
    pub weight: bool,
    /// Learnable bias; default: on.
    pub bias: bool,
}

impl LayerNormDescriptor {
    /// PyTorch's defaults.
    pub fn new(normalized_shape: &[usize]) -> Self {
        LayerNormDescriptor { normalized_shape: normalized_shape.to_vec(), eps: 1e-5, weight: true, bias: true }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        check_normalized_shape(&self.normalized_shape)
    }

    pub(super) fn layout(&self, tensor: &TensorDescriptor) -> Result<Layout, Error> {
        trailing_rows("LayerNorm", tensor, &self.normalized_shape)
    }

    pub(super) fn affine_len(&self) -> u64 {
        product("normalized_shape", &self.normalized_shape).unwrap_or(0)
    }

    pub(super) fn affine(&self) -> Affine {
        Affine { weight: self.weight, bias: self.bias }
    }
}
