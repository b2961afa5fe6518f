//! A device, and the compute pipelines that are made for it when they are first needed, and kept.

use super::buffer::new_buffer;
use super::key::Key;
use super::shader::compose;
use crate::error::Error;
use crate::profile::Profile;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Storage buffers that one stage binds at most: five tensors, state, saved statistics, partial results.
const STORAGE_BUFFERS: u32 = 8;

/// A pipeline and the layout of its bind group.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroupLayout,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    profile: Profile,
    cache: Option<wgpu::PipelineCache>,
    pipelines: Mutex<HashMap<Key, Arc<OnceLock<Arc<Pipeline>>>>>,
    /// Stands in for buffers that a pass does not use.
    unused: wgpu::Buffer,
}

/// A device and the pipelines made for it. Cheap to clone; layers of one device share one. Several threads may use one
/// at once: a pipeline that two of them need is made once, and only they wait for it.
#[derive(Clone, Debug)]
pub struct Context(Arc<Inner>);

impl Context {
    /// A context on a device that was opened with WebGPU's default limits or better.
    ///
    /// [`Error::Limit`] if it has less than the kernels need: 8 storage buffers a stage, 8 KiB of workgroup
    /// memory. wgpu's downlevel limits, with 4 storage buffers a stage, are not enough. [`Error::NewBuffer`] if the device has no
    /// memory left.
    pub fn new(device: &wgpu::Device) -> Result<Context, Error> {
        let profile = Profile::new(&device.adapter_info(), &device.limits());
        Context::with_profile(device, profile, None)
    }

    /// As [`Context::new`], with a pipeline cache of yours. [`Error::Limit`] as there.
    pub fn with_cache(device: &wgpu::Device, cache: &wgpu::PipelineCache) -> Result<Context, Error> {
        let profile = Profile::new(&device.adapter_info(), &device.limits());
        Context::with_profile(device, profile, Some(cache))
    }

    /// As [`Context::new`], with sizes of your own: for tests of splitting, and for tuning. [`Error::Parameter`] if they
    /// make no sense, [`Error::Limit`] if they are more than the device has.
    pub fn with_profile(
        device: &wgpu::Device,
        profile: Profile,
        cache: Option<&wgpu::PipelineCache>,
    ) -> Result<Context, Error> {
        let limits = device.limits();
        let needs = [
            (
                "max_storage_buffers_per_shader_stage",
                u64::from(STORAGE_BUFFERS),
                u64::from(limits.max_storage_buffers_per_shader_stage),
            ),
            (
                "max_compute_workgroup_storage_size",
                profile.workgroup_memory(),
                limits.max_compute_workgroup_storage_size.into(),
            ),
            (
                "max_compute_invocations_per_workgroup",
                profile.workgroup.into(),
                limits.max_compute_invocations_per_workgroup.into(),
            ),
            ("max_compute_workgroup_size_x", profile.workgroup.into(), limits.max_compute_workgroup_size_x.into()),
            (
                "max_compute_workgroups_per_dimension",
                profile.max_workgroups.into(),
                limits.max_compute_workgroups_per_dimension.into(),
            ),
            ("max_storage_buffer_binding_size", profile.max_binding_size, limits.max_storage_buffer_binding_size),
        ];
        for (name, required, actual) in needs {
            if actual < required {
                return Err(Error::Limit { name, required, actual });
            }
        }
        profile.check()?;
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
        if !profile.offset_alignment.is_multiple_of(alignment) {
            let expected = "a multiple of the device's min_storage_buffer_offset_alignment";
            let value = profile.offset_alignment as f64;
            return Err(Error::Parameter { name: "Profile::offset_alignment", value, expected });
        }
        let unused = new_buffer(
            device,
            &wgpu::BufferDescriptor {
                label: Some("wgpu-norm unused"),
                size: 256,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            },
        )?;
        // A browser's device stays in its thread; elsewhere layers share it between threads.
        #[cfg_attr(target_family = "wasm", expect(clippy::arc_with_non_send_sync))]
        let inner = Arc::new(Inner {
            device: device.clone(),
            profile,
            cache: cache.cloned(),
            pipelines: Mutex::default(),
            unused,
        });
        Ok(Context(inner))
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The sizes in use.
    pub fn profile(&self) -> &Profile {
        &self.0.profile
    }

    pub(crate) fn unused(&self) -> &wgpu::Buffer {
        &self.0.unused
    }

    pub(crate) fn pipeline(&self, key: Key) -> Arc<Pipeline> {
        let mut pipelines = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let pipeline = match pipelines.get(&key) {
            Some(pipeline) => pipeline.clone(),
            None => pipelines.entry(key.clone()).or_default().clone(),
        };
        // A driver compiles for long: threads that want other pipelines do not wait for it.
        drop(pipelines);
        pipeline.get_or_init(|| Arc::new(self.create(&key))).clone()
    }

    fn create(&self, key: &Key) -> Pipeline {
        let (device, label) = (&self.0.device, key.label());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(compose(&key.variant).into()),
        });
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        entries.extend(
            key.variant
                .tensors
                .iter()
                .map(|t| entry(t.tensor.binding(), storage(!t.written && !key.variant.addressing.shared))),
        );
        entries.extend(VECTOR_BINDINGS.map(|binding| entry(binding, storage(false))));
        let bindings = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &key.constants.pairs(),
                // Every slot is written before it is read.
                zero_initialize_workgroup_memory: false,
            },
            cache: self.0.cache.as_ref(),
        });
        Pipeline { pipeline, bindings }
    }
}

/// State, saved statistics, partial results.
pub(crate) const VECTOR_BINDINGS: [u32; 3] = [6, 7, 8];
