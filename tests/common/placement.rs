//! Tensors in buffers of one's own: at any offset, several in one buffer, one over another, between guards.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use super::adapters::Gpu;
use super::cases::{Case, Data, typed};
use std::ops::Range;
use wgpu::util::DeviceExt;
use wgpu_norm::{Commit, DType, Residual, Statistics, gpu, wgpu};

/// What y lies over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Over {
    X,
    Residual,
}

/// Where the tensors of a call lie.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Elements before each tensor.
    pub shift: usize,
    /// All in one buffer.
    pub shared: bool,
    /// Where the call allows it.
    pub over: Option<Over>,
}

/// Bytes of everything that was written.
#[derive(Debug, PartialEq)]
pub struct Placed {
    /// By a training pass, forward and backward.
    pub trained: Vec<Vec<u8>>,
    /// By evaluation.
    pub evaluated: Vec<Vec<u8>>,
}

/// Runs training and evaluation. Panics if anything but the outputs is written.
pub fn run(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Placed {
    Placed { trained: train(gpu, context, case, data, place), evaluated: evaluate(gpu, context, case, data, place) }
}

fn train(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Vec<Vec<u8>> {
    let after = case.fusion.residual == Residual::After;
    let len = data.x.len();
    let vector = case.descriptor.affine_len() as usize;
    let affine = case.descriptor.affine();
    let mut arena = Arena::new(place);
    let x = arena.input(case.input, &data.x);
    let residual = data.residual.as_ref().map(|r| arena.input(case.input, r));
    // Backward recomputes a ReLU's mask from x and the residual.
    let over_residual = place.over == Some(Over::Residual) && !(after && case.fusion.relu);
    let y = match residual {
        Some(residual) if over_residual => arena.reuse(residual),
        _ => arena.output(case.output, len),
    };
    let sum = case.has_sum().then(|| arena.output(case.input, len));
    let dy = arena.input(case.output, &data.dy);
    let dsum = data.dsum.as_ref().map(|d| arena.input(case.input, d));
    let dx = arena.output(case.input, len);
    let dresidual = after.then(|| arena.output(case.input, len));
    let dweight = affine.weight.then(|| arena.output(DType::F32, vector));
    let dbias = affine.bias.then(|| arena.output(DType::F32, vector));

    let buffers = arena.upload(&gpu.device);
    let at = |slot: Slot| buffers.binding(slot);
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let forward =
        gpu::Forward { x: at(x), residual: residual.map(at), y: at(y), sum: sum.map(at), y_dtype: Some(case.output) };
    let saved = match case.statistics {
        Statistics::Batch => {
            norm.forward_train(&mut encoder, &case.tensor(), case.fusion, &forward, Commit::Update).unwrap()
        }
        Statistics::Running => norm.forward_frozen(&mut encoder, &case.tensor(), case.fusion, &forward).unwrap(),
    };
    let backward = gpu::Backward {
        x: at(sum.unwrap_or(x)),
        residual: residual.filter(|_| after && case.fusion.relu).map(at),
        dy: at(dy),
        dsum: dsum.map(at),
        dx: Some(at(dx)),
        dresidual: dresidual.map(at),
        dweight: dweight.map(at),
        dbias: dbias.map(at),
    };
    norm.backward(&mut encoder, saved, &backward).unwrap();
    arena.read(gpu, encoder, &buffers)
}

fn evaluate(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Vec<Vec<u8>> {
    let mut arena = Arena::new(place);
    let x = arena.input(case.input, &data.x);
    let residual = data.residual.as_ref().map(|r| arena.input(case.input, r));
    let y = match (place.over, residual) {
        (Some(Over::X), _) => arena.reuse(x),
        (Some(Over::Residual), Some(residual)) => arena.reuse(residual),
        _ => arena.output(case.output, data.x.len()),
    };
    let sum = case.has_sum().then(|| arena.output(case.input, data.x.len()));
    let buffers = arena.upload(&gpu.device);
    let at = |slot: Slot| buffers.binding(slot);
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let forward =
        gpu::Forward { x: at(x), residual: residual.map(at), y: at(y), sum: sum.map(at), y_dtype: Some(case.output) };
    norm.forward_eval(&mut encoder, &case.tensor(), case.fusion, &forward).unwrap();
    arena.read(gpu, encoder, &buffers)
}

const GUARD: u8 = 0xa5;
const UNWRITTEN: u8 = 0x5a;

#[derive(Clone, Copy, Debug)]
struct Slot {
    buffer: usize,
    offset: usize,
    bytes: usize,
}

impl Slot {
    fn range(self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// Contents of buffers, and which parts of them the calls may write.
struct Arena {
    place: Placement,
    contents: Vec<Vec<u8>>,
    outputs: Vec<Slot>,
}

struct Buffers(Vec<wgpu::Buffer>);

impl Arena {
    fn new(place: Placement) -> Arena {
        Arena { place, contents: Vec::new(), outputs: Vec::new() }
    }

    fn input(&mut self, dtype: DType, values: &[f64]) -> Slot {
        match dtype {
            DType::F32 => self.put(dtype, bytemuck::cast_slice(&typed::<f32>(values))),
            DType::F16 => self.put(dtype, bytemuck::cast_slice(&typed::<half::f16>(values))),
            DType::BF16 => self.put(dtype, bytemuck::cast_slice(&typed::<half::bf16>(values))),
            _ => unreachable!("a new element type needs a line here"),
        }
    }

    fn output(&mut self, dtype: DType, len: usize) -> Slot {
        let slot = self.put(dtype, &vec![UNWRITTEN; len * dtype.size() as usize]);
        self.reuse(slot)
    }

    fn reuse(&mut self, slot: Slot) -> Slot {
        self.outputs.push(slot);
        slot
    }

    fn put(&mut self, dtype: DType, bytes: &[u8]) -> Slot {
        let size = dtype.size() as usize;
        if self.contents.is_empty() || !self.place.shared {
            self.contents.push(Vec::new());
        }
        let buffer = self.contents.len() - 1;
        let contents = &mut self.contents[buffer];
        let offset = contents.len().next_multiple_of(size) + self.place.shift * size;
        contents.resize(offset, GUARD);
        contents.extend_from_slice(bytes);
        Slot { buffer, offset, bytes: bytes.len() }
    }

    fn upload(&mut self, device: &wgpu::Device) -> Buffers {
        let buffers = self.contents.iter_mut().map(|contents| {
            contents.resize((contents.len() + 8).next_multiple_of(4), GUARD);
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("tensors"),
                contents,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            })
        });
        Buffers(buffers.collect())
    }

    /// Submits, and returns the outputs.
    fn read(mut self, gpu: &Gpu, mut encoder: wgpu::CommandEncoder, buffers: &Buffers) -> Vec<Vec<u8>> {
        let copies: Vec<wgpu::Buffer> = buffers
            .0
            .iter()
            .map(|from| {
                let copy = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("copy"),
                    size: from.size(),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(from, 0, &copy, 0, from.size());
                copy
            })
            .collect();
        gpu.queue.submit([encoder.finish()]);
        for copy in &copies {
            copy.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        }
        gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let after: Vec<Vec<u8>> = copies.iter().map(|copy| copy.get_mapped_range(..).unwrap().to_vec()).collect();
        let outputs = self.outputs.iter().map(|slot| after[slot.buffer][slot.range()].to_vec()).collect();
        for slot in &self.outputs {
            self.contents[slot.buffer][slot.range()].copy_from_slice(&after[slot.buffer][slot.range()]);
        }
        for (expected, after) in self.contents.iter().zip(&after) {
            let touched = expected.iter().zip(after).position(|(a, b)| a != b);
            assert_eq!(touched, None, "{}: a byte that is no output's was written: {:?}", gpu.name, self.outputs);
        }
        outputs
    }
}

impl Buffers {
    fn binding(&self, slot: Slot) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.0[slot.buffer],
            offset: slot.offset as u64,
            size: std::num::NonZero::new(slot.bytes as u64),
        }
    }
}
