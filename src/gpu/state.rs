//! A layer's state in device memory: one buffer, with its vectors one after the other.

use super::buffer::with_contents;
use super::context::Context;
use super::layer::Norm;
use crate::error::{Error, check_len};
use crate::norm::NormDescriptor;
use crate::state::{Running, State};
use wgpu::BufferUsages;

/// Vectors of the buffer, in this order; the shaders count them.
const VECTORS: u64 = 6;

impl Norm {
    /// Scale, one `f32` a channel or element, for an optimiser: `STORAGE`, `COPY_SRC` and `COPY_DST`. It stays where it is
    /// as long as the layer lives, also when [`Norm::write_state`] fills it.
    ///
    /// Write it after the backward pass, which reads weight and bias once more, by a dispatch that binds it for reading and
    /// writing. All vectors of a layer lie in one buffer: a dispatch that reads another of them besides binds that for reading
    /// and writing, too, as WebGPU asks.
    pub fn weight(&self) -> Option<wgpu::BufferBinding<'_>> {
        self.descriptor.affine().weight.then(|| self.vector(0))
    }

    /// Shift, as [`Norm::weight`].
    pub fn bias(&self) -> Option<wgpu::BufferBinding<'_>> {
        self.descriptor.affine().bias.then(|| self.vector(1))
    }

    /// Running mean, as [`Norm::weight`].
    pub fn running_mean(&self) -> Option<wgpu::BufferBinding<'_>> {
        self.descriptor.running_stats().map(|_| self.vector(2))
    }

    /// Running (unbiased) variance, as [`Norm::weight`].
    pub fn running_var(&self) -> Option<wgpu::BufferBinding<'_>> {
        self.descriptor.running_stats().map(|_| self.vector(3))
    }

    /// Batches that each channel's running statistics took in, `u32`.
    pub fn tracked(&self) -> Option<wgpu::BufferBinding<'_>> {
        self.descriptor.running_stats().map(|_| self.vector(4))
    }

    /// Batches that each channel left out because its statistics were not finite, `u32`.
    pub fn skipped(&self) -> Option<wgpu::BufferBinding<'_>> {
        self.descriptor.running_stats().map(|_| self.vector(5))
    }

    /// The whole state as one buffer, to read back ([`Norm::parse_state`] reads its bytes), or to copy to that of another layer
    /// of the same kind.
    pub fn state_buffer(&self) -> &wgpu::Buffer {
        &self.state
    }

    /// The state from the bytes of [`Norm::state_buffer`]. [`Error::Length`] if they are more or fewer.
    pub fn parse_state(&self, bytes: &[u8]) -> Result<State, Error> {
        let stride = stride(&self.descriptor) as usize;
        let expected = VECTORS * stride as u64 * 4;
        self.named(|| check_len("the state's vector of bytes", Some(bytes.len()), expected))?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
        let len = self.descriptor.affine_len() as usize;
        let vector = |i: usize| words[i * stride..i * stride + len].to_vec();
        let floats = |i: usize| vector(i).into_iter().map(f32::from_bits).collect::<Vec<f32>>();
        let affine = self.descriptor.affine();
        Ok(State {
            weight: affine.weight.then(|| floats(0)),
            bias: affine.bias.then(|| floats(1)),
            running: self.descriptor.running_stats().map(|_| Running {
                running_mean: floats(2),
                running_var: floats(3),
                tracked: vector(4),
                skipped: vector(5),
            }),
        })
    }

    /// Replaces the whole state through the queue, before the next submission. Errors as [`State::check`]; as wgpu's own
    /// writes, none for a lost device.
    pub fn write_state(&self, queue: &wgpu::Queue, state: &State) -> Result<(), Error> {
        self.named(|| state.check(&self.descriptor))?;
        queue.write_buffer(&self.state, 0, bytemuck::cast_slice(&state_words(&self.descriptor, state)));
        Ok(())
    }

    /// Where running mean and variance are, and how many bytes.
    pub(super) fn running_bytes(&self) -> (u64, u64) {
        let stride = stride(&self.descriptor) * 4;
        (2 * stride, 2 * stride)
    }

    fn vector(&self, i: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.state,
            offset: i * stride(&self.descriptor) * 4,
            size: std::num::NonZero::new(self.descriptor.affine_len() * 4),
        }
    }
}

/// A buffer with a state in it. [`Error::TooLarge`], [`Error::NewBuffer`]
pub(super) fn state_buffer(
    context: &Context,
    descriptor: &NormDescriptor,
    state: &State,
) -> Result<wgpu::Buffer, Error> {
    let size = VECTORS * stride(descriptor) * 4;
    let limit = context.profile().max_binding_size;
    if size > limit {
        let what = "bytes of weight, bias and running statistics";
        return Err(Error::TooLarge { what, required: size, limit });
    }
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    with_contents(context.device(), "wgpu-norm state", usage, &state_words(descriptor, state))
}

/// Words between two vectors: whole 256-byte blocks, so that each can be bound by itself.
pub(super) fn stride(descriptor: &NormDescriptor) -> u64 {
    descriptor.affine_len().next_multiple_of(64)
}

fn state_words(descriptor: &NormDescriptor, state: &State) -> Vec<u32> {
    let stride = stride(descriptor) as usize;
    let mut words = vec![0u32; VECTORS as usize * stride];
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let running = state.running.as_ref();
    let vectors = [
        state.weight.as_deref().map(bits),
        state.bias.as_deref().map(bits),
        running.map(|r| bits(&r.running_mean)),
        running.map(|r| bits(&r.running_var)),
        running.map(|r| r.tracked.clone()),
        running.map(|r| r.skipped.clone()),
    ];
    for (words, vector) in words.chunks_mut(stride.max(1)).zip(vectors) {
        if let Some(vector) = vector {
            words[..vector.len()].copy_from_slice(&vector);
        }
    }
    words
}
