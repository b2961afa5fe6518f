//! Tensors in memory of one's own: at any offset, several in one buffer, one over another, between guards.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use super::cases::{Case, Data, typed};
use std::ops::Range;
use wgpu_norm::layout::Memory;
use wgpu_norm::{BackwardPitches, DType, ForwardPitches, Pitch, Residual};

/// What an output lies over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Over {
    X,
    Residual,
}

/// What a gradient lies over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Read {
    X,
    /// Where a mask is made of it.
    Residual,
    Dy,
    Dsum,
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
    /// What dx and dresidual lie over, where there is such a tensor of their type.
    pub gradients_over: [Option<Read>; 2],
    pub gaps: Gaps,
}

impl Placement {
    /// Each tensor in a buffer of its own, from its start, without gaps.
    pub const PLAIN: Placement =
        Placement { shift: 0, shared: false, over: None, sum_over: None, gradients_over: [None; 2], gaps: Gaps::None };
}

/// What lies between the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gaps {
    None,
    /// So many elements more than between those of the tensor before, so that all pitches differ.
    Growing(usize),
    /// The rows of the call's other tensors: all are slices of one.
    Concatenated,
    /// Their samples, of rows without gaps, as the heads of a fused query, key and value.
    Fused,
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

fn pitch(slot: Option<Slot>) -> Pitch {
    slot.map_or(Pitch::default(), |slot| slot.pitch)
}

/// The tensors of a forward pass.
pub struct ForwardSlots {
    pub x: Slot,
    pub residual: Option<Slot>,
    pub y: Slot,
    pub sum: Option<Slot>,
}

impl ForwardSlots {
    pub fn pitches(&self) -> ForwardPitches {
        ForwardPitches { x: self.x.pitch, residual: pitch(self.residual), y: self.y.pitch, sum: pitch(self.sum) }
    }
}

/// The tensors of a backward pass.
pub struct BackwardSlots {
    pub x: Slot,
    pub residual: Option<Slot>,
    pub dy: Slot,
    pub dsum: Option<Slot>,
    pub dx: Slot,
    pub dresidual: Option<Slot>,
    pub dweight: Option<Slot>,
    pub dbias: Option<Slot>,
    /// Also of a residual that the pass does not read.
    residual_pitch: Pitch,
}

impl BackwardSlots {
    pub fn pitches(&self) -> BackwardPitches {
        BackwardPitches {
            x: self.x.pitch,
            residual: self.residual_pitch,
            dy: self.dy.pitch,
            dsum: pitch(self.dsum),
            dx: self.dx.pitch,
            dresidual: pitch(self.dresidual),
        }
    }
}

const GUARD: u8 = 0xa5;
const UNWRITTEN: u8 = 0x5a;

/// Where a tensor lies.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub buffer: usize,
    /// Bytes before its first element.
    pub offset: usize,
    memory: Memory,
    pub pitch: Pitch,
    /// Bytes of an element.
    size: usize,
}

impl Slot {
    /// From its first element to its last.
    pub fn bytes(self) -> usize {
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
pub struct Arena {
    place: Placement,
    /// The call's tensors, without gaps.
    dense: Memory,
    tensors: u64,
    pub contents: Vec<Vec<u8>>,
    /// Sizes of elements in buffers of concatenated tensors, and how many slices of them are taken.
    concatenated: Vec<(usize, u64)>,
    outputs: Vec<Slot>,
}

impl Arena {
    fn new(place: Placement, case: &Case) -> Arena {
        let dense = case.descriptor.layout(&case.tensor()).unwrap().memory;
        Arena { place, dense, tensors: 0, contents: Vec::new(), concatenated: Vec::new(), outputs: Vec::new() }
    }

    /// The tensors of an evaluation.
    pub fn evaluation(place: Placement, case: &Case, data: &Data) -> (Arena, ForwardSlots) {
        let mut arena = Arena::new(place, case);
        let forward = arena.forward(place.over, case, data);
        arena.end();
        (arena, forward)
    }

    /// Those of a training pass, forward and backward.
    pub fn training(place: Placement, case: &Case, data: &Data) -> (Arena, ForwardSlots, BackwardSlots) {
        let after = case.fusion.residual == Residual::After;
        let vector = case.descriptor.affine_len() as usize;
        let affine = case.descriptor.affine();
        let mut arena = Arena::new(place, case);
        // Backward reads the sum; or x, and the residual to recompute a ReLU's mask.
        let over = place.over.filter(|&over| match over {
            Over::X => case.has_sum(),
            Over::Residual => !(after && case.fusion.relu),
        });
        let forward = arena.forward(over, case, data);
        let x = forward.sum.unwrap_or(forward.x);
        let residual = forward.residual.filter(|_| after && case.fusion.relu);
        let dy = arena.input(case.output, &data.dy);
        let dsum = data.dsum.as_ref().map(|d| arena.input(case.input, d));
        let over = place.gradients_over.map(|over| match over? {
            Read::X => Some(x),
            Read::Residual => residual,
            Read::Dy => Some(dy).filter(|_| case.input == case.output),
            Read::Dsum => dsum,
        });
        let backward = BackwardSlots {
            x,
            residual,
            dy,
            dsum,
            dx: arena.output_or(over[0], case.input),
            dresidual: after.then(|| arena.output_or(over[1], case.input)),
            dweight: affine.weight.then(|| arena.vector(vector)),
            dbias: affine.bias.then(|| arena.vector(vector)),
            residual_pitch: pitch(forward.residual),
        };
        arena.end();
        (arena, forward, backward)
    }

    fn forward(&mut self, over: Option<Over>, case: &Case, data: &Data) -> ForwardSlots {
        let x = self.input(case.input, &data.x);
        let residual = data.residual.as_ref().map(|r| self.input(case.input, r));
        let y = self.output_over(over, [Some(x), residual], case.output);
        let sum = case.has_sum().then(|| self.output_over(self.place.sum_over, [Some(x), residual], case.input));
        ForwardSlots { x, residual, y, sum }
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
        self.output_or(input, dtype)
    }

    /// Where an input is, if it is to be there.
    fn output_or(&mut self, input: Option<Slot>, dtype: DType) -> Slot {
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
            // A sample that is one row has one distance.
            let pitch =
                Pitch { row: Some(if rows > 1 { row_pitch } else { sample_pitch }), sample: Some(sample_pitch) };
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
                self.slice(dtype, memory, pitch, width, bytes)
            }
            Gaps::Fused => {
                let (memory, pitch) = pitched(width, rows * width * SLICES as u64);
                self.slice(dtype, memory, pitch, rows * width, bytes)
            }
        }
    }

    /// The next slice of the concatenated tensor of a type, `len` elements behind the one before.
    fn slice(&mut self, dtype: DType, memory: Memory, pitch: Pitch, len: u64, bytes: &[u8]) -> Slot {
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
        let slot = Slot { buffer, offset: (*taken * len) as usize * size, memory, pitch, size };
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

    /// Guards behind the last tensors, up to a multiple of four bytes.
    fn end(&mut self) {
        for contents in &mut self.contents {
            contents.resize((contents.len() + 8).next_multiple_of(4), GUARD);
        }
    }

    /// The outputs in what the contents are now. Panics if anything but the outputs was written.
    pub fn outputs(mut self, after: &[Vec<u8>], name: &str) -> Vec<Vec<u8>> {
        let outputs = self
            .outputs
            .iter()
            .map(|slot| slot.rows().flat_map(|row| after[slot.buffer][row].to_vec()).collect())
            .collect();
        for (slot, row) in self.outputs.iter().flat_map(|slot| slot.rows().map(move |row| (slot, row))) {
            self.contents[slot.buffer][row.clone()].copy_from_slice(&after[slot.buffer][row]);
        }
        for (expected, after) in self.contents.iter().zip(after) {
            let touched = expected.iter().zip(after).position(|(a, b)| a != b);
            assert_eq!(touched, None, "{name}: a byte that is no output's was written: {:?}", self.outputs);
        }
        outputs
    }
}
