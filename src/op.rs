//! What a call asks of a layer: which statistics, what is fused, which gradients.

/// Whether a training pass takes its batch into the running statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Commit {
    /// Update the running statistics and count the batch.
    Update,
    /// Leave them alone: for the second forward pass of gradient checkpointing, which must not count twice.
    Skip,
}

/// A second input that is added on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Residual {
    /// None.
    #[default]
    None,
    /// `y = norm(x) + residual`, before the ReLU if there is one: residual networks.
    After,
    /// `sum = x + residual; y = norm(sum)`, and `sum` is written too: transformer blocks.
    Before,
}

/// What is computed in the same pass as the norm, without a tensor of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fusion {
    /// Second input.
    pub residual: Residual,
    /// `max(0, .)` at the end.
    pub relu: bool,
}

/// Where mean and variance come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistics {
    /// From the input itself.
    Batch,
    /// The running statistics.
    Running,
}

/// Gradients that a backward pass computes. What is left out costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gradients {
    /// Of the input (with [`Residual::Before`]: of the sum, which is that of both inputs).
    pub dx: bool,
    /// Of the residual ([`Residual::After`] only).
    pub dresidual: bool,
    /// Of weight and bias.
    pub affine: bool,
}

/// One call on a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// From x to y.
    Forward,
    /// From dy to gradients.
    Backward(Gradients),
    /// Only the moments of x, or with gradients the sums of dy: the first half of a synchronised step.
    LocalSums(Direction),
    /// The second half, forward: y from the moments of the whole group.
    ApplyMoments,
    /// The second half, backward: dx (and dresidual) from the sums of the whole group.
    ApplyGradientSums(Gradients),
    /// Moments or sums of several shards to those of all of them.
    MergeSums(Direction, u32),
}

impl Op {
    /// Forward or backward.
    pub const fn direction(self) -> Direction {
        match self {
            Op::Forward | Op::ApplyMoments => Direction::Forward,
            Op::Backward(_) | Op::ApplyGradientSums(_) => Direction::Backward,
            Op::LocalSums(direction) | Op::MergeSums(direction, _) => direction,
        }
    }

    /// Whether the call is a part of a synchronised step, where a shard may be empty.
    pub const fn is_synchronised(self) -> bool {
        !matches!(self, Op::Forward | Op::Backward(_))
    }
}

/// Forward or backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From x to y.
    Forward,
    /// From dy to gradients.
    Backward,
}
