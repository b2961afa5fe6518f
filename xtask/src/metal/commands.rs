//! What is recorded, and what runs it.

use super::buffer::{Buffer, lock};
use super::program::{Bound, Program};
use super::unsupported;
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
                let mut part = from.bytes()[at as usize..].to_vec();
                part.truncate(size.map_or(part.len(), |size| size as usize));
                to.write(to_at, &part);
                Ok(())
            }
            Command::Dispatch { pipeline, bound, grid } => dispatch(&pipeline.0?, bound, grid),
        }
    }
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
        let (from, to) = (Buffer::of(source.as_custom()), Buffer::of(destination.as_custom()));
        self.push(Command::Copy { from: (from, source_offset), to: (to, destination_offset), size: copy_size });
    }

    fn begin_compute_pass(&self, _: &wgpu::ComputePassDescriptor<'_>) -> DispatchComputePass {
        DispatchComputePass::custom(Pass { commands: self.clone(), pipeline: None, bound: None })
    }

    fn finish(&mut self) -> DispatchCommandBuffer {
        DispatchCommandBuffer::custom(self.clone())
    }

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

    unsupported::pass!();
}
