//! Calls on the CPU, on tensors that lie where a test puts them: each in memory of its own, as slices are borrowed apart.

use super::cases::{Case, Data, with_types};
use super::placement::{Arena, BackwardSlots, ForwardSlots, Gaps, Placed, Placement, Slot};
use bytemuck::{cast_slice, cast_slice_mut, pod_collect_to_vec};
use std::mem::take;
use wgpu_norm::{Commit, Element, Statistics, cpu};

/// Runs training and evaluation. Panics if anything but the outputs is written.
pub fn run(case: &Case, data: &Data, place: Placement) -> Placed {
    let is_one = place.shared || matches!(place.gaps, Gaps::Concatenated | Gaps::Fused);
    assert!(!is_one, "slices of one vector cannot be borrowed apart");
    with_types!(case, run_typed(case, data, place))
}

fn run_typed<I: Element, O: Element>(case: &Case, data: &Data, place: Placement) -> Placed {
    Placed { trained: train::<I, O>(case, data, place), evaluated: evaluate::<I, O>(case, data, place) }
}

fn train<I: Element, O: Element>(case: &Case, data: &Data, place: Placement) -> Vec<Vec<u8>> {
    let (arena, forward, backward) = Arena::training(place, case, data);
    let mut memory = Memory::new(&arena);
    let mut layer = cpu::Norm::with_state(case.descriptor.clone(), data.state.clone()).unwrap();
    let saved = memory.forward::<I, O, _>(&forward, |io| match case.statistics {
        Statistics::Batch => layer.forward_train(&case.tensor(), case.fusion, io, Commit::Update).unwrap(),
        Statistics::Running => layer.forward_frozen(&case.tensor(), case.fusion, io).unwrap(),
    });
    memory.backward::<I, O>(&backward, |io| layer.backward(saved, io).unwrap());
    arena.outputs(&memory.contents(), "cpu")
}

fn evaluate<I: Element, O: Element>(case: &Case, data: &Data, place: Placement) -> Vec<Vec<u8>> {
    let (arena, forward) = Arena::evaluation(place, case, data);
    let mut memory = Memory::new(&arena);
    let layer = cpu::Norm::with_state(case.descriptor.clone(), data.state.clone()).unwrap();
    memory.forward::<I, O, _>(&forward, |io| layer.forward_eval(&case.tensor(), case.fusion, io).unwrap());
    arena.outputs(&memory.contents(), "cpu")
}

/// Words, so that elements of every type are aligned.
struct Memory(Vec<Vec<u32>>);

impl Memory {
    fn new(arena: &Arena) -> Memory {
        Memory(arena.contents.iter().map(|contents| pod_collect_to_vec(contents)).collect())
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        self.0.iter().map(|words| cast_slice(words).to_vec()).collect()
    }

    fn input<T: Element>(&self, slot: Slot) -> &[T] {
        let bytes: &[u8] = cast_slice(&self.0[slot.buffer]);
        cast_slice(&bytes[slot.offset..][..slot.bytes()])
    }

    fn forward<I: Element, O: Element, R>(
        &mut self,
        slots: &ForwardSlots,
        run: impl FnOnce(cpu::Forward<'_, I, O>) -> R,
    ) -> R {
        let [mut y, mut sum] = [Some(slots.y), slots.sum].map(|slot| Output::take(self, slot));
        let source = |slot: Slot| match slot.buffer {
            buffer if buffer == slots.y.buffer => cpu::Source::InPlace,
            buffer if slots.sum.is_some_and(|sum| sum.buffer == buffer) => cpu::Source::InSum,
            _ => cpu::Source::From(self.input(slot)),
        };
        let result = run(cpu::Forward {
            x: source(slots.x),
            residual: slots.residual.map(source),
            y: y.elements().expect("there is a y"),
            sum: sum.elements(),
            pitches: slots.pitches(),
        });
        [y, sum].into_iter().for_each(|output| output.put_back(self));
        result
    }

    fn backward<I: Element, O: Element>(&mut self, slots: &BackwardSlots, run: impl FnOnce(cpu::Backward<'_, I, O>)) {
        let outputs = [Some(slots.dx), slots.dresidual, slots.dweight, slots.dbias];
        let [mut dx, mut dresidual, mut dweight, mut dbias] = outputs.map(|slot| Output::take(self, slot));
        run(cpu::Backward {
            x: self.input(slots.x),
            residual: slots.residual.map(|slot| self.input(slot)),
            dy: self.input(slots.dy),
            dsum: slots.dsum.map(|slot| self.input(slot)),
            dx: dx.elements(),
            dresidual: dresidual.elements(),
            dweight: dweight.elements(),
            dbias: dbias.elements(),
            pitches: slots.pitches(),
        });
        [dx, dresidual, dweight, dbias].into_iter().for_each(|output| output.put_back(self));
    }
}

/// An output, if the call has it, whose memory is elsewhere while the call writes to it.
struct Output(Option<(Slot, Vec<u32>)>);

impl Output {
    fn take(memory: &mut Memory, slot: Option<Slot>) -> Output {
        Output(slot.map(|slot| (slot, take(&mut memory.0[slot.buffer]))))
    }

    fn elements<T: Element>(&mut self) -> Option<&mut [T]> {
        let (slot, words) = self.0.as_mut()?;
        let bytes: &mut [u8] = cast_slice_mut(words);
        Some(cast_slice_mut(&mut bytes[slot.offset..][..slot.bytes()]))
    }

    fn put_back(self, memory: &mut Memory) {
        if let Some((slot, words)) = self.0 {
            memory.0[slot.buffer] = words;
        }
    }
}
