//! What a forward pass leaves for the backward pass.

use super::forward::Stat;
use crate::op::Fusion;
use crate::plan::Problem;

/// What [`super::Norm::backward`] needs of a forward pass besides its inputs: shape, fusion and statistics. It
/// belongs to the layer that made it and is used up by one backward pass.
#[derive(Debug)]
#[must_use = "the backward pass needs it"]
pub struct Saved {
    pub(super) layer: u64,
    pub(super) problem: Problem,
    pub(super) stats: Vec<Stat>,
}

impl Saved {
    /// What the forward pass fused.
    pub(crate) fn fusion(&self) -> Fusion {
        self.problem.fusion
    }

    /// Means that were subtracted: one a channel (batch norm, and running statistics), sample and group, or row;
    /// 0 for RMSNorm.
    pub fn mean(&self) -> Vec<f64> {
        self.stats.iter().map(|s| f64::from(s.hi) + f64::from(s.lo)).collect()
    }

    /// (Biased) variances, in the same order; for RMSNorm mean squares.
    pub fn var(&self) -> Vec<f32> {
        self.stats.iter().map(|s| s.var).collect()
    }

    /// `1 / sqrt(var + eps)`, in the same order.
    pub fn rstd(&self) -> Vec<f32> {
        self.stats.iter().map(|s| s.rstd).collect()
    }
}
