use super::{Affine, check_normalized_shape, trailing_rows};
use crate::error::Error;
use crate::layout::Layout;
use crate::tensor::{TensorDescriptor, product};

/// Root-mean-square normalisation over the trailing axes: `y = x / sqrt(mean(x^2) + eps) * weight`.
///
/// For transformers. Zhang and Sennrich, 2019;
/// [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.RMSNorm.html). PyTorch's eps default is the
/// machine epsilon of the input's type; here, by default, it is that of `f32`, 1.1920929e-7.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNormDescriptor {
    /// Sizes of the trailing axes that share a statistic.
    pub normalized_shape: Vec<usize>,
    /// Added to the mean square inside the root: 1.2e-38 ([`f32::MIN_POSITIVE`]) at least.
    pub eps: f32,
    /// Learnable weight; default: on (PyTorch's `elementwise_affine`).
    pub weight: bool,
}

impl RmsNormDescriptor {
    /// PyTorch's defaults for `f32`.
    pub fn new(normalized_shape: &[usize]) -> Self {
        RmsNormDescriptor { normalized_shape: normalized_shape.to_vec(), eps: f32::EPSILON, weight: true }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        check_normalized_shape(&self.normalized_shape)
    }

    pub(super) fn layout(&self, tensor: &TensorDescriptor) -> Result<Layout, Error> {
        trailing_rows("RMSNorm", tensor, &self.normalized_shape)
    }

    pub(super) fn affine_len(&self) -> u64 {
        product("normalized_shape", &self.normalized_shape).unwrap_or(0)
    }

    pub(super) fn affine(&self) -> Affine {
        Affine { weight: self.weight, bias: false }
    }
}
