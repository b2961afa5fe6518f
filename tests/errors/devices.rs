//! Profiles and devices.

use super::adapters::Gpu;
use super::bench::*;
use wgpu_norm::plan::{Plan, Problem};
use wgpu_norm::{BatchNormDescriptor, Commit, Error, Moments, Op, Profile, Statistics, TensorDescriptor, gpu, host};

fn own_of(gpu: &Gpu) -> Profile {
    Profile::new(&gpu.info, &gpu.device.limits())
}

/// Sizes that make no sense are no endless loop and no division by 0, and limits that are too low are told first.
#[test]
fn profiles() {
    let own = Profile::GPU;
    let wrong = [
        ("workgroup", Profile { workgroup: 0, ..own }),
        ("workgroup", Profile { workgroup: 100, ..own }),
        ("max_lanes", Profile { max_lanes: 512, ..own }),
        ("target_lanes", Profile { target_lanes: 0, ..own }),
        ("max_units", Profile { max_units: 0, ..own }),
        ("max_units_beside_columns", Profile { max_units_beside_columns: 0, ..own }),
        ("offset_alignment", Profile { offset_alignment: 0, ..own }),
        ("max_workgroups", Profile { max_workgroups: 0, ..own }),
        ("abreast", Profile { abreast: 2, ..own }),
        // Partial results would never become fewer.
        (
            "workgroup",
            Profile { workgroup: 1, min_lanes: 1, min_element_lanes: 1, max_lanes: 1, target_lanes: 1, ..own },
        ),
    ];
    let tensor = TensorDescriptor::new(&SHAPE);
    let norm = BatchNormDescriptor::new(4).into();
    let problem = Problem::new(&norm, &tensor, Statistics::Batch, PLAIN, Op::Forward).unwrap();
    for (name, profile) in &wrong {
        fails!(Plan::new(problem, profile), Error::Parameter { .. }, ["Profile::", name]);
    }
    each_gpu(|gpu| {
        for (name, profile) in wrong {
            fails!(
                gpu::Context::with_profile(&gpu.device, profile, None),
                Error::Parameter { .. },
                ["Profile::", name]
            );
        }
        let alignment = gpu.device.limits().min_storage_buffer_offset_alignment;
        let finer = Profile { offset_alignment: u64::from(alignment) / 2, ..own_of(gpu) };
        let error = gpu::Context::with_profile(&gpu.device, finer, None);
        fails!(error, Error::Parameter { .. }, ["Profile::offset_alignment", "a multiple of", "offset_alignment"]);
        let coarser = Profile { offset_alignment: u64::from(alignment) * 2, ..own_of(gpu) };
        assert!(gpu::Context::with_profile(&gpu.device, coarser, None).is_ok());
        let required_limits = wgpu::Limits::downlevel_webgl2_defaults();
        let small = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, _) = pollster::block_on(gpu.adapter.request_device(&small)).unwrap();
        fails!(
            gpu::Context::new(&device),
            Error::Limit { .. },
            ["max_storage_buffers_per_shader_stage", "required_limits"]
        );
    });
}

/// A device that is gone is an error to the calls that follow, not a panic.
#[test]
fn lost_devices() {
    each_gpu(|gpu| {
        let backend = pollster::block_on(host::Backend::open(&gpu.adapter)).unwrap();
        let host::Backend::Gpu { context, .. } = &backend else { unreachable!() };
        let mut norm = host::Norm::new(&backend, BatchNormDescriptor::new(4)).unwrap();
        let (tensor, x) = (TensorDescriptor::new(&SHAPE), [0f32; 64]);
        let trained = norm.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip);
        let (_, saved) = pollster::block_on(trained).unwrap();
        context.device().destroy();
        fails!(pollster::block_on(norm.state()), Error::Readback(_), ["lost or out of memory"]);
        fails!(pollster::block_on(norm.statistics(&saved)), Error::Readback(_), ["lost or out of memory"]);
        let train = norm.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip);
        fails!(pollster::block_on(train), Error::NewBuffer(_), ["lost or out of memory"]);
        fails!(host::Norm::new(&backend, BatchNormDescriptor::new(4)), Error::NewBuffer(_), ["lost or out of memory"]);
        let moments = [Moments::default()];
        fails!(gpu::DeviceSums::from_slice(context, &moments), Error::NewBuffer(_), ["lost or out of memory"]);
    });
}
