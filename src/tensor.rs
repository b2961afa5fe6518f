//! What a tensor is: its shape, element type and memory format, and its place in a larger one.

use crate::error::Error;

/// Element type of a tensor in memory. Statistics and arithmetic are always `f32` or better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

    /// Number of elements. [`Error::TooLarge`] above `u64::MAX / 4`.
    pub fn len(&self) -> Result<u64, Error> {
        product("elements of the tensor", self.shape)
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Size in bytes. Errors as [`TensorDescriptor::len`].
    pub fn size(&self) -> Result<u64, Error> {
        Ok(self.len()? * self.dtype.size())
    }
}

/// Product of axis sizes, or [`Error::TooLarge`].
pub(crate) fn product(what: &'static str, sizes: &[usize]) -> Result<u64, Error> {
    sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= u64::MAX / 4).ok_or(Error::TooLarge {
        what,
        required: u64::MAX,
        limit: u64::MAX / 4,
    })
}

/// Distances, in elements, within a tensor that is a part of a larger one: a slice of its channels, say.
///
/// A *row* is a run of neighbouring elements: a whole sample in channels-first tensors, the channels of one position
/// in channels-last tensors, one `normalized_shape` for layer and RMS norm, of which a sample has as many as the last
/// leading axis: the heads of a token. What is `None` follows without a gap.
/// Where a sample is one row (layer norm of one leading axis), the two are the same distance and either will do.
///
/// Channels 64 to 128 of a buffer of 256 channels, of 28 x 28 positions, start at element `64 * 28 * 28` (bind the
/// buffer there) and have this pitch:
///
/// ```
/// use wgpu_norm::Pitch;
/// let slice = Pitch { sample: Some(256 * 28 * 28), ..Pitch::default() };
/// // In channels-last order they start at element 64, and
/// let slice = Pitch { row: Some(256), ..Pitch::default() };
/// ```
///
/// Where samples of layer norm have gaps that its rows have not, gradients of weight and bias take whole samples, of which a
/// binding of the device must hold some (`max_storage_buffer_binding_size`).
///
/// In a fused query, key and value of `[tokens, 8 + 2 + 2, 64]`, the query's eight heads are the shape `[tokens, 8, 64]` for a
/// norm over 64, and the key's two `[tokens, 2, 64]`, bound at element `8 * 64`. Both have this pitch, and may be normalised
/// where they are:
///
/// ```
/// # use wgpu_norm::Pitch;
/// let heads = Pitch { sample: Some((8 + 2 + 2) * 64), ..Pitch::default() };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pitch {
    /// From a row to the next.
    pub row: Option<u64>,
    /// From a sample to the next.
    pub sample: Option<u64>,
}

/// Pitches of a forward pass's tensors; by default none has gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ForwardPitches {
    /// Of the input.
    pub x: Pitch,
    /// Of the second input.
    pub residual: Pitch,
    /// Of the output.
    pub y: Pitch,
    /// Of the second output.
    pub sum: Pitch,
}

impl ForwardPitches {
    /// Those of what a pass that only sums reads.
    pub(crate) fn of_inputs(&self) -> ForwardPitches {
        ForwardPitches { x: self.x, residual: self.residual, ..Default::default() }
    }
}

/// Pitches of a backward pass's tensors; by default none has gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackwardPitches {
    /// Of the forward pass's input.
    pub x: Pitch,
    /// Of the forward pass's residual.
    pub residual: Pitch,
    /// Of the gradient of y.
    pub dy: Pitch,
    /// Of the gradient of the sum.
    pub dsum: Pitch,
    /// Of the gradient of x.
    pub dx: Pitch,
    /// Of the gradient of the residual.
    pub dresidual: Pitch,
}

impl BackwardPitches {
    /// As [`ForwardPitches::of_inputs`].
    pub(crate) fn of_inputs(&self) -> BackwardPitches {
        BackwardPitches { x: self.x, residual: self.residual, dy: self.dy, ..Default::default() }
    }
}
