//! The steps of a synchronised batch norm: local sums, and the passes with those of the group.

use super::backward::{self, Outputs, Projects};
use super::forward;
use super::io::{Backward, Forward, check_len};
use super::leaf::Gradient;
use super::norm::{Norm, add_residual};
use super::running;
use super::saved::Saved;
use super::source::SumsOf;
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::norm::NormDescriptor;
use crate::op::{Commit, Direction, Fusion, Gradients, Op, Residual, Statistics};
use crate::plan::Tree;
use crate::profile::Profile;
use crate::sums::GradientSums;
use crate::tensor::TensorDescriptor;

impl Norm {
    pub(super) fn typed_local_moments<I: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
    ) -> Result<Vec<Moments>, Error> {
        self.check_batch()?;
        let op = Op::LocalSums(Direction::Forward);
        let call = self.call::<I, I>(tensor, fusion, Statistics::Batch, op)?;
        check_len("x", Some(x.len()), call.problem.layout.elements)?;
        if x.is_empty() {
            return Ok(vec![Moments::EMPTY; self.descriptor().affine_len() as usize]);
        }
        if fusion.residual != Residual::Before {
            return Ok(forward::moments(call.exec, &call.grid, x, true));
        }
        let Some(residual) = residual else {
            return Err(Error::Missing { name: "residual", hint: "the call's Fusion adds one" });
        };
        check_len("residual", Some(residual.len()), call.problem.layout.elements)?;
        let mut sum = x.to_vec();
        forward::add(call.exec, x, residual, &mut sum);
        Ok(forward::moments(call.exec, &call.grid, &sum, true))
    }

    pub(super) fn typed_forward_train_with<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        mut io: Forward<'_, I, O>,
        moments: &[Moments],
        commit: Commit,
    ) -> Result<Saved, Error> {
        self.check_batch()?;
        check_len("the group's sums", Some(moments.len()), self.descriptor().affine_len())?;
        let call = self.call::<I, O>(tensor, fusion, Statistics::Batch, Op::ApplyMoments)?;
        io.check(call.problem.layout.elements, fusion, true)?;
        let stats = self.stats(moments);
        if call.problem.layout.elements > 0 {
            add_residual(&call, &mut io);
            self.write(&call, &stats, io);
        }
        let how = self.descriptor().running_stats();
        if let (Commit::Update, Some(how), Some(running)) = (commit, how, &mut self.state_mut().running) {
            running::update(running, how, moments);
        }
        Ok(self.keep(&call, stats))
    }

    pub(super) fn typed_local_gradient_sums<I: Element, O: Element>(
        &self,
        saved: &Saved,
        io: &Backward<'_, I, O>,
    ) -> Result<Vec<GradientSums>, Error> {
        let call = self.check_backward(saved, io, Op::LocalSums(Direction::Backward))?;
        if call.problem.layout.elements == 0 {
            return Ok(vec![GradientSums::default(); self.descriptor().affine_len() as usize]);
        }
        let coefficients = self.coefficients(&call.grid, &saved.stats);
        let fusion = call.problem.fusion;
        let gradient = Gradient { x: io.x, dy: io.dy, relu: fusion.relu, residual: io.residual };
        let source = SumsOf { gradient, grid: &call.grid, coefficients: &coefficients };
        let walk = &call.problem.layout.affine;
        let down = Tree::new(walk, &Profile::CPU).leaf_len() as usize;
        let reduced = backward::reduce(call.exec, source, (false, true), down);
        let count = walk.count() as u32;
        let sums = |(&sum_dy, &sum_dy_xhat)| GradientSums { count, sum_dy, sum_dy_xhat, reserved: 0.0 };
        Ok(reduced.bias.iter().zip(&reduced.weight).map(sums).collect())
    }

    pub(super) fn typed_backward_with<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
        sums: &[GradientSums],
    ) -> Result<(), Error> {
        check_len("the group's sums", Some(sums.len()), self.descriptor().affine_len())?;
        let wanted = Gradients { dx: io.dx.is_some(), dresidual: io.dresidual.is_some(), affine: false };
        let call = self.check_backward(&saved, &io, Op::ApplyGradientSums(wanted))?;
        if call.problem.layout.elements == 0 {
            return Ok(());
        }
        let mut coefficients = self.coefficients(&call.grid, &saved.stats);
        let weighted: Vec<[f32; 2]> = sums
            .iter()
            .zip(coefficients.weight.iter())
            .map(|(s, &weight)| [s.sum_dy * weight, s.sum_dy_xhat * weight])
            .collect();
        coefficients.project(&call.grid, &weighted, sums.first().map_or(1, |s| s.count.max(1)).into());
        let gradient = Gradient { x: io.x, dy: io.dy, relu: call.problem.fusion.relu, residual: io.residual };
        let source = SumsOf { gradient, grid: &call.grid, coefficients: &coefficients };
        let projects = Projects { g: true, gx: true };
        backward::write(call.exec, source, io.dsum, projects, Outputs { dx: io.dx, dresidual: io.dresidual });
        Ok(())
    }

    fn check_batch(&self) -> Result<(), Error> {
        match self.descriptor() {
            NormDescriptor::Batch(_) => Ok(()),
            _ => {
                let reason = "only batch norm has statistics over the batch";
                Err(Error::Unexpected { name: "a synchronised call", reason })
            }
        }
    }
}
