//! What is recorded, and what runs it.

use super::buffer::{Buffer, lock};
use super::program::{Bound, Program};
use super::unsupported;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use wgpu::custom::*;

/// A pipeline, or why there is none.
#[derive(Clone, Debug)]
pub struct Pipeline(pub Result<Program, String>);

#[derive(Clone, Debug)]
pub struct BindGroup(pub Vec<Bound<Buffer>>);

#[derive(Clone, Debug)]
enum Command {
    Copy { from: (Buffer, u64), to: (Buffer, u64), size: Option<u64> },
    Clear { at: (Buffer, u64), size: Option<u64> },
    Dispatch { pipeline: Pipeline, bound: BindGroup, grid: [u32; 3] },
}

/// An encoder, its passes, and what it gives.
#[derive(Clone, Debug, Default)]
pub struct Commands(Arc<Mutex<Vec<Command>>>);

impl Commands {
    fn push(&self, command: Command) {
        lock(&self.0).push(command);
    }

    /// Runs everything; what failed.
    pub fn run(&self) -> Vec<String> {
        let commands = std::mem::take(&mut *lock(&self.0));
        commands.into_iter().filter_map(|command| command.run().err()).collect()
    }
}

impl Command {
    fn run(self) -> Result<(), String> {
        match self {
            Command::Copy { from: (from, at), to: (to, to_at), size } => {
                let part = {
                    let bytes = from.bytes();
                    bytes[range(bytes.len(), at, size)].to_vec()
                };
                to.write(to_at, &part);
                Ok(())
            }
            Command::Clear { at: (buffer, at), size } => {
                let mut bytes = buffer.bytes();
                let range = range(bytes.len(), at, size);
                bytes[range].fill(0);
                Ok(())
            }
            Command::Dispatch { pipeline, bound, grid } => dispatch(&pipeline.0?, bound, grid),
        }
    }
}

/// So many bytes from `at` on, or all.
fn range(len: usize, at: u64, size: Option<u64>) -> Range<usize> {
    at as usize..size.map_or(len, |size| (at + size) as usize)
}

fn dispatch(program: &Program, BindGroup(entries): BindGroup, grid: [u32; 3]) -> Result<(), String> {
    // Each once: bindings may be parts of one.
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut bound = Vec::new();
    for Bound { binding, buffer, offset, size } in entries {
        let known = buffers.iter().position(|known| known.is(&buffer));
        let buffer = known.unwrap_or_else(|| {
            buffers.push(buffer);
            buffers.len() - 1
        });
        bound.push(Bound { binding, buffer, offset, size });
    }
    let mut contents: Vec<Vec<u8>> = buffers.iter().map(|buffer| buffer.bytes().clone()).collect();
    let result = program.run(grid, &mut contents, &bound);
    for (buffer, bytes) in buffers.iter().zip(contents) {
        *buffer.bytes() = bytes;
    }
    result
}

impl CommandBufferInterface for Commands {}

impl CommandEncoderInterface for Commands {
    fn copy_buffer_to_buffer(
        &self,
        source: &DispatchBuffer,
        source_offset: u64,
        destination: &DispatchBuffer,
        destination_offset: u64,
        copy_size: Option<u64>,
    ) {
        let (from, to) = ((Buffer::of(source), source_offset), (Buffer::of(destination), destination_offset));
        self.push(Command::Copy { from, to, size: copy_size });
    }

    fn clear_buffer(&self, buffer: &DispatchBuffer, offset: u64, size: Option<u64>) {
        self.push(Command::Clear { at: (Buffer::of(buffer), offset), size });
    }

    fn begin_compute_pass(&self, _: &wgpu::ComputePassDescriptor<'_>) -> DispatchComputePass {
        DispatchComputePass::custom(Pass { commands: self.clone(), pipeline: None, bound: None })
    }

    fn finish(&mut self) -> DispatchCommandBuffer {
        DispatchCommandBuffer::custom(self.clone())
    }

    fn insert_debug_marker(&self, _: &str) {}
    fn push_debug_group(&self, _: &str) {}
    fn pop_debug_group(&self) {}

    unsupported::encoder!();
}

/// A compute pass.
#[derive(Debug)]
struct Pass {
    commands: Commands,
    pipeline: Option<Pipeline>,
    bound: Option<BindGroup>,
}

// wgpu asks for one.
impl Drop for Pass {
    fn drop(&mut self) {}
}

impl ComputePassInterface for Pass {
    fn set_pipeline(&mut self, pipeline: &DispatchComputePipeline) {
        self.pipeline = pipeline.as_custom::<Pipeline>().cloned();
    }

    fn set_bind_group(&mut self, _: u32, bind_group: Option<&DispatchBindGroup>, _: &[u32]) {
        self.bound = bind_group.and_then(|group| group.as_custom::<BindGroup>().cloned());
    }

    fn dispatch_workgroups(&mut self, x: u32, y: u32, z: u32) {
        let (Some(pipeline), Some(bound)) = (self.pipeline.clone(), self.bound.clone()) else {
            unreachable!("wgpu-norm sets both")
        };
        self.commands.push(Command::Dispatch { pipeline, bound, grid: [x, y, z] });
    }

    fn insert_debug_marker(&mut self, _: &str) {}
    fn push_debug_group(&mut self, _: &str) {}
    fn pop_debug_group(&mut self) {}

    unsupported::pass!();
}
