//! A golden case's layer, alone or as a member of a group, and what the members computed put together.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use super::conformance::{Computed, Step, state};
use super::golden::Case;
use std::sync::Arc;
use wgpu_norm::host::{Backend, Backward, Norm, Output, OutputGradients, Saved};
use wgpu_norm::sync::{LocalMember, SyncBatchNorm};
use wgpu_norm::{Commit, Element, Error, Fusion, Gradients, TensorDescriptor};

pub enum Layer {
    Alone(Norm),
    Member(SyncBatchNorm),
}

impl Layer {
    pub fn alone(backend: &Backend, case: &Case) -> Result<Layer, Error> {
        Ok(Layer::Alone(Norm::with_state(backend, case.descriptor.clone(), state(case))?))
    }

    pub fn of(member: LocalMember, backend: &Backend, case: &Case) -> Result<Layer, Error> {
        let norm = Norm::with_state(backend, case.descriptor.clone(), state(case))?;
        Ok(Layer::Member(SyncBatchNorm::new(norm, Arc::new(member))?))
    }

    pub fn norm(&self) -> &Norm {
        match self {
            Layer::Alone(norm) => norm,
            Layer::Member(norm) => norm.norm(),
        }
    }

    pub async fn forward_train<T: Element>(
        &mut self,
        tensor: &TensorDescriptor<'_>,
        fusion: Fusion,
        x: &[T],
        residual: Option<&[T]>,
        commit: Commit,
    ) -> Result<(Output<T, T>, Saved), Error> {
        match self {
            Layer::Alone(norm) => norm.forward_train(tensor, fusion, x, residual, commit).await,
            Layer::Member(norm) => norm.forward_train(tensor, fusion, x, residual, commit).await,
        }
    }

    pub async fn backward<T: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, T, T>,
        wanted: Gradients,
    ) -> Result<OutputGradients<T>, Error> {
        match self {
            Layer::Alone(norm) => norm.backward(saved, io, wanted).await,
            Layer::Member(norm) => norm.backward(saved, io, wanted).await,
        }
    }
}

/// Elements by rank one after the other, gradients of weight and bias summed, as the optimiser does; statistics
/// are the same on all members, and running statistics must be to the bit.
pub fn join(members: Vec<Computed>) -> Result<Computed, Error> {
    let mut members = members.into_iter();
    let Some(mut whole) = members.next() else { return Err(Error::Empty { what: "the group" }) };
    for (rank, member) in members.enumerate() {
        if member.running != whole.running {
            let text = format!("the running statistics of rank {} are not those of rank 0", rank + 1);
            return Err(Error::Communication(text));
        }
        for (all, step) in whole.steps.iter_mut().zip(member.steps) {
            let Step { y, y_kept, dx, dresidual, dweight, dbias, .. } = step;
            all.y.extend(y);
            for (all, part) in [(&mut all.y_kept, y_kept), (&mut all.dx, dx), (&mut all.dresidual, dresidual)] {
                all.iter_mut().for_each(|all| all.extend(part.iter().flatten()));
            }
            for (all, part) in [(&mut all.dweight, dweight), (&mut all.dbias, dbias)] {
                let sums = all.iter_mut().flatten().zip(part.into_iter().flatten());
                sums.for_each(|(all, part)| *all += part);
            }
        }
    }
    Ok(whole)
}
