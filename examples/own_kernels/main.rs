//! A network of one's own WGSL kernels with batch norms of this crate between them, trained wholly on the GPU.
//!
//! `cargo run --release --example own_kernels`

#[path = "../common/cli.rs"]
mod cli;
mod kernels;

use kernels::{Dispatch, Kernels, Matrix, Tensor};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus as Rng};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{error::Error, f32::consts::TAU, process::ExitCode};
use wgpu_norm::wgpu::{self, CommandEncoder};
use wgpu_norm::{BatchNormDescriptor, Commit, Fusion, Residual, Running, State, TensorDescriptor, gpu};

const USAGE: &str = "\
Trains a network that tells two spirals apart: its linear layers, loss and optimiser are WGSL kernels of the example,
its batch norms are this crate's. Every step is one command buffer. Then saves and loads the norms as PyTorch would.

cargo run --release --example own_kernels

  WGPU_BACKEND=vulkan|metal|dx12|gl and WGPU_ADAPTER_NAME=part-of-a-name choose among GPUs";

const STEPS: usize = 400;
/// Steps from one line that is printed to the next.
const SHOWN: usize = 50;
/// Points in a batch.
const BATCH: usize = 256;
const HIDDEN: usize = 64;
/// The ReLU runs in the pass that normalises, forward and backward.
const RELU: Fusion = Fusion { relu: true, residual: Residual::None };

fn main() -> ExitCode {
    cli::parse(USAGE, |_, _| Ok(false));
    cli::end(run())
}

fn run() -> Result<(), Box<dyn Error>> {
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

    println!("\nEvaluation, by the running statistics");
    println!("accuracy on the {BATCH} points of the training  {:>5.1} %", training.accuracy(&network.evaluate()?));
    network.set_points(&held_out);
    let before = network.evaluate()?;
    println!("accuracy on {BATCH} others                      {:>5.1} %", held_out.accuracy(&before));

    let file = network.save()?;
    network.load(&file)?;
    println!("\nNorms saved as safetensors ({} bytes, in memory) and loaded into new layers", file.len());
    let after = network.evaluate()?;
    if before.iter().zip(&after).any(|(before, after)| before.to_bits() != after.to_bits()) {
        return Err("the loaded layers give other outputs, which is a bug. Please report it".into());
    }
    println!("outputs: the same {BATCH} numbers, bit for bit");
    Ok(())
}

/// A device with WebGPU's default limits and no features.
async fn open() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    let wanted = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default().to_lowercase();
    adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted));
    // A software driver only where there is nothing better.
    let adapter = adapters.into_iter().min_by_key(|a| a.get_info().device_type == wgpu::DeviceType::Cpu);
    let adapter = adapter.ok_or(
        "no GPU was found. Unset WGPU_BACKEND and WGPU_ADAPTER_NAME if they are set; scripts/test installs software drivers",
    )?;
    let descriptor = wgpu::DeviceDescriptor { label: Some("own kernels"), ..Default::default() };
    let opened = adapter.request_device(&descriptor).await;
    Ok(opened
        .map_err(|e| format!("{} does not open: {e}. WGPU_ADAPTER_NAME chooses another", adapter.get_info().name))?)
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

/// `y = x · weightᵀ`. It needs no bias: the batch norm behind it would subtract that with the mean.
struct Linear {
    y: Tensor,
    forward: Dispatch,
    backward: [Dispatch; 2],
    update: Dispatch,
}

impl Linear {
    /// With PyTorch's initial values: uniform within ±1/sqrt(inputs).
    fn new(kernels: &Kernels, name: &str, x: &Tensor, outputs: usize, rng: &mut Rng) -> Linear {
        let [rows, inputs] = x.value.shape;
        let bound = 1.0 / (inputs as f32).sqrt();
        let label = |part| format!("{name} {part}");
        let weight = kernels.tensor(&label("weight"), [outputs, inputs], || rng.random_range(-bound..bound));
        let y = kernels.tensor(&label("y"), [rows, outputs], || 0.0);
        Linear {
            forward: kernels.multiply(label("forward"), &x.value, &weight.value.transposed(), &y.value),
            backward: [
                kernels.multiply(label("dweight"), &y.gradient.transposed(), &x.value, &weight.gradient),
                kernels.multiply(label("dx"), &y.gradient, &weight.value, &x.gradient),
            ],
            update: kernels.descend(label("update"), weight.value.binding(), &weight.gradient),
            y,
        }
    }

    fn backward(&self, encoder: &mut CommandEncoder) {
        self.backward.iter().for_each(|dispatch| dispatch.record(encoder));
    }
}

/// A layer of the crate at its place in the network, with the ReLU behind it.
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
        let parameters = [(norm.weight(), &dweight), (norm.bias(), &dbias)];
        let update = |(parameter, gradient)| Some(kernels.descend(label("update"), parameter?, gradient));
        let updates = parameters.into_iter().filter_map(update).collect();
        BatchNorm { x: x.clone(), y: y.clone(), dweight, dbias, updates, norm }
    }

    fn forward_train(&self, encoder: &mut CommandEncoder) -> Result<gpu::Saved, wgpu_norm::Error> {
        let io = gpu::Forward::new(self.x.value.binding(), self.y.value.binding());
        self.norm.forward_train(encoder, &TensorDescriptor::new(&self.x.value.shape), RELU, &io, Commit::Update)
    }

    fn forward_eval(&self, encoder: &mut CommandEncoder) -> Result<(), wgpu_norm::Error> {
        let io = gpu::Forward::new(self.x.value.binding(), self.y.value.binding());
        self.norm.forward_eval(encoder, &TensorDescriptor::new(&self.x.value.shape), RELU, &io)
    }

    fn backward(&self, encoder: &mut CommandEncoder, saved: gpu::Saved) -> Result<(), wgpu_norm::Error> {
        let io = gpu::Backward {
            dx: Some(self.x.gradient.binding()),
            dweight: Some(self.dweight.binding()),
            dbias: Some(self.dbias.binding()),
            ..gpu::Backward::new(self.x.value.binding(), self.y.gradient.binding())
        };
        self.norm.backward(encoder, saved, &io)
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
    /// Without a bias, too: the classes are equally large.
    linear3: Linear,
    loss: Dispatch,
    targets: Matrix,
    squared_errors: Matrix,
}

impl Network {
    fn new(kernels: Kernels, context: &gpu::Context, rng: &mut Rng) -> Result<Network, wgpu_norm::Error> {
        let batch_norm = |name: &str, x: &Tensor| {
            let norm = gpu::Norm::new(context, BatchNormDescriptor::new(HIDDEN))?.with_label(name);
            let y = kernels.tensor(&format!("{name} y"), x.value.shape, || 0.0);
            Ok::<_, wgpu_norm::Error>(BatchNorm::new(&kernels, norm, x, &y))
        };
        let x = kernels.tensor("x", [BATCH, 2], || 0.0);
        let linear1 = Linear::new(&kernels, "linear1", &x, HIDDEN, rng);
        let bn1 = batch_norm("bn1", &linear1.y)?;
        let linear2 = Linear::new(&kernels, "linear2", &bn1.y, HIDDEN, rng);
        let bn2 = batch_norm("bn2", &linear2.y)?;
        let linear3 = Linear::new(&kernels, "linear3", &bn2.y, 1, rng);
        let [targets, squared_errors] =
            ["targets", "squared errors"].map(|label| kernels.matrix(label, [BATCH, 1], || 0.0));
        let loss = kernels.squared_error(&linear3.y, &targets, &squared_errors);
        Ok(Network { kernels, x, linear1, bn1, linear2, bn2, linear3, loss, targets, squared_errors })
    }

    fn set_points(&self, points: &Points) {
        self.kernels.write(&self.x.value, &points.x);
        self.kernels.write(&self.targets, &points.targets);
    }

    /// A whole step, with nothing for the host to wait for.
    fn train(&self) -> Result<(), wgpu_norm::Error> {
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

        // Not earlier: a backward pass reads the parameters that its forward pass had.
        let linear = [&self.linear1.update, &self.linear2.update, &self.linear3.update];
        for update in linear.into_iter().chain(&self.bn1.updates).chain(&self.bn2.updates) {
            update.record(&mut encoder);
        }
        self.kernels.submit(encoder);
        Ok(())
    }

    /// Of the last step, before its update.
    fn loss(&self) -> Result<f32, Box<dyn Error>> {
        let squared_errors = self.kernels.read::<f32>(&self.squared_errors.buffer)?;
        Ok(squared_errors.iter().sum::<f32>() / BATCH as f32)
    }

    fn evaluate(&self) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut encoder = self.kernels.encoder("evaluation");
        self.linear1.forward.record(&mut encoder);
        self.bn1.forward_eval(&mut encoder)?;
        self.linear2.forward.record(&mut encoder);
        self.bn2.forward_eval(&mut encoder)?;
        self.linear3.forward.record(&mut encoder);
        self.kernels.submit(encoder);
        self.kernels.read(&self.linear3.y.value.buffer)
    }

    /// The norms' state as a safetensors file, with the names of PyTorch's `state_dict`.
    fn save(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut tensors = Vec::new();
        for BatchNorm { norm, .. } in [&self.bn1, &self.bn2] {
            let state = norm.parse_state(&self.kernels.read::<u8>(norm.state_buffer())?)?;
            let State { weight: Some(weight), bias: Some(bias), running: Some(running) } = state else {
                return Err(format!("{} has no parameters or no running statistics", norm.label()).into());
            };
            let tracked = i64::from(running.num_batches_tracked()).to_le_bytes().to_vec();
            let vectors = [
                ("weight", weight),
                ("bias", bias),
                ("running_mean", running.running_mean),
                ("running_var", running.running_var),
            ];
            for (name, values) in vectors {
                let bytes = bytemuck::cast_slice(&values).to_vec();
                tensors.push((format!("{}.{name}", norm.label()), Dtype::F32, vec![values.len()], bytes));
            }
            tensors.push((format!("{}.num_batches_tracked", norm.label()), Dtype::I64, vec![], tracked));
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        Ok(safetensors::serialize(views, None)?)
    }

    /// New norms in the place of those that are there, with what a file of [`Network::save`] or of PyTorch has.
    fn load(&mut self, file: &[u8]) -> Result<(), Box<dyn Error>> {
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

fn read_state(file: &SafeTensors, layer: &str) -> Result<State, Box<dyn Error>> {
    let tensor = |name: &str, dtype| {
        let tensor = file.tensor(&format!("{layer}.{name}"))?;
        if tensor.dtype() == dtype { Ok(tensor) } else { Err(format!("{layer}.{name} is not {dtype}").into()) }
    };
    let floats = |name| -> Result<Vec<f32>, Box<dyn Error>> {
        Ok(bytemuck::pod_collect_to_vec(tensor(name, Dtype::F32)?.data()))
    };
    let tracked = i64::from_le_bytes(tensor("num_batches_tracked", Dtype::I64)?.data().try_into()?);
    let running = Running::from_pytorch(floats("running_mean")?, floats("running_var")?, tracked.try_into()?);
    Ok(State { weight: Some(floats("weight")?), bias: Some(floats("bias")?), running: Some(running) })
}
