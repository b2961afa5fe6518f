//! Tensors in buffers of one's own: at any offset, several in one buffer, one over another, between guards.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use super::adapters::Gpu;
use super::cases::{Case, Data, typed};
use std::ops::Range;
use wgpu::util::DeviceExt;
use wgpu_norm::layout::Memory;
use wgpu_norm::{BackwardPitches, Commit, DType, ForwardPitches, Pitch, Residual, Statistics, gpu, wgpu};

/// What an output lies over.
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
    /// What a sum lies over.
    pub sum_over: Option<Over>,
    pub gaps: Gaps,
}

impl Placement {
    /// Each tensor in a buffer of its own, from its start, without gaps.
    pub const PLAIN: Placement = Placement { shift: 0, shared: false, over: None, sum_over: None, gaps: Gaps::None };
}

/// What lies between the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gaps {
    None,
    /// So many elements more than between those of the tensor before, so that all pitches differ.
    Growing(usize),
    /// The rows of the call's other tensors: all are slices of one.
    Concatenated,
}

/// Slices that a concatenated tensor has room for.
const SLICES: usize = 8;

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
    let vector = case.descriptor.affine_len() as usize;
    let affine = case.descriptor.affine();
    let mut arena = Arena::new(place, case);
    let x = arena.input(case.input, &data.x);
    let residual = data.residual.as_ref().map(|r| arena.input(case.input, r));
    // Backward reads the sum; or x, and the residual to recompute a ReLU's mask.
    let over = place.over.filter(|&over| match over {
        Over::X => case.has_sum(),
        Over::Residual => !(after && case.fusion.relu),
    });
    let y = arena.output_over(over, [Some(x), residual], case.output);
    let sum = case.has_sum().then(|| arena.output_over(place.sum_over, [Some(x), residual], case.input));
    let dy = arena.input(case.output, &data.dy);
    let dsum = data.dsum.as_ref().map(|d| arena.input(case.input, d));
    let dx = arena.output(case.input);
    let dresidual = after.then(|| arena.output(case.input));
    let dweight = affine.weight.then(|| arena.vector(vector));
    let dbias = affine.bias.then(|| arena.vector(vector));

    let buffers = arena.upload(&gpu.device);
    let at = |slot: Slot| buffers.binding(slot);
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let forward = forward(&buffers, case, [Some(x), residual, Some(y), sum]);
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
        pitches: BackwardPitches {
            x: sum.unwrap_or(x).pitch,
            residual: pitch(residual),
            dy: dy.pitch,
            dsum: pitch(dsum),
            dx: dx.pitch,
            dresidual: pitch(dresidual),
        },
    };
    norm.backward(&mut encoder, saved, &backward).unwrap();
    arena.read(gpu, encoder, &buffers)
}

fn pitch(slot: Option<Slot>) -> Pitch {
    slot.map_or(Pitch::default(), |slot| slot.pitch)
}

fn forward<'a>(buffers: &'a Buffers, case: &Case, [x, residual, y, sum]: [Option<Slot>; 4]) -> gpu::Forward<'a> {
    let at = |slot: Slot| buffers.binding(slot);
    gpu::Forward {
        x: at(x.unwrap()),
        residual: residual.map(at),
        y: at(y.unwrap()),
        sum: sum.map(at),
        y_dtype: Some(case.output),
        pitches: ForwardPitches { x: pitch(x), residual: pitch(residual), y: pitch(y), sum: pitch(sum) },
    }
}

fn evaluate(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Vec<Vec<u8>> {
    let mut arena = Arena::new(place, case);
    let x = arena.input(case.input, &data.x);
    let residual = data.residual.as_ref().map(|r| arena.input(case.input, r));
    let y = arena.output_over(place.over, [Some(x), residual], case.output);
    let sum = case.has_sum().then(|| arena.output_over(place.sum_over, [Some(x), residual], case.input));
    let buffers = arena.upload(&gpu.device);
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let forward = forward(&buffers, case, [Some(x), residual, Some(y), sum]);
    norm.forward_eval(&mut encoder, &case.tensor(), case.fusion, &forward).unwrap();
    arena.read(gpu, encoder, &buffers)
}

const GUARD: u8 = 0xa5;
const UNWRITTEN: u8 = 0x5a;

#[derive(Clone, Copy, Debug)]
struct Slot {
    buffer: usize,
    offset: usize,
    memory: Memory,
    pitch: Pitch,
    /// Bytes of an element.
    size: usize,
}

impl Slot {
    fn bytes(self) -> usize {
        let Memory { samples, rows, width, row_pitch, sample_pitch } = self.memory;
        ((samples - 1) * sample_pitch + (rows - 1) * row_pitch + width) as usize * self.size
    }

    /// Where its rows lie.
    fn rows(self) -> impl Iterator<Item = Range<usize>> {
        let Memory { samples, rows, width, row_pitch, sample_pitch } = self.memory;
        let starts = (0..samples).flat_map(move |n| (0..rows).map(move |row| n * sample_pitch + row * row_pitch));
        starts.map(move |start| {
            let start = self.offset + start as usize * self.size;
            start..start + width as usize * self.size
        })
    }
}

/// Contents of buffers, and which parts of them the calls may write.
struct Arena {
    place: Placement,
    /// The call's tensors, without gaps.
    dense: Memory,
    tensors: u64,
    contents: Vec<Vec<u8>>,
    /// Sizes of elements in buffers of concatenated tensors, and how many slices of them are taken.
    concatenated: Vec<(usize, u64)>,
    outputs: Vec<Slot>,
}

struct Buffers(Vec<wgpu::Buffer>);

impl Arena {
    fn new(place: Placement, case: &Case) -> Arena {
        let dense = case.descriptor.layout(&case.tensor()).unwrap().memory;
        Arena { place, dense, tensors: 0, contents: Vec::new(), concatenated: Vec::new(), outputs: Vec::new() }
    }

    fn input(&mut self, dtype: DType, values: &[f64]) -> Slot {
        match dtype {
            DType::F32 => self.put(dtype, bytemuck::cast_slice(&typed::<f32>(values))),
            DType::F16 => self.put(dtype, bytemuck::cast_slice(&typed::<half::f16>(values))),
            DType::BF16 => self.put(dtype, bytemuck::cast_slice(&typed::<half::bf16>(values))),
        }
    }

    fn output(&mut self, dtype: DType) -> Slot {
        let Memory { samples, rows, width, .. } = self.dense;
        let slot = self.put(dtype, &vec![UNWRITTEN; (samples * rows * width * dtype.size()) as usize]);
        self.reuse(slot)
    }

    /// Over x or the residual, if it is to be there and there is one.
    fn output_over(&mut self, over: Option<Over>, [x, residual]: [Option<Slot>; 2], dtype: DType) -> Slot {
        let input = match over {
            Some(Over::X) => x,
            Some(Over::Residual) => residual,
            None => None,
        };
        match input {
            Some(input) => self.reuse(input),
            None => self.output(dtype),
        }
    }

    fn vector(&mut self, len: usize) -> Slot {
        let width = len as u64;
        let memory = Memory { samples: 1, rows: 1, width, row_pitch: width, sample_pitch: width };
        let slot = self.append(DType::F32, memory, Pitch::default(), &vec![UNWRITTEN; len * 4]);
        self.reuse(slot)
    }

    fn reuse(&mut self, slot: Slot) -> Slot {
        self.outputs.push(slot);
        slot
    }

    fn put(&mut self, dtype: DType, bytes: &[u8]) -> Slot {
        let Memory { rows, width, .. } = self.dense;
        let pitched = |row_pitch, sample_pitch| {
            let pitch = Pitch { row: (rows > 1).then_some(row_pitch), sample: Some(sample_pitch) };
            (Memory { row_pitch, sample_pitch, ..self.dense }, pitch)
        };
        self.tensors += 1;
        match self.place.gaps {
            Gaps::None => self.append(dtype, self.dense, Pitch::default(), bytes),
            Gaps::Growing(by) => {
                let row = width + self.tensors * by as u64;
                let (memory, pitch) = pitched(row, rows * row + if rows > 1 { by as u64 } else { 0 });
                self.append(dtype, memory, pitch, bytes)
            }
            Gaps::Concatenated => {
                let row = width * SLICES as u64;
                let (memory, pitch) = pitched(row, rows * row);
                self.slice(dtype, memory, pitch, bytes)
            }
        }
    }

    /// The next slice of the concatenated tensor of a type.
    fn slice(&mut self, dtype: DType, memory: Memory, pitch: Pitch, bytes: &[u8]) -> Slot {
        let size = dtype.size() as usize;
        let buffer = match self.concatenated.iter().position(|(s, _)| *s == size) {
            Some(buffer) => buffer,
            None => {
                let whole = memory.samples * memory.sample_pitch;
                self.concatenated.push((size, 0));
                self.contents.push(vec![GUARD; whole as usize * size]);
                self.contents.len() - 1
            }
        };
        let (_, taken) = &mut self.concatenated[buffer];
        let slot = Slot { buffer, offset: (*taken * memory.width) as usize * size, memory, pitch, size };
        *taken += 1;
        self.fill(slot, bytes);
        slot
    }

    fn fill(&mut self, slot: Slot, bytes: &[u8]) {
        for (row, bytes) in slot.rows().zip(bytes.chunks(slot.memory.width as usize * slot.size)) {
            self.contents[slot.buffer][row].copy_from_slice(bytes);
        }
    }

    fn append(&mut self, dtype: DType, memory: Memory, pitch: Pitch, bytes: &[u8]) -> Slot {
        let size = dtype.size() as usize;
        if self.contents.is_empty() || !self.place.shared {
            self.contents.push(Vec::new());
        }
        let buffer = self.contents.len() - 1;
        let contents = &mut self.contents[buffer];
        let offset = contents.len().next_multiple_of(size) + self.place.shift * size;
        let slot = Slot { buffer, offset, memory, pitch, size };
        contents.resize(offset + slot.bytes(), GUARD);
        self.fill(slot, bytes);
        slot
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
        let outputs = self
            .outputs
            .iter()
            .map(|slot| slot.rows().flat_map(|row| after[slot.buffer][row].to_vec()).collect())
            .collect();
        for (slot, row) in self.outputs.iter().flat_map(|slot| slot.rows().map(move |row| (slot, row))) {
            self.contents[slot.buffer][row.clone()].copy_from_slice(&after[slot.buffer][row]);
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
            size: std::num::NonZero::new(slot.bytes() as u64),
        }
    }
}
