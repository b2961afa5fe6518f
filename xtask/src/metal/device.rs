//! A wgpu device that runs on this machine what Metal would be given.

use super::buffer::{Buffer, lock};
use super::commands::{BindGroup, Commands, Pipeline};
use super::program::{Bound, Program};
use super::unsupported;
use crate::module::parse;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use wgpu::custom::*;

/// A device and its queue, which are one.
#[derive(Clone, Debug)]
pub struct Device {
    /// Where kernels are compiled.
    folder: PathBuf,
    failures: Arc<Mutex<Vec<String>>>,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    /// For so many buffers more; `None`: for any number.
    left: Option<usize>,
    /// Who asked to be told of a lack of it, and what there is to tell.
    scopes: Vec<Option<wgpu::Error>>,
}

#[derive(Debug)]
struct Wgsl(String);

/// What wgpu has and this device does not ask for.
#[derive(Debug)]
struct Unused;

impl Device {
    pub fn new(folder: &Path) -> Device {
        Device { folder: folder.to_path_buf(), failures: Arc::default(), memory: Arc::default() }
    }

    /// From now on there is memory for so many buffers, or for any number.
    pub fn set_buffers_left(&self, left: Option<usize>) {
        lock(&self.memory).left = left;
    }

    /// What went wrong since the last time.
    pub fn failures(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.failures))
    }
}

impl ShaderModuleInterface for Wgsl {
    fn get_compilation_info(&self) -> Pin<Box<dyn ShaderCompilationInfoFuture>> {
        unimplemented!()
    }
}

impl BindGroupLayoutInterface for Unused {}
impl PipelineLayoutInterface for Unused {}
impl BindGroupInterface for BindGroup {}

impl ComputePipelineInterface for Pipeline {
    fn get_bind_group_layout(&self, _: u32) -> DispatchBindGroupLayout {
        DispatchBindGroupLayout::custom(Unused)
    }
}

impl DeviceInterface for Device {
    fn features(&self) -> wgpu::Features {
        wgpu::Features::empty()
    }

    fn limits(&self) -> wgpu::Limits {
        wgpu::Limits::default()
    }

    fn adapter_info(&self) -> wgpu::AdapterInfo {
        let info = wgpu::AdapterInfo::new(wgpu::DeviceType::Other, wgpu::Backend::Metal);
        wgpu::AdapterInfo { name: "stand-in for Metal".into(), ..info }
    }

    fn create_shader_module(
        &self,
        desc: wgpu::ShaderModuleDescriptor<'_>,
        _: wgpu::ShaderRuntimeChecks,
    ) -> DispatchShaderModule {
        let wgpu::ShaderSource::Wgsl(text) = desc.source else { unimplemented!("wgpu-norm's shaders are in WGSL") };
        DispatchShaderModule::custom(Wgsl(text.into_owned()))
    }

    fn create_bind_group_layout(&self, _: &wgpu::BindGroupLayoutDescriptor<'_>) -> DispatchBindGroupLayout {
        DispatchBindGroupLayout::custom(Unused)
    }

    fn create_pipeline_layout(&self, _: &wgpu::PipelineLayoutDescriptor<'_>) -> DispatchPipelineLayout {
        DispatchPipelineLayout::custom(Unused)
    }

    fn create_bind_group(&self, desc: &wgpu::BindGroupDescriptor<'_>) -> DispatchBindGroup {
        let entry = |entry: &wgpu::BindGroupEntry| {
            let wgpu::BindingResource::Buffer(at) = &entry.resource else { unimplemented!("only buffers are bound") };
            let size = at.size.map_or(at.buffer.size() - at.offset, u64::from);
            Bound { binding: entry.binding, buffer: Buffer::of(at.buffer.as_custom()), offset: at.offset, size }
        };
        DispatchBindGroup::custom(BindGroup(desc.entries.iter().map(entry).collect()))
    }

    fn create_compute_pipeline(&self, desc: &wgpu::ComputePipelineDescriptor<'_>) -> DispatchComputePipeline {
        let Wgsl(text) = desc.module.as_custom::<Wgsl>().expect("a module of this device");
        let label = desc.label.unwrap_or_default();
        let program = parse(text, desc.compilation_options.constants)
            .and_then(|module| Program::new(&self.folder, label, &module));
        DispatchComputePipeline::custom(Pipeline(program))
    }

    fn create_buffer(&self, desc: &wgpu::BufferDescriptor<'_>) -> DispatchBuffer {
        let mut memory = lock(&self.memory);
        match &mut memory.left {
            // A buffer without a byte, so that any use of it fails.
            Some(0) => {
                let scope = memory.scopes.last_mut().expect("wgpu panics where nobody asks for its errors");
                *scope = Some(wgpu::Error::OutOfMemory { source: "no memory is left".into() });
                return DispatchBuffer::custom(Buffer::new(0));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        DispatchBuffer::custom(Buffer::new(desc.size))
    }

    fn push_error_scope(&self, _: wgpu::ErrorFilter) -> u32 {
        let scopes = &mut lock(&self.memory).scopes;
        scopes.push(None);
        scopes.len() as u32 - 1
    }

    fn pop_error_scope(&self, index: u32) -> Pin<Box<dyn PopErrorScopeFuture>> {
        let scopes = &mut lock(&self.memory).scopes;
        assert_eq!(scopes.len() as u32, index + 1, "the innermost scope ends first");
        Box::pin(std::future::ready(scopes.pop().flatten()))
    }

    fn create_command_encoder(&self, _: &wgpu::CommandEncoderDescriptor<'_>) -> DispatchCommandEncoder {
        DispatchCommandEncoder::custom(Commands::default())
    }

    fn poll(&self, _: wgpu::wgt::PollType<u64>) -> Result<wgpu::PollStatus, wgpu::PollError> {
        Ok(wgpu::PollStatus::QueueEmpty)
    }

    unsupported::device!();
}

impl QueueInterface for Device {
    fn write_buffer(&self, buffer: &DispatchBuffer, offset: u64, data: &[u8]) {
        Buffer::of(buffer.as_custom()).write(offset, data);
    }

    fn submit(&self, command_buffers: &mut dyn Iterator<Item = DispatchCommandBuffer>) -> u64 {
        for buffer in command_buffers {
            let failures = buffer.as_custom::<Commands>().expect("commands of this device").run();
            lock(&self.failures).extend(failures);
        }
        0
    }

    unsupported::queue!();
}
