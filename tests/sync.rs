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

use cases::{Case, Data, compare, run};
use shards::{Shards, run_sharded};
use std::sync::Arc;
use std::time::Duration;
use wgpu_norm::host::{Backend, Norm};
use wgpu_norm::sync::{Communicator, LocalGroup, SyncBatchNorm, all_reduce, convert, revert};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Error, Format, Fusion, GroupNormDescriptor, Moments, Momentum, Residual, State,
    TensorDescriptor, gpu,
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
    ]
}

/// Every shard on `backends[rank % len]`, compared with the reference of the whole batch.
fn check(name: &str, base: f64, backends: &[Backend]) {
    for (case, sizes) in tables() {
        let data = Data::new(&case);
        let members: Vec<Backend> = (0..sizes.len()).map(|rank| backends[rank % backends.len()].clone()).collect();
        let results = run_sharded(&members, &case, &data, &Shards::new(&case, &sizes))
            .unwrap_or_else(|e| panic!("{name}: {}: {e}", case.name()));
        let wrong = compare(&case, &data, &results.whole, base);
        assert!(wrong.is_empty(), "{name}: {} in {sizes:?}: {wrong:?}", case.name());
        assert!(results.states.windows(2).all(|s| s[0] == s[1]), "{name}: {}: members' states differ", case.name());
    }
}

#[test]
fn cpu_workers() {
    check("cpu", 5e-7, &[Backend::Cpu]);
}

#[test]
fn devices_of_one_adapter() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        check(&gpu.name, 1e-6, std::slice::from_ref(backend));
    }
}

#[test]
fn mixed_devices() {
    let gpus: Vec<_> = backends::gpus().filter(|(gpu, _)| gpu.name != "gl").collect();
    let _turns: Vec<_> = gpus.iter().map(|(gpu, _)| gpu.turn()).collect();
    let mut all: Vec<Backend> = gpus.iter().map(|(_, backend)| (*backend).clone()).collect();
    all.push(Backend::Cpu);
    check("mixed", 1e-6, &all);
}

/// Equal shards of a power of two of samples are subtrees of the whole batch's tree.
#[test]
fn equal_shards_give_the_bits_of_one_device() {
    let cases = [
        Case::new(BatchNormDescriptor::new(7), &[16, 7]),
        Case::new(BatchNormDescriptor::new(3), &[8, 3, 7, 7]),
        Case::new(BatchNormDescriptor::new(2), &[8, 2, 700]),
        Case { format: Format::ChannelsLast, ..Case::new(BatchNormDescriptor::new(12), &[8, 12, 5, 5]) },
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
                let sharded = run_sharded(&vec![backend.clone(); members], case, &data, &shards).unwrap().whole;
                let name = format!("{} on {members} x {}", case.name(), backend.name());
                assert_eq!(sharded.y, whole.y, "y: {name}");
                assert_eq!(sharded.dx, whole.dx, "dx: {name}");
                assert_eq!(sharded.state, whole.state, "state: {name}");
                assert_eq!(sharded.statistics, whole.statistics, "statistics: {name}");
            }
        }
    }
    drop(turns);
}

/// Runs `member` on a thread for each rank.
fn each<T: Send>(size: usize, wait: Duration, member: impl Fn(Arc<dyn Communicator>) -> T + Sync) -> Vec<T> {
    let members = LocalGroup::members(size, wait);
    std::thread::scope(|scope| {
        let run = &member;
        let threads: Vec<_> = members.into_iter().map(|m| scope.spawn(move || run(Arc::new(m)))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn layer(features: usize, group: Arc<dyn Communicator>) -> SyncBatchNorm {
    SyncBatchNorm::new(Norm::new(&Backend::Cpu, BatchNormDescriptor::new(features)).unwrap(), group).unwrap()
}

fn train(layer: &mut SyncBatchNorm, shape: &[usize]) -> Result<State, Error> {
    let x = vec![1.5f32; shape.iter().product()];
    let tensor = TensorDescriptor::new(shape);
    pollster::block_on(async {
        let (_, saved) = layer.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Update).await?;
        drop(saved);
        layer.norm().state().await
    })
}

#[test]
fn one_value_in_all_is_an_error_on_every_member() {
    let results = each(3, WAIT, |group| {
        let rows = usize::from(group.rank() == 1);
        let mut layer = layer(2, group);
        let error = train(&mut layer, &[rows, 2]).unwrap_err();
        (error, pollster::block_on(layer.norm().state()).unwrap())
    });
    for (error, state) in results {
        assert!(matches!(error, Error::TooFewValues { count: 1, .. }), "{error}");
        assert_eq!(state, State::new(&BatchNormDescriptor::new(2).into()).unwrap());
    }
}

#[test]
fn no_value_in_all_leaves_running_statistics_alone() {
    for state in each(2, WAIT, |group| train(&mut layer(2, group), &[0, 2]).unwrap()) {
        assert_eq!(state, State::new(&BatchNormDescriptor::new(2).into()).unwrap());
    }
}

#[test]
fn members_that_disagree_all_get_the_error() {
    for error in each(3, WAIT, |group| {
        let channels = if group.rank() == 2 { 5 } else { 4 };
        train(&mut layer(channels, group), &[2, channels]).unwrap_err()
    }) {
        assert!(matches!(error, Error::Disagreement { rank: 2, expected: 4, actual: 5, .. }), "{error}");
    }
    for error in each(2, WAIT, |group| {
        let dtype = if group.rank() == 1 { DType::F16 } else { DType::F32 };
        all_reduce(&*group, dtype, Ok(vec![vec![Moments::EMPTY; 3]])).unwrap_err()
    }) {
        assert!(matches!(error, Error::Disagreement { what: "the element type", rank: 1, .. }), "{error}");
    }
    for error in each(2, WAIT, |group| {
        if group.rank() == 0 {
            all_reduce(&*group, DType::F32, Ok(vec![vec![Moments::EMPTY; 3]])).unwrap_err()
        } else {
            all_reduce(&*group, DType::F32, Ok(vec![vec![wgpu_norm::GradientSums::default(); 3]])).unwrap_err()
        }
    }) {
        assert!(matches!(error, Error::Disagreement { what: "the call", .. }), "{error}");
    }
}

#[test]
fn an_error_of_one_member_reaches_all() {
    let errors = each(3, WAIT, |group| {
        let wrong = group.rank() == 1;
        // The layer has 4 channels.
        train(&mut layer(4, group), if wrong { &[2, 3] } else { &[2, 4] }).unwrap_err()
    });
    assert!(matches!(errors[0], Error::MemberFailed { rank: 1 }), "{}", errors[0]);
    assert!(matches!(errors[1], Error::Axis { .. }), "{}", errors[1]);
    assert!(matches!(errors[2], Error::MemberFailed { rank: 1 }), "{}", errors[2]);
}

#[test]
fn a_member_that_does_not_come_is_a_time_out() {
    let short = Duration::from_millis(200);
    // Kept until the end, or its absence would be noticed before the time-out.
    let absent = std::sync::Mutex::new(Vec::new());
    let errors = each(3, short, |group| {
        if group.rank() == 2 {
            absent.lock().unwrap().push(group);
            return None;
        }
        let mut layer = layer(4, group);
        let first = train(&mut layer, &[2, 4]).unwrap_err();
        let state = pollster::block_on(layer.norm().state()).unwrap();
        assert_eq!(state, State::new(&BatchNormDescriptor::new(4).into()).unwrap(), "half-written state");
        Some((first, train(&mut layer, &[2, 4]).unwrap_err()))
    });
    for (first, again) in errors.into_iter().flatten() {
        for error in [first, again] {
            assert!(matches!(&error, Error::Timeout { missing, .. } if missing == &[2]), "{error}");
        }
    }
}

#[test]
fn converting_and_back_loses_nothing() {
    let descriptor = BatchNormDescriptor { momentum: Momentum::Cumulative, eps: 3e-4, ..BatchNormDescriptor::new(3) };
    let mut state = State::new(&descriptor.clone().into()).unwrap();
    let running = state.running.as_mut().unwrap();
    (running.tracked, running.skipped) = (vec![7, 8, 9], vec![1, 0, 2]);
    running.running_mean = vec![0.25, -1.0, 4.0];
    let group: Arc<dyn Communicator> = Arc::new(LocalGroup::members(1, WAIT).remove(0));
    for (_, backend) in backends::gpus().take(1).chain([]) {
        let norms = vec![Norm::with_state(backend, descriptor.clone(), state.clone()).unwrap()];
        let back = revert(convert(norms, &group).unwrap());
        assert_eq!(pollster::block_on(back[0].state()).unwrap(), state);
    }
    let norms = vec![Norm::with_state(&Backend::Cpu, descriptor.clone(), state.clone()).unwrap()];
    let back = revert(convert(norms, &group).unwrap());
    assert_eq!(back[0].descriptor(), &descriptor.into());
    assert_eq!(pollster::block_on(back[0].state()).unwrap(), state);
    let other = vec![Norm::new(&Backend::Cpu, GroupNormDescriptor::new(1, 2)).unwrap()];
    assert!(matches!(convert(other, &group), Err(Error::Unexpected { .. })));
}

#[test]
fn several_layers_share_a_message() {
    for merged in each(2, WAIT, |group| {
        let one = |x: f32| Moments { count: 1, mean_hi: x, mean_lo: 0.0, m2: 0.0 };
        let x = group.rank() as f32;
        let local = vec![vec![one(x), one(2.0 * x)], vec![one(4.0 * x)], vec![]];
        all_reduce(&*group, DType::F32, Ok(local)).unwrap()
    }) {
        assert_eq!(merged.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!((merged[0][1].mean(), merged[1][0].mean(), merged[1][0].count), (1.0, 2.0, 2));
    }
}

/// Micro-batches on one device: merged by the shader as the host merges.
#[test]
fn the_device_merges_as_the_host_does() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let Backend::Gpu { context, queue, .. } = backend else { continue };
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
            let merged: Vec<Moments> = shards::read(&gpu.device, queue, encoder, merged.buffer());
            for c in 0..5 {
                let column: Vec<Moments> = sums.iter().map(|s| s[c]).collect();
                assert_eq!(merged[c], wgpu_norm::merge_shards(&column), "{}: {shards} shards, channel {c}", gpu.name);
            }
        }
    }
}
