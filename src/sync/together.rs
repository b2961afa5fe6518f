//! Several layers in one exchange.

use super::exchange::{OnTheWay, Word, all_reduce, all_reduce_alike};
use super::layer::{SyncBatchNorm, check_values, settings};
use crate::element::Element;
use crate::error::Error;
use crate::host::{Backward, Output, OutputGradients, Saved};
use crate::op::{Commit, Fusion, Gradients};
use crate::tensor::TensorDescriptor;
use futures_util::future::join_all;
use std::sync::Arc;

/// One layer's part of [`forward_train_together`]: the arguments of [`SyncBatchNorm::forward_train`].
#[derive(Debug)]
pub struct ForwardPart<'a, I> {
    /// The layer.
    pub layer: &'a mut SyncBatchNorm,
    /// What x is.
    pub tensor: &'a TensorDescriptor<'a>,
    /// Residual and ReLU.
    pub fusion: Fusion,
    /// This member's shard.
    pub x: &'a [I],
    /// In the shape of x, if `fusion` has one.
    pub residual: Option<&'a [I]>,
}

/// One layer's part of [`backward_together`]: the arguments of [`SyncBatchNorm::backward`].
#[derive(Debug)]
pub struct BackwardPart<'a, I, O> {
    /// The layer.
    pub layer: &'a SyncBatchNorm,
    /// What the forward pass returned.
    pub saved: Saved,
    /// What the pass reads.
    pub io: Backward<'a, I, O>,
}

/// [`SyncBatchNorm::forward_train`] of layers whose inputs do not depend on each other (the branches of a block,
/// several towers) in one exchange: the group waits for its slowest member once, not once a layer.
///
/// All members pass the same layers in the same order. Results are those of calls one by one, bit for bit, and in
/// the order of `parts`. An error in one layer is an error of the call, and no layer's running statistics change, unless
/// it comes after the exchange: a device that has no memory for one layer's output may have updated another's, as other
/// members have.
/// [`Error::Unexpected`] for a layer of another group than the first one's.
pub async fn forward_train_together<I: Element, O: Element>(
    parts: &mut [ForwardPart<'_, I>],
    commit: Commit,
) -> Result<Vec<(Output<I, O>, Saved)>, Error> {
    let Some(first) = parts.first() else { return Ok(Vec::new()) };
    let group = first.layer.group.clone();
    let member = OnTheWay::to_exchange(&*group);
    let local = parts.iter().map(|p| p.layer.norm.local_moments(p.tensor, p.fusion, p.x, p.residual));
    let local = join_all(local).await.into_iter().collect();
    let local =
        one_group(parts.iter().map(|p| &*p.layer)).and(parts.iter().try_for_each(ForwardPart::check)).and(local);
    member.arrived();
    let settings: Vec<Word> = parts.iter().flat_map(|p| settings(p.layer.norm.descriptor(), commit)).collect();
    let merged = all_reduce_alike(&*group, I::DTYPE, local, &settings).await?;
    for (part, moments) in parts.iter().zip(&merged) {
        check_values(moments, part.tensor)?;
    }
    let passes = parts
        .iter_mut()
        .zip(&merged)
        .map(|(p, m)| p.layer.norm.forward_train_with(p.tensor, p.fusion, p.x, p.residual, m, commit));
    join_all(passes).await.into_iter().collect()
}

/// [`SyncBatchNorm::backward`] of several layers in one exchange, as [`forward_train_together`].
pub async fn backward_together<I: Element, O: Element>(
    parts: Vec<BackwardPart<'_, I, O>>,
    wanted: Gradients,
) -> Result<Vec<OutputGradients<I>>, Error> {
    let Some(first) = parts.first() else { return Ok(Vec::new()) };
    let group = first.layer.group.clone();
    let member = OnTheWay::to_exchange(&*group);
    let local = parts.iter().map(|p| p.layer.norm.local_gradient_sums(&p.saved, p.io));
    let local: Result<Vec<_>, Error> = join_all(local).await.into_iter().collect();
    let local = one_group(parts.iter().map(|p| p.layer)).and(parts.iter().try_for_each(|p| p.check(wanted))).and(local);
    let (sums, affine): (Result<Vec<_>, Error>, Vec<_>) = match local {
        Ok(local) => {
            let (sums, affine) = local.into_iter().unzip();
            (Ok(sums), affine)
        }
        Err(error) => (Err(error), Vec::new()),
    };
    member.arrived();
    let merged = all_reduce(&*group, I::DTYPE, sums).await?;
    let passes = parts.into_iter().zip(&merged).zip(affine).map(async |((p, sums), (dweight, dbias))| {
        let BackwardPart { layer, saved, io } = p;
        let mut gradients = layer.norm.backward_with(saved, io, wanted, sums).await?;
        if wanted.affine {
            (gradients.dweight, gradients.dbias) = (dweight, dbias);
        }
        Ok(gradients)
    });
    join_all(passes).await.into_iter().collect()
}

impl<I> ForwardPart<'_, I> {
    /// What the last step would find wrong and the first step does not need: nobody may go ahead without the others.
    fn check(&self) -> Result<(), Error> {
        self.fusion.check_residual(self.residual.is_some())
    }
}

impl<I, O> BackwardPart<'_, I, O> {
    /// As [`ForwardPart::check`].
    fn check(&self, wanted: Gradients) -> Result<(), Error> {
        let fusion = self.saved.problem().fusion;
        fusion.check_backward(wanted, self.io.residual.is_some(), self.io.dsum.is_some())
    }
}

fn one_group<'a>(mut layers: impl Iterator<Item = &'a SyncBatchNorm>) -> Result<(), Error> {
    let Some(first) = layers.next() else { return Ok(()) };
    if layers.all(|layer| Arc::ptr_eq(&layer.group, &first.group)) {
        return Ok(());
    }
    Err(Error::Unexpected { name: "a layer", reason: "it belongs to another group than the first layer" })
}
