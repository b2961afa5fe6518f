//! What is recorded, and what runs it.

use super::buffer::Memory;
use super::program::{Bound, Program};
use super::unsupported;
use std::sync::{Arc, Mutex, PoisonError};
use wgpu::custom::*;

/// A pipeline, or why there is none.
#[derive(Clone, Debug)]
pub struct Pipeline(pub Result<Program, String>);

/// Buffers by their bindings: memory, offset, size.
#[derive(Clone, Debug)]
pub struct BindGroup(pub Vec<(u32, Memory, u64, u64)>);

#[derive(Clone, Debug)]
enum Command {
    Copy { from: (Memory, u64), to: (Memory, u64), size: Option<u64> },
    Clear { at: (Memory, u64), size: Option<u64> },
    Dispatch { pipeline: Pipeline, bound: BindGroup, grid: [u32; 3] },
}

/// An encoder, its passes, and what it gives.
#[derive(Clone, Debug, Default)]
pub struct Commands(Arc<Mutex<Vec<Command>>>);

impl Commands {
    fn push(&self, command: Command) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(command);
    }

    /// Runs everything; what failed.
    pub fn run(&self) -> Vec<String> {
        let commands = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        commands.into_iter().filter_map(|command| command.run().err()).collect()
    }
}

impl Command {
    fn run(self) -> Result<(), String> {
        match self {
            Command::Copy { from: (from, at), to: (to, to_at), size } => {
                let part = from.bytes()[at as usize..].to_vec();
                let size = size.map_or(part.len(), |size| size as usize);
                to.write(to_at, &part[..size]);
                Ok(())
            }
            Command::Clear { at: (memory, at), size } => {
                let mut bytes = memory.bytes();
                let part = &mut bytes[at as usize..];
                let size = size.map_or(part.len(), |size| size as usize);
                part[..size].fill(0);
                Ok(())
            }
            Command::Dispatch { pipeline, bound, grid } => dispatch(&pipeline.0?, &bound, grid),
        }
    }
}

fn dispatch(program: &Program, BindGroup(entries): &BindGroup, grid: [u32; 3]) -> Result<(), String> {
    let mut memories: Vec<&Memory> = Vec::new();
    let mut bound = Vec::new();
    for (binding, memory, offset, size) in entries {
        let known = memories.iter().position(|known| known.is(memory));
        let buffer = known.unwrap_or_else(|| {
            memories.push(memory);
            memories.len() - 1
        });
        bound.push(Bound { binding: *binding, buffer, offset: *offset, size: *size });
    }
    let mut buffers: Vec<Vec<u8>> = memories.iter().map(|memory| memory.bytes().clone()).collect();
    program.run(grid, &mut buffers, &bound)?;
    for (memory, bytes) in memories.iter().zip(buffers) {
        *memory.bytes() = bytes;
    }
    Ok(())
}

pub fn memory(buffer: &DispatchBuffer) -> Memory {
    buffer.as_custom::<Memory>().expect("a buffer of this device").clone()
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
        let (from, to) = ((memory(source), source_offset), (memory(destination), destination_offset));
        self.push(Command::Copy { from, to, size: copy_size });
    }

    fn clear_buffer(&self, buffer: &DispatchBuffer, offset: u64, size: Option<u64>) {
        self.push(Command::Clear { at: (memory(buffer), offset), size });
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
