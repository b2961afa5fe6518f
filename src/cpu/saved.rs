//! What a forward pass leaves for the backward pass.

use super::forward::Stat;
use super::grid::Grid;
use crate::error::Error;
use crate::op::Fusion;
use crate::plan::Problem;
use crate::tensor::DType;

/// What [`super::Norm::backward`] needs of a forward pass besides its inputs: shape, fusion and statistics. It
/// belongs to the layer that made it and is used up by one backward pass.
#[derive(Debug)]
#[must_use = "the backward pass needs it"]
pub struct Saved {
    pub(super) layer: u64,
    pub(super) problem: Problem,
    pub(super) grid: Grid,
    pub(super) stats: Vec<Stat>,
}

impl Saved {
    pub(super) fn new(layer: u64, problem: Problem, grid: Grid, stats: Vec<Stat>) -> Saved {
        Saved { layer, problem, grid, stats }
    }

    /// What the forward pass fused.
    pub(crate) fn fusion(&self) -> Fusion {
        self.problem.fusion
    }

    /// The same statistics for tensors of other types.
    pub(super) fn of(mut self, (input, output): (DType, DType)) -> Saved {
        (self.problem.input, self.problem.output) = (input, output);
        self
    }

    pub(super) fn check_types(&self, (input, output): (DType, DType)) -> Result<(), Error> {
        for (name, expected, actual) in [("x", self.problem.input, input), ("dy", self.problem.output, output)] {
            if expected != actual {
                return Err(Error::DType { name, expected, actual });
            }
        }
        Ok(())
    }

    /// For the first of two steps of a backward pass, which does not use it up.
    pub(super) fn duplicate(&self) -> Saved {
        Saved::new(self.layer, self.problem, self.grid, self.stats.clone())
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
