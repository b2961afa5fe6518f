//! New buffers.

use crate::error::Error;
#[cfg(not(target_family = "wasm"))]
use futures_util::FutureExt;
use wgpu::{BufferDescriptor, BufferUsages, BufferViewMut, Device};

/// A buffer. [`Error::TooLarge`] if it is larger than the device allows, [`Error::NewBuffer`] if the device has no memory for
/// it: neither is told to wgpu's own handler of errors, which panics by default.
pub(crate) fn new_buffer(device: &Device, descriptor: &BufferDescriptor) -> Result<wgpu::Buffer, Error> {
    let (size, limit) = (descriptor.size, device.limits().max_buffer_size);
    if size > limit {
        return Err(Error::TooLarge { what: "bytes of a buffer", required: size, limit });
    }
    // A browser answers later than this returns: there the error stays the application's.
    #[cfg(not(target_family = "wasm"))]
    {
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = device.create_buffer(descriptor);
        match scope.pop().now_or_never().flatten() {
            Some(error) => Err(Error::NewBuffer(error.to_string())),
            None => Ok(buffer),
        }
    }
    #[cfg(target_family = "wasm")]
    Ok(device.create_buffer(descriptor))
}

/// A buffer that `fill` writes before any command does. Unlike wgpu's own help it does not panic if the device is lost.
/// Errors as [`new_buffer`].
pub(crate) fn filled(
    device: &Device,
    label: &str,
    size: u64,
    usage: BufferUsages,
    fill: impl FnOnce(&mut BufferViewMut),
) -> Result<wgpu::Buffer, Error> {
    let buffer = new_buffer(device, &BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: true })?;
    let mut view = buffer.get_mapped_range_mut(..).map_err(|e| Error::NewBuffer(e.to_string()))?;
    fill(&mut view);
    drop(view);
    buffer.unmap();
    Ok(buffer)
}

/// The size of a buffer for so many bytes: whole words, and one at least, as what is mapped or copied has to be.
pub(crate) const fn whole_words(bytes: u64) -> u64 {
    if bytes == 0 { 4 } else { bytes.next_multiple_of(4) }
}

/// A buffer with a copy of a slice.
pub(crate) fn with_contents<T: bytemuck::NoUninit>(
    device: &Device,
    label: &str,
    usage: BufferUsages,
    contents: &[T],
) -> Result<wgpu::Buffer, Error> {
    let bytes: &[u8] = bytemuck::cast_slice(contents);
    filled(device, label, whole_words(bytes.len() as u64), usage, |view| {
        view.slice(..bytes.len()).copy_from_slice(bytes)
    })
}
