//! What synchronisation costs: `cargo bench --bench exchange`. Figures and method: docs/exchange.md.

#[path = "../tests/common/adapters.rs"]
mod adapters;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pollster::block_on;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wgpu_norm::host::{Backend, Backward, Norm};
use wgpu_norm::sync::{Communicator, ForwardPart, LocalGroup, SyncBatchNorm, all_reduce, join_all};
use wgpu_norm::sync::{LocalMember, forward_train_together};
use wgpu_norm::{BatchNormDescriptor, Commit, DType, Error, Fusion, Gradients, Moments, TensorDescriptor};

const CHANNELS: [usize; 4] = [64, 256, 1024, 2048];
const MEMBERS: [usize; 3] = [1, 2, 4];
/// Of a member's shard, beside its channels.
const ROWS: usize = 8;
const PIXELS: usize = 49;
const WAIT: Duration = Duration::from_secs(60);
/// Layers in one message, or in one each.
const LAYERS: usize = 16;
const WANTED: Gradients = Gradients { dx: true, dresidual: false, affine: true };

/// The CPU, and as many devices of lavapipe as a group has members.
fn backends(members: usize) -> Vec<(&'static str, Vec<Backend>)> {
    let mut all = vec![("cpu", vec![Backend::Cpu; members])];
    match adapters::enumerate().0.iter().find(|found| found.name == "lavapipe") {
        None => adapters::say(format_args!("skipped lavapipe: it is not here")),
        Some(found) => {
            let open = |_| block_on(Backend::open(&found.adapter)).expect("lavapipe opens");
            all.push(("lavapipe", (0..members).map(open).collect()));
        }
    }
    all
}

fn norm(backend: &Backend, channels: usize) -> Norm {
    Norm::new(backend, BatchNormDescriptor::new(channels)).expect("a valid layer")
}

fn group(members: usize) -> impl Iterator<Item = Arc<dyn Communicator>> {
    LocalGroup::members(members, WAIT).into_iter().map(|member| -> Arc<dyn Communicator> { Arc::new(member) })
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

/// A training step, forward and backward, of every layer's member on this thread.
macro_rules! step {
    ($layers:expr, $tensor:expr, $x:expr) => {{
        let steps = $layers.iter_mut().map(async |layer| -> Result<(), Error> {
            let forward = layer.forward_train::<f32, f32>($tensor, Fusion::default(), $x, None, Commit::Update);
            let (output, saved) = forward.await?;
            black_box((output, layer.backward(saved, Backward::new($x, $x), WANTED).await?));
            Ok(())
        });
        block_on(join_all(steps)).into_iter().collect::<Result<(), Error>>().expect("a step");
    }};
}

/// Every member for itself, or synchronised.
fn steps(criterion: &mut Criterion) {
    for members in MEMBERS {
        for (name, backends) in backends(members) {
            let mut benches = criterion.benchmark_group(format!("step/{name}, members: {members}"));
            for channels in CHANNELS {
                let shape = [ROWS, channels, PIXELS];
                let (x, tensor) = (values(shape.iter().product()), TensorDescriptor::new(&shape));
                let mut layers: Vec<Norm> = backends.iter().map(|backend| norm(backend, channels)).collect();
                benches.bench_function(BenchmarkId::new("unsynchronised", channels), |b| {
                    b.iter(|| step!(layers, &tensor, &x));
                });
                let join = |(backend, member)| SyncBatchNorm::new(norm(backend, channels), member);
                let mut layers: Vec<SyncBatchNorm> =
                    backends.iter().zip(group(members)).map(join).collect::<Result<_, _>>().expect("batch norms");
                benches.bench_function(BenchmarkId::new("synchronised", channels), |b| {
                    b.iter(|| step!(layers, &tensor, &x));
                });
            }
            benches.finish();
        }
    }
}

/// The exchange alone, forward's or backward's: both are 16 bytes a channel.
fn exchanges(criterion: &mut Criterion) {
    for members in MEMBERS {
        let mut benches = criterion.benchmark_group(format!("exchange/members: {members}"));
        for channels in CHANNELS {
            let sums = vec![vec![Moments { count: 1, ..Moments::EMPTY }; channels]];
            let all = LocalGroup::members(members, WAIT);
            benches.bench_function(BenchmarkId::new("one thread", channels), |b| {
                b.iter(|| {
                    let exchanges = all.iter().map(|member| all_reduce(member, DType::F32, Ok(sums.clone())));
                    black_box(block_on(join_all(exchanges)))
                });
            });
            benches.bench_function(BenchmarkId::new("thread a member", channels), |b| {
                b.iter_custom(|times| on_threads(&all, &sums, times));
            });
        }
        benches.finish();
    }
}

/// How long `times` exchanges take, with the members' threads already there.
fn on_threads(all: &[LocalMember], sums: &[Vec<Moments>], times: u64) -> Duration {
    std::thread::scope(|scope| {
        let run = |member| {
            let exchange = || block_on(all_reduce(member, DType::F32, Ok(sums.to_vec()))).expect("an exchange");
            exchange(); // Everybody is here.
            let start = Instant::now();
            (0..times).for_each(|_| drop(black_box(exchange())));
            start.elapsed()
        };
        let threads: Vec<_> = all.iter().map(|member| scope.spawn(move || run(member))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).max().unwrap_or_default()
    })
}

/// Several layers' exchanges in one message, or in one each: alone, and as whole forward passes.
fn messages(criterion: &mut Criterion) {
    let members = 2;
    let mut benches = criterion.benchmark_group(format!("{LAYERS} layers of 64 channels, members: {members}"));
    let sums = vec![vec![Moments { count: 1, ..Moments::EMPTY }; 64]; LAYERS];
    let all = LocalGroup::members(members, WAIT);
    for (name, layers) in [("exchange/one message", LAYERS), ("exchange/a message a layer", 1)] {
        benches.bench_function(name, |b| {
            b.iter(|| {
                let exchanges = all.iter().map(async |member| {
                    for sums in sums.chunks(layers) {
                        black_box(all_reduce(member, DType::F32, Ok(sums.to_vec())).await.expect("an exchange"));
                    }
                });
                block_on(join_all(exchanges))
            });
        });
    }
    let shape = [ROWS, 64, PIXELS];
    let (x, tensor) = (values(shape.iter().product()), TensorDescriptor::new(&shape));
    for (backend, backends) in backends(members) {
        let layers = |(backend, member): (&Backend, Arc<dyn Communicator>)| {
            let layer = |_| SyncBatchNorm::new(norm(backend, 64), member.clone()).expect("a batch norm");
            (0..LAYERS).map(layer).collect::<Vec<_>>()
        };
        let mut layers: Vec<Vec<SyncBatchNorm>> = backends.iter().zip(group(members)).map(layers).collect();
        for (name, count) in [("one message", LAYERS), ("a message a layer", 1)] {
            let (x, tensor) = (&x, &tensor);
            benches.bench_function(format!("forward/{backend}, {name}"), |b| {
                b.iter(|| {
                    let passes = layers.iter_mut().map(async |layers| {
                        for layers in layers.chunks_mut(count) {
                            let part = |layer| ForwardPart {
                                layer,
                                tensor,
                                fusion: Fusion::default(),
                                x: x.as_slice(),
                                residual: None,
                            };
                            let mut parts: Vec<_> = layers.iter_mut().map(part).collect();
                            let pass = forward_train_together::<f32, f32>(&mut parts, Commit::Update);
                            black_box(pass.await.expect("a pass"));
                        }
                    });
                    block_on(join_all(passes))
                });
            });
        }
    }
    benches.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = steps, exchanges, messages
}
criterion_main!(benches);
