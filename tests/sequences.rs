//! Sequences of calls of one layer, drawn at random and recorded into encoders that are submitted later or never, give the
//! bits of the same calls one by one, each on a layer of its own: nothing that a layer keeps from call to call shows.
//! `WGPU_NORM_CALLS=first..last` draws others than the usual ones.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/random.rs"]
mod random;
#[path = "common/transfer.rs"]
mod transfer;

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus as Rng};
use random::one_of;
use wgpu_norm::{
    BatchNormDescriptor, Commit, Error, Format, ForwardPitches, Fusion, NormDescriptor, Profile, Residual, State,
    TensorDescriptor, gpu,
};

/// What a layer is called for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Train(Commit),
    /// In steps, by a group of one.
    Synchronise(Commit),
    Freeze,
    Evaluate,
}

/// A forward pass.
#[derive(Clone, Copy, Debug)]
struct Forward {
    kind: Kind,
    fusion: Fusion,
    /// Which of two batches, of inputs, and of outputs, which later passes overwrite.
    batch: usize,
    input: usize,
    output: usize,
}

/// A pass whose calls are recorded, and copies of what it gave.
#[derive(Clone)]
struct Done {
    forward: Forward,
    y: wgpu::Buffer,
    sum: Option<wgpu::Buffer>,
    gradients: Option<Vec<wgpu::Buffer>>,
}

/// A layer's tensors.
struct World<'a> {
    gpu: &'a adapters::Gpu,
    context: gpu::Context,
    descriptor: NormDescriptor,
    format: Format,
    shapes: [Vec<usize>; 2],
    inputs: Vec<wgpu::Buffer>,
    /// Two sets of y (then dx), sum (dresidual), dweight and dbias.
    outputs: Vec<[wgpu::Buffer; 4]>,
}

const INPUTS: usize = 3;

impl<'a> World<'a> {
    fn new(rng: &mut Rng, gpu: &'a adapters::Gpu) -> World<'a> {
        let own = *gpu::Context::new(&gpu.device).unwrap().profile();
        let [of_a_gpu, few_lanes] = [Profile::GPU, random::FEW_LANES].map(|of| backends::with_limits_of(own, of));
        let profile = one_of(rng, &[own, of_a_gpu, few_lanes]);
        let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
        let (descriptor, format, shapes) = loop {
            let (mut descriptor, shape) = random::norm(rng, 5000);
            random::vary(rng, &mut descriptor);
            let format = random::format(rng, &descriptor);
            let samples = random::size(rng, 2 * shape[0]);
            let shapes = [shape.clone(), [&[samples], &shape[1..]].concat()];
            let has_values = |shape: &Vec<usize>| {
                let tensor = TensorDescriptor { format, ..TensorDescriptor::new(shape) };
                descriptor.layout(&tensor).is_ok_and(|layout| layout.stats.count() > 1)
            };
            if shapes.iter().all(has_values) {
                break (descriptor, format, shapes);
            }
        };
        let elements = shapes.iter().map(|shape| shape.iter().product()).max().unwrap_or(0);
        let channels = descriptor.affine_len().max(1) as usize;
        let mut noise = || (0..elements).map(|_| rng.random_range(-1.0f32..3.0)).collect::<Vec<_>>();
        let inputs = (0..INPUTS).map(|_| transfer::upload(gpu, &noise())).collect();
        let poisoned = |len: usize| transfer::upload(gpu, &vec![f32::NAN; len]);
        let outputs = (0..2).map(|_| [elements, elements, channels, channels].map(poisoned)).collect();
        World { gpu, context, descriptor, format, shapes, inputs, outputs }
    }

    /// The part of a buffer that a batch fills.
    fn of<'b>(&self, batch: usize, buffer: &'b wgpu::Buffer) -> wgpu::BufferBinding<'b> {
        let bytes = self.shapes[batch].iter().product::<usize>() as u64 * 4;
        wgpu::BufferBinding { buffer, offset: 0, size: bytes.try_into().ok() }
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&Default::default())
    }

    fn copy(&self, encoder: &mut wgpu::CommandEncoder, of: wgpu::BufferBinding) -> wgpu::Buffer {
        let size = of.size.map_or(of.buffer.size(), |size| size.get());
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let copy = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(of.buffer, of.offset, &copy, 0, size);
        copy
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Vec<u32> {
        transfer::read_now(self.gpu, buffer)
    }

    fn forward(
        &self,
        norm: &gpu::Norm,
        encoder: &mut wgpu::CommandEncoder,
        forward: Forward,
    ) -> Result<(Option<gpu::Saved>, Done), Error> {
        let Forward { kind, fusion, batch, input, output } = forward;
        let tensor = TensorDescriptor { format: self.format, ..TensorDescriptor::new(&self.shapes[batch]) };
        let [y, sum, ..] = &self.outputs[output];
        let has_sum = fusion.residual == Residual::Before;
        let residual = (fusion.residual != Residual::None).then(|| self.of(batch, &self.inputs[(input + 1) % INPUTS]));
        let io = gpu::Forward {
            residual: residual.clone(),
            sum: has_sum.then(|| self.of(batch, sum)),
            ..gpu::Forward::new(self.of(batch, &self.inputs[input]), self.of(batch, y))
        };
        let saved = match kind {
            Kind::Train(commit) => Some(norm.forward_train(encoder, &tensor, fusion, &io, commit)?),
            Kind::Synchronise(commit) => {
                let pitches = ForwardPitches::default();
                let own = norm.local_moments(encoder, &tensor, fusion, io.x.clone(), residual, &pitches)?;
                let merged = norm.merge_sums(encoder, &[&own])?;
                Some(norm.forward_train_with(encoder, &tensor, fusion, &io, &merged, commit)?)
            }
            Kind::Freeze => Some(norm.forward_frozen(encoder, &tensor, fusion, &io)?),
            Kind::Evaluate => {
                norm.forward_eval(encoder, &tensor, fusion, &io)?;
                None
            }
        };
        let y = self.copy(encoder, self.of(batch, y));
        let sum = has_sum.then(|| self.copy(encoder, self.of(batch, sum)));
        Ok((saved, Done { forward, y, sum, gradients: None }))
    }

    /// Of a pass whose outputs may have been overwritten.
    fn backward(
        &self,
        norm: &gpu::Norm,
        encoder: &mut wgpu::CommandEncoder,
        saved: gpu::Saved,
        done: &mut Done,
        output: usize,
    ) -> Result<(), Error> {
        let Forward { kind, fusion, batch, input, .. } = done.forward;
        let [dx, dresidual, dweight, dbias] = &self.outputs[output];
        let after = fusion.residual == Residual::After;
        let x = done.sum.as_ref().unwrap_or(&self.inputs[input]);
        let affine = self.descriptor.affine();
        let io = gpu::Backward {
            residual: (after && fusion.relu).then(|| self.of(batch, &self.inputs[(input + 1) % INPUTS])),
            dx: Some(self.of(batch, dx)),
            dresidual: after.then(|| self.of(batch, dresidual)),
            dweight: affine.weight.then(|| dweight.as_entire_buffer_binding()),
            dbias: affine.bias.then(|| dbias.as_entire_buffer_binding()),
            // A copy of the sum.
            moved: done.sum.is_some(),
            ..gpu::Backward::new(self.of(batch, x), self.of(batch, &self.inputs[(input + 2) % INPUTS]))
        };
        if let Kind::Synchronise(_) = kind {
            let own = norm.local_gradient_sums(encoder, &saved, &io)?;
            let merged = norm.merge_sums(encoder, &[&own])?;
            norm.backward_with(encoder, saved, &io, &merged)?;
        } else {
            norm.backward(encoder, saved, &io)?;
        }
        let written = [io.dx, io.dresidual, io.dweight, io.dbias];
        done.gradients = Some(written.into_iter().flatten().map(|of| self.copy(encoder, of)).collect());
        Ok(())
    }
}

fn draw(rng: &mut Rng, descriptor: &NormDescriptor) -> Forward {
    let tracks = descriptor.running_stats().is_some();
    let commit = one_of(rng, &[Commit::Update, Commit::Skip]);
    let mut kinds = vec![Kind::Train(commit), Kind::Train(commit), Kind::Evaluate];
    kinds.extend(tracks.then_some(Kind::Freeze));
    kinds.extend(matches!(descriptor, NormDescriptor::Batch(_)).then_some(Kind::Synchronise(commit)));
    Forward {
        kind: one_of(rng, &kinds),
        fusion: random::fusion(rng),
        batch: rng.random_range(0..2),
        input: rng.random_range(0..INPUTS),
        output: rng.random_range(0..2),
    }
}

/// Draws and runs a sequence: the forward passes that the device has run, in their order, with the gradients of those that had
/// a backward pass.
fn run(rng: &mut Rng, world: &World, norm: &gpu::Norm) -> Vec<Done> {
    let mut passes: Vec<Done> = Vec::new();
    // What a backward pass may follow, by its place among the passes.
    let mut open: Vec<(usize, gpu::Saved)> = Vec::new();
    norm.keep_calls(rng.random_range(0..10));
    for _ in 0..rng.random_range(1..5) {
        let mut encoder = world.encoder();
        let is_submitted = rng.random_bool(0.8);
        let before = passes.len();
        for _ in 0..rng.random_range(1..6) {
            match rng.random_range(0..10) {
                0 => refused(world, norm, &mut encoder, draw(rng, &world.descriptor)),
                1..=4 if !open.is_empty() => {
                    let (at, saved) = open.remove(rng.random_range(0..open.len()));
                    let mut done = passes[at].clone();
                    world.backward(norm, &mut encoder, saved, &mut done, rng.random_range(0..2)).unwrap();
                    if is_submitted {
                        passes[at] = done;
                    }
                }
                5 if !open.is_empty() => drop(open.remove(rng.random_range(0..open.len()))),
                _ => {
                    let (saved, done) = world.forward(norm, &mut encoder, draw(rng, &world.descriptor)).unwrap();
                    open.extend(saved.map(|saved| (passes.len(), saved)));
                    passes.push(done);
                }
            }
        }
        if is_submitted {
            world.gpu.queue.submit([encoder.finish()]);
        } else {
            passes.truncate(before);
            open.retain(|(at, _)| *at < before);
        }
    }
    passes
}

/// A call that has an error records nothing.
fn refused(world: &World, norm: &gpu::Norm, encoder: &mut wgpu::CommandEncoder, forward: Forward) {
    let tensor = TensorDescriptor { format: world.format, ..TensorDescriptor::new(&world.shapes[forward.batch]) };
    let y = world.of(forward.batch, &world.outputs[forward.output][0]);
    let io = gpu::Forward::new(wgpu::BufferBinding { size: 4.try_into().ok(), ..y.clone() }, y);
    let error = norm.forward_train(encoder, &tensor, Fusion::default(), &io, Commit::Update).unwrap_err();
    assert!(matches!(error, Error::BufferTooSmall { name: "x", .. }), "{error}");
}

/// The same passes one by one, each on a layer of its own; the state after them, and what is not the same.
fn compare(world: &World, mut state: State, passes: &[Done]) -> (State, Vec<String>) {
    let mut wrong = Vec::new();
    for (i, pass) in passes.iter().enumerate() {
        let norm = gpu::Norm::with_state(&world.context, world.descriptor.clone(), &state).unwrap();
        let mut encoder = world.encoder();
        let (saved, mut alone) = world.forward(&norm, &mut encoder, pass.forward).unwrap();
        if let Some(saved) = saved.filter(|_| pass.gradients.is_some()) {
            world.backward(&norm, &mut encoder, saved, &mut alone, 0).unwrap();
        }
        world.gpu.queue.submit([encoder.finish()]);
        state = transfer::state(world.gpu, &norm);
        let buffers = |done: &Done| -> Vec<wgpu::Buffer> {
            let gradients = done.gradients.iter().flatten();
            [&done.y].into_iter().chain(&done.sum).chain(gradients).cloned().collect()
        };
        let (expected, actual) = (buffers(&alone), buffers(pass));
        assert_eq!(expected.len(), actual.len());
        let differ = expected.iter().zip(&actual).map(|(a, b)| world.read(a) != world.read(b)).collect::<Vec<_>>();
        if differ.contains(&true) {
            wrong.push(format!("pass {i} of {}, {:?}: which outputs differ: {differ:?}", passes.len(), pass.forward));
        }
    }
    (state, wrong)
}

#[test]
fn a_layer_keeps_nothing_that_shows() {
    let mut failures = 0;
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let (mut passes, mut backward) = (0, 0);
        for number in random::asked().unwrap_or(0..6) {
            let mut rng = Rng::seed_from_u64(number);
            let world = World::new(&mut rng, gpu);
            let mut state = State::new(&world.descriptor).unwrap();
            for vector in [&mut state.weight, &mut state.bias].into_iter().flatten() {
                vector.iter_mut().for_each(|v| *v = rng.random_range(-2.0..2.0));
            }
            let norm = gpu::Norm::with_state(&world.context, world.descriptor.clone(), &state).unwrap();
            let done = run(&mut rng, &world, &norm);
            let (state, mut wrong) = compare(&world, state, &done);
            if transfer::state(world.gpu, &norm) != state {
                wrong.push("the state differs".to_string());
            }
            for wrong in &wrong {
                println!("{}, sequence {number}, {:?} of {:?}: {wrong}", gpu.name, world.descriptor, world.shapes);
            }
            failures += wrong.len();
            passes += done.len();
            backward += done.iter().filter(|done| done.gradients.is_some()).count();
        }
        println!("{}: {passes} forward passes, {backward} backward", gpu.name);
        assert!(random::asked().is_some() || backward > 5, "{}: hardly any backward pass was drawn", gpu.name);
    }
    assert_eq!(failures, 0, "sequences give other bits than their calls");
}

/// A layer's forward and backward passes may go to encoders of their own while what they saved is held, and backward may run
/// again.
#[test]
fn saved_statistics_may_stay() {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let context = gpu::Context::new(&gpu.device).unwrap();
        let (shape, descriptor) = ([4, 3, 50], BatchNormDescriptor::new(3));
        let tensor = TensorDescriptor::new(&shape);
        let mut rng = Rng::seed_from_u64(1);
        let mut noise = || transfer::upload(gpu, &(0..600).map(|_| rng.random_range(-1.0f32..3.0)).collect::<Vec<_>>());
        let batches = [(); 3].map(|()| [noise(), noise()]);
        let poisoned = || transfer::upload(gpu, &[f32::NAN; 600]);
        let (y, dx, again) = (poisoned(), [(); 3].map(|()| poisoned()), [(); 3].map(|()| poisoned()));
        let all = |buffer| wgpu::Buffer::as_entire_buffer_binding(buffer);
        let encoder = || gpu.device.create_command_encoder(&Default::default());
        let train = |norm: &gpu::Norm, to: &mut wgpu::CommandEncoder, x| {
            let io = gpu::Forward::new(all(x), all(&y));
            norm.forward_train(to, &tensor, Fusion::default(), &io, Commit::Update).unwrap()
        };
        fn io<'a>([x, dy]: &'a [wgpu::Buffer; 2], dx: &'a wgpu::Buffer) -> gpu::Backward<'a> {
            let all = wgpu::Buffer::as_entire_buffer_binding;
            gpu::Backward { dx: Some(all(dx)), ..gpu::Backward::new(all(x), all(dy)) }
        }

        let norm = gpu::Norm::new(&context, descriptor.clone()).unwrap();
        let (mut forward, mut backward) = (encoder(), encoder());
        let mut held = Vec::new();
        for (batch, [dx, again]) in batches.iter().zip(dx.iter().zip(&again).map(|(dx, again)| [dx, again])) {
            let saved = train(&norm, &mut forward, &batch[0]);
            let exchanged = gpu::Backward { x: all(&batch[1]), ..io(batch, dx) };
            assert!(matches!(norm.backward_retained(&mut backward, &saved, &exchanged), Err(Error::Moved { .. })));
            norm.backward_retained(&mut backward, &saved, &io(batch, dx)).unwrap();
            norm.backward_retained(&mut backward, &saved, &io(batch, again)).unwrap();
            held.push(saved);
        }
        gpu.queue.submit([forward.finish(), backward.finish()]);
        drop(held);
        for (i, batch) in batches.iter().enumerate() {
            let alone = gpu::Norm::new(&context, descriptor.clone()).unwrap();
            let (mut encoder, expected) = (encoder(), poisoned());
            let saved = train(&alone, &mut encoder, &batch[0]);
            alone.backward(&mut encoder, saved, &io(batch, &expected)).unwrap();
            let expected: Vec<u32> = transfer::read(gpu, encoder, &expected);
            for (which, dx) in [("first", &dx[i]), ("second", &again[i])] {
                let dx: Vec<u32> = transfer::read_now(gpu, dx);
                assert_eq!(dx, expected, "{}: batch {i}, the {which} backward pass", gpu.name);
            }
        }
    }
}
