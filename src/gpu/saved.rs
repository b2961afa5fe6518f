//! What a training pass keeps for its backward pass.

use super::buffer::new_buffer;
use super::io::{ReadAgain, Spot, Tensors};
use super::recent::Recent;
use crate::error::Error;
use crate::op::{Residual, Statistics};
use crate::plan::{Plan, Problem, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that went through their backward pass and can serve again.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Recent<wgpu::Buffer>>);

impl Pool {
    /// No more than so many, from now on.
    pub fn keep_only(&self, most: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep_only(most);
    }

    /// A buffer of `size` bytes: the one that came back last, as a layer that is used twice a step then gets the same two
    /// in the same order each time. Errors as [`new_buffer`].
    pub fn take(&self, device: &wgpu::Device, size: u64) -> Result<wgpu::Buffer, Error> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = free.take(|b| b.size() == size) {
            return Ok(buffer);
        }
        drop(free);
        new_buffer(
            device,
            &wgpu::BufferDescriptor {
                label: Some("wgpu-norm saved"),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            },
        )
    }

    fn give_back(&self, buffer: wgpu::Buffer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(buffer);
    }
}

/// Statistics of one training pass, or of a frozen one: consumed by the backward pass of the same layer.
///
/// It cannot be cloned, so a backward pass before forward, or twice by mistake, does not compile. Dropping it gives its
/// memory back to the layer. It stands for what the forward pass's encoder is going to write: if that is never submitted, it is
/// of no use.
#[derive(Debug)]
#[must_use = "the backward pass needs it; drop it only if there is none"]
pub struct Saved {
    pub(super) layer: u64,
    pub(super) problem: Problem,
    /// Where the forward pass had what backward reads, too.
    pub(super) inputs: ReadAgain,
    pub(super) buffer: wgpu::Buffer,
    pub(super) pool: Arc<Pool>,
}

impl Saved {
    /// Device memory with four words a statistic: mean (high and low part), 1/sqrt(var + eps) and the biased
    /// variance, all `f32`. Usable as a copy's source until the backward pass.
    ///
    /// None after [`Norm::forward_frozen`](super::Norm::forward_frozen), which has a copy of the running statistics.
    pub fn statistics(&self) -> Option<wgpu::BufferBinding<'_>> {
        (self.problem.statistics == Statistics::Batch).then(|| wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: 0,
            size: std::num::NonZero::new(self.problem.layout.stats.targets() * 16),
        })
    }

    /// Checks that a backward pass reads what the forward pass did, where it did.
    pub(super) fn check_inputs(&self, plan: &Plan, tensors: &Tensors) -> Result<(), Error> {
        let before = self.problem.fusion.residual == Residual::Before;
        for (tensor, spot) in self.inputs.into_iter().flatten().filter(|&(tensor, _)| plan.uses(tensor)) {
            let was = if before { Tensor::SecondOutput } else { tensor };
            let same_places = plan.problem.memory(tensor).has_places_of(self.problem.memory(was));
            if !same_places || tensors[tensor as usize].as_ref().map(Spot::of) != Some(spot) {
                return Err(Error::Moved { name: plan.problem.name(tensor) });
            }
        }
        Ok(())
    }

    /// The forward pass.
    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Number of statistics: C for batch norm, N·C for instance, N·G for group, rows for layer and RMS norm.
    pub fn len(&self) -> u64 {
        self.problem.layout.stats.targets()
    }

    /// Never: a layer has at least one statistic.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        self.pool.give_back(self.buffer.clone());
    }
}
