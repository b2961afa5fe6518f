//! The norms on a [`wgpu::Device`]: calls that record into your own command encoder.
//!
//! Device and queue are borrowed. Nothing here submits, waits for the device or reads back, and nothing but
//! [`Norm::write_state`] writes through the queue. What a call needs is made once for the last few kinds of calls, but for
//! those of a synchronised step, whose [`DeviceSums`] are new each time.
//!
//! Command buffers with calls of one layer must be submitted in the order in which they were recorded, and its calls must
//! not alternate between encoders, since a [`Saved`] that is dropped gives its memory to the layer's next call. So where
//! threads share a layer, one finishes its command buffer before another records a call. (Encoders may come in any order
//! only where each pass that gives a [`Saved`], training or frozen, has its backward pass in the same encoder, or none.)

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
