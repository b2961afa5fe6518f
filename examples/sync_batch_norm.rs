//! One batch over every device here, against one device; and what unsynchronised BatchNorms would do.
//!
//! `cargo run --release --example sync_batch_norm`

#[path = "../tests/common/adapters.rs"]
mod adapters;
#[path = "common/cli.rs"]
mod cli;

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use wgpu_norm::host::{Backend, Backward, Norm, Output, OutputGradients};
use wgpu_norm::sync::{LocalGroup, SyncBatchNorm, average_running, join_all, merge_running};
use wgpu_norm::{BatchNormDescriptor, Commit, Error, Fusion, Gradients, Momentum, Running, State, TensorDescriptor};

const USAGE: &str = "\
Trains one step of a batch norm on a group of all devices here, and compares with one device.

cargo run --release --example sync_batch_norm

  WGPU_BACKEND=vulkan|metal|dx12|gl and WGPU_ADAPTER_NAME=part-of-a-name leave GPUs out";

const BATCH: usize = 128;
const CHANNELS: usize = 16;
const MEAN: f32 = 3.0;
const STD: f32 = 5.0;
/// CPU workers join the GPUs until there are as many members; there is always one.
const LEAST_MEMBERS: usize = 4;
/// The member whose shard has no rows.
const EMPTY: usize = 1;
/// A member that does not come in time is an error for the others.
const WAIT: Duration = Duration::from_secs(60);
/// Difference that is allowed, relative to max(1, largest value): 1e-6 for a GPU and 5e-7 for the CPU.
const ALLOWED: f64 = 1.5e-6;
/// Sums over all rows may differ more.
const ALLOWED_SUM: f64 = 4.0 * ALLOWED;
/// Devices that train without synchronisation.
const DEVICES: usize = 4;

fn main() -> ExitCode {
    cli::parse(USAGE, |_, _| Ok(false));
    cli::end(run())
}

fn run() -> Result<(), String> {
    synchronised()?;
    unsynchronised().map_err(|e| e.to_string())
}

/// What a training step computes.
struct Step {
    y: Vec<f32>,
    dx: Vec<f32>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
    running: Running,
}

impl Step {
    fn new(output: Output<f32, f32>, gradients: OutputGradients<f32>, state: State) -> Step {
        Step {
            y: output.y,
            dx: gradients.dx.unwrap_or_default(),
            dweight: gradients.dweight.unwrap_or_default(),
            dbias: gradients.dbias.unwrap_or_default(),
            running: state.running.unwrap_or_default(),
        }
    }
}

const WANTED: Gradients = Gradients { dx: true, dresidual: false, affine: true };

/// One member's part of the step.
async fn train_shard(mut norm: SyncBatchNorm, x: &[f32], dy: &[f32]) -> Result<Step, Error> {
    let shape = [x.len() / CHANNELS, CHANNELS];
    let shard = TensorDescriptor::new(&shape);
    let (output, saved) = norm.forward_train(&shard, Fusion::default(), x, None, Commit::Update).await?;
    let gradients = norm.backward(saved, Backward::new(x, dy), WANTED).await?;
    Ok(Step::new(output, gradients, norm.norm().state().await?))
}

/// The same step on the whole batch.
async fn train_whole(mut norm: Norm, x: &[f32], dy: &[f32]) -> Result<Step, Error> {
    let batch = TensorDescriptor::new(&[BATCH, CHANNELS]);
    let (output, saved) = norm.forward_train(&batch, Fusion::default(), x, None, Commit::Update).await?;
    let gradients = norm.backward(saved, Backward::new(x, dy), WANTED).await?;
    Ok(Step::new(output, gradients, norm.state().await?))
}

/// Each shard on its own device. This thread drives them all; they compute at the same time.
fn train_sharded(
    devices: &[Backend],
    sizes: &[usize],
    state: &State,
    x: &[f32],
    dy: &[f32],
) -> Result<Vec<Step>, String> {
    let mut start = 0;
    let mut steps = Vec::new();
    for ((member, device), rows) in LocalGroup::members(devices.len(), WAIT).into_iter().zip(devices).zip(sizes) {
        let shard = start * CHANNELS..(start + rows) * CHANNELS;
        start += rows;
        let norm = Norm::with_state(device, BatchNormDescriptor::new(CHANNELS), state.clone())
            .and_then(|norm| SyncBatchNorm::new(norm, Arc::new(member)))
            .map_err(|e| e.to_string())?;
        steps.push(train_shard(norm, &x[shard.clone()], &dy[shard]));
    }
    let results = pollster::block_on(join_all(steps));
    let failures: Vec<String> = results
        .iter()
        .enumerate()
        .filter_map(|(rank, result)| Some(format!("member {rank}: {}", result.as_ref().err()?)))
        .collect();
    if failures.is_empty() { Ok(results.into_iter().flatten().collect()) } else { Err(failures.join("; ")) }
}

fn synchronised() -> Result<(), String> {
    let mut devices = Vec::new();
    for gpu in adapters::open_all()? {
        match Backend::from_device(&gpu.device, &gpu.queue) {
            Ok(device) => devices.push(device),
            Err(error) => println!("Without {}: {error}.", gpu.name),
        }
    }
    devices.resize(LEAST_MEMBERS.max(devices.len() + 1), Backend::Cpu);
    let sizes = uneven(devices.len());

    println!("A batch of {BATCH} rows and {CHANNELS} channels on a group of {} members", devices.len());
    println!("member  rows  device");
    for (rank, (device, rows)) in devices.iter().zip(&sizes).enumerate() {
        println!("{rank:>6} {rows:>5}  {}", device.name());
    }

    let (x, dy) = (normal(0, MEAN, STD), normal(1, 0.0, 1.0));
    let state = State {
        weight: Some((0..CHANNELS).map(|c| 0.5 + c as f32 / 10.0).collect()),
        bias: Some((0..CHANNELS).map(|c| c as f32 / 5.0 - 1.0).collect()),
        ..State::new(BatchNormDescriptor::new(CHANNELS)).map_err(|e| e.to_string())?
    };
    let one = Norm::with_state(&Backend::Cpu, BatchNormDescriptor::new(CHANNELS), state.clone())
        .and_then(|norm| pollster::block_on(train_whole(norm, &x, &dy)))
        .map_err(|e| e.to_string())?;
    let members = train_sharded(&devices, &sizes, &state, &x, &dy)?;

    println!("\nOne training step, forward and backward: largest difference from");
    println!("one BatchNorm with the whole batch on the CPU     found  allowed");
    let mut exact = true;
    let mut compare = |what: &str, actual: &[f32], expected: &[f32], allowed: f64| {
        let allowed = allowed * expected.iter().fold(1.0, |scale: f64, &e| scale.max(f64::from(e).abs()));
        let found = largest_difference(actual, expected);
        exact &= found <= allowed;
        println!("{what:<46} {found:>8.1e} {allowed:>8.1e}");
    };
    let joined = |of: fn(&Step) -> &[f32]| members.iter().flat_map(of).copied().collect::<Vec<f32>>();
    // What the optimiser takes: gradients of parameters are each shard's own.
    let summed = |of: fn(&Step) -> &[f32]| -> Vec<f32> {
        (0..CHANNELS).map(|c| members.iter().filter_map(|m| of(m).get(c)).sum()).collect()
    };
    compare("y", &joined(|m| &m.y), &one.y, ALLOWED);
    compare("dx", &joined(|m| &m.dx), &one.dx, ALLOWED);
    compare("dweight, summed over the members", &summed(|m| &m.dweight), &one.dweight, ALLOWED_SUM);
    compare("dbias, summed over the members", &summed(|m| &m.dbias), &one.dbias, ALLOWED_SUM);
    compare("running mean", &members[0].running.running_mean, &one.running.running_mean, ALLOWED);
    compare("running variance", &members[0].running.running_var, &one.running.running_var, ALLOWED);
    let identical = members.windows(2).all(|m| bits(&m[0].running) == bits(&m[1].running));
    let verdict = if identical { "identical to the bit" } else { "NOT identical, which is a bug" };
    println!("The running statistics of all {} members: {verdict}.", members.len());
    if exact && identical { Ok(()) } else { Err("the group does not do what one device does. Please report it".into()) }
}

/// Rows for each member: none has as many as another, and one has none.
fn uneven(members: usize) -> Vec<usize> {
    let share = |rank: usize| if rank == EMPTY { 0 } else { 2 * rank + 3 };
    let total: usize = (0..members).map(share).sum();
    let end = |rank: usize| BATCH * (0..rank).map(share).sum::<usize>() / total;
    (0..members).map(|rank| end(rank + 1) - end(rank)).collect()
}

fn unsynchronised() -> Result<(), Error> {
    let rows = BATCH / DEVICES;
    println!(
        "\nWithout synchronisation: {DEVICES} BatchNorms of {rows} rows each, and how far they are from one of {BATCH}."
    );
    println!(
        "Rows are shuffled, or each device has a source of its own, whose mean is a standard deviation from the next."
    );
    println!("                        y in training    running mean   running variance");
    println!("rows       batches  typical      largest    worst device    worst    naive     merged by");
    println!("                                                            device   average   variances");
    for (what, apart) in [("shuffled", 0.0), ("by source", STD)] {
        for (batches, momentum) in [(1, 1.0), (200, 0.1)] {
            let drift = drift(batches, momentum, apart)?;
            let mean = drift.mean_worst / f64::from(STD);
            print!("{what:<10} {batches:>7} {:>8.3} {:>12.3}", drift.y_typical, drift.y_largest);
            let [worst, naive, merged] = [drift.var_worst, drift.var_naive, drift.var_merged].map(percent);
            println!(" {mean:>15.3} {worst:>+7.1}% {naive:>+8.2}% {merged:>+10.2}%");
        }
    }
    println!(
        "
y is in its own standard deviations, the mean in those of a source. The last two columns are averages over the
channels.
* y: each device normalises by its own rows, so even shuffled rows come out differently.
* naive average (sync::average_running): forgets that the devices' means differ.
* merged by variances (sync::merge_running): adds the variance between those means. Exact for one batch (momentum
  1). Running means (momentum 0.1) have averaged away how much means of {rows} rows vary from batch to batch: that
  is {} / {} of the variance within a device. SyncBatchNorm has no such remainder.",
        DEVICES - 1,
        BATCH - 1
    );
    Ok(())
}

/// Rounded to what is printed, without a sign before zero.
fn percent(ratio: f64) -> f64 {
    (ratio * 1e4).round() / 100.0 + 0.0
}

/// How far devices that train alone are from one device with all rows.
struct Drift {
    y_typical: f64,
    y_largest: f64,
    mean_worst: f64,
    /// Relative, as those below.
    var_worst: f64,
    var_naive: f64,
    var_merged: f64,
}

/// `apart`: between the means of one device's rows and the next one's.
fn drift(batches: u64, momentum: f32, apart: f32) -> Result<Drift, Error> {
    let descriptor =
        BatchNormDescriptor { momentum: Momentum::Exponential(momentum), ..BatchNormDescriptor::new(CHANNELS) };
    let new = || Norm::new(&Backend::Cpu, descriptor.clone());
    let mut one = new()?;
    let mut alone = (0..DEVICES).map(|_| new()).collect::<Result<Vec<Norm>, Error>>()?;
    let (mut y_one, mut y_alone) = (Vec::new(), Vec::new());
    for batch in 0..batches {
        let mut x = normal(2 + batch, MEAN, STD);
        let shards = x.chunks_mut(BATCH / DEVICES * CHANNELS);
        y_alone.clear();
        for (device, (norm, shard)) in alone.iter_mut().zip(shards).enumerate() {
            shard.iter_mut().for_each(|x| *x += apart * device as f32);
            y_alone.extend(train(norm, shard)?);
        }
        y_one = train(&mut one, &x)?;
    }
    let running = |norm: &Norm| pollster::block_on(norm.state()).map(|state| state.running.unwrap_or_default());
    let truth = running(&one)?;
    let members = alone.iter().map(running).collect::<Result<Vec<Running>, Error>>()?;
    let counts = [(BATCH / DEVICES) as u64; DEVICES];
    let relative = |r: &Running| -> Vec<f64> {
        r.running_var.iter().zip(&truth.running_var).map(|(&v, &t)| f64::from(v) / f64::from(t) - 1.0).collect()
    };
    let average = |r: &Running| relative(r).iter().sum::<f64>() / CHANNELS as f64;
    let squares = y_alone.iter().zip(&y_one).map(|(a, b)| f64::from(a - b).powi(2));
    Ok(Drift {
        y_typical: (squares.sum::<f64>() / y_one.len() as f64).sqrt(),
        y_largest: largest_difference(&y_alone, &y_one),
        mean_worst: members
            .iter()
            .map(|m| largest_difference(&m.running_mean, &truth.running_mean))
            .fold(0.0, f64::max),
        var_worst: members
            .iter()
            .flat_map(relative)
            .fold(0.0, |worst, v| if v.abs() > worst.abs() { v } else { worst }),
        var_naive: average(&average_running(&members, &counts)?),
        var_merged: average(&merge_running(&members, &counts)?),
    })
}

fn train(norm: &mut Norm, x: &[f32]) -> Result<Vec<f32>, Error> {
    let shape = [x.len() / CHANNELS, CHANNELS];
    let tensor = TensorDescriptor::new(&shape);
    let step = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), x, None, Commit::Update);
    pollster::block_on(step).map(|(output, _)| output.y)
}

/// A batch of normally distributed values.
fn normal(seed: u64, mean: f32, std: f32) -> Vec<f32> {
    let values = Xoshiro256PlusPlus::seed_from_u64(seed).sample_iter(rand_distr::StandardNormal);
    values.take(BATCH * CHANNELS).map(|v: f32| mean + std * v).collect()
}

/// Infinite where lengths differ or a value is not a number.
fn largest_difference(actual: &[f32], expected: &[f32]) -> f64 {
    if actual.len() != expected.len() {
        return f64::INFINITY;
    }
    let differences = actual.iter().zip(expected).map(|(&a, &e)| (f64::from(a) - f64::from(e)).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) })
}

fn bits(running: &Running) -> Vec<u32> {
    let floats = running.running_mean.iter().chain(&running.running_var).map(|v| v.to_bits());
    floats.chain(running.tracked.iter().chain(&running.skipped).copied()).collect()
}
