//! What a call asks of a layer: which statistics, what is fused, which gradients.

use crate::error::Error;

/// Whether a training pass takes its batch into the running statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Commit {
    /// Update the running statistics and count the batch.
    Update,
    /// Leave them alone: for the second forward pass of gradient checkpointing, and for all micro-batches but one that share
    /// the moments of their batch, which must not count twice.
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
    /// `sum = x + residual; y = norm(sum)`, and `sum` is written too: transformer blocks. The norm is of the sum as it is
    /// stored, rounded to x's element type, which the residual and the sum have whatever y's is.
    ///
    /// ```no_run
    /// # fn f(norm: &wgpu_norm::gpu::Norm, encoder: &mut wgpu_norm::wgpu::CommandEncoder, tokens: usize,
    /// #      [branch, stream, y]: [&wgpu_norm::wgpu::Buffer; 3]) -> Result<(), wgpu_norm::Error> {
    /// use wgpu_norm::{DType, Fusion, Residual, TensorDescriptor, gpu};
    /// // stream += branch; y = norm(stream)
    /// let shape = [tokens, 4096];
    /// let rows = TensorDescriptor { dtype: DType::F16, ..TensorDescriptor::new(&shape) };
    /// let before = Fusion { residual: Residual::Before, relu: false };
    /// let io = gpu::Forward {
    ///     residual: Some(stream.as_entire_buffer_binding()),
    ///     sum: Some(stream.as_entire_buffer_binding()),
    ///     ..gpu::Forward::new(branch.as_entire_buffer_binding(), y.as_entire_buffer_binding())
    /// };
    /// norm.forward_eval(encoder, &rows, before, &io)
    /// # }
    /// ```
    Before,
}

/// What is computed in the same pass as the norm, without a tensor of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fusion {
    /// Second input.
    pub residual: Residual,
    /// `max(0, .)` at the end. Gradients pass where y is above 0 before it is rounded to its element type: also where an `f16`
    /// is then 0.
    pub relu: bool,
}

impl Fusion {
    /// Whether a forward pass is given the second input that it adds, and no other.
    pub(crate) fn check_residual(self, given: bool) -> Result<(), Error> {
        match (self.residual != Residual::None, given) {
            (true, false) => Err(Error::Missing { name: "residual", hint: "the call's Fusion adds one" }),
            (false, true) => {
                Err(Error::Unexpected { name: "residual", reason: "the call's Fusion has Residual::None" })
            }
            _ => Ok(()),
        }
    }

    /// The residual that moments are made with, checked as above. One that is added after the norm need not be given.
    pub(crate) fn residual_of_moments<T>(self, given: Option<T>) -> Result<Option<T>, Error> {
        if self.residual == Residual::After {
            return Ok(None);
        }
        self.check_residual(given.is_some())?;
        Ok(given)
    }

    /// Whether a forward pass is given a place for the sum exactly if it writes one.
    pub(crate) fn check_sum(self, given: bool) -> Result<(), Error> {
        match (self.residual == Residual::Before, given) {
            (true, false) => Err(Error::Missing { name: "sum", hint: "Residual::Before writes x + residual to it" }),
            (false, true) => Err(Error::Unexpected { name: "sum", reason: "only Residual::Before writes it" }),
            _ => Ok(()),
        }
    }

    /// Whether the ReLU's mask is recomputed from the residual.
    pub(crate) fn masks_by_residual(self) -> bool {
        self.relu && self.residual == Residual::After
    }

    /// Whether a backward pass is given what it needs, and nothing that it has no use for. `residual`, `dsum`: whether it has
    /// these.
    pub(crate) fn check_backward(self, wanted: Gradients, residual: bool, dsum: bool) -> Result<(), Error> {
        let after = self.residual == Residual::After;
        let unexpected = |name, reason| Err(Error::Unexpected { name, reason });
        if self.masks_by_residual() && !residual {
            return Err(Error::Missing { name: "residual", hint: "the ReLU's mask is recomputed from it" });
        }
        if residual && !after {
            return unexpected("residual", "the forward pass had no Residual::After");
        }
        if dsum && self.residual != Residual::Before {
            return unexpected("dsum", "only Residual::Before has a sum");
        }
        if dsum && !wanted.dx {
            return unexpected("dsum", "dx, which it is added to, is not wanted");
        }
        if wanted.dresidual && !after {
            let reason = "the forward pass had no Residual::After (with Residual::Before dx is also dresidual)";
            return unexpected("dresidual", reason);
        }
        Ok(())
    }
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
