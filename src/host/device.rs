//! Uploads and readbacks.

use crate::element::Element;
use crate::error::Error;
use crate::gpu;
use crate::gpu::buffer::{filled, whole_words, with_contents};
use crate::sums::{Sum, check_channels};
use futures_intrusive::channel::shared::oneshot_channel;
use std::future::poll_fn;
use std::task::Poll;
use wgpu::{BufferUsages, CommandEncoder, Device};

/// What a call is recorded into.
pub(super) fn commands(device: &Device) -> CommandEncoder {
    device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("wgpu-norm call") })
}

/// A buffer with a copy of a slice.
pub(super) fn upload<T: bytemuck::Pod>(device: &Device, label: &str, data: &[T]) -> Result<wgpu::Buffer, Error> {
    with_contents(device, label, BufferUsages::STORAGE, data)
}

/// Sums of the group, one a channel.
pub(super) fn upload_sums<S: Sum>(norm: &gpu::Norm, sums: &[S]) -> Result<gpu::DeviceSums<S>, Error> {
    check_channels(sums.len(), norm.descriptor())?;
    gpu::DeviceSums::from_slice(norm.context(), sums)
}

/// A buffer for results, full of NaNs: what no kernel writes must not look like a result.
pub(super) fn poisoned(device: &Device, label: &str, bytes: u64) -> Result<wgpu::Buffer, Error> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    filled(device, label, whole_words(bytes), usage, |view| view.slice(..).fill(0xff))
}

/// A copy on its way to the host.
pub(super) struct Staging {
    buffer: wgpu::Buffer,
    bytes: usize,
}

impl Staging {
    /// Records the copy of a buffer's first bytes. [`Error::Readback`] if the device is lost, or has no memory for it.
    pub fn copy(
        device: &Device,
        encoder: &mut CommandEncoder,
        from: &wgpu::Buffer,
        bytes: u64,
    ) -> Result<Staging, Error> {
        let (size, usage) = (whole_words(bytes), BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        // Should no copy come, as the commands are refused, that must not look like a result either.
        let buffer = filled(device, "wgpu-norm readback", size, usage, |view| view.slice(..).fill(0xff))
            .map_err(|error| Error::Readback(error.to_string()))?;
        encoder.copy_buffer_to_buffer(from, 0, &buffer, 0, size);
        Ok(Staging { buffer, bytes: bytes as usize })
    }
}

/// Submits, and waits until every copy can be read.
pub(super) async fn read(
    device: &Device,
    queue: &wgpu::Queue,
    encoder: CommandEncoder,
    copies: &[&Staging],
) -> Result<Vec<Vec<u8>>, Error> {
    queue.submit([encoder.finish()]);
    let failed = |e: &dyn std::fmt::Display| Error::Readback(e.to_string());
    let mut pending = Vec::with_capacity(copies.len());
    for copy in copies {
        let (sender, receiver) = oneshot_channel();
        copy.buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // Nobody waits any more: nobody wants the result.
            let _ = sender.send(result);
        });
        pending.push(receiver);
    }
    submitted().await;
    device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| failed(&e))?;
    let mut results = Vec::with_capacity(copies.len());
    for (copy, receiver) in copies.iter().zip(pending) {
        match receiver.receive().await {
            Some(result) => result.map_err(|e| failed(&e))?,
            None => return Err(Error::Readback("the device was lost".into())),
        }
        let view = copy.buffer.get_mapped_range(..).map_err(|e| failed(&e))?;
        results.push(view[..copy.bytes].to_vec());
    }
    Ok(results)
}

/// The same of one buffer's first bytes.
pub(super) async fn read_buffer(
    device: &Device,
    queue: &wgpu::Queue,
    mut encoder: CommandEncoder,
    from: &wgpu::Buffer,
    bytes: u64,
) -> Result<Vec<u8>, Error> {
    let copy = Staging::copy(device, &mut encoder, from, bytes)?;
    read(device, queue, encoder, &[&copy]).await.map(|mut results| results.swap_remove(0))
}

/// Lets the other futures of this thread go on once: all submit before the first of them waits for its device, so
/// that the devices work at the same time.
async fn submitted() {
    let mut passed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Sums that the commands make, one a channel.
pub(crate) async fn read_sums<S: Sum>(
    device: &Device,
    queue: &wgpu::Queue,
    encoder: CommandEncoder,
    sums: &gpu::DeviceSums<S>,
) -> Result<Vec<S>, Error> {
    let bytes = read_buffer(device, queue, encoder, sums.buffer(), sums.buffer().size()).await?;
    let read = bytemuck::pod_collect_to_vec(&bytes);
    sums.check_read(&read)?;
    Ok(read)
}

/// Bytes as elements.
pub(super) fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytemuck::pod_collect_to_vec(bytes)
}
