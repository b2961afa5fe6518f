//! The steps of a synchronised batch norm, each a call of its own, on two shards of a batch and one layer: with all gradients,
//! and gaps between samples, they come to what one call on the whole batch does, bit for bit.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/transfer.rs"]
mod transfer;

use cases::{Case, Data, typed};
use std::ops::Range;
use wgpu_norm::host::{self, Backend};
use wgpu_norm::{
    BackwardPitches, BatchNormDescriptor, Commit, Error, Format, ForwardPitches, Fusion, GradientSums, Gradients,
    Moments, Pitch, Residual, State, TensorDescriptor, cpu, gpu, merge_shards,
};

fn table() -> Vec<Case> {
    let bn = |c, shape: &[usize]| Case::new(BatchNormDescriptor::new(c), shape);
    let fused = |residual, relu, case| Case { fusion: Fusion { residual, relu }, ..case };
    vec![
        bn(6, &[8, 6, 5, 5]),
        fused(Residual::None, true, bn(5, &[16, 5])),
        fused(Residual::After, true, bn(4, &[8, 4, 33])),
        fused(Residual::After, false, cases::last(bn(8, &[4, 8, 3, 3]))),
        fused(Residual::Before, true, bn(3, &[4, 3, 700])),
        fused(Residual::Before, false, cases::last(bn(12, &[8, 12, 4, 5]))),
    ]
}

/// Everything that is computed, of the whole batch; gradients of weight and bias by shard.
#[derive(Debug, PartialEq)]
struct Results {
    y: Vec<f32>,
    sum: Vec<f32>,
    dx: Vec<f32>,
    dresidual: Vec<f32>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
    state: State,
}

/// One of two shards, whose samples lie so many elements apart.
struct Shard<'a> {
    case: &'a Case,
    data: &'a Data,
    samples: Range<usize>,
    sample: usize,
    pitch: usize,
}

const GAP: f32 = -1e30;

impl Shard<'_> {
    fn both<'a>(case: &'a Case, data: &'a Data, gap: usize) -> [Shard<'a>; 2] {
        let (half, sample) = (case.shape[0] / 2, case.shape[1..].iter().product());
        [0..half, half..2 * half].map(|samples| Shard { case, data, samples, sample, pitch: sample + gap })
    }

    fn shape(&self) -> Vec<usize> {
        [&[self.samples.len()], &self.case.shape[1..]].concat()
    }

    fn pitch(&self) -> Pitch {
        Pitch { sample: (self.pitch > self.sample).then_some(self.pitch as u64), row: None }
    }

    fn forward_pitches(&self) -> ForwardPitches {
        let pitch = self.pitch();
        ForwardPitches { x: pitch, residual: pitch, y: pitch, sum: pitch }
    }

    fn backward_pitches(&self) -> BackwardPitches {
        let pitch = self.pitch();
        BackwardPitches { x: pitch, residual: pitch, dy: pitch, dsum: pitch, dx: pitch, dresidual: pitch }
    }

    /// A tensor of the whole batch, as the shard has it.
    fn input(&self, all: &[f64]) -> Vec<f32> {
        let own: Vec<f32> = typed(&all[self.samples.start * self.sample..self.samples.end * self.sample]);
        let mut with_gaps = vec![GAP; self.samples.len() * self.pitch];
        for (to, from) in with_gaps.chunks_mut(self.pitch).zip(own.chunks(self.sample)) {
            to[..self.sample].copy_from_slice(from);
        }
        with_gaps
    }

    fn output(&self) -> Vec<f32> {
        self.input(&vec![f64::NAN; self.data.x.len()])
    }

    /// What was written, without the gaps, in which nothing was.
    fn written(&self, tensor: &[f32]) -> Vec<f32> {
        let samples = tensor.chunks(self.pitch);
        assert!(samples.clone().all(|sample| sample[self.sample..].iter().all(|&v| v == GAP)), "written in a gap");
        samples.flat_map(|sample| sample[..self.sample].to_vec()).collect()
    }

    fn after(&self) -> bool {
        self.case.fusion.residual == Residual::After
    }

    /// Whether backward reads the residual.
    fn masks(&self) -> bool {
        self.after() && self.case.fusion.relu
    }
}

/// The whole batch in one call.
fn whole(backend: &Backend, case: &Case, data: &Data) -> Results {
    let cases::Results { y, sum, dx, dresidual, dweight, dbias, state, .. } = cases::run(backend, case, data).unwrap();
    // They were `f32` before.
    let narrow = |numbers: Option<Vec<f64>>| typed(&numbers.unwrap_or_default());
    Results {
        y: typed(&y),
        sum: narrow(sum),
        dx: typed(&dx),
        dresidual: narrow(dresidual),
        dweight: narrow(dweight),
        dbias: narrow(dbias),
        state,
    }
}

/// Of a tensor that may be absent, shard k's.
fn one<T>(tensor: &Option<[T; 2]>, k: usize) -> Option<&T> {
    tensor.as_ref().map(|shards| &shards[k])
}

fn all(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

fn steps_on_the_cpu(case: &Case, data: &Data, gap: usize) -> Results {
    let mut norm = cpu::Norm::with_state(case.descriptor.clone(), data.state.clone()).unwrap();
    let channels = case.descriptor.affine_len() as usize;
    let shards = Shard::both(case, data, gap);
    let x = shards.each_ref().map(|shard| shard.input(&data.x));
    let dy = shards.each_ref().map(|shard| shard.input(&data.dy));
    let residual = data.residual.as_ref().map(|all| shards.each_ref().map(|shard| shard.input(all)));
    let dsum = data.dsum.as_ref().map(|all| shards.each_ref().map(|shard| shard.input(all)));
    let outputs = || shards.each_ref().map(Shard::output);
    let (mut y, mut sum, mut dx, mut dresidual) = (outputs(), outputs(), outputs(), outputs());
    let [mut dweight, mut dbias] = [(); 2].map(|()| [vec![f32::NAN; channels], vec![f32::NAN; channels]]);

    let moments: [Vec<Moments>; 2] = [0, 1].map(|k| {
        let residual = one(&residual, k).map(Vec::as_slice);
        let (shape, pitches) = (shards[k].shape(), shards[k].forward_pitches());
        norm.local_moments(&TensorDescriptor { shape: &shape, ..case.tensor() }, case.fusion, &x[k], residual, &pitches)
            .unwrap()
    });
    let merged: Vec<Moments> = (0..channels).map(|c| merge_shards(&[moments[0][c], moments[1][c]])).collect();
    let saved = [0, 1].map(|k| {
        let io = cpu::Forward {
            residual: one(&residual, k).map(|residual| cpu::Source::From(residual)),
            sum: case.has_sum().then_some(&mut sum[k][..]),
            pitches: shards[k].forward_pitches(),
            ..cpu::Forward::new(&x[k], &mut y[k])
        };
        let (shape, commit) = (shards[k].shape(), if k == 0 { Commit::Update } else { Commit::Skip });
        let tensor = TensorDescriptor { shape: &shape, ..case.tensor() };
        norm.forward_train_with::<f32, f32>(&tensor, case.fusion, io, &merged, commit).unwrap()
    });
    // The same tensors for both steps of backward, which each take what is theirs.
    macro_rules! io {
        ($k:expr) => {
            cpu::Backward {
                residual: one(&residual, $k).filter(|_| shards[$k].masks()).map(Vec::as_slice),
                dsum: one(&dsum, $k).map(Vec::as_slice),
                dx: Some(&mut dx[$k]),
                dresidual: shards[$k].after().then_some(&mut dresidual[$k][..]),
                dweight: Some(&mut dweight[$k]),
                dbias: Some(&mut dbias[$k]),
                pitches: shards[$k].backward_pitches(),
                ..cpu::Backward::new(if case.has_sum() { &sum[$k] } else { &x[$k] }, &dy[$k])
            }
        };
    }
    let mut of_shards: [Vec<GradientSums>; 2] = Default::default();
    for k in [0, 1] {
        of_shards[k] = norm.local_gradient_sums::<f32, f32>(&saved[k], io!(k)).unwrap();
        assert!(shards[k].written(&dx[k]).iter().all(|v| v.is_nan()), "dx is the last step's");
    }
    let merged: Vec<GradientSums> = (0..channels).map(|c| merge_shards(&[of_shards[0][c], of_shards[1][c]])).collect();
    for (k, saved) in saved.into_iter().enumerate() {
        norm.backward_with::<f32, f32>(saved, io!(k), &merged).unwrap();
    }
    let join = |tensor: &[Vec<f32>; 2]| [0, 1].map(|k| shards[k].written(&tensor[k])).concat();
    Results {
        y: join(&y),
        sum: if case.has_sum() { join(&sum) } else { Vec::new() },
        dx: join(&dx),
        dresidual: if shards[0].after() { join(&dresidual) } else { Vec::new() },
        dweight: dweight.concat(),
        dbias: dbias.concat(),
        state: norm.state().clone(),
    }
}

fn steps_on_a_gpu(gpu: &adapters::Gpu, context: &gpu::Context, case: &Case, data: &Data, gap: usize) -> Results {
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state).unwrap();
    let channels = case.descriptor.affine_len() as usize;
    let shards = Shard::both(case, data, gap);
    let upload = |contents: Vec<f32>| transfer::upload(gpu, &contents);
    let inputs = |all: &[f64]| shards.each_ref().map(|shard| upload(shard.input(all)));
    let outputs = || shards.each_ref().map(|shard| upload(shard.output()));
    let vectors = || [(); 2].map(|()| upload(vec![f32::NAN; channels]));
    let (x, dy) = (inputs(&data.x), inputs(&data.dy));
    let (residual, dsum) = (data.residual.as_deref().map(inputs), data.dsum.as_deref().map(inputs));
    let (y, sum, dx, dresidual, dweight, dbias) = (outputs(), outputs(), outputs(), outputs(), vectors(), vectors());
    let shapes = shards.each_ref().map(Shard::shape);
    let tensor = |k: usize| TensorDescriptor { shape: &shapes[k], ..case.tensor() };

    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let moments = [0, 1].map(|k| {
        let (residual, pitches) = (one(&residual, k).map(all), shards[k].forward_pitches());
        norm.local_moments(&mut encoder, &tensor(k), case.fusion, all(&x[k]), residual, &pitches).unwrap()
    });
    let merged = norm.merge_sums(&mut encoder, &moments.each_ref()).unwrap();
    let saved = [0, 1].map(|k| {
        let io = gpu::Forward {
            residual: one(&residual, k).map(all),
            sum: case.has_sum().then(|| all(&sum[k])),
            pitches: shards[k].forward_pitches(),
            ..gpu::Forward::new(all(&x[k]), all(&y[k]))
        };
        let commit = if k == 0 { Commit::Update } else { Commit::Skip };
        norm.forward_train_with(&mut encoder, &tensor(k), case.fusion, &io, &merged, commit).unwrap()
    });
    let io = [0, 1].map(|k| gpu::Backward {
        residual: one(&residual, k).filter(|_| shards[k].masks()).map(all),
        dsum: one(&dsum, k).map(all),
        dx: Some(all(&dx[k])),
        dresidual: shards[k].after().then(|| all(&dresidual[k])),
        dweight: Some(all(&dweight[k])),
        dbias: Some(all(&dbias[k])),
        pitches: shards[k].backward_pitches(),
        ..gpu::Backward::new(all(if case.has_sum() { &sum[k] } else { &x[k] }), all(&dy[k]))
    });
    let of_shards = [0, 1].map(|k| norm.local_gradient_sums(&mut encoder, &saved[k], &io[k]).unwrap());
    let merged = norm.merge_sums(&mut encoder, &of_shards.each_ref()).unwrap();
    for (saved, io) in saved.into_iter().zip(&io) {
        norm.backward_with(&mut encoder, saved, io, &merged).unwrap();
    }
    gpu.queue.submit([encoder.finish()]);
    let read = |buffer: &wgpu::Buffer| -> Vec<f32> { transfer::read_now(gpu, buffer) };
    let join = |tensor: &[wgpu::Buffer; 2]| [0, 1].map(|k| shards[k].written(&read(&tensor[k]))).concat();
    let concat = |vectors: &[wgpu::Buffer; 2]| vectors.each_ref().map(read).concat();
    Results {
        y: join(&y),
        sum: if case.has_sum() { join(&sum) } else { Vec::new() },
        dx: join(&dx),
        dresidual: if shards[0].after() { join(&dresidual) } else { Vec::new() },
        dweight: concat(&dweight),
        dbias: concat(&dbias),
        state: transfer::state(gpu, &norm),
    }
}

/// Equal shards of a power of two of samples are subtrees, and their gradients of weight and bias the whole's last sum.
fn check(name: &str, case: &Case, whole: &Results, steps: Results) {
    let name = format!("{name}: {}", case.name());
    let total = |of: &[f32]| -> Vec<f32> {
        let (a, b) = of.split_at(of.len() / 2);
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    };
    let [dweight, dbias] = [total(&steps.dweight), total(&steps.dbias)];
    assert_eq!(Results { dweight, dbias, ..steps }, *whole, "{name}");
}

#[test]
fn steps_come_to_one_call() {
    for case in table() {
        let data = Data::new(&case);
        let of_cpu = whole(&Backend::Cpu, &case, &data);
        for gap in [0, 3] {
            check("cpu", &case, &of_cpu, steps_on_the_cpu(&case, &data, gap));
        }
        for (gpu, backend) in backends::gpus() {
            let _turn = gpu.turn();
            let Backend::Gpu { context, .. } = backend else { continue };
            let of_gpu = whole(backend, &case, &data);
            for gap in [0, 3] {
                check(&gpu.name, &case, &of_gpu, steps_on_a_gpu(gpu, context, &case, &data, gap));
            }
        }
    }
}

/// What a forward pass saved is for the backward pass of its kind, and for its layer.
#[test]
fn saved_statistics_are_for_their_own_pass() {
    let (x, dy) = ([1.0f32, 2.0, 3.0, 5.0], [1.0f32, 0.0, 0.0, 1.0]);
    let (tensor, plain) = (TensorDescriptor::new(&[2, 2]), Fusion::default());
    let moments = [Moments { count: 2, mean_hi: 2.0, mean_lo: 0.0, m2: 2.0 }; 2];
    let wanted = Gradients { dx: true, dresidual: false, affine: true };
    let io = host::Backward::new(&x[..], &dy[..]);
    backends::everywhere(|name, backend| {
        pollster::block_on(async {
            let new = || host::Norm::new(backend, BatchNormDescriptor::new(2)).unwrap();
            let (mut norm, other) = (new(), new());
            let (_, saved) = norm.forward_train::<f32, f32>(&tensor, plain, &x, None, Commit::Skip).await.unwrap();
            let (_, synchronised) =
                norm.forward_train_with::<f32, f32>(&tensor, plain, &x, None, &moments, Commit::Skip).await.unwrap();
            let layer = Error::Foreign { what: "layer" };
            assert_eq!(other.statistics(&saved).await, Err(layer.clone()), "{name}");
            assert_eq!(other.local_gradient_sums(&synchronised, io).await, Err(layer.clone()), "{name}");
            let kind = |error| matches!(error, Error::Foreign { what } if what.starts_with("kind of pass"));
            assert!(kind(norm.local_gradient_sums(&saved, io).await.unwrap_err()), "{name}");
            let sums = [GradientSums::default(); 2];
            assert!(kind(norm.backward_with(saved, io, wanted, &sums).await.unwrap_err()), "{name}");
            assert!(kind(norm.backward(synchronised, io, wanted).await.unwrap_err()), "{name}");
            // Sums that are not one a channel, none among them.
            for sums in [&moments[..1], &[]] {
                let train = norm.forward_train_with::<f32, f32>(&tensor, plain, &x, None, sums, Commit::Skip);
                let expected = Error::Length { name: "the group's sums", expected: 2, actual: sums.len() as u64 };
                assert_eq!(train.await.unwrap_err(), expected, "{name}");
            }
        });
    });
}

/// Moments of nothing, for a shard that has values, are those of a channel with mean 0 and variance 0.
#[test]
fn moments_of_nothing_are_zero() {
    let (x, tensor) = ([1.0f32, -2.0, 3.0, 0.5], TensorDescriptor::new(&[2, 2]));
    let descriptor = BatchNormDescriptor { eps: 0.25, ..BatchNormDescriptor::new(2) };
    backends::everywhere(|name, backend| {
        let mut norm = host::Norm::new(backend, descriptor.clone()).unwrap();
        let before = pollster::block_on(norm.state()).unwrap();
        let moments = [Moments::EMPTY; 2];
        let call = norm.forward_train_with::<f32, f32>(&tensor, Fusion::default(), &x, None, &moments, Commit::Update);
        let (output, saved) = pollster::block_on(call).unwrap();
        drop(saved);
        assert_eq!(output.y, x.map(|x| 2.0 * x), "{name}");
        assert_eq!(pollster::block_on(norm.state()).unwrap(), before, "{name}");
    });
}

/// A frozen pass is that of the running statistics that it was made with, whatever they are later.
#[test]
fn frozen_passes_keep_their_statistics() {
    for format in [Format::ChannelsFirst, Format::ChannelsLast] {
        for channels in [3, 8] {
            for relu in [false, true] {
                let fusion = Fusion { relu, ..Fusion::default() };
                let case = Case { format, fusion, ..Case::new(BatchNormDescriptor::new(channels), &[4, channels, 6]) };
                let data = Data::new(&case);
                let (x, dy) = (typed::<f32>(&data.x), typed::<f32>(&data.dy));
                let wanted = Gradients { dx: true, dresidual: false, affine: true };
                backends::everywhere(|name, backend| {
                    let of = |trains: bool| {
                        pollster::block_on(async {
                            let mut norm =
                                host::Norm::with_state(backend, case.descriptor.clone(), data.state.clone()).unwrap();
                            let (tensor, io) = (case.tensor(), host::Backward::new(&x[..], &dy[..]));
                            let (_, saved) = norm.forward_frozen::<f32, f32>(&tensor, fusion, &x, None).await.unwrap();
                            if trains {
                                let train = norm.forward_train::<f32, f32>(&tensor, fusion, &x, None, Commit::Update);
                                drop(train.await.unwrap());
                                assert_ne!(norm.state().await.unwrap(), data.state, "{name}");
                            }
                            norm.backward(saved, io, wanted).await.unwrap()
                        })
                    };
                    assert_eq!(of(true), of(false), "{name}: {}", case.name());
                });
            }
        }
    }
}
