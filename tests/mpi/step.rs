//! One batch over four ranks, each on a device of its own, against one device and the reference.

use super::adapters;
use super::cases::{Case, Check, Data, Results, compare, run, wide};
use super::shards::{Shards, join, run_shard};
use std::sync::Arc;
use wgpu_norm::host::{Backend, Statistic};
use wgpu_norm::sync::Communicator;
use wgpu_norm::{BatchNormDescriptor, DType, Format, Fusion, Residual, Running, State, wgpu};

/// Uneven, empty, one row each.
fn tables() -> Vec<(Case, [usize; 4])> {
    let bn = |c, shape: &[usize]| Case::new(BatchNormDescriptor::new(c), shape);
    let after = Fusion { residual: Residual::After, relu: true };
    let before = Fusion { residual: Residual::Before, relu: false };
    vec![
        (bn(6, &[8, 6, 5, 5]), [3, 1, 0, 4]),
        (bn(10, &[4, 10]), [1, 1, 1, 1]),
        (bn(3, &[2, 3]), [0, 2, 0, 0]),
        (Case { mean: 1e6, std: 1.0, ..bn(5, &[9, 5, 70]) }, [2, 3, 3, 1]),
        (Case { fusion: after, ..bn(4, &[7, 4, 33]) }, [4, 1, 2, 0]),
        (Case { fusion: before, format: Format::ChannelsLast, ..bn(8, &[6, 8, 3, 5]) }, [0, 2, 1, 3]),
        (Case { input: DType::F16, output: DType::F16, ..bn(8, &[6, 8, 4, 4]) }, [1, 2, 1, 2]),
        (bn(2048, &[6, 2048]), [1, 3, 0, 2]),
    ]
}

/// The CPU for rank 0, an adapter for each other, while there are any.
fn own_backend(rank: usize) -> Backend {
    let Some(adapter) = rank.checked_sub(1) else { return Backend::Cpu };
    let (found, _) = adapters::enumerate();
    let Some(found) = found.get(adapter) else { return Backend::Cpu };
    match found.open(wgpu::Features::empty()) {
        Ok(gpu) => Backend::from_device(&gpu.device, &gpu.queue).expect("the adapter meets the limits"),
        Err(skipped) => {
            println!("rank {rank} runs on the CPU, not on {skipped}");
            Backend::Cpu
        }
    }
}

pub fn check(group: &Arc<dyn Communicator>) {
    let backend = own_backend(group.rank());
    println!("rank {}: {}", group.rank(), backend.name());
    for (case, sizes) in tables() {
        let data = Data::new(&case);
        let name = format!("{} in {sizes:?}", case.name());
        let shards = Shards::new(&case, &sizes);
        let step = run_shard(&backend, group.clone(), &case, &data, &shards);
        let own = pollster::block_on(step).unwrap_or_else(|e| panic!("{name}: {e}"));
        let all = pollster::block_on(group.all_gather(&encode(own))).unwrap();
        let sharded = join(all.iter().map(|bytes| decode(bytes)).collect());
        assert!(sharded.states.windows(2).all(|s| s[0] == s[1]), "{name}: the ranks' states differ");
        let wrong = compare(&case, &data, &sharded.whole, 1e-6);
        assert!(wrong.is_empty(), "{name}, against the reference: {wrong:?}");
        let whole = run(&Backend::Cpu, &case, &data).unwrap();
        let wrong = against(&case, &sharded.whole, &whole);
        assert!(wrong.is_empty(), "{name}, against one device: {wrong:?}");
    }
}

/// Two implementations may each be off by what the reference allows them.
fn against(case: &Case, sharded: &Results, whole: &Results) -> Vec<Check> {
    let elements = |dtype: DType| 1.5e-6 + if dtype == DType::F32 { 0.0 } else { dtype.epsilon() };
    let vector = |v: &Option<Vec<f64>>| v.clone().unwrap_or_default();
    let running = |r: &Results| {
        let running = r.state.running.clone().unwrap_or_default();
        wide(&[running.running_mean, running.running_var].concat())
    };
    let mut checks = vec![
        Check::new("y", &sharded.y, &whole.y, elements(case.output)),
        Check::new("sum", &vector(&sharded.sum), &vector(&whole.sum), 0.0),
        Check::new("dx", &sharded.dx, &whole.dx, elements(case.input)),
        Check::new("dresidual", &vector(&sharded.dresidual), &vector(&whole.dresidual), elements(case.input)),
        Check::new("dweight", &vector(&sharded.dweight), &vector(&whole.dweight), 6e-6),
        Check::new("dbias", &vector(&sharded.dbias), &vector(&whole.dbias), 6e-6),
        Check::new("running statistics", &running(sharded), &running(whole), 1.5e-6),
    ];
    checks.retain(|check| !check.passes());
    checks
}

/// Results as vectors, each with its length before it; what is absent has none.
fn encode(results: Results) -> Vec<u8> {
    let Results { y, sum, statistics, dx, dresidual, dweight, dbias, state } = results;
    let running = state.running.unwrap_or_default();
    let counts = |v: Vec<u32>| Some(v.into_iter().map(f64::from).collect());
    let values = |v: Option<Vec<f32>>| v.map(|v| wide(&v));
    let statistics = statistics.iter().flat_map(|s| [s.mean, s.var, s.rstd]).collect();
    let vectors: [Option<Vec<f64>>; 13] = [
        Some(y),
        sum,
        Some(statistics),
        Some(dx),
        dresidual,
        dweight,
        dbias,
        values(state.weight),
        values(state.bias),
        values(Some(running.running_mean)),
        values(Some(running.running_var)),
        counts(running.tracked),
        counts(running.skipped),
    ];
    let mut words = Vec::new();
    for vector in vectors {
        words.push(vector.as_ref().map_or(-1.0, |v| v.len() as f64));
        words.extend(vector.unwrap_or_default());
    }
    words.into_iter().flat_map(f64::to_le_bytes).collect()
}

fn decode(bytes: &[u8]) -> Results {
    let mut words = bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b));
    let mut next = || {
        let len = words.next().expect("a length");
        (len >= 0.0).then(|| words.by_ref().take(len as usize).collect::<Vec<f64>>())
    };
    let values = |v: Option<Vec<f64>>| v.map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
    let counts = |v: Option<Vec<f64>>| v.unwrap_or_default().into_iter().map(|x| x as u32).collect();
    let statistic = |s: &[f64]| Statistic { mean: s[0], var: s[1], rstd: s[2] };
    Results {
        y: next().unwrap_or_default(),
        sum: next(),
        statistics: next().unwrap_or_default().chunks_exact(3).map(statistic).collect(),
        dx: next().unwrap_or_default(),
        dresidual: next(),
        dweight: next(),
        dbias: next(),
        state: State {
            weight: values(next()),
            bias: values(next()),
            running: Some(Running {
                running_mean: values(next()).unwrap_or_default(),
                running_var: values(next()).unwrap_or_default(),
                tracked: counts(next()),
                skipped: counts(next()),
            }),
        },
    }
}
