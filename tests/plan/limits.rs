//! Plans under limits, without a device: windows and folded grids.

use super::plans::{
    ALL, PLAIN, RESNET50, batch, check_grids, check_windows, elements, last, layer, length, plan, plan_for, traffic,
};
use wgpu_norm::layout::Memory;
use wgpu_norm::plan::{Dispatch, Pass, Plan, Problem};
use wgpu_norm::{
    BackwardPitches, DType, Error, ForwardPitches, GroupNormDescriptor, InstanceNormDescriptor, NormDescriptor, Op,
    Pitch, Profile, Statistics, TensorDescriptor, wgpu,
};

/// A pass's dispatches in the order of their elements.
fn ascending(pass: &Pass) -> Vec<&Dispatch> {
    let mut dispatches: Vec<_> = pass.dispatches.iter().collect();
    // What has been read last is written first.
    if pass.reversed {
        dispatches.reverse();
    }
    dispatches
}

#[test]
fn windows_cover_every_element_once() {
    let images: [&[usize]; 6] = [&[5, 6, 13], &[2, 4, 300], &[1, 6, 70], &[70, 6], &[1, 2, 2000], &[3, 64, 3]];
    let mut cases: Vec<(NormDescriptor, TensorDescriptor)> = Vec::new();
    for shape in images {
        for tensor in [TensorDescriptor::new(shape), last(shape)] {
            cases.push((batch(shape[1]), tensor));
            cases.push((GroupNormDescriptor::new(2, shape[1]).into(), tensor));
            if shape.len() > 2 {
                cases.push((InstanceNormDescriptor::new(shape[1]).into(), tensor));
            }
        }
    }
    for shape in [&[33, 48], &[4, 3000], &[1, 5000]] {
        cases.push((layer(shape[1]), TensorDescriptor::new(shape)));
    }
    // Leaves in parts, too.
    let small = Profile {
        workgroup: 8,
        max_units_in_parts: 6,
        min_lanes: 4,
        min_element_lanes: 8,
        max_lanes: 8,
        target_lanes: 4,
        ..Profile::GPU
    };
    let ops = [Op::Forward, Op::Backward(ALL)];
    let (mut windows, mut refused) = (0, 0);
    for (norm, tensor) in &cases {
        for (limit, row) in [1 << 20, 20000, 4000, 1200, 800].into_iter().flat_map(|l| [(l, small), (l, Profile::GPU)])
        {
            let profile = Profile { max_binding_size: limit, offset_alignment: 32, max_units: 2, ..row };
            for (op, strided) in ops.into_iter().flat_map(|op| [(op, false), (op, true)]) {
                let case = format!("{} {tensor:?} {op:?} limit {limit} workgroup {}", norm.name(), row.workgroup);
                let mut problem = Problem::new(norm, tensor, Statistics::Batch, PLAIN, op).unwrap();
                if strided {
                    let Memory { rows, width, .. } = problem.layout.memory;
                    let row = width + 3;
                    let x = Pitch { row: (rows > 1).then_some(row), sample: Some(rows * row + 5) };
                    let y = Pitch { row: None, sample: Some(2 * rows * width) };
                    problem = match op {
                        Op::Forward => problem.with_forward_pitches(&ForwardPitches { x, y, ..Default::default() }),
                        _ => problem.with_backward_pitches(&BackwardPitches { x, dx: y, ..Default::default() }),
                    }
                    .unwrap();
                }
                match Plan::new(problem, &profile) {
                    Ok(plan) => {
                        windows += plan.dispatches();
                        check_windows(&plan, &profile, &case);
                    }
                    // Leaves are not cut: 2048 elements that lanes interleave, or rows a whole row apart.
                    Err(Error::TooLarge { what, required, limit: elements }) => {
                        assert!(what.contains("max_storage_buffer_binding_size"), "{case}: {what}");
                        refused += 1;
                        assert!(required > elements && required <= 3 * 2 * 5000 + 1, "{case}");
                    }
                    Err(error) => panic!("{case}: {error}"),
                }
            }
        }
    }
    println!("{windows} dispatches, {refused} calls refused");
    assert!(windows > 2000 && refused < 200);
}

/// Leaves of no power of two, padded to one, are more than shaders can count where the crate's own would not be.
#[test]
fn positions_of_a_segment_have_32_bits() {
    let problem = |len: usize| {
        let shape = [1, 1, len];
        let tensor = TensorDescriptor { dtype: DType::F16, ..TensorDescriptor::new(&shape) };
        Problem::new(&batch(1), &tensor, Statistics::Batch, PLAIN, Op::Forward).unwrap()
    };
    let roomy = Profile { max_binding_size: 1 << 40, ..Profile::GPU };
    for len in [3_300_000_000, u32::MAX as usize] {
        for profile in [roomy, Profile { max_binding_size: 1 << 40, ..Profile::SOFTWARE_GPU }] {
            assert!(Plan::new(problem(len), &profile).is_ok(), "{len}");
        }
        let twelve = Profile { max_units: 12, ..roomy };
        let error = Plan::new(problem(len), &twelve).unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 0x1_0000_0000, .. }), "{error:?}");
    }
}

#[test]
fn resnet50_at_64_images_fits_default_bindings() {
    for (c, side) in RESNET50 {
        let shape = [64, c, side, side];
        for tensor in [TensorDescriptor::new(&shape), last(&shape)] {
            let (size, sample) = (tensor.size().unwrap(), (c * side * side) as u64);
            for op in [Op::Forward, Op::Backward(ALL)] {
                let plan = plan(&batch(c), &tensor, PLAIN, op);
                // Not one pass more than a device with larger bindings needs.
                let roomy = Profile { max_binding_size: 1 << 30, ..Profile::GPU };
                let roomy = plan_for(&batch(c), &tensor, Statistics::Batch, PLAIN, op, &roomy).unwrap();
                assert_eq!(plan.bytes(), roomy.bytes(), "{tensor:?}");
                for pass in plan.passes.iter().filter(|p| !p.reads.is_empty()) {
                    let windows = if size > 128 << 20 { 2 } else { 1 };
                    assert_eq!(pass.dispatches.len(), windows, "{tensor:?}");
                    let (mut element, mut tile) = (0, 0);
                    for d in ascending(pass) {
                        let walk = &plan.walk(pass.over);
                        let window = d.window(walk);
                        assert_eq!((window.start, d.tiles.start, &d.targets), (element, tile, &(0..c as u64)));
                        assert!((window.end - window.start) * 4 + 256 <= 128 << 20);
                        assert!(window.start.is_multiple_of(sample) && window.end.is_multiple_of(sample));
                        // The first and last tile of every target lie within.
                        for target in d.targets.clone() {
                            for tile in [d.tiles.start, d.tiles.end - 1] {
                                let outside = |at: &u64| !window.contains(at);
                                assert_eq!(
                                    elements(&plan, walk, pass, target, tile).iter().find(|at| outside(at)),
                                    None
                                );
                            }
                        }
                        (element, tile) = (window.end, d.tiles.end);
                    }
                    assert_eq!((element, tile), (size / 4, pass.geometry.tiles));
                }
            }
        }
    }
    assert_eq!(TensorDescriptor::new(&[64, 256, 56, 56]).size().unwrap(), 205_520_896);
}

#[test]
fn a_sample_over_the_limit_is_cut_between_channels_or_rows() {
    // A sample of 268 MB.
    let shape = [2, 64, 1024, 1024];
    for (norm, tensor) in [
        (batch(64), TensorDescriptor::new(&shape)),
        (batch(64), last(&shape)),
        (GroupNormDescriptor::new(8, 64).into(), TensorDescriptor::new(&shape)),
        (GroupNormDescriptor::new(8, 64).into(), last(&shape)),
        (InstanceNormDescriptor::new(64).into(), TensorDescriptor::new(&shape)),
        (layer(64 << 20), TensorDescriptor::new(&[2, 64 << 20])),
    ] {
        let plan = plan(&norm, &tensor, PLAIN, Op::Forward);
        for pass in plan.passes.iter().filter(|p| !p.reads.is_empty()) {
            let sizes: Vec<u64> = pass.dispatches.iter().map(|d| length(d.window(&plan.walk(pass.over)))).collect();
            assert!((5..=8).contains(&sizes.len()), "{tensor:?}: {sizes:?}");
            assert_eq!(sizes.iter().sum::<u64>(), tensor.len().unwrap(), "{tensor:?}: windows do not overlap");
            assert!(sizes.iter().all(|s| s * 4 + 256 <= 128 << 20));
        }
    }
}

#[test]
fn large_grids_are_folded() {
    let cases = [
        (batch(512), vec![256, 512, 56, 56]),
        (layer(512), vec![5_000_000, 512]),
        (layer(8192), vec![100_000, 8192]),
        (GroupNormDescriptor::new(32, 64).into(), vec![8000, 64, 64, 64]),
    ];
    for (norm, shape) in cases {
        for profile in [Profile::GPU, Profile { max_binding_size: 1 << 40, max_workgroups: 510, ..Profile::GPU }] {
            let op = Op::Backward(ALL);
            let tensor = TensorDescriptor::new(&shape);
            let plan = plan_for(&norm, &tensor, Statistics::Batch, PLAIN, op, &profile).unwrap();
            check_grids(&plan, &profile, &format!("{shape:?}"));
            let mut folded = false;
            for (pass, d) in plan.passes.iter().flat_map(|p| p.dispatches.iter().map(move |d| (p, d))) {
                let blocks = (d.targets.end - d.targets.start).div_ceil(pass.geometry.targets.into());
                let [x, y, _] = d.grid.map(u64::from);
                // What are neighbours in memory follow one another.
                let tiles = d.tiles.end - d.tiles.start;
                let sides = if pass.geometry.tree.side_by_side { [blocks, tiles] } else { [tiles, blocks] };
                let blocks_of_all = plan.walk(pass.over).targets().div_ceil(pass.geometry.targets.into());
                let fits = blocks_of_all.max(pass.geometry.tiles) <= profile.max_workgroups.into();
                assert!(if fits { !d.folded && [x, y] == sides } else { d.folded }, "{d:?}");
                folded |= d.folded;
            }
            assert!(folded || profile.max_workgroups > 510, "{shape:?}");
        }
    }
    // As many dispatches at once as a large device takes.
    let roomy = Profile { max_binding_size: 1 << 40, ..Profile::GPU };
    let rows = TensorDescriptor::new(&[500_000, 2048]);
    let plan = plan_for(&layer(2048), &rows, Statistics::Batch, PLAIN, Op::Forward, &roomy).unwrap();
    assert_eq!((plan.dispatches(), plan.passes[0].dispatches[0].grid), (1, [62500, 2, 1]));
}

#[test]
fn more_than_2_to_the_32_elements() {
    let images = [1 << 12, 256, 64, 64]; // 2^32 elements
    let more = [5000, 256, 65, 65];
    let cases: [(NormDescriptor, TensorDescriptor); 7] = [
        (batch(256), TensorDescriptor::new(&images)),
        (batch(256), TensorDescriptor::new(&more)),
        (batch(256), last(&more)),
        (GroupNormDescriptor::new(32, 256).into(), TensorDescriptor::new(&more)),
        (GroupNormDescriptor::new(32, 256).into(), last(&more)),
        (layer(4096), TensorDescriptor::new(&[3_000_000, 4096])),
        (layer(3 << 20), TensorDescriptor::new(&[2000, 3 << 20])),
    ];
    for profile in [Profile::GPU, Profile { max_binding_size: 1 << 45, ..Profile::GPU }, Profile::CPU] {
        for (norm, tensor) in &cases {
            for op in [Op::Forward, Op::Backward(ALL)] {
                let plan = plan_for(norm, tensor, Statistics::Batch, PLAIN, op, &profile).unwrap();
                let total = tensor.len().unwrap();
                assert_eq!(plan.problem.layout.elements, total);
                let tensors = traffic(&plan).0 + traffic(&plan).1;
                assert_eq!(plan.bytes(), tensors as u64 * 4 * total);
                for pass in plan.passes.iter().filter(|p| !p.reads.is_empty()) {
                    let covered: u64 = pass.dispatches.iter().map(|d| length(d.window(&plan.walk(pass.over)))).sum();
                    let tiles = |d: &Dispatch| (d.targets.end - d.targets.start) * (d.tiles.end - d.tiles.start);
                    let targets = plan.walk(pass.over).targets();
                    assert_eq!(pass.dispatches.iter().map(tiles).sum::<u64>(), targets * pass.geometry.tiles);
                    assert_eq!(covered, total, "{} {tensor:?}", norm.name());
                    assert!(pass.dispatches.iter().all(|d| length(d.window(&plan.walk(pass.over))) * 4 < 1 << 32));
                    let (last, tile) = (*ascending(pass).last().unwrap(), pass.geometry.tiles - 1);
                    let walk = &plan.walk(pass.over);
                    let at = elements(&plan, walk, pass, targets - 1, tile.min(last.tiles.end - 1));
                    assert!(at.iter().all(|at| last.window(walk).contains(at)), "{} {tensor:?}", norm.name());
                }
            }
        }
    }
}

/// Devices with less than WebGPU's defaults: smaller workgroups, or one channel at a time where memory is short.
#[test]
fn small_devices_have_plans_of_their_own() {
    let adapter = wgpu::AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, wgpu::Backend::Vulkan);
    let profile = |limits: wgpu::Limits| Profile::new(&adapter, &limits);
    let defaults = wgpu::Limits::default;
    assert_eq!(profile(defaults()), Profile::GPU);
    let short = |bytes| profile(wgpu::Limits { max_compute_workgroup_storage_size: bytes, ..defaults() });
    assert_eq!([16384, 16383, 8192].map(|bytes| short(bytes).abreast), [4, 1, 1]);
    for (invocations, side, workgroup) in [(256, 255, 128), (255, 256, 128), (100, 256, 64), (2, 256, 2)] {
        let limits = wgpu::Limits {
            max_compute_invocations_per_workgroup: invocations,
            max_compute_workgroup_size_x: side,
            ..defaults()
        };
        let profile = profile(limits);
        assert_eq!(profile.workgroup, workgroup);
        for (norm, shape) in [(batch(64), &[8, 64, 9, 7][..]), (layer(300), &[40, 300])] {
            for op in [Op::Forward, Op::Backward(ALL)] {
                let tensor = TensorDescriptor::new(shape);
                let plan = plan_for(&norm, &tensor, Statistics::Batch, PLAIN, op, &profile).unwrap();
                assert!(plan.passes.iter().all(|pass| pass.geometry.workgroup <= workgroup), "{shape:?} {op:?}");
                check_windows(&plan, &profile, &format!("{shape:?} {op:?}, workgroup {workgroup}"));
            }
        }
    }
}

#[test]
fn software_drivers_have_a_row_of_their_own() {
    use wgpu::{Backend, DeviceType};
    for (device_type, backend, row) in [
        (DeviceType::Cpu, Backend::Vulkan, Profile::SOFTWARE_GPU),
        (DeviceType::Cpu, Backend::Gl, Profile::SOFTWARE_GPU),
        (DeviceType::Cpu, Backend::Dx12, Profile::GPU),
        (DeviceType::IntegratedGpu, Backend::Metal, Profile::GPU),
        (DeviceType::Other, Backend::BrowserWebGpu, Profile::GPU),
    ] {
        let adapter = wgpu::AdapterInfo::new(device_type, backend);
        assert_eq!(Profile::new(&adapter, &wgpu::Limits::default()), row, "{device_type:?} {backend:?}");
    }
}
