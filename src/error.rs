//! The one error type.

use crate::tensor::DType;

/// Everything that can go wrong. Nothing has been written and nothing recorded when one is returned, except by
/// [`Error::Readback`], which comes after the work was submitted: running statistics may have moved. (What a call of several
/// layers leaves: [`forward_train_together`](crate::sync::forward_train_together); a call that submits your encoder:
/// [`DeviceSyncBatchNorm`](crate::sync::DeviceSyncBatchNorm).)
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What went wrong in a call of a layer that has a label ([`gpu::Norm::with_label`](crate::gpu::Norm::with_label)); see
    /// [`Error::kind`].
    #[error("{label}: {error}")]
    Layer {
        /// The layer's label.
        label: String,
        /// The error.
        error: Box<Error>,
    },
    /// The number of axes is not what the layer takes.
    #[error("{layer} takes {expected} axes, the shape {shape:?} has {}", shape.len())]
    Rank {
        /// The layer.
        layer: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it was given.
        shape: Vec<usize>,
    },
    /// An axis has another size than the layer was made for.
    #[error("{axis} of the shape {shape:?} is {actual}, the layer was made for {expected}")]
    Axis {
        /// Which axis.
        axis: &'static str,
        /// The shape it was found in.
        shape: Vec<usize>,
        /// What the layer was made for.
        expected: usize,
        /// What the shape has.
        actual: usize,
    },
    /// There is nothing of something.
    #[error("{what} is 0: at least one is needed")]
    Empty {
        /// Of what: an axis, a parameter, a number of things.
        what: &'static str,
    },
    /// The channels do not split evenly into the groups.
    #[error("{channels} channels do not split into {groups} equal groups")]
    Groups {
        /// Channels of the layer.
        channels: usize,
        /// Groups asked for.
        groups: usize,
    },
    /// Statistics of the input need two values or more.
    #[error(
        "statistics of the input need more than {count} value each (shape {shape:?}): use a larger batch (BatchNorm) or \
         more positions (InstanceNorm), evaluation with running statistics for inference (track_running_stats), or \
         GroupNorm for small batches"
    )]
    TooFewValues {
        /// Values per statistic.
        count: u64,
        /// The input's shape.
        shape: Vec<usize>,
    },
    /// A parameter of a descriptor, or a running variance, is out of its range.
    #[error("{name} is {value}, it must be {expected}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// What it was.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// A slice or a buffer has another length than the shape or the layer needs.
    #[error("{name} has {actual} elements, it needs {expected}")]
    Length {
        /// Which tensor or parameter.
        name: &'static str,
        /// What it needs.
        expected: u64,
        /// What was given.
        actual: u64,
    },
    /// A buffer range is too small for the tensor.
    #[error("{name} needs {required} bytes from offset {offset}, its buffer range has {available}")]
    BufferTooSmall {
        /// Which tensor.
        name: &'static str,
        /// Bytes of the tensor.
        required: u64,
        /// Offset into the buffer.
        offset: u64,
        /// Bytes from the offset to the end of the range.
        available: u64,
    },
    /// A buffer was created without a usage that the pass needs.
    #[error("the buffer of {name} lacks {missing:?}: add it to its BufferDescriptor")]
    BufferUsage {
        /// Which tensor.
        name: &'static str,
        /// What to add.
        missing: wgpu::BufferUsages,
    },
    /// An offset is not a multiple of the element size.
    #[error("the offset {offset} of {name} is not a multiple of {alignment}")]
    Alignment {
        /// Which tensor.
        name: &'static str,
        /// Offset in bytes.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// Rows or samples of a tensor would overlap.
    #[error("the {what} pitch of {name} is {actual} elements, a {what} has {least}")]
    Pitch {
        /// Which tensor.
        name: &'static str,
        /// Which pitch: row or sample.
        what: &'static str,
        /// What it must be at least.
        least: u64,
        /// What it was.
        actual: u64,
    },
    /// Two tensors share memory and one of them is written.
    #[error("{first} and {second} overlap in one buffer: {hint}")]
    Overlap {
        /// One of the two.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// What is possible instead.
        hint: &'static str,
    },
    /// Something exceeds a limit of the device or of 32-bit addressing.
    #[error("{what}: {required} needed, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How much is needed.
        required: u64,
        /// How much there may be.
        limit: u64,
    },
    /// The pass needs a tensor that was not given.
    #[error("{name} is missing: {hint}")]
    Missing {
        /// Which tensor.
        name: &'static str,
        /// Why it is needed.
        hint: &'static str,
    },
    /// Something was given or asked for that the call has no use for.
    #[error("{name} does not belong here: {reason}")]
    Unexpected {
        /// Which tensor, parameter or call.
        name: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The element type is not what the pass works on.
    #[error(
        "{name} is {actual:?}, the call works on {expected:?}: TensorDescriptor::dtype says on what, and a backward pass \
         works on what its forward pass did"
    )]
    DType {
        /// Which tensor.
        name: &'static str,
        /// What it works on.
        expected: DType,
        /// What was given.
        actual: DType,
    },
    /// The saved state comes from another layer or another device.
    #[error("the saved state belongs to another {what}: run backward on what ran forward")]
    Foreign {
        /// What differs.
        what: &'static str,
    },
    /// A backward pass on a device is given something else than the forward pass read.
    #[error(
        "{name} is not where the forward pass had what backward reads again (x, or with Residual::Before the sum; a residual): \
         bind that, not dy or another tensor, or set Backward::moved if it was copied or computed again"
    )]
    Moved {
        /// Which tensor.
        name: &'static str,
    },
    /// Members of a group called different things: nobody computed anything.
    #[error("members of the group disagree on {what}: rank 0 has {expected}, rank {rank} has {actual}")]
    Disagreement {
        /// What differs.
        what: &'static str,
        /// The first member that differs from rank 0.
        rank: usize,
        /// What rank 0 has.
        expected: String,
        /// What that member has.
        actual: String,
    },
    /// Another member of the group could not take part, because of an error of its own.
    #[error("rank {rank} of the group failed before the exchange: see its own error")]
    MemberFailed {
        /// Which member.
        rank: usize,
    },
    /// A member of the group is gone, or gave up a call: nobody can tell which exchange the others are in.
    #[error("rank {rank} of the group is gone, or gave up a call: the group cannot be used any more")]
    MemberGone {
        /// Which member.
        rank: usize,
    },
    /// Members of the group did not come in time.
    #[error("ranks {missing:?} of the group did not come within {seconds} s: the group cannot be used any more")]
    Timeout {
        /// Who is missing, as far as this member knows.
        missing: Vec<usize>,
        /// How long this member waited.
        seconds: f64,
    },
    /// The transport failed.
    #[error("exchange between members failed: {0}")]
    Communication(String),
    /// No adapter or device could be had.
    #[error("no GPU device: {0}")]
    NoDevice(String),
    /// The device does not meet a requirement.
    #[error("the device's limit {name} is {actual}, {required} is needed: open it with gpu::required_limits")]
    Limit {
        /// Name in [`wgpu::Limits`].
        name: &'static str,
        /// What is needed.
        required: u64,
        /// What the device has.
        actual: u64,
    },
    /// There is no memory for a new buffer, or the device is lost: wgpu itself gives a device up where there is none to stage a
    /// buffer's first contents. (In a browser a lack of memory is told to the application's handler of wgpu's errors.)
    #[error("a buffer cannot be allocated, the device is lost or out of memory: {0}")]
    NewBuffer(String),
    /// Reading results back failed.
    #[error("reading back failed: {0}")]
    Readback(String),
}

impl Error {
    /// What went wrong, whichever layer it was in.
    ///
    /// ```
    /// use wgpu_norm::Error;
    /// let error = Error::Layer { label: "bn1".into(), error: Box::new(Error::MemberFailed { rank: 1 }) };
    /// assert_eq!(error.to_string(), "bn1: rank 1 of the group failed before the exchange: see its own error");
    /// assert!(matches!(error.kind(), Error::MemberFailed { .. }));
    /// ```
    pub fn kind(&self) -> &Error {
        match self {
            Error::Layer { error, .. } => error.kind(),
            error => error,
        }
    }
}

/// [`Error::Length`] if something that may be absent has another length than it needs.
pub(crate) fn check_len(name: &'static str, actual: Option<usize>, expected: u64) -> Result<(), Error> {
    match actual.map(|actual| actual as u64) {
        Some(actual) if actual != expected => Err(Error::Length { name, expected, actual }),
        _ => Ok(()),
    }
}
