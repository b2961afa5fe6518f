//! Where a host-side layer runs.

use crate::error::Error;
use crate::gpu;

/// The CPU, or a GPU.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// This machine's processor.
    Cpu,
    /// A wgpu device.
    Gpu {
        /// Device and pipelines.
        context: gpu::Context,
        /// Where commands are submitted.
        queue: wgpu::Queue,
    },
}

impl Backend {
    /// The best adapter, honouring `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` (part of a name, any case).
    ///
    /// [`Error::NoDevice`] if there is none: [`Backend::Cpu`] is always there. Software drivers count; they are
    /// taken only where nothing better is.
    pub async fn gpu() -> Result<Backend, Error> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
        if let Ok(wanted) = std::env::var("WGPU_ADAPTER_NAME") {
            let wanted = wanted.to_lowercase();
            adapters.retain(|a| a.get_info().name.to_lowercase().contains(&wanted));
            if adapters.is_empty() {
                return Err(Error::NoDevice(format!("no adapter's name contains WGPU_ADAPTER_NAME={wanted}")));
            }
        }
        adapters.sort_by_key(|a| {
            let info = a.get_info();
            let kind = match info.device_type {
                wgpu::DeviceType::DiscreteGpu => 0,
                wgpu::DeviceType::IntegratedGpu => 1,
                wgpu::DeviceType::VirtualGpu => 2,
                wgpu::DeviceType::Other => 3,
                wgpu::DeviceType::Cpu => 4,
            };
            (kind, info.backend == wgpu::Backend::Gl)
        });
        let mut reasons = Vec::new();
        for adapter in adapters {
            match Backend::open(&adapter).await {
                Ok(backend) => return Ok(backend),
                Err(error) => reasons.push(format!("{}: {error}", adapter.get_info().name)),
            }
        }
        if reasons.is_empty() {
            reasons.push("no adapter was found".into());
        }
        Err(Error::NoDevice(reasons.join("; ")))
    }

    /// Opens a device on an adapter, with the limits that the crate asks for. [`Error::NoDevice`] if it does not open,
    /// [`Error::Limit`] if it has less than the kernels need.
    pub async fn open(adapter: &wgpu::Adapter) -> Result<Backend, Error> {
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("wgpu-norm"),
                required_limits: gpu::required_limits(adapter),
                ..Default::default()
            })
            .await
            .map_err(|e| Error::NoDevice(e.to_string()))?;
        Backend::from_device(&device, &queue)
    }

    /// A device of yours. [`Error::Limit`] if it has less than the kernels need.
    pub fn from_device(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Backend, Error> {
        Ok(Backend::Gpu { context: gpu::Context::new(device)?, queue: queue.clone() })
    }

    /// What runs: the adapter's name, or "CPU" with the number of threads.
    pub fn name(&self) -> String {
        match self {
            Backend::Cpu => format!("CPU ({} threads)", rayon::current_num_threads()),
            Backend::Gpu { context, .. } => {
                let info = context.device().adapter_info();
                format!("{} ({}, {:?})", info.name, info.backend, info.device_type)
            }
        }
    }
}
