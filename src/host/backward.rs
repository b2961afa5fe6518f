//! Backward passes on slices.

use super::device::{Staging, commands, elements, poisoned, read, upload, upload_sums};
use super::layer::{Kept, Layer, Norm, Saved};
use crate::element::Element;
use crate::error::{Error, check_len};
use crate::op::Gradients;
use crate::sums::GradientSums;
use crate::tensor::BackwardPitches;
use crate::{cpu, gpu};

/// Slices that a backward pass reads.
///
/// ```
/// # let (x, dy, other) = ([0.0f32; 4], [0.0f32; 4], [0.0f32; 4]);
/// use wgpu_norm::host::Backward;
/// let plain = Backward::new(&x, &dy);
/// let sum_used_elsewhere = Backward { dsum: Some(&other[..]), ..Backward::new(&x, &dy) };
/// ```
#[derive(Debug)]
pub struct Backward<'a, I, O> {
    /// x as in the forward pass; with [`Residual::Before`](crate::Residual::Before) the forward pass's sum.
    pub x: &'a [I],
    /// As in the forward pass, with [`Residual::After`](crate::Residual::After) and ReLU.
    pub residual: Option<&'a [I]>,
    /// Gradient of y.
    pub dy: &'a [O],
    /// Gradient of the sum's other uses, with [`Residual::Before`](crate::Residual::Before).
    pub dsum: Option<&'a [I]>,
}

impl<'a, I, O> Backward<'a, I, O> {
    /// x and dy; the rest is absent.
    pub fn new(x: &'a [I], dy: &'a [O]) -> Backward<'a, I, O> {
        Backward { x, residual: None, dy, dsum: None }
    }
}

impl<I: Element, O: Element> Backward<'_, I, O> {
    /// Checks types and lengths; returns the length.
    pub(super) fn check(&self, saved: &Saved) -> Result<usize, Error> {
        let problem = saved.problem();
        problem.check_types(I::DTYPE, O::DTYPE)?;
        let lens = [
            ("x", Some(self.x.len())),
            ("residual", self.residual.map(<[I]>::len)),
            ("dy", Some(self.dy.len())),
            ("dsum", self.dsum.map(<[I]>::len)),
        ];
        for (name, len) in lens {
            check_len(name, len, problem.layout.elements)?;
        }
        Ok(self.x.len())
    }
}

impl<I, O> Clone for Backward<'_, I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, O> Copy for Backward<'_, I, O> {}

/// What a backward pass returns: what was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputGradients<I> {
    /// Of x.
    pub dx: Option<Vec<I>>,
    /// Of the residual ([`Residual::After`](crate::Residual::After)).
    pub dresidual: Option<Vec<I>>,
    /// Of the weight; `None` if the layer has none.
    pub dweight: Option<Vec<f32>>,
    /// Of the bias; `None` if the layer has none.
    pub dbias: Option<Vec<f32>>,
}

impl Norm {
    /// Gradients; see [`gpu::Norm::backward`]. Slices have the types and the length of the forward pass's ([`Error::DType`],
    /// [`Error::Length`]). [`Error::Foreign`] if `saved` is of another layer or backend; [`Error::Missing`] and
    /// [`Error::Unexpected`] if the slices are not what its fusion asks for; [`Error::NewBuffer`] and [`Error::Readback`] if the
    /// device is out of memory or lost.
    /// An error, too, uses `saved` up.
    pub async fn backward<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
        wanted: Gradients,
    ) -> Result<OutputGradients<I>, Error> {
        self.gradients(saved, io, wanted, None).await
    }

    /// `sums`: those of the group, where the pass is synchronised.
    pub(super) async fn gradients<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
        wanted: Gradients,
        sums: Option<&[GradientSums]>,
    ) -> Result<OutputGradients<I>, Error> {
        let len = io.check(&saved)?;
        let Backward { x, residual, dy, dsum } = io;
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
                    moved: true,
                };
                let mut encoder = commands(device);
                match sums {
                    None => norm.backward_retained(&mut encoder, &saved, &io)?,
                    Some(sums) => {
                        let sums = upload_sums(norm, sums)?;
                        norm.record_backward_with(&mut encoder, &saved, &io, &sums)?;
                    }
                }
                let copies: Result<Vec<Staging>, Error> = buffers
                    .iter()
                    .zip(outputs)
                    .filter_map(|(b, (_, _, bytes))| b.as_ref().map(|b| Staging::copy(device, &mut encoder, b, bytes)))
                    .collect();
                let results = read(device, queue, encoder, &copies?.iter().collect::<Vec<_>>()).await?;
                // Not before the submission: another thread's call would take its memory and might submit first.
                drop(saved);
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
}
