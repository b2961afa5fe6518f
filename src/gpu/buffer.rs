//! New buffers with something in them.

use crate::error::Error;
use wgpu::{BufferUsages, BufferViewMut, Device};

/// A buffer that `fill` writes before any command does. Unlike wgpu's own help it does not panic if the device is lost, nor
/// wgpu itself if the buffer is larger than the device allows.
pub(crate) fn filled(
    device: &Device,
    label: &str,
    size: u64,
    usage: BufferUsages,
    fill: impl FnOnce(&mut BufferViewMut),
) -> Result<wgpu::Buffer, Error> {
    let limit = device.limits().max_buffer_size;
    if size > limit {
        return Err(Error::TooLarge { what: "bytes of a buffer", required: size, limit });
    }
    let buffer =
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: true });
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
