//! From a plan and buffers to commands.

use super::buffer::with_contents;
use super::context::{Context, Pipeline, VECTOR_BINDINGS};
use super::io::Tensors;
use super::key::{Key, Update};
use super::params::{Numbers, Params, strides};
use super::shader::Addressing;
use crate::error::Error;
use crate::plan::{Dispatch, Kernel, Over, Pass, Plan, Tensor};
use std::sync::Arc;

/// The vectors that go with a call, and the name of the layer that they are of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors<'a> {
    pub label: &'a str,
    pub state: &'a wgpu::Buffer,
    pub saved: &'a wgpu::Buffer,
    pub partials: &'a wgpu::Buffer,
}

/// A plan bound to buffers: ready to be recorded any number of times.
#[derive(Debug)]
pub(crate) struct Prepared {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
}

impl Prepared {
    pub fn new(
        context: &Context,
        plan: &Plan,
        tensors: &Tensors,
        vectors: Vectors,
        numbers: &Numbers,
        update: Update,
    ) -> Result<Prepared, Error> {
        let mut steps = Vec::with_capacity(plan.dispatches());
        let binder = Binder { context, plan, tensors, vectors, numbers };
        let instance = plan.passes.iter().any(|p| p.kernel == Kernel::Running);
        for pass in plan.passes.iter().filter(|p| p.kernel != Kernel::Running || update != Update::Never) {
            let update = if instance && pass.kernel != Kernel::Running { Update::Never } else { update };
            for dispatch in &pass.dispatches {
                steps.push(binder.step(pass, dispatch, update)?);
            }
        }
        Ok(Prepared { steps })
    }

    /// Records one compute pass.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, label: &str) {
        if self.steps.is_empty() {
            return;
        }
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None });
        for step in &self.steps {
            pass.set_pipeline(&step.pipeline.pipeline);
            pass.set_bind_group(0, &step.bind_group, &[]);
            let [x, y, z] = step.grid;
            pass.dispatch_workgroups(x, y, z);
        }
    }
}

/// The part of a buffer that is bound for a window of a tensor, and the shift of element offsets within it.
struct Bound<'a> {
    binding: wgpu::BufferBinding<'a>,
    shift: u32,
}

/// What all dispatches of a call have in common.
struct Binder<'a> {
    context: &'a Context,
    plan: &'a Plan,
    tensors: &'a Tensors<'a>,
    vectors: Vectors<'a>,
    numbers: &'a Numbers,
}

impl Binder<'_> {
    fn step(&self, pass: &Pass, dispatch: &Dispatch, update: Update) -> Result<Step, Error> {
        let &Binder { context, plan, tensors, vectors, numbers } = self;
        let bound: Vec<(Tensor, Bound)> = Tensor::ALL
            .into_iter()
            .filter(|&t| pass.touches(t))
            .filter_map(|t| tensors[t as usize].as_ref().map(|b| (t, bind(context, plan, pass.over, t, b, dispatch))))
            .collect();
        let shared = bound.iter().any(|(t, a)| {
            pass.writes.contains(t) && bound.iter().any(|(u, b)| u != t && a.binding.buffer == b.binding.buffer)
        });
        let addressing = Addressing::new(plan, pass, shared, bound.iter().all(|(_, b)| b.shift.is_multiple_of(4)));
        let pipeline = context.pipeline(Key::new(plan, pass, addressing, update));

        let mut params = Params::new(plan, pass, dispatch, numbers);
        for (tensor, b) in &bound {
            params.place(*tensor, strides(&plan.walk_of(pass.over, *tensor)), b.shift);
        }
        let device = context.device();
        let uniform = with_contents(device, "wgpu-norm params", wgpu::BufferUsages::UNIFORM, &[params])?;
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: uniform.as_entire_binding() }];
        entries.extend(bound.into_iter().map(|(t, b)| wgpu::BindGroupEntry {
            binding: t.binding(),
            resource: wgpu::BindingResource::Buffer(b.binding),
        }));
        let buffers = [vectors.state, vectors.saved, vectors.partials];
        entries.extend(
            VECTOR_BINDINGS
                .into_iter()
                .zip(buffers)
                .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }),
        );
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(vectors.label),
            layout: &pipeline.bindings,
            entries: &entries,
        });
        Ok(Step { pipeline, bind_group, grid: dispatch.grid })
    }
}

fn bind<'a>(
    context: &Context,
    plan: &Plan,
    over: Over,
    tensor: Tensor,
    binding: &wgpu::BufferBinding<'a>,
    dispatch: &Dispatch,
) -> Bound<'a> {
    let (size, alignment) = (plan.problem.dtype(tensor).size(), context.profile().offset_alignment);
    let window = dispatch.window(&plan.walk_of(over, tensor));
    let start = binding.offset + window.start * size;
    let end = binding.offset + window.end * size;
    let aligned = start / alignment * alignment;
    // Offsets within the kernel count from the tensor's start, modulo 2^32.
    let shift = ((start - aligned) / size).wrapping_sub(window.start) as u32;
    let bytes = (end - aligned).next_multiple_of(4);
    Bound {
        binding: wgpu::BufferBinding { buffer: binding.buffer, offset: aligned, size: std::num::NonZero::new(bytes) },
        shift,
    }
}
