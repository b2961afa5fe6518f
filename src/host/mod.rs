//! The norms on slices of host memory, on a GPU or on the CPU: for people without a pipeline of their own.
//!
//! Each call uploads, runs and reads back. Its future blocks the thread that polls it while the device or the CPU works:
//! in an asynchronous program it belongs on a thread of its own. Who keeps tensors on the device uses [`gpu`](crate::gpu).
//! A training call whose future is dropped once it has been polled may have taken its batch into the running statistics.

mod backend;
mod backward;
mod device;
mod forward;
mod layer;
mod sync;

pub use backend::Backend;
pub use backward::{Backward, OutputGradients};
pub(crate) use device::read_sums;
pub use forward::Output;
pub use layer::{Norm, Saved, Statistic};
pub use sync::LocalAffine;
