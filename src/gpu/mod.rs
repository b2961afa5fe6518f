//! The norms on a [`wgpu::Device`]: calls that record into your own command encoder.
//!
//! Device and queue are borrowed. Nothing here submits, waits for the device or reads back, and nothing but
//! [`Norm::write_state`] writes through the queue. What a call needs is made once for the last few kinds of calls, but for
//! those of a synchronised step, whose [`DeviceSums`] are new each time.
//!
//! **The order of submission.** A layer's evaluation may be recorded by several threads at once, and submitted in any order.
//! So may whole steps: encoders in each of which every pass that gives a [`Saved`], training or frozen, is followed by its
//! backward pass (running statistics then take batches in as they are submitted). Where a backward pass is in another encoder
//! than its forward pass, that one is submitted first; and since a [`Saved`] that is dropped gives its memory to the layer's
//! next call, hold it, with [`Norm::backward_retained`], until both are submitted, or (as a synchronised step must) submit the layer's encoders in the order
//! in which they were recorded, without recording into two by turns. Weight and bias that change between forward and backward
//! make other gradients than the forward pass's.

pub(crate) mod buffer;
mod context;
mod encode;
#[cfg(feature = "inspect")]
#[doc(hidden)]
pub mod inspect;
mod io;
mod key;
mod layer;
mod params;
mod recent;
mod saved;
mod shader;
mod state;
mod sums;
#[cfg(test)]
mod tests;

pub use context::Context;
pub use io::{Backward, Forward};
pub use layer::Norm;
pub use saved::Saved;
pub use sums::DeviceSums;

/// Limits to open a device with: WebGPU's defaults (or what the adapter has, where that is less), and as large
/// buffers and bindings as the adapter allows, so that large tensors need fewer dispatches. No features are needed.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let available = adapter.limits();
    wgpu::Limits {
        max_buffer_size: available.max_buffer_size,
        max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
        ..wgpu::Limits::default().or_worse_values_from(&available)
    }
}
