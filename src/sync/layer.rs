//! Batch norm whose statistics are the group's.

use super::exchange::{Communicator, Word};
use super::together::{BackwardPart, ForwardPart, backward_together, forward_train_together};
use crate::element::Element;
use crate::error::Error;
use crate::host::{Backward, Norm, Output, OutputGradients, Saved};
use crate::moments::Moments;
use crate::norm::{Momentum, NonFinite, NormDescriptor};
use crate::op::{Commit, Fusion, Gradients};
use crate::tensor::TensorDescriptor;
use std::sync::Arc;

/// Batch norm on one member of a group: as [`Norm`], with statistics of all members' shards.
///
/// Every member calls the same methods in the same order. Shards may differ in size and may be empty (N = 0).
/// Members that begin with equal running statistics and counters end with equal ones, bit for bit (load a checkpoint on all
/// of them), but for numbers below [`f32::MIN_POSITIVE`], which some devices take for 0. Members whose eps, momentum,
/// [`NonFinite`] or [`Commit`] differ get [`Error::Disagreement`], and nothing has changed. Equal shards of 2^k samples on
/// devices of one kind give the bits that one device with the whole batch gives.
///
/// Calls are futures that wait for the other members without blocking: each member may have a thread of its own,
/// or one thread drives several with [`join_all`](super::join_all), whose devices then compute at the same time. A call that
/// is dropped between its first poll and the end of its exchange breaks the group ([`Error::MemberGone`]).
///
/// Zhang et al., 2018, section 3; [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html).
pub struct SyncBatchNorm {
    pub(super) norm: Norm,
    pub(super) group: Arc<dyn Communicator>,
}

impl std::fmt::Debug for SyncBatchNorm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rank, size) = (self.group.rank(), self.group.size());
        write!(f, "SyncBatchNorm({:?}, rank {rank} of {size})", self.norm.descriptor())
    }
}

impl SyncBatchNorm {
    /// Synchronises a batch norm; it keeps weight, bias, running statistics, momentum and counters. All layers of a member
    /// share its `group`.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use wgpu_norm::{BatchNormDescriptor, host, sync::{Communicator, LocalGroup, SyncBatchNorm}};
    /// for member in LocalGroup::members(2, Duration::from_secs(60)) {
    ///     let group: Arc<dyn Communicator> = Arc::new(member);
    ///     let layer = |channels| {
    ///         let norm = host::Norm::new(&host::Backend::Cpu, BatchNormDescriptor::new(channels))?;
    ///         SyncBatchNorm::new(norm, group.clone())
    ///     };
    ///     let (first, second) = (layer(64)?, layer(128)?);
    /// }
    /// # Ok::<(), wgpu_norm::Error>(())
    /// ```
    ///
    /// [`Error::Unexpected`] for another norm: only batch norm has statistics over the batch.
    pub fn new(norm: Norm, group: Arc<dyn Communicator>) -> Result<SyncBatchNorm, Error> {
        norm.descriptor().check_batch()?;
        Ok(SyncBatchNorm { norm, group })
    }

    /// The layer, for its state and for evaluation, which needs no group.
    pub fn norm(&self) -> &Norm {
        &self.norm
    }

    /// The layer, to change its state.
    pub fn norm_mut(&mut self) -> &mut Norm {
        &mut self.norm
    }

    /// The layer without its group, as it is.
    pub fn into_norm(self) -> Norm {
        self.norm
    }

    /// Training forward on this member's shard. [`Error::TooFewValues`] on every member if all shards together
    /// have one value a channel; if they have none, running statistics stay as they are.
    pub async fn forward_train<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
        commit: Commit,
    ) -> Result<(Output<I, O>, Saved), Error> {
        let part = ForwardPart { layer: self, tensor, fusion, x, residual };
        only(forward_train_together(&mut [part], commit).await?)
    }

    /// Backward on this member's shard. dweight and dbias are the shard's own: see the module's recipe. Errors as
    /// [`Norm::backward`], and [`Error::Communication`].
    pub async fn backward<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
        wanted: Gradients,
    ) -> Result<OutputGradients<I>, Error> {
        let part = BackwardPart { layer: self, saved, io };
        only(backward_together(vec![part], wanted).await?)
    }
}

/// What members must have in common to end with the same running statistics.
pub(super) fn settings(descriptor: &NormDescriptor, commit: Commit) -> [Word; 4] {
    let running = descriptor.running_stats();
    let momentum = running.map_or(0.0, |running| running.momentum.number());
    let poisons = running.is_some_and(|running| running.non_finite == NonFinite::Poison);
    let commits = running.is_some() && commit == Commit::Update;
    let show_float = |bits| match f32::from_bits(bits) {
        Momentum::CUMULATIVE => "the cumulative average".into(),
        value => value.to_string(),
    };
    let show_flag = |flag| if flag == 1 { "yes".into() } else { "no".into() };
    [
        Word { what: "eps", value: descriptor.eps().to_bits(), show: show_float },
        Word { what: "momentum", value: momentum.to_bits(), show: show_float },
        Word { what: "whether batches that are not finite are taken in", value: poisons.into(), show: show_flag },
        Word { what: "whether running statistics take the batch in", value: commits.into(), show: show_flag },
    ]
}

/// [`Error::TooFewValues`] if all shards together have one value a channel.
pub(super) fn check_values(merged: &[Moments], tensor: &TensorDescriptor) -> Result<(), Error> {
    match merged.first() {
        Some(&Moments { count: 1, .. }) => Err(Error::TooFewValues { count: 1, shape: tensor.shape.to_vec() }),
        _ => Ok(()),
    }
}

/// The result of a call with one layer.
pub(super) fn only<T>(results: Vec<T>) -> Result<T, Error> {
    results.into_iter().next().ok_or(Error::Empty { what: "the number of layers" })
}

/// Synchronises the batch norms of a collection, which is empty afterwards. PyTorch's `convert_sync_batchnorm`.
///
/// [`Error::Unexpected`] if one is another norm: nothing has changed then. Leave others out, as they need no
/// synchronisation.
pub fn convert(norms: &mut Vec<Norm>, group: &Arc<dyn Communicator>) -> Result<Vec<SyncBatchNorm>, Error> {
    norms.iter().try_for_each(|norm| norm.descriptor().check_batch())?;
    Ok(norms.drain(..).map(|norm| SyncBatchNorm { norm, group: group.clone() }).collect())
}

/// Takes the group away again: nothing of the layers' state is lost.
pub fn revert(norms: Vec<SyncBatchNorm>) -> Vec<Norm> {
    norms.into_iter().map(SyncBatchNorm::into_norm).collect()
}
