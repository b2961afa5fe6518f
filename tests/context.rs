//! A context with a pipeline cache of the caller's.

#[path = "common/adapters.rs"]
mod adapters;

use wgpu_norm::host::{Backend, Norm};
use wgpu_norm::{BatchNormDescriptor, Commit, Fusion, TensorDescriptor, gpu};

#[test]
fn a_pipeline_cache_changes_no_result() {
    for found in adapters::enumerate().0 {
        let gpu = match found.open(wgpu::Features::PIPELINE_CACHE) {
            Ok(gpu) => gpu,
            Err(skipped) => {
                adapters::say(format_args!("skipped {}: {}", skipped.name, skipped.reason));
                continue;
            }
        };
        let cache = |data: Option<&[u8]>| {
            let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
            // SAFETY: the data, if any, is what this device's own cache has just given.
            unsafe { gpu.device.create_pipeline_cache(&descriptor) }
        };
        let train = |context: gpu::Context| {
            let backend = Backend::Gpu { context, queue: gpu.queue.clone() };
            let mut norm = Norm::new(&backend, BatchNormDescriptor::new(2)).unwrap();
            let (tensor, x) = (TensorDescriptor::new(&[3, 2]), [1.0f32, -2.0, 3.0, 4.0, 8.0, 1.0]);
            let pass = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Update);
            pollster::block_on(pass).unwrap().0
        };
        let plain = train(gpu::Context::new(&gpu.device).unwrap());
        let first = cache(None);
        assert_eq!(train(gpu::Context::with_cache(&gpu.device, &first).unwrap()), plain, "{}", gpu.name);
        // How much is in it is the driver's.
        let second = cache(Some(&first.get_data().expect("the device has caches")));
        assert_eq!(train(gpu::Context::with_cache(&gpu.device, &second).unwrap()), plain, "{}", gpu.name);
    }
}
