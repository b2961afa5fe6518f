//! What a forward pass leaves for the backward pass.

use crate::moments::Moments;
use crate::op::Statistics;
use crate::plan::Problem;

/// Mean (a pair), variance and 1/std of one statistic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stat {
    pub hi: f32,
    pub lo: f32,
    pub var: f32,
    pub rstd: f32,
}

impl Stat {
    pub fn new(moments: &Moments, eps: f32) -> Stat {
        // Moments of nothing, given for a shard that has values, are mean 0 and variance 0, as on a GPU.
        let var = moments.m2 / moments.count.max(1) as f32;
        Stat { hi: moments.mean_hi, lo: moments.mean_lo, var, rstd: 1.0 / (var + eps).sqrt() }
    }

    pub fn given(mean: f32, var: f32, eps: f32) -> Stat {
        Stat { hi: mean, lo: 0.0, var, rstd: 1.0 / (var + eps).sqrt() }
    }
}

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
    /// The forward pass.
    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Whether the statistics are the layer's running ones.
    pub(crate) fn is_frozen(&self) -> bool {
        self.problem.statistics == Statistics::Running
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
