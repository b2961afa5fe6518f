//! A layer on slices, on either backend.

use super::backend::Backend;
use super::device::{Staging, commands, elements, poisoned, read, upload};
use super::io::Backward;
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::norm::NormDescriptor;
use crate::op::{Commit, Fusion, Gradients, Residual};
use crate::state::State;
use crate::sums::GradientSums;
use crate::tensor::{BackwardPitches, DType, ForwardPitches, TensorDescriptor};
use crate::{cpu, gpu};

/// What a forward pass returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Output<I, O> {
    /// Output, in the shape of x.
    pub y: Vec<O>,
    /// x + residual, with [`Residual::Before`].
    pub sum: Option<Vec<I>>,
}

/// What a backward pass returns: what was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputGradients<I> {
    /// Of x.
    pub dx: Option<Vec<I>>,
    /// Of the residual ([`Residual::After`]).
    pub dresidual: Option<Vec<I>>,
    /// Of the weight; `None` if the layer has none.
    pub dweight: Option<Vec<f32>>,
    /// Of the bias; `None` if the layer has none.
    pub dbias: Option<Vec<f32>>,
}

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
    /// What the forward pass fused.
    pub(crate) fn fusion(&self) -> Fusion {
        match &self.0 {
            Kept::Cpu(saved) => saved.fusion(),
            Kept::Gpu(saved) => saved.fusion(),
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

/// Which of the forward calls.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    Train(Commit),
    Eval,
    Frozen,
    /// Training with the moments of a group.
    With(&'a [Moments], Commit),
}

impl Norm {
    /// A layer with PyTorch's initial state. Errors as [`cpu::Norm::new`] and [`gpu::Norm::new`].
    pub fn new(backend: &Backend, descriptor: impl Into<NormDescriptor>) -> Result<Norm, Error> {
        let descriptor = descriptor.into();
        let state = State::new(&descriptor)?;
        Norm::with_state(backend, descriptor, state)
    }

    /// A layer with a state of yours. [`Error::Length`] if a vector's length is not the descriptor's; others as [`Norm::new`].
    pub fn with_state(backend: &Backend, descriptor: impl Into<NormDescriptor>, state: State) -> Result<Norm, Error> {
        Ok(Norm(match backend {
            Backend::Cpu => Layer::Cpu(cpu::Norm::with_state(descriptor, state)?),
            Backend::Gpu { context, queue, .. } => {
                Layer::Gpu { norm: gpu::Norm::with_state(context, descriptor, &state)?, queue: queue.clone() }
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
                let mut encoder = commands(device);
                let buffer = norm.state_buffer();
                let copy = Staging::copy(device, &mut encoder, buffer, buffer.size());
                let bytes = read(device, queue, encoder, &[&copy]).await?;
                norm.parse_state(&bytes[0])
            }
        }
    }

    /// Replaces weight, bias and running statistics. [`Error::Length`] if a length differs.
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
            let actual = given.map_or(expected, |given| given.len() as u64);
            if actual != expected {
                return Err(Error::Length { name, expected, actual });
            }
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

    /// Training; see [`gpu::Norm::forward_train`]. Slices are as long as `tensor` says ([`Error::Length`]) and of its type
    /// ([`Error::DType`]); [`Error::Readback`] if the device is lost.
    pub async fn forward_train<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
        commit: Commit,
    ) -> Result<(Output<I, O>, Saved), Error> {
        let (output, saved) = self.forward(tensor, fusion, x, residual, Mode::Train(commit)).await?;
        Ok((output, saved.ok_or(Error::Foreign { what: "mode" })?))
    }

    /// Evaluation; see [`gpu::Norm::forward_eval`]. Errors as [`Norm::forward_train`].
    pub async fn forward_eval<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
    ) -> Result<Output<I, O>, Error> {
        self.forward(tensor, fusion, x, residual, Mode::Eval).await.map(|(output, _)| output)
    }

    /// A frozen layer in a network that trains; see [`gpu::Norm::forward_frozen`]. Errors as [`Norm::forward_train`].
    pub async fn forward_frozen<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
    ) -> Result<(Output<I, O>, Saved), Error> {
        let (output, saved) = self.forward(tensor, fusion, x, residual, Mode::Frozen).await?;
        Ok((output, saved.ok_or(Error::Foreign { what: "mode" })?))
    }

    pub(super) async fn forward<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
        mode: Mode<'_>,
    ) -> Result<(Output<I, O>, Option<Saved>), Error> {
        let len = check_slices(tensor, &[("x", Some(x)), ("residual", residual)])?;
        let before = fusion.residual == Residual::Before;
        match &mut self.0 {
            Layer::Cpu(norm) => {
                let mut y = vec![O::from_f32(f32::NAN); len];
                let mut sum = before.then(|| vec![I::from_f32(f32::NAN); len]);
                let io = cpu::Forward {
                    x: cpu::Source::From(x),
                    residual: residual.map(cpu::Source::From),
                    y: &mut y,
                    sum: sum.as_deref_mut(),
                    pitches: ForwardPitches::default(),
                };
                let saved = match mode {
                    Mode::Train(commit) => Some(norm.forward_train(tensor, fusion, io, commit)?),
                    Mode::Eval => norm.forward_eval(tensor, fusion, io).map(|()| None)?,
                    Mode::Frozen => Some(norm.forward_frozen(tensor, fusion, io)?),
                    Mode::With(moments, commit) => Some(norm.forward_train_with(tensor, fusion, io, moments, commit)?),
                };
                Ok((Output { y, sum }, saved.map(|s| Saved(Kept::Cpu(s)))))
            }
            Layer::Gpu { norm, queue } => {
                let device = norm.context().device().clone();
                let x = upload(&device, "x", x)?;
                let residual = residual.map(|r| upload(&device, "residual", r)).transpose()?;
                let (y_bytes, sum_bytes) = (len as u64 * O::DTYPE.size(), len as u64 * I::DTYPE.size());
                let y = poisoned(&device, "y", y_bytes)?;
                let sum = if before { Some(poisoned(&device, "sum", sum_bytes)?) } else { None };
                let io = gpu::Forward {
                    x: x.as_entire_buffer_binding(),
                    residual: residual.as_ref().map(|b| b.as_entire_buffer_binding()),
                    y: y.as_entire_buffer_binding(),
                    sum: sum.as_ref().map(|b| b.as_entire_buffer_binding()),
                    y_dtype: Some(O::DTYPE),
                    pitches: ForwardPitches::default(),
                };
                let mut encoder = commands(&device);
                let saved = match mode {
                    Mode::Train(commit) => Some(norm.forward_train(&mut encoder, tensor, fusion, &io, commit)?),
                    Mode::Eval => norm.forward_eval(&mut encoder, tensor, fusion, &io).map(|()| None)?,
                    Mode::Frozen => Some(norm.forward_frozen(&mut encoder, tensor, fusion, &io)?),
                    Mode::With(moments, commit) => {
                        let moments = gpu::DeviceSums::from_slice(norm.context(), moments)?;
                        Some(norm.forward_train_with(&mut encoder, tensor, fusion, &io, &moments, commit)?)
                    }
                };
                let y = Staging::copy(&device, &mut encoder, &y, y_bytes);
                let sum = sum.map(|s| Staging::copy(&device, &mut encoder, &s, sum_bytes));
                let copies: Vec<&Staging> = [Some(&y), sum.as_ref()].into_iter().flatten().collect();
                let results = read(&device, queue, encoder, &copies).await?;
                let output = Output { y: elements(&results[0]), sum: results.get(1).map(|b| elements(b)) };
                Ok((output, saved.map(|s| Saved(Kept::Gpu(s)))))
            }
        }
    }

    /// Gradients; see [`gpu::Norm::backward`]. Errors as [`Norm::forward_train`]; [`Error::Foreign`] if `saved` is of another
    /// layer or backend.
    pub async fn backward<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor<'_>,
        saved: Saved,
        io: Backward<'_, I, O>,
        wanted: Gradients,
    ) -> Result<OutputGradients<I>, Error> {
        self.gradients(tensor, saved, io, wanted, None).await
    }

    /// `sums`: those of the group, where the pass is synchronised.
    pub(super) async fn gradients<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor<'_>,
        saved: Saved,
        io: Backward<'_, I, O>,
        wanted: Gradients,
        sums: Option<&[GradientSums]>,
    ) -> Result<OutputGradients<I>, Error> {
        let Backward { x, residual, dy, dsum } = io;
        let len = check_slices(tensor, &[("x", Some(x)), ("residual", residual), ("dsum", dsum)])?;
        check_slices(&TensorDescriptor { dtype: O::DTYPE, ..*tensor }, &[("dy", Some(dy))])?;
        let affine = self.descriptor().affine();
        let features = self.descriptor().affine_len() as usize;
        let (has_weight, has_bias) = (wanted.affine && affine.weight, wanted.affine && affine.bias);
        match (&self.0, saved.0) {
            (Layer::Cpu(norm), Kept::Cpu(saved)) => {
                let nan = I::from_f32(f32::NAN);
                let mut result = OutputGradients {
                    dx: wanted.dx.then(|| vec![nan; len]),
                    dresidual: wanted.dresidual.then(|| vec![nan; len]),
                    dweight: has_weight.then(|| vec![f32::NAN; features]),
                    dbias: has_bias.then(|| vec![f32::NAN; features]),
                };
                let io = cpu::Backward {
                    x,
                    residual,
                    dy,
                    dsum,
                    dx: result.dx.as_deref_mut(),
                    dresidual: result.dresidual.as_deref_mut(),
                    dweight: result.dweight.as_deref_mut(),
                    dbias: result.dbias.as_deref_mut(),
                    pitches: BackwardPitches::default(),
                };
                match sums {
                    None => norm.backward(saved, io)?,
                    Some(sums) => norm.backward_with(saved, io, sums)?,
                }
                Ok(result)
            }
            (Layer::Gpu { norm, queue }, Kept::Gpu(saved)) => {
                let device = norm.context().device();
                saved.check_slices(I::DTYPE, O::DTYPE, x.len() as u64)?;
                let (x, dy) = (upload(device, "x", x)?, upload(device, "dy", dy)?);
                let residual = residual.map(|r| upload(device, "residual", r)).transpose()?;
                let dsum = dsum.map(|r| upload(device, "dsum", r)).transpose()?;
                let (tensor_bytes, vector_bytes) = (len as u64 * I::DTYPE.size(), features as u64 * 4);
                let outputs = [
                    ("dx", wanted.dx, tensor_bytes),
                    ("dresidual", wanted.dresidual, tensor_bytes),
                    ("dweight", has_weight, vector_bytes),
                    ("dbias", has_bias, vector_bytes),
                ];
                let mut buffers: [Option<wgpu::Buffer>; 4] = Default::default();
                for (buffer, (name, is_wanted, bytes)) in buffers.iter_mut().zip(outputs) {
                    if is_wanted {
                        *buffer = Some(poisoned(device, name, bytes)?);
                    }
                }
                let [dx, dresidual, dweight, dbias] =
                    buffers.each_ref().map(|b| b.as_ref().map(|b| b.as_entire_buffer_binding()));
                let io = gpu::Backward {
                    x: x.as_entire_buffer_binding(),
                    residual: residual.as_ref().map(|b| b.as_entire_buffer_binding()),
                    dy: dy.as_entire_buffer_binding(),
                    dsum: dsum.as_ref().map(|b| b.as_entire_buffer_binding()),
                    dx,
                    dresidual,
                    dweight,
                    dbias,
                    pitches: BackwardPitches::default(),
                };
                let mut encoder = commands(device);
                match sums {
                    None => norm.backward(&mut encoder, saved, &io)?,
                    Some(sums) => {
                        let sums = gpu::DeviceSums::from_slice(norm.context(), sums)?;
                        norm.backward_with(&mut encoder, saved, &io, &sums)?;
                    }
                }
                let copies: Vec<Staging> = buffers
                    .iter()
                    .zip(outputs)
                    .filter_map(|(b, (_, _, bytes))| b.as_ref().map(|b| Staging::copy(device, &mut encoder, b, bytes)))
                    .collect();
                let results = read(device, queue, encoder, &copies.iter().collect::<Vec<_>>()).await?;
                let mut results = results.iter();
                let mut next = |is_wanted: bool| if is_wanted { results.next() } else { None };
                Ok(OutputGradients {
                    dx: next(wanted.dx).map(|b| elements(b)),
                    dresidual: next(wanted.dresidual).map(|b| elements(b)),
                    dweight: next(has_weight).map(|b| elements(b)),
                    dbias: next(has_bias).map(|b| elements(b)),
                })
            }
            _ => Err(Error::Foreign { what: "backend" }),
        }
    }

    /// Statistics that a training pass computed, one for each of [`gpu::Saved::len`]; none of a frozen pass, which computes
    /// none. [`Error::Foreign`] for another backend's `saved`, [`Error::Readback`].
    pub async fn statistics(&self, saved: &Saved) -> Result<Vec<Statistic>, Error> {
        match (&self.0, &saved.0) {
            (Layer::Cpu(_), Kept::Cpu(saved)) => {
                if saved.is_frozen() {
                    return Ok(Vec::new());
                }
                let (mean, var, rstd) = (saved.mean(), saved.var(), saved.rstd());
                let wide = f64::from;
                let statistic = |((mean, var), rstd)| Statistic { mean, var: wide(var), rstd: wide(rstd) };
                Ok(mean.into_iter().zip(var).zip(rstd).map(statistic).collect())
            }
            (Layer::Gpu { norm, queue }, Kept::Gpu(saved)) => {
                let device = norm.context().device();
                let Some(binding) = saved.statistics() else { return Ok(Vec::new()) };
                let mut encoder = commands(device);
                let copy = Staging::copy(device, &mut encoder, binding.buffer, saved.len() * 16);
                let bytes = read(device, queue, encoder, &[&copy]).await?;
                let words: Vec<f32> = elements(&bytes[0]);
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

/// Checks element types and lengths; returns the length.
pub(super) fn check_slices<T: Element>(
    tensor: &TensorDescriptor,
    slices: &[(&'static str, Option<&[T]>)],
) -> Result<usize, Error> {
    let expected = tensor.len()?;
    for (name, slice) in slices {
        let Some(slice) = slice else { continue };
        if T::DTYPE != tensor.dtype {
            let (expected, actual): (DType, DType) = (tensor.dtype, T::DTYPE);
            return Err(Error::DType { name, expected, actual });
        }
        if slice.len() as u64 != expected {
            return Err(Error::Length { name, expected, actual: slice.len() as u64 });
        }
    }
    Ok(expected as usize)
}
