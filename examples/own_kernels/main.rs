//! A network of one's own WGSL kernels with batch norms of this crate between them, trained wholly on the GPU.
//!
//! `cargo run --release --example own_kernels`

#[path = "../common/cli.rs"]
mod cli;
mod kernels;

use kernels::{Dispatch, Kernels, Linear, Matrix, Tensor};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus as Rng};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{error::Error, f32::consts::TAU, process::ExitCode};
use wgpu_norm::wgpu::{self, CommandEncoder};
use wgpu_norm::{BatchNormDescriptor, Commit, Fusion, Residual, Running, State, TensorDescriptor, gpu};

const USAGE: &str = "\
Trains a network that tells two spirals apart: its linear layers, loss and optimiser are WGSL kernels of the example,
its batch norms are this crate's. Every step is one command buffer. Then saves the norms under PyTorch's names.

cargo run --release --example own_kernels

  WGPU_BACKEND=vulkan|metal|dx12|gl and WGPU_ADAPTER_NAME=part-of-a-name choose among GPUs";

const STEPS: usize = 200;
/// Steps from one line that is printed to the next.
const SHOWN: usize = 25;
/// Points in a batch.
const BATCH: usize = 256;
const HIDDEN: usize = 64;
/// What the norms take and give.
const ACTIVATIONS: TensorDescriptor = TensorDescriptor::new(&[BATCH, HIDDEN]);
/// The ReLU runs in the pass that normalises, forward and backward.
const RELU: Fusion = Fusion { relu: true, residual: Residual::None };

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    cli::parse(USAGE, |_, _| Ok(false));
    cli::end(run())
}

fn run() -> Result<()> {
    let (device, queue) = pollster::block_on(open())?;
    let info = device.adapter_info();
    println!("Runs on {} ({}).\n", info.name, info.backend);

    let mut rng = Rng::seed_from_u64(1);
    let mut network = Network::new(Kernels::new(device.clone(), queue), &gpu::Context::new(&device)?, &mut rng)?;
    let (training, held_out) = (Points::new(&mut rng), Points::new(&mut rng));
    network.set_points(&training);
    println!("step    loss");
    for step in 1..=STEPS {
        network.train()?;
        if step == 1 || step % SHOWN == 0 {
            println!("{step:>4} {:>7.4}", network.loss()?);
        }
    }

    println!("\nAccuracy in evaluation, by the running statistics");
    println!("the points of the training  {:>5.1} %", training.accuracy(&network.evaluate()?));
    network.set_points(&held_out);
    let before = network.evaluate()?;
    println!("as many others              {:>5.1} %", held_out.accuracy(&before));

    let file = network.save()?;
    network.load(&file)?;
    println!("\nNorms saved ({} bytes of safetensors, kept in memory) and loaded into new layers", file.len());
    let after = network.evaluate()?;
    if before.iter().zip(&after).any(|(before, after)| before.to_bits() != after.to_bits()) {
        return Err("the new layers give other outputs, which is a bug. Please report it".into());
    }
    println!("The outputs have the same bits.");
    Ok(())
}

/// A device with WebGPU's default limits and no features.
async fn open() -> Result<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    let wanted = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default().to_lowercase();
    adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted));
    // A software driver only where there is nothing better.
    let best = adapters.into_iter().min_by_key(|a| a.get_info().device_type == wgpu::DeviceType::Cpu);
    let hint = "Unset WGPU_BACKEND and WGPU_ADAPTER_NAME, or install a driver: scripts/test installs software drivers";
    let adapter = best.ok_or_else(|| format!("no adapter was found. {hint}"))?;
    let descriptor = wgpu::DeviceDescriptor { label: Some("own_kernels"), ..Default::default() };
    Ok(adapter.request_device(&descriptor).await.map_err(|e| format!("the adapter does not open: {e}. {hint}"))?)
}

/// Points of two spirals, one turned by half a circle from the other, with targets 1 and -1.
struct Points {
    x: Vec<f32>,
    targets: Vec<f32>,
}

impl Points {
    fn new(rng: &mut Rng) -> Points {
        let targets: Vec<f32> = (0..BATCH).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let point = |target: &f32| {
            let along: f32 = rng.random();
            let (radius, angle) = (target * (0.2 + along), along * TAU);
            [radius * angle.cos(), radius * angle.sin()].map(|x| x + rng.random_range(-0.05..0.05))
        };
        Points { x: targets.iter().flat_map(point).collect(), targets }
    }

    /// Share of outputs with the sign of the target, in per cent.
    fn accuracy(&self, outputs: &[f32]) -> f64 {
        let right = outputs.iter().zip(&self.targets).filter(|(y, target)| *y * *target > 0.0).count();
        100.0 * right as f64 / outputs.len() as f64
    }
}

/// A norm of the crate at its place in the network, with the ReLU behind it.
struct BatchNorm {
    norm: gpu::Norm,
    x: Tensor,
    y: Tensor,
    dweight: Matrix,
    dbias: Matrix,
    updates: Vec<Dispatch>,
}

impl BatchNorm {
    fn new(kernels: &Kernels, norm: gpu::Norm, x: &Tensor, y: &Tensor) -> BatchNorm {
        let label = |part| format!("{} {part}", norm.label());
        let [dweight, dbias] = ["dweight", "dbias"].map(|part| kernels.matrix(&label(part), [1, HIDDEN], || 0.0));
        // The optimiser writes where the layer keeps its parameters.
        let parameters = [("weight update", norm.weight(), &dweight), ("bias update", norm.bias(), &dbias)];
        let update = |(part, parameter, gradient)| Some(kernels.descend(label(part), parameter?, gradient));
        let updates = parameters.into_iter().filter_map(update).collect();
        BatchNorm { x: x.clone(), y: y.clone(), dweight, dbias, updates, norm }
    }

    fn io(&self) -> gpu::Forward<'_> {
        gpu::Forward::new(self.x.value.binding(), self.y.value.binding())
    }

    fn forward_train(&self, encoder: &mut CommandEncoder) -> Result<gpu::Saved> {
        Ok(self.norm.forward_train(encoder, &ACTIVATIONS, RELU, &self.io(), Commit::Update)?)
    }

    fn forward_eval(&self, encoder: &mut CommandEncoder) -> Result<()> {
        Ok(self.norm.forward_eval(encoder, &ACTIVATIONS, RELU, &self.io())?)
    }

    fn backward(&self, encoder: &mut CommandEncoder, saved: gpu::Saved) -> Result<()> {
        let io = gpu::Backward {
            dx: Some(self.x.gradient.binding()),
            dweight: Some(self.dweight.binding()),
            dbias: Some(self.dbias.binding()),
            ..gpu::Backward::new(self.x.value.binding(), self.y.gradient.binding())
        };
        Ok(self.norm.backward(encoder, saved, &io)?)
    }
}

/// Linear(2, 64) → BatchNorm → ReLU → Linear(64, 64) → BatchNorm → ReLU → Linear(64, 1), mean squared error.
struct Network {
    kernels: Kernels,
    x: Tensor,
    linear1: Linear,
    bn1: BatchNorm,
    linear2: Linear,
    bn2: BatchNorm,
    /// Needs no bias either: the classes are equally large.
    linear3: Linear,
    loss: Dispatch,
    targets: Matrix,
    squared_errors: Matrix,
}

impl Network {
    fn new(kernels: Kernels, context: &gpu::Context, rng: &mut Rng) -> Result<Network> {
        let batch_norm = |name: &str, x: &Tensor| -> Result<BatchNorm> {
            let norm = gpu::Norm::new(context, BatchNormDescriptor::new(HIDDEN))?.with_label(name);
            let y = kernels.tensor(&format!("{name} y"), x.value.shape, || 0.0);
            Ok(BatchNorm::new(&kernels, norm, x, &y))
        };
        let x = kernels.tensor("x", [BATCH, 2], || 0.0);
        let linear1 = Linear::new(&kernels, "linear1", &x, HIDDEN, rng);
        let bn1 = batch_norm("bn1", &linear1.y)?;
        let linear2 = Linear::new(&kernels, "linear2", &bn1.y, HIDDEN, rng);
        let bn2 = batch_norm("bn2", &linear2.y)?;
        let linear3 = Linear::new(&kernels, "linear3", &bn2.y, 1, rng);
        let column = |label| kernels.matrix(label, [BATCH, 1], || 0.0);
        let [targets, squared_errors] = ["targets", "squared errors"].map(column);
        let loss = kernels.squared_error(&linear3.y, &targets, &squared_errors);
        Ok(Network { kernels, x, linear1, bn1, linear2, bn2, linear3, loss, targets, squared_errors })
    }

    fn set_points(&self, points: &Points) {
        self.kernels.write(&self.x.value, &points.x);
        self.kernels.write(&self.targets, &points.targets);
    }

    /// Forward, backward and optimiser in one command buffer. Nothing waits for the device.
    fn train(&self) -> Result<()> {
        let mut encoder = self.kernels.encoder("training step");
        self.linear1.forward.record(&mut encoder);
        let saved1 = self.bn1.forward_train(&mut encoder)?;
        self.linear2.forward.record(&mut encoder);
        let saved2 = self.bn2.forward_train(&mut encoder)?;
        self.linear3.forward.record(&mut encoder);
        self.loss.record(&mut encoder);

        self.linear3.backward(&mut encoder);
        self.bn2.backward(&mut encoder, saved2)?;
        self.linear2.backward(&mut encoder);
        self.bn1.backward(&mut encoder, saved1)?;
        self.linear1.backward(&mut encoder);

        // Not earlier: backward passes read the parameters that the forward passes had.
        let linear = [&self.linear1.update, &self.linear2.update, &self.linear3.update];
        for update in linear.into_iter().chain(&self.bn1.updates).chain(&self.bn2.updates) {
            update.record(&mut encoder);
        }
        self.kernels.submit(encoder);
        Ok(())
    }

    /// Of the last step, before its update.
    fn loss(&self) -> Result<f32> {
        let squared_errors = self.kernels.read::<f32>(&self.squared_errors.buffer)?;
        Ok(squared_errors.iter().sum::<f32>() / BATCH as f32)
    }

    fn evaluate(&self) -> Result<Vec<f32>> {
        let mut encoder = self.kernels.encoder("evaluation");
        self.linear1.forward.record(&mut encoder);
        self.bn1.forward_eval(&mut encoder)?;
        self.linear2.forward.record(&mut encoder);
        self.bn2.forward_eval(&mut encoder)?;
        self.linear3.forward.record(&mut encoder);
        self.kernels.submit(encoder);
        self.kernels.read(&self.linear3.y.value.buffer)
    }

    /// The norms' state as a safetensors file, with the names of PyTorch's `state_dict`, which counts batches for all channels
    /// together. (A cumulative average needs the counts of `Running` to go on from.)
    fn save(&self) -> Result<Vec<u8>> {
        let mut tensors = Vec::new();
        for BatchNorm { norm, .. } in [&self.bn1, &self.bn2] {
            let state = norm.parse_state(&self.kernels.read::<u8>(norm.state_buffer())?)?;
            let State { weight: Some(weight), bias: Some(bias), running: Some(running) } = state else {
                return Err(format!("{} has no parameters or no running statistics", norm.label()).into());
            };
            let mut add = |name, dtype, shape: &[usize], bytes: &[u8]| {
                tensors.push((format!("{}.{name}", norm.label()), dtype, shape.to_vec(), bytes.to_vec()));
            };
            let Running { running_mean, running_var, .. } = &running;
            let vectors = [&weight, &bias, running_mean, running_var];
            for (name, values) in ["weight", "bias", "running_mean", "running_var"].into_iter().zip(vectors) {
                add(name, Dtype::F32, &[values.len()], bytemuck::cast_slice(values));
            }
            add("num_batches_tracked", Dtype::I64, &[], &i64::from(running.num_batches_tracked()).to_le_bytes());
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
        Ok(safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None)?)
    }

    /// New norms in the place of those that are there, with what a file of [`Network::save`] or of PyTorch has.
    fn load(&mut self, file: &[u8]) -> Result<()> {
        let file = SafeTensors::deserialize(file)?;
        for layer in [&mut self.bn1, &mut self.bn2] {
            let old = &layer.norm;
            let state = read_state(&file, old.label())?;
            let norm = gpu::Norm::with_state(old.context(), old.descriptor().clone(), &state)?.with_label(old.label());
            *layer = BatchNorm::new(&self.kernels, norm, &layer.x, &layer.y);
        }
        Ok(())
    }
}

fn read_state(file: &SafeTensors, layer: &str) -> Result<State> {
    let bytes = |name: &str, dtype| -> Result<&[u8]> {
        let tensor = file.tensor(&format!("{layer}.{name}"))?;
        if tensor.dtype() == dtype { Ok(tensor.data()) } else { Err(format!("{layer}.{name} is not {dtype}").into()) }
    };
    let vector = |name| bytes(name, Dtype::F32).map(bytemuck::pod_collect_to_vec);
    let tracked = i64::from_le_bytes(bytes("num_batches_tracked", Dtype::I64)?.try_into()?);
    let running = Running::from_pytorch(vector("running_mean")?, vector("running_var")?, tracked.try_into()?);
    Ok(State { weight: Some(vector("weight")?), bias: Some(vector("bias")?), running: Some(running) })
}
