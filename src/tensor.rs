//! What a tensor is: its shape, element type and memory format.

use crate::error::Error;

/// Element type of a tensor in memory. Statistics and arithmetic are always `f32` or better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn size(self) -> u64 {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Spacing of values next to 1.0: one unit in the last place.
    pub const fn epsilon(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u64 << 23) as f64,
            DType::F16 => 1.0 / (1u64 << 10) as f64,
            DType::BF16 => 1.0 / (1u64 << 7) as f64,
        }
    }
}

/// Order of the axes in memory. Shapes are always given in PyTorch's logical order (N, C, ...).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// (N, C, spatial...): PyTorch's default, NCHW.
    #[default]
    ChannelsFirst,
    /// (N, spatial..., C): PyTorch's `channels_last`, NHWC and NDHWC.
    ChannelsLast,
}

/// Shape (logical order N, C, ...), element type and format of a layer's input.
///
/// ```
/// use wgpu_norm::{DType, Format, TensorDescriptor};
/// let images = TensorDescriptor::new(&[64, 256, 56, 56]);
/// assert_eq!(images.len().unwrap(), 64 * 256 * 56 * 56);
/// let half = TensorDescriptor { dtype: DType::F16, format: Format::ChannelsLast, ..images };
/// assert_eq!(half.size().unwrap(), 64 * 256 * 56 * 56 * 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorDescriptor<'a> {
    /// Sizes of the axes, in PyTorch's order whatever the memory format.
    pub shape: &'a [usize],
    /// Element type in memory.
    pub dtype: DType,
    /// Order of the axes in memory.
    pub format: Format,
}

impl<'a> TensorDescriptor<'a> {
    /// A contiguous `f32` tensor in channels-first order.
    pub const fn new(shape: &'a [usize]) -> Self {
        TensorDescriptor { shape, dtype: DType::F32, format: Format::ChannelsFirst }
    }

    /// Number of elements. [`Error::TooLarge`] when it does not fit in a `u64`.
    pub fn len(&self) -> Result<u64, Error> {
        self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).ok_or(Error::TooLarge {
            what: "elements of the tensor",
            required: u64::MAX,
            limit: u64::MAX,
        })
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Size in bytes. [`Error::TooLarge`] when it does not fit in a `u64`.
    pub fn size(&self) -> Result<u64, Error> {
        self.len()?.checked_mul(self.dtype.size()).ok_or(Error::TooLarge {
            what: "bytes of the tensor",
            required: u64::MAX,
            limit: u64::MAX,
        })
    }
}
