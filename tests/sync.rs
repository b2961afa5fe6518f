//! Shards of a batch on the members of a group, against the whole batch on one device.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/shards.rs"]
mod shards;
#[path = "common/transfer.rs"]
mod transfer;

use cases::{Case, Data, compare, run};
use shards::{DRIVES, Drive, Shards, run_sharded};
use std::sync::Arc;
use std::time::Duration;
use wgpu_norm::host::{Backend, Norm};
use wgpu_norm::sync::{Communicator, LocalGroup, convert, revert};
use wgpu_norm::{
    BatchNormDescriptor, DType, Error, Format, Fusion, GroupNormDescriptor, Moments, Momentum, Residual, State, gpu,
};

const WAIT: Duration = Duration::from_secs(60);

fn tables() -> Vec<(Case, Vec<usize>)> {
    let bn = |c, shape: &[usize]| Case::new(BatchNormDescriptor::new(c), shape);
    let after = Fusion { residual: Residual::After, relu: true };
    let before = Fusion { residual: Residual::Before, relu: false };
    vec![
        (bn(6, &[8, 6, 5, 5]), vec![3, 1, 4]),
        (bn(6, &[6, 6, 5, 5]), vec![4, 0, 2]),
        (bn(10, &[4, 10]), vec![1, 1, 1, 1]),
        (bn(3, &[2, 3]), vec![0, 2, 0]),
        (Case { mean: 1e6, std: 1.0, ..bn(5, &[9, 5, 70]) }, vec![2, 7]),
        (Case { fusion: after, ..bn(4, &[7, 4, 33]) }, vec![5, 2]),
        (Case { fusion: before, format: Format::ChannelsLast, ..bn(8, &[6, 8, 3, 5]) }, vec![2, 1, 3]),
        (Case { input: DType::F16, output: DType::F16, ..bn(8, &[6, 8, 4, 4]) }, vec![1, 5]),
        (Case { input: DType::BF16, output: DType::BF16, ..bn(8, &[6, 8, 5, 3]) }, vec![4, 2]),
    ]
}

/// Every shard on `backends[rank % len]`, compared with the reference of the whole batch.
fn check(name: &str, base: f64, backends: &[Backend], drives: &[Drive]) {
    for (case, sizes) in tables() {
        let data = Data::new(&case);
        let members: Vec<Backend> = (0..sizes.len()).map(|rank| backends[rank % backends.len()].clone()).collect();
        for &drive in drives {
            let name = format!("{name}, {drive:?}: {} in {sizes:?}", case.name());
            let results = run_sharded(drive, &members, &case, &data, &Shards::new(&case, &sizes))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let wrong = compare(&case, &data, &results.whole, base);
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
            assert!(results.states.windows(2).all(|s| s[0] == s[1]), "{name}: members' states differ");
        }
    }
}

#[test]
fn cpu_workers() {
    check("cpu", 5e-7, &[Backend::Cpu], &DRIVES);
}

#[test]
fn devices_of_one_adapter() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        // Only one thread at a time may use GL.
        let drives = if gpu.name == "gl" { &[Drive::OneThread][..] } else { &DRIVES };
        let another = pollster::block_on(Backend::open(&gpu.adapter)).expect("an adapter opens twice");
        check(&gpu.name, 1e-6, &[backend.clone(), another], drives);
    }
}

#[test]
fn mixed_devices() {
    let gpus: Vec<_> = backends::gpus().collect();
    let _turns: Vec<_> = gpus.iter().map(|(gpu, _)| gpu.turn()).collect();
    let all = gpus.iter().map(|(_, backend)| (*backend).clone()).chain([Backend::Cpu]);
    check("mixed", 1e-6, &all.collect::<Vec<_>>(), &[Drive::OneThread]);
    // Only one thread at a time may use GL.
    let others = gpus.iter().filter(|(gpu, _)| gpu.name != "gl").map(|(_, backend)| (*backend).clone());
    check("mixed", 1e-6, &others.chain([Backend::Cpu]).collect::<Vec<_>>(), &[Drive::Threads]);
}

/// Equal shards of a power of two of samples are subtrees of the whole batch's tree.
#[test]
fn equal_shards_give_the_bits_of_one_device() {
    let cases = [
        Case::new(BatchNormDescriptor::new(7), &[16, 7]),
        Case::new(BatchNormDescriptor::new(7), &[4, 7]),
        Case::new(BatchNormDescriptor::new(1), &[64, 1]),
        // The whole batch is split, its shards are on chip.
        Case::new(BatchNormDescriptor::new(64), &[64, 64]),
        Case::new(BatchNormDescriptor::new(3), &[8, 3, 7, 7]),
        Case::new(BatchNormDescriptor::new(2), &[8, 2, 700]),
        Case { format: Format::ChannelsLast, ..Case::new(BatchNormDescriptor::new(12), &[8, 12, 5, 5]) },
        Case { format: Format::ChannelsLast, ..Case::new(BatchNormDescriptor::new(7), &[8, 7, 6, 6]) },
        Case { mean: 1e6, std: 1.0, ..Case::new(BatchNormDescriptor::new(4), &[4, 4, 130]) },
    ];
    let gpus: Vec<_> = backends::gpus().collect();
    let turns: Vec<_> = gpus.iter().map(|(gpu, _)| gpu.turn()).collect();
    for backend in gpus.iter().map(|(_, backend)| (*backend).clone()).chain([Backend::Cpu]) {
        for case in &cases {
            let data = Data::new(case);
            let whole = run(&backend, case, &data).unwrap();
            for members in [2, 4] {
                let sizes = vec![case.shape[0] / members; members];
                let shards = Shards::new(case, &sizes);
                let members = vec![backend.clone(); members];
                let sharded = run_sharded(Drive::OneThread, &members, case, &data, &shards).unwrap().whole;
                let name = format!("{} in {sizes:?} on {}", case.name(), backend.name());
                assert_eq!(sharded.y, whole.y, "y: {name}");
                assert_eq!(sharded.dx, whole.dx, "dx: {name}");
                assert_eq!(sharded.state, whole.state, "state: {name}");
                assert_eq!(sharded.statistics, whole.statistics, "statistics: {name}");
            }
        }
    }
    drop(turns);
}

#[test]
fn converting_and_back_loses_nothing() {
    let descriptor = BatchNormDescriptor { momentum: Momentum::Cumulative, eps: 3e-4, ..BatchNormDescriptor::new(3) };
    let mut state = State::new(descriptor.clone()).unwrap();
    let running = state.running.as_mut().unwrap();
    (running.tracked, running.skipped) = (vec![7, 8, 9], vec![1, 0, 2]);
    running.running_mean = vec![0.25, -1.0, 4.0];
    let group: Arc<dyn Communicator> = Arc::new(LocalGroup::members(1, WAIT).remove(0));
    for (gpu, backend) in backends::gpus().take(1) {
        let _turn = gpu.turn();
        let mut norms = vec![Norm::with_state(backend, descriptor.clone(), state.clone()).unwrap()];
        let back = revert(convert(&mut norms, &group).unwrap());
        assert_eq!(pollster::block_on(back[0].state()).unwrap(), state);
    }
    let mut norms = vec![Norm::with_state(&Backend::Cpu, descriptor.clone(), state.clone()).unwrap()];
    let mut back = revert(convert(&mut norms, &group).unwrap());
    assert!(norms.is_empty());
    assert_eq!(back[0].descriptor(), &descriptor.into());
    back.push(Norm::new(&Backend::Cpu, GroupNormDescriptor::new(1, 2)).unwrap());
    assert!(matches!(convert(&mut back, &group), Err(Error::Unexpected { .. })));
    assert_eq!(back.len(), 2);
    assert_eq!(pollster::block_on(back[0].state()).unwrap(), state);
}

/// Micro-batches on one device: merged by the shader as the host merges.
#[test]
fn the_device_merges_as_the_host_does() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let Backend::Gpu { context, .. } = backend else { continue };
        let norm = gpu::Norm::new(context, BatchNormDescriptor::new(5)).unwrap();
        for shards in [1, 2, 3, 7, 40, 300] {
            let sums: Vec<Vec<Moments>> = (0..shards)
                .map(|i| {
                    let moments = |c: usize| Moments {
                        count: if (i + c) % 4 == 3 { 0 } else { (i * 7 + c) as u32 + 1 },
                        mean_hi: if (i + c) % 4 == 3 { 0.0 } else { 1e6 + (i * c) as f32 },
                        mean_lo: if (i + c) % 4 == 3 { 0.0 } else { 0.01 * i as f32 },
                        m2: if (i + c) % 4 == 3 { 0.0 } else { 3.0 + i as f32 },
                    };
                    (0..5).map(moments).collect()
                })
                .collect();
            let on_device: Vec<_> = sums.iter().map(|s| gpu::DeviceSums::from_slice(context, s).unwrap()).collect();
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            let merged = norm.merge_sums(&mut encoder, &on_device.iter().collect::<Vec<_>>()).unwrap();
            let merged: Vec<Moments> = transfer::read(gpu, encoder, merged.buffer());
            for c in 0..5 {
                let column: Vec<Moments> = sums.iter().map(|s| s[c]).collect();
                assert_eq!(merged[c], wgpu_norm::merge_shards(&column), "{}: {shards} shards, channel {c}", gpu.name);
            }
        }
        // Shards of which each fits 32 bits of a count, and both together do not.
        let half = gpu::DeviceSums::from_slice(context, &[Moments { count: 1 << 31, ..Moments::EMPTY }; 5]).unwrap();
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let error = norm.merge_sums(&mut encoder, &[&half, &half]).unwrap_err();
        assert!(matches!(error, Error::TooLarge { required: 0x1_0000_0000, .. }), "{}: {error}", gpu.name);
    }
}
