//! The steps of a synchronised batch norm on slices; [`SyncBatchNorm`](crate::sync::SyncBatchNorm) joins them.

use super::backward::{Backward, OutputGradients};
use super::device::{commands, read_sums, upload};
use super::forward::check_slices;
use super::layer::{Kept, Layer, Norm, Saved};
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::op::{Fusion, Gradients};
use crate::sums::GradientSums;
use crate::tensor::{ForwardPitches, TensorDescriptor};
use crate::{cpu, gpu};

/// dweight and dbias of a member's own shard.
pub type LocalAffine = (Option<Vec<f32>>, Option<Vec<f32>>);

impl Norm {
    /// First step, forward: moments of this shard, one a channel. The shard may be empty (N = 0). [`Error::Unexpected`] for
    /// other norms than batch norm; others as [`Norm::forward_train`].
    pub async fn local_moments<I: Element>(
        &self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
    ) -> Result<Vec<Moments>, Error> {
        check_slices(tensor, x, residual)?;
        match &self.0 {
            Layer::Cpu(norm) => norm.local_moments(tensor, fusion, x, residual, &ForwardPitches::default()),
            Layer::Gpu { norm, queue } => {
                let device = norm.context().device();
                let x = upload(device, "x", x)?;
                let residual = residual.map(|r| upload(device, "residual", r)).transpose()?;
                let mut encoder = commands(device);
                let residual = residual.as_ref().map(|b| b.as_entire_buffer_binding());
                let x = x.as_entire_buffer_binding();
                let moments =
                    norm.local_moments(&mut encoder, tensor, fusion, x, residual, &ForwardPitches::default())?;
                read_sums(device, queue, encoder, &moments).await
            }
        }
    }

    /// First step, backward: sums of this shard, and from them its own dweight and dbias, for which `dsum` is not needed.
    /// Errors as [`Norm::backward`]; [`Error::Foreign`] also if `saved` is not from [`Norm::forward_train_with`].
    pub async fn local_gradient_sums<I: Element, O: Element>(
        &self,
        saved: &Saved,
        io: Backward<'_, I, O>,
    ) -> Result<(Vec<GradientSums>, LocalAffine), Error> {
        io.check(saved)?;
        let Backward { x, residual, dy, .. } = io;
        let affine = self.descriptor().affine();
        let sums: Vec<GradientSums> = match (&self.0, &saved.0) {
            (Layer::Cpu(norm), Kept::Cpu(saved)) => {
                norm.local_gradient_sums(saved, cpu::Backward { residual, ..cpu::Backward::new(x, dy) })?
            }
            (Layer::Gpu { norm, queue }, Kept::Gpu(saved)) => {
                let device = norm.context().device();
                let (x, dy) = (upload(device, "x", x)?, upload(device, "dy", dy)?);
                let residual = residual.map(|r| upload(device, "residual", r)).transpose()?;
                let io = gpu::Backward {
                    moved: true,
                    residual: residual.as_ref().map(|b| b.as_entire_buffer_binding()),
                    ..gpu::Backward::new(x.as_entire_buffer_binding(), dy.as_entire_buffer_binding())
                };
                let mut encoder = commands(device);
                let sums = norm.local_gradient_sums(&mut encoder, saved, &io)?;
                read_sums(device, queue, encoder, &sums).await?
            }
            _ => return Err(Error::Foreign { what: "backend" }),
        };
        let vector = |of: fn(&GradientSums) -> f32| sums.iter().map(of).collect();
        let dweight = affine.weight.then(|| vector(|s| s.sum_dy_xhat));
        let dbias = affine.bias.then(|| vector(|s| s.sum_dy));
        Ok((sums, (dweight, dbias)))
    }

    /// Last step, backward: dx (and dresidual) from the sums of the whole group. dweight and dbias are the
    /// first step's. Errors as there; [`Error::Length`] if the sums are not one a channel.
    pub async fn backward_with<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
        wanted: Gradients,
        sums: &[GradientSums],
    ) -> Result<OutputGradients<I>, Error> {
        let wanted = Gradients { affine: false, ..wanted };
        self.gradients(saved, io, wanted, Some(sums)).await
    }
}
