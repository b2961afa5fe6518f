//! What a device is given, and what it has computed.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use super::adapters::Gpu;
use wgpu::util::DeviceExt;
use wgpu::{Buffer, BufferUsages, CommandEncoder};
use wgpu_norm::{State, gpu, wgpu};

/// A buffer that calls bind and tests copy.
pub fn upload<T: bytemuck::Pod>(gpu: &Gpu, contents: &[T]) -> Buffer {
    gpu.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("uploaded"),
        contents: bytemuck::cast_slice(contents),
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
    })
}

/// Submits, and reads buffers back as they are then.
pub fn read_all(gpu: &Gpu, mut encoder: CommandEncoder, buffers: &[&Buffer]) -> Vec<Vec<u8>> {
    let copy = |from: &&Buffer| {
        let copy = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: from.size(),
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(from, 0, &copy, 0, from.size());
        copy
    };
    let copies: Vec<Buffer> = buffers.iter().map(copy).collect();
    gpu.queue.submit([encoder.finish()]);
    copies.iter().for_each(|copy| copy.map_async(wgpu::MapMode::Read, .., |result| result.unwrap()));
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    copies.iter().map(|copy| copy.get_mapped_range(..).unwrap().to_vec()).collect()
}

/// Submits, and reads one buffer back.
pub fn read<T: bytemuck::Pod>(gpu: &Gpu, encoder: CommandEncoder, buffer: &Buffer) -> Vec<T> {
    bytemuck::pod_collect_to_vec(&read_all(gpu, encoder, &[buffer])[0])
}

/// Reads one buffer back behind all that was submitted.
pub fn read_now<T: bytemuck::Pod>(gpu: &Gpu, buffer: &Buffer) -> Vec<T> {
    read(gpu, gpu.device.create_command_encoder(&Default::default()), buffer)
}

/// A layer's state behind all that was submitted.
pub fn state(gpu: &Gpu, norm: &gpu::Norm) -> State {
    norm.parse_state(&read_now::<u8>(gpu, norm.state_buffer())).unwrap()
}
