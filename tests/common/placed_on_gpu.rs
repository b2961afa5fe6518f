//! Calls that record into an encoder of one's own, on tensors that lie where a test puts them.

use super::adapters::Gpu;
use super::cases::{Case, Data};
use super::placement::{Arena, BackwardSlots, ForwardSlots, Placed, Placement, Slot};
use super::transfer;
use wgpu_norm::{Commit, Error, Statistics, gpu, wgpu};

/// Runs training and evaluation. Panics if anything but the outputs is written.
pub fn run(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Result<Placed, Error> {
    let trained = train(gpu, context, case, data, place)?;
    Ok(Placed { trained, evaluated: evaluate(gpu, context, case, data, place)? })
}

fn train(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Result<Vec<Vec<u8>>, Error> {
    let (arena, forward, backward) = Arena::training(place, case, data);
    let buffers = Buffers::new(gpu, &arena);
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state)?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let (tensor, io) = (case.tensor(), buffers.forward(case, &forward));
    let saved = match case.statistics {
        Statistics::Batch => norm.forward_train(&mut encoder, &tensor, case.fusion, &io, Commit::Update)?,
        Statistics::Running => norm.forward_frozen(&mut encoder, &tensor, case.fusion, &io)?,
    };
    norm.backward(&mut encoder, saved, &buffers.backward(&backward))?;
    Ok(read(gpu, encoder, &buffers, arena))
}

fn evaluate(
    gpu: &Gpu,
    context: &gpu::Context,
    case: &Case,
    data: &Data,
    place: Placement,
) -> Result<Vec<Vec<u8>>, Error> {
    let (arena, forward) = Arena::evaluation(place, case, data);
    let buffers = Buffers::new(gpu, &arena);
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state)?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    norm.forward_eval(&mut encoder, &case.tensor(), case.fusion, &buffers.forward(case, &forward))?;
    Ok(read(gpu, encoder, &buffers, arena))
}

struct Buffers(Vec<wgpu::Buffer>);

impl Buffers {
    fn new(gpu: &Gpu, arena: &Arena) -> Buffers {
        Buffers(arena.contents.iter().map(|contents| transfer::upload(gpu, contents)).collect())
    }

    fn at(&self, slot: Slot) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.0[slot.buffer],
            offset: slot.offset as u64,
            size: std::num::NonZero::new(slot.bytes() as u64),
        }
    }

    fn forward(&self, case: &Case, slots: &ForwardSlots) -> gpu::Forward<'_> {
        gpu::Forward {
            x: self.at(slots.x),
            residual: slots.residual.map(|slot| self.at(slot)),
            y: self.at(slots.y),
            sum: slots.sum.map(|slot| self.at(slot)),
            y_dtype: Some(case.output),
            pitches: slots.pitches(),
        }
    }

    fn backward(&self, slots: &BackwardSlots) -> gpu::Backward<'_> {
        let at = |slot: Option<Slot>| slot.map(|slot| self.at(slot));
        gpu::Backward {
            x: self.at(slots.x),
            residual: at(slots.residual),
            dy: self.at(slots.dy),
            dsum: at(slots.dsum),
            dx: at(Some(slots.dx)),
            dresidual: at(slots.dresidual),
            dweight: at(slots.dweight),
            dbias: at(slots.dbias),
            pitches: slots.pitches(),
            moved: false,
        }
    }
}

/// Submits, and returns the outputs.
fn read(gpu: &Gpu, encoder: wgpu::CommandEncoder, buffers: &Buffers, arena: Arena) -> Vec<Vec<u8>> {
    arena.outputs(&transfer::read_all(gpu, encoder, &buffers.0.iter().collect::<Vec<_>>()), &gpu.name)
}
