//! Synchronised batch norm of a member whose tensors lie in buffers of its own.

use super::exchange::{Communicator, OnTheWay, all_reduce, all_reduce_alike};
use super::layer::{check_values, settings};
use crate::error::Error;
use crate::gpu::{Backward, DeviceSums, Forward, Norm, Saved};
use crate::host::read_sums;
use crate::op::{Commit, Fusion};
use crate::sums::Sum;
use crate::tensor::TensorDescriptor;
use std::sync::Arc;
use wgpu::CommandEncoder;

/// Batch norm on one member of a group, with tensors on the device: as [`SyncBatchNorm`](super::SyncBatchNorm), which says
/// what members owe each other and what they end with. A group may have members of both kinds.
///
/// The group's sums are known only when the device has made this member's, so each call submits the encoder that it is given,
/// with all that was recorded before, reads a few values a channel back, and returns another encoder to go on with. It polls the
/// device meanwhile, for which the thread waits.
///
/// ```no_run
/// use wgpu_norm::{Commit, Error, Fusion, TensorDescriptor, gpu, sync::DeviceSyncBatchNorm, wgpu};
///
/// async fn step(
///     layer: &DeviceSyncBatchNorm,
///     encoder: wgpu::CommandEncoder,
///     shard: &TensorDescriptor<'_>,
///     [x, y, dy, dx]: [&wgpu::Buffer; 4],
/// ) -> Result<wgpu::CommandEncoder, Error> {
///     let io = gpu::Forward::new(x.as_entire_buffer_binding(), y.as_entire_buffer_binding());
///     let (encoder, saved) = layer.forward_train(encoder, shard, Fusion::default(), &io, Commit::Update).await?;
///     // ... the rest of your network ...
///     let gradients = gpu::Backward {
///         dx: Some(dx.as_entire_buffer_binding()),
///         ..gpu::Backward::new(x.as_entire_buffer_binding(), dy.as_entire_buffer_binding())
///     };
///     layer.backward(encoder, saved, &gradients).await
/// }
/// ```
pub struct DeviceSyncBatchNorm {
    norm: Norm,
    queue: wgpu::Queue,
    group: Arc<dyn Communicator>,
}

impl std::fmt::Debug for DeviceSyncBatchNorm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rank, size) = (self.group.rank(), self.group.size());
        write!(f, "DeviceSyncBatchNorm({:?}, rank {rank} of {size})", self.norm.descriptor())
    }
}

impl DeviceSyncBatchNorm {
    /// Synchronises a batch norm; `queue` is that of its device.
    ///
    /// [`Error::Unexpected`] for another norm: only batch norm has statistics over the batch.
    pub fn new(norm: Norm, queue: &wgpu::Queue, group: Arc<dyn Communicator>) -> Result<DeviceSyncBatchNorm, Error> {
        norm.descriptor().check_batch()?;
        Ok(DeviceSyncBatchNorm { norm, queue: queue.clone(), group })
    }

    /// The layer, for its state and for evaluation, which needs no group.
    pub fn norm(&self) -> &Norm {
        &self.norm
    }

    /// The layer without its group, as it is.
    pub fn into_norm(self) -> Norm {
        self.norm
    }

    /// Training forward on this member's shard. What is returned has the last pass recorded; it is yours to submit.
    ///
    /// Errors as [`gpu::Norm::forward_train`](Norm::forward_train) and [`SyncBatchNorm`](super::SyncBatchNorm)'s call; nothing
    /// is submitted if this member's own part is wrong. [`Error::Readback`] if the device is lost.
    pub async fn forward_train(
        &self,
        mut encoder: CommandEncoder,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        io: &Forward<'_>,
        commit: Commit,
    ) -> Result<(CommandEncoder, Saved), Error> {
        let member = OnTheWay::to_exchange(&*self.group);
        let (x, residual) = (io.x.clone(), io.residual.clone());
        let local = self
            .norm
            .check_train_with(tensor, fusion, io)
            .and_then(|()| self.norm.local_moments(&mut encoder, tensor, fusion, x, residual, &io.pitches));
        let local = self.submitted(encoder, local).await;
        member.arrived();
        let settings = settings(self.norm.descriptor(), commit);
        let merged = only(all_reduce_alike(&*self.group, tensor.dtype, local, &settings).await?);
        check_values(&merged, tensor)?;
        let merged = DeviceSums::from_slice(self.norm.context(), &merged)?;
        let mut encoder = self.encoder();
        let saved = self.norm.forward_train_with(&mut encoder, tensor, fusion, io, &merged, commit)?;
        Ok((encoder, saved))
    }

    /// Backward on this member's shard. dweight and dbias are the shard's own: see the module's recipe.
    ///
    /// Errors as [`gpu::Norm::backward`](Norm::backward), and as above.
    pub async fn backward(
        &self,
        mut encoder: CommandEncoder,
        saved: Saved,
        io: &Backward<'_>,
    ) -> Result<CommandEncoder, Error> {
        let member = OnTheWay::to_exchange(&*self.group);
        let local = self
            .norm
            .check_backward_with(&saved, io)
            .and_then(|()| self.norm.local_gradient_sums(&mut encoder, &saved, io));
        let local = self.submitted(encoder, local).await;
        member.arrived();
        let merged = only(all_reduce(&*self.group, saved.problem().input, local).await?);
        let merged = DeviceSums::from_slice(self.norm.context(), &merged)?;
        let mut encoder = self.encoder();
        self.norm.backward_with(&mut encoder, saved, io, &merged)?;
        Ok(encoder)
    }

    /// This member's sums, once the device has made them, for the exchange.
    async fn submitted<S: Sum>(
        &self,
        encoder: CommandEncoder,
        local: Result<DeviceSums<S>, Error>,
    ) -> Result<Vec<Vec<S>>, Error> {
        let device = self.norm.context().device();
        Ok(vec![read_sums(device, &self.queue, encoder, &local?).await?])
    }

    fn encoder(&self) -> CommandEncoder {
        let label = Some(self.norm.label());
        self.norm.context().device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label })
    }
}

/// The sums of a call with one layer.
fn only<S>(merged: Vec<Vec<S>>) -> Vec<S> {
    merged.into_iter().next().unwrap_or_default()
}
