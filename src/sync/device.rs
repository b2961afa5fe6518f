//! Synchronised batch norm of a member whose tensors lie in buffers of its own.

use super::exchange::{Communicator, OnTheWay, all_reduce, all_reduce_alike};
use super::layer::{check_values, only, settings};
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
/// The group's sums are known only when the device has made this member's. So each call submits the encoder, with all that was
/// recorded before, and puts another in its place, to go on with; it reads a few values a channel back meanwhile, and the
/// thread blocks while its device works (not in a browser). An empty shard may bind any buffers with the usages that the call
/// asks for.
///
/// An error of this member's own call comes before anything is submitted, and leaves the encoder as it was; the other members
/// get [`Error::MemberFailed`]. Their encoders have been submitted then, as this one's has at any error of the exchange:
/// running statistics and dx are as they were, dweight and dbias may be written.
///
/// ```no_run
/// use wgpu_norm::{Commit, Error, Fusion, TensorDescriptor, gpu, sync::DeviceSyncBatchNorm, wgpu};
///
/// async fn step(
///     layer: &DeviceSyncBatchNorm,
///     encoder: &mut wgpu::CommandEncoder,
///     shard: &TensorDescriptor<'_>,
///     [x, y, dy, dx]: [&wgpu::Buffer; 4],
/// ) -> Result<(), Error> {
///     let io = gpu::Forward::new(x.as_entire_buffer_binding(), y.as_entire_buffer_binding());
///     let saved = layer.forward_train(encoder, shard, Fusion::default(), &io, Commit::Update).await?;
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

    /// Training forward on this member's shard: the last pass is recorded into what `encoder` is afterwards, for you to submit.
    ///
    /// Errors as [`gpu::Norm::forward_train`](Norm::forward_train) and
    /// [`SyncBatchNorm::forward_train`](super::SyncBatchNorm::forward_train); [`Error::Readback`] if the device is lost.
    pub async fn forward_train(
        &self,
        encoder: &mut CommandEncoder,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        io: &Forward<'_>,
        commit: Commit,
    ) -> Result<Saved, Error> {
        let member = OnTheWay::to_exchange(&*self.group);
        let (x, residual) = (io.x.clone(), io.residual.clone());
        let local = self
            .norm
            .check_train_with(tensor, fusion, io)
            .and_then(|()| self.norm.local_moments(encoder, tensor, fusion, x, residual, &io.pitches));
        let local = self.submitted(encoder, local).await;
        member.arrived();
        let settings = settings(self.norm.descriptor(), commit);
        let merged = only(all_reduce_alike(&*self.group, tensor.dtype, local, &settings).await?)?;
        check_values(&merged, tensor)?;
        let merged = DeviceSums::from_slice(self.norm.context(), &merged)?;
        self.norm.forward_train_with(encoder, tensor, fusion, io, &merged, commit)
    }

    /// Backward on this member's shard, recorded likewise. dweight and dbias are the shard's own: see the module's recipe.
    ///
    /// Errors as [`gpu::Norm::backward`](Norm::backward), and as [`DeviceSyncBatchNorm::forward_train`].
    pub async fn backward(&self, encoder: &mut CommandEncoder, saved: Saved, io: &Backward<'_>) -> Result<(), Error> {
        let member = OnTheWay::to_exchange(&*self.group);
        let local =
            self.norm.check_backward_with(&saved, io).and_then(|()| self.norm.local_gradient_sums(encoder, &saved, io));
        let local = self.submitted(encoder, local).await;
        member.arrived();
        let merged = only(all_reduce(&*self.group, saved.problem().input, local).await?)?;
        let merged = DeviceSums::from_slice(self.norm.context(), &merged)?;
        self.norm.backward_with(encoder, saved, io, &merged)
    }

    /// This member's sums, once the device has made them, for the exchange.
    async fn submitted<S: Sum>(
        &self,
        encoder: &mut CommandEncoder,
        local: Result<DeviceSums<S>, Error>,
    ) -> Result<Vec<Vec<S>>, Error> {
        let (local, device) = (local?, self.norm.context().device());
        let next = wgpu::CommandEncoderDescriptor { label: Some(self.norm.label()) };
        let recorded = std::mem::replace(encoder, device.create_command_encoder(&next));
        Ok(vec![read_sums(device, &self.queue, recorded, &local).await?])
    }
}
