//! A layer on either backend, its state, and what it keeps.

use super::backend::Backend;
use super::device::{commands, elements, read_buffer};
use crate::error::{Error, check_len};
use crate::norm::NormDescriptor;
use crate::plan::Problem;
use crate::state::State;
use crate::{cpu, gpu};

/// One statistic of a training pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistic {
    /// Mean; 0 for RMSNorm.
    pub mean: f64,
    /// Biased variance; the mean square for RMSNorm.
    pub var: f64,
    /// 1/sqrt(var + eps).
    pub rstd: f64,
}

/// What a training pass keeps for its backward pass; see [`gpu::Saved`].
#[derive(Debug)]
#[must_use = "the backward pass needs it; drop it only if there is none"]
pub struct Saved(pub(super) Kept);

impl Saved {
    /// The forward pass.
    pub(crate) fn problem(&self) -> &Problem {
        match &self.0 {
            Kept::Cpu(saved) => saved.problem(),
            Kept::Gpu(saved) => saved.problem(),
        }
    }
}

#[derive(Debug)]
pub(super) enum Kept {
    Cpu(cpu::Saved),
    Gpu(gpu::Saved),
}

/// Any of the five norms on host slices.
///
/// ```
/// use wgpu_norm::{BatchNormDescriptor, Commit, Fusion, TensorDescriptor, host};
/// # pollster::block_on(async {
/// let backend = host::Backend::gpu().await.unwrap_or(host::Backend::Cpu);
/// # let backend = host::Backend::Cpu;
/// let mut norm = host::Norm::new(&backend, BatchNormDescriptor::new(2))?;
/// let (batch, x) = (TensorDescriptor::new(&[2, 2]), [1.0f32, 10.0, 3.0, 30.0]);
/// let (output, _saved) =
///     norm.forward_train::<f32, f32>(&batch, Fusion::default(), &x, None, Commit::Update).await?;
/// assert!((output.y[0] + 1.0).abs() < 1e-4 && (output.y[2] - 1.0).abs() < 1e-4);
/// # Ok::<(), wgpu_norm::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Norm(pub(super) Layer);

#[derive(Debug)]
pub(super) enum Layer {
    Cpu(cpu::Norm),
    Gpu { norm: gpu::Norm, queue: wgpu::Queue },
}

impl Norm {
    /// A layer with PyTorch's initial state. Errors as [`cpu::Norm::new`] and [`gpu::Norm::new`].
    pub fn new(backend: &Backend, descriptor: impl Into<NormDescriptor>) -> Result<Norm, Error> {
        let descriptor = descriptor.into();
        let state = State::new(&descriptor)?;
        Norm::with_state(backend, descriptor, state)
    }

    /// A layer with a state of yours. Errors as [`Norm::new`] and [`State::check`].
    pub fn with_state(backend: &Backend, descriptor: impl Into<NormDescriptor>, state: State) -> Result<Norm, Error> {
        Ok(Norm(match backend {
            Backend::Cpu => Layer::Cpu(cpu::Norm::with_state(descriptor, state)?),
            Backend::Gpu { context, queue } => {
                let norm = gpu::Norm::with_state(context, descriptor, &state)?;
                // Each call has buffers of its own.
                norm.keep_calls(0);
                Layer::Gpu { norm, queue: queue.clone() }
            }
        }))
    }

    /// What the layer is.
    pub fn descriptor(&self) -> &NormDescriptor {
        match &self.0 {
            Layer::Cpu(norm) => norm.descriptor(),
            Layer::Gpu { norm, .. } => norm.descriptor(),
        }
    }

    /// A copy of weight, bias and running statistics. [`Error::Readback`] if the device is lost.
    pub async fn state(&self) -> Result<State, Error> {
        match &self.0 {
            Layer::Cpu(norm) => Ok(norm.state().clone()),
            Layer::Gpu { norm, queue } => {
                let device = norm.context().device();
                let buffer = norm.state_buffer();
                norm.parse_state(&read_buffer(device, queue, commands(device), buffer, buffer.size()).await?)
            }
        }
    }

    /// Replaces weight, bias and running statistics. Errors as [`State::check`].
    pub fn set_state(&mut self, state: State) -> Result<(), Error> {
        match &mut self.0 {
            Layer::Cpu(norm) => {
                state.check(norm.descriptor())?;
                *norm.state_mut() = state;
                Ok(())
            }
            Layer::Gpu { norm, queue } => norm.write_state(queue, &state),
        }
    }

    /// Replaces weight, bias or both and leaves the running statistics alone: what an optimiser does each step.
    ///
    /// [`Error::Length`] if a length differs, [`Error::Unexpected`] if the layer was made without it.
    pub fn set_affine(&mut self, weight: Option<&[f32]>, bias: Option<&[f32]>) -> Result<(), Error> {
        self.descriptor().affine().check(["weight", "bias"], [weight.is_some(), bias.is_some()])?;
        let expected = self.descriptor().affine_len();
        for (name, given) in [("weight", weight), ("bias", bias)] {
            check_len(name, given.map(<[f32]>::len), expected)?;
        }
        match &mut self.0 {
            Layer::Cpu(norm) => {
                let state = norm.state_mut();
                for (vector, given) in [(&mut state.weight, weight), (&mut state.bias, bias)] {
                    if let (Some(vector), Some(given)) = (vector, given) {
                        vector.copy_from_slice(given);
                    }
                }
            }
            Layer::Gpu { norm, queue } => {
                for (vector, given) in [(norm.weight(), weight), (norm.bias(), bias)] {
                    if let (Some(vector), Some(given)) = (vector, given) {
                        queue.write_buffer(vector.buffer, vector.offset, bytemuck::cast_slice(given));
                    }
                }
            }
        }
        Ok(())
    }

    /// Statistics that a training pass computed, one for each of [`gpu::Saved::len`]; none of a frozen pass, which computes
    /// none. [`Error::Foreign`] for another layer's or backend's `saved`, [`Error::Readback`].
    pub async fn statistics(&self, saved: &Saved) -> Result<Vec<Statistic>, Error> {
        match (&self.0, &saved.0) {
            (Layer::Cpu(norm), Kept::Cpu(saved)) => {
                norm.check_own(saved)?;
                if saved.is_frozen() {
                    return Ok(Vec::new());
                }
                let (mean, var, rstd) = (saved.mean(), saved.var(), saved.rstd());
                let wide = f64::from;
                let statistic = |((mean, var), rstd)| Statistic { mean, var: wide(var), rstd: wide(rstd) };
                Ok(mean.into_iter().zip(var).zip(rstd).map(statistic).collect())
            }
            (Layer::Gpu { norm, queue }, Kept::Gpu(saved)) => {
                norm.check_own(saved)?;
                let device = norm.context().device();
                let Some(binding) = saved.statistics() else { return Ok(Vec::new()) };
                let bytes = read_buffer(device, queue, commands(device), binding.buffer, saved.len() * 16).await?;
                let words: Vec<f32> = elements(&bytes);
                let wide = f64::from;
                Ok(words
                    .chunks_exact(4)
                    .map(|w| Statistic { mean: wide(w[0]) + wide(w[1]), var: wide(w[3]), rstd: wide(w[2]) })
                    .collect())
            }
            _ => Err(Error::Foreign { what: "backend" }),
        }
    }
}
