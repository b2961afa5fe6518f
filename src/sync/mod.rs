//! One batch over several devices or machines: SyncBatchNorm.
//!
//! A synchronised step has three parts, each a public call, so that any transport fits between them:
//!
//! 1. local sums of a member's shard ([`gpu::Norm::local_moments`], [`host::Norm::local_moments`]);
//! 2. their exchange, O(channels) values ([`all_reduce`] over a [`Communicator`]);
//! 3. the pass over the shard with the sums of all ([`gpu::Norm::forward_train_with`], ...).
//!
//! [`SyncBatchNorm`] does the three on slices, [`DeviceSyncBatchNorm`] on buffers of your own. Moments travel as (count, mean
//! as a pair, m2), never as `1/std`. Layers whose inputs do not depend on each other share an exchange:
//! [`forward_train_together`].
//!
//! Groups are the devices and CPU workers of a process ([`LocalGroup`]), the ranks of an MPI communicator (`MpiGroup`,
//! with feature `mpi`), or whatever else implements [`Communicator`].
//!
//! # The data-parallel recipe
//!
//! Each member holds a copy of the network and a shard of the batch. Forward and backward of every batch norm
//! are synchronised by this module; dweight and dbias are those of the member's own shard, and like all other
//! gradients they are summed over the members before the optimiser's step. If each member's loss is the mean
//! over its shard, scale it by `shard / batch` first, or average instead of summing where shards are equal.
//! [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html) does the same.
//!
//! [`gpu::Norm::local_moments`]: crate::gpu::Norm::local_moments
//! [`gpu::Norm::forward_train_with`]: crate::gpu::Norm::forward_train_with
//! [`host::Norm::local_moments`]: crate::host::Norm::local_moments

mod device;
mod exchange;
mod layer;
mod local;
#[cfg(feature = "mpi")]
mod mpi;
mod running;
mod together;
#[cfg(feature = "mpi")]
mod transfer;
mod watchdog;

pub use device::DeviceSyncBatchNorm;
pub use exchange::{Communicator, Exchange, all_reduce};
/// Awaits several futures together: drives several members on one thread.
pub use futures_util::future::join_all;
pub use layer::{SyncBatchNorm, convert, revert};
pub use local::{LocalGroup, LocalMember};
#[cfg(feature = "mpi")]
pub use mpi::MpiGroup;
pub use running::{average_running, merge_running};
pub use together::{BackwardPart, ForwardPart, backward_together, forward_train_together};
