//! Forward passes on slices.

use super::device::{Staging, commands, elements, poisoned, read, upload, upload_sums};
use super::layer::{Kept, Layer, Norm, Saved};
use crate::element::Element;
use crate::error::{Error, check_len};
use crate::moments::Moments;
use crate::op::{Commit, Fusion, Residual};
use crate::tensor::{ForwardPitches, TensorDescriptor};
use crate::{cpu, gpu};
use wgpu::CommandEncoder;

/// What a forward pass returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Output<I, O> {
    /// Output, in the shape of x.
    pub y: Vec<O>,
    /// x + residual, with [`Residual::Before`].
    pub sum: Option<Vec<I>>,
}

impl Norm {
    /// Training; see [`gpu::Norm::forward_train`]. Slices are as long as `tensor` says ([`Error::Length`]) and of its type
    /// ([`Error::DType`]); [`Error::NewBuffer`] and [`Error::Readback`] if the device is out of memory or lost.
    pub async fn forward_train<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
        commit: Commit,
    ) -> Result<(Output<I, O>, Saved), Error> {
        let call = Call { tensor, fusion, x, residual };
        match &mut self.0 {
            Layer::Cpu(norm) => call.on_cpu(|io| norm.forward_train(tensor, fusion, io, commit)).map(kept(Kept::Cpu)),
            Layer::Gpu { norm, queue } => {
                let run =
                    call.on_gpu(norm, queue, |encoder, io| norm.forward_train(encoder, tensor, fusion, io, commit));
                run.await.map(kept(Kept::Gpu))
            }
        }
    }

    /// Evaluation; see [`gpu::Norm::forward_eval`]. Errors as [`Norm::forward_train`].
    pub async fn forward_eval<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
    ) -> Result<Output<I, O>, Error> {
        let call = Call { tensor, fusion, x, residual };
        let (output, ()) = match &self.0 {
            Layer::Cpu(norm) => call.on_cpu(|io| norm.forward_eval(tensor, fusion, io))?,
            Layer::Gpu { norm, queue } => {
                call.on_gpu(norm, queue, |encoder, io| norm.forward_eval(encoder, tensor, fusion, io)).await?
            }
        };
        Ok(output)
    }

    /// A frozen layer in a network that trains; see [`gpu::Norm::forward_frozen`]. Errors as [`Norm::forward_train`].
    pub async fn forward_frozen<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
    ) -> Result<(Output<I, O>, Saved), Error> {
        let call = Call { tensor, fusion, x, residual };
        match &self.0 {
            Layer::Cpu(norm) => call.on_cpu(|io| norm.forward_frozen(tensor, fusion, io)).map(kept(Kept::Cpu)),
            Layer::Gpu { norm, queue } => {
                let run = call.on_gpu(norm, queue, |encoder, io| norm.forward_frozen(encoder, tensor, fusion, io));
                run.await.map(kept(Kept::Gpu))
            }
        }
    }

    /// Last step of synchronised training, forward: as [`Norm::forward_train`], with the moments of the whole group, one a
    /// channel ([`Error::Length`]).
    pub async fn forward_train_with<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
        moments: &[Moments],
        commit: Commit,
    ) -> Result<(Output<I, O>, Saved), Error> {
        let call = Call { tensor, fusion, x, residual };
        match &mut self.0 {
            Layer::Cpu(norm) => {
                call.on_cpu(|io| norm.forward_train_with(tensor, fusion, io, moments, commit)).map(kept(Kept::Cpu))
            }
            Layer::Gpu { norm, queue } => {
                let moments = upload_sums(norm, moments)?;
                let run = call.on_gpu(norm, queue, |encoder, io| {
                    norm.forward_train_with(encoder, tensor, fusion, io, &moments, commit)
                });
                run.await.map(kept(Kept::Gpu))
            }
        }
    }
}

/// With what was kept on a backend.
fn kept<O, S>(on_backend: fn(S) -> Kept) -> impl FnOnce((O, S)) -> (O, Saved) {
    move |(output, saved)| (output, Saved(on_backend(saved)))
}

/// What a forward pass is given.
struct Call<'a, I> {
    tensor: &'a TensorDescriptor<'a>,
    fusion: Fusion,
    x: &'a [I],
    residual: Option<&'a [I]>,
}

impl<I: Element> Call<'_, I> {
    fn has_sum(&self) -> bool {
        self.fusion.residual == Residual::Before
    }

    fn on_cpu<O: Element, S>(
        &self,
        run: impl FnOnce(cpu::Forward<'_, I, O>) -> Result<S, Error>,
    ) -> Result<(Output<I, O>, S), Error> {
        let len = check_slices(self.tensor, self.x, self.residual)?;
        let mut y = vec![O::from_f32(f32::NAN); len];
        let mut sum = self.has_sum().then(|| vec![I::from_f32(f32::NAN); len]);
        let io = cpu::Forward {
            x: cpu::Source::From(self.x),
            residual: self.residual.map(cpu::Source::From),
            y: &mut y,
            sum: sum.as_deref_mut(),
            pitches: ForwardPitches::default(),
        };
        let saved = run(io)?;
        Ok((Output { y, sum }, saved))
    }

    async fn on_gpu<O: Element, S>(
        &self,
        norm: &gpu::Norm,
        queue: &wgpu::Queue,
        run: impl FnOnce(&mut CommandEncoder, &gpu::Forward<'_>) -> Result<S, Error>,
    ) -> Result<(Output<I, O>, S), Error> {
        let len = check_slices(self.tensor, self.x, self.residual)? as u64;
        let device = norm.context().device();
        let x = upload(device, "x", self.x)?;
        let residual = self.residual.map(|r| upload(device, "residual", r)).transpose()?;
        let (y_bytes, sum_bytes) = (len * O::DTYPE.size(), len * I::DTYPE.size());
        let y = poisoned(device, "y", y_bytes)?;
        let sum = if self.has_sum() { Some(poisoned(device, "sum", sum_bytes)?) } else { None };
        let io = gpu::Forward {
            x: x.as_entire_buffer_binding(),
            residual: residual.as_ref().map(|b| b.as_entire_buffer_binding()),
            y: y.as_entire_buffer_binding(),
            sum: sum.as_ref().map(|b| b.as_entire_buffer_binding()),
            y_dtype: Some(O::DTYPE),
            pitches: ForwardPitches::default(),
        };
        let mut encoder = commands(device);
        let saved = run(&mut encoder, &io)?;
        let y = Staging::copy(device, &mut encoder, &y, y_bytes)?;
        let sum = sum.map(|s| Staging::copy(device, &mut encoder, &s, sum_bytes)).transpose()?;
        let copies: Vec<&Staging> = [Some(&y), sum.as_ref()].into_iter().flatten().collect();
        let results = read(device, queue, encoder, &copies).await?;
        Ok((Output { y: elements(&results[0]), sum: results.get(1).map(|b| elements(b)) }, saved))
    }
}

/// Checks types and lengths; returns the length.
pub(super) fn check_slices<I: Element>(
    tensor: &TensorDescriptor,
    x: &[I],
    residual: Option<&[I]>,
) -> Result<usize, Error> {
    let expected = tensor.len()?;
    for (name, slice) in [("x", Some(x)), ("residual", residual)] {
        let Some(slice) = slice else { continue };
        if I::DTYPE != tensor.dtype {
            return Err(Error::DType { name, expected: tensor.dtype, actual: I::DTYPE });
        }
        check_len(name, Some(slice.len()), expected)?;
    }
    Ok(expected as usize)
}
