//! The steps of a synchronised batch norm: local sums, and the passes with those of the group.

use super::call::{From, Types};
use super::forward;
use super::input::Place;
use super::io::{Backward, Forward, Source};
use super::norm::Norm;
use super::params::Affine;
use super::saved::{Saved, Stat};
use super::way::Way;
use crate::error::{Error, check_len};
use crate::moments::Moments;
use crate::op::{Commit, Direction, Fusion, Gradients, Op, Statistics};
use crate::plan::Tensor;
use crate::sums::GradientSums;
use crate::tensor::{DType, ForwardPitches, Pitch, TensorDescriptor};

impl Norm {
    pub(super) fn any_local_moments(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        (x, residual): (&[u8], Option<&[u8]>),
        pitches: &ForwardPitches,
        dtype: DType,
    ) -> Result<Vec<Moments>, Error> {
        self.descriptor().check_batch()?;
        let op = Op::LocalSums(Direction::Forward);
        // The sum is this call's own, and lies in memory without gaps.
        let pitches = ForwardPitches { sum: Pitch::default(), ..*pitches };
        let io = Forward { residual: residual.map(Source::From), pitches, ..Forward::new(x, &mut []) };
        let call = self.forward_call(tensor, fusion, Statistics::Batch, op, &io, (dtype, dtype))?;
        let residual = fusion.residual_of_moments(residual)?;
        let before = residual.is_some();
        super::io::check_tensor(&call.problem, Tensor::Input, dtype, Some(x.len()))?;
        super::io::check_tensor(&call.problem, Tensor::Residual, dtype, residual.map(<[u8]>::len))?;
        if call.problem.layout.elements == 0 {
            return Ok(vec![Moments::EMPTY; self.descriptor().affine_len() as usize]);
        }
        // Words, which are aligned for every element type.
        let words = if before { (call.problem.layout.elements * dtype.size()).div_ceil(4) } else { 0 };
        let mut memory = vec![0u32; words as usize];
        // SAFETY: `Pass` has tasks with areas of their own.
        let sum = unsafe { call.output(Tensor::SecondOutput, bytemuck::cast_slice_mut(&mut memory), Way::Cached) };
        let x = Place::In(call.input(Tensor::Input, x));
        let residual = residual.map(|bytes| Place::In(call.input(Tensor::Residual, bytes)));
        let pass = forward::Pass {
            exec: call.exec,
            grid: &call.grid,
            centred: true,
            eps: self.descriptor().eps(),
            relu: false,
            affine: Affine::new(&call.grid, None, None),
            x: if before { Place::Own(&sum) } else { x },
            residual: None,
            sum: residual.map(|residual| (x, residual, &sum)),
            y: None,
        };
        pass.add();
        Ok(pass.moments())
    }

    pub(super) fn any_forward_train_with(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        moments: &[Moments],
        commit: Commit,
        types: Types,
    ) -> Result<Saved, Error> {
        self.descriptor().check_batch()?;
        check_len("the group's sums", Some(moments.len()), self.descriptor().affine_len())?;
        let call = self.forward_call(tensor, fusion, Statistics::Batch, Op::ApplyMoments, &io, types)?;
        io.check(&call.problem, true)?;
        let stats: Vec<Stat> = moments.iter().map(|m| Stat::new(m, self.descriptor.eps())).collect();
        if call.problem.layout.elements > 0 {
            self.run(&call, io, From::Given(&stats));
        }
        self.commit(moments, commit);
        Ok(self.keep(&call, stats))
    }

    pub(super) fn any_local_gradient_sums(
        &self,
        saved: &Saved,
        io: Backward<'_, u8, u8>,
        types: Types,
    ) -> Result<Vec<GradientSums>, Error> {
        let call = self.backward_call(saved, &io, Op::LocalSums(Direction::Backward), types)?;
        if call.problem.layout.elements == 0 {
            return Ok(vec![GradientSums::default(); self.descriptor().affine_len() as usize]);
        }
        let only_sums = Backward { dsum: None, dx: None, dresidual: None, ..io };
        let sums = self.run_backward(&call, saved, only_sums, true, None);
        let count = call.problem.layout.affine.count() as u32;
        let sums_of = |(&sum_dy, &sum_dy_xhat)| GradientSums { count, sum_dy, sum_dy_xhat, reserved: 0.0 };
        Ok(sums.bias().iter().zip(sums.weight()).map(sums_of).collect())
    }

    pub(super) fn any_backward_with(
        &self,
        saved: Saved,
        io: Backward<'_, u8, u8>,
        sums: &[GradientSums],
        types: Types,
    ) -> Result<(), Error> {
        check_len("the group's sums", Some(sums.len()), self.descriptor().affine_len())?;
        let wanted = Gradients { dx: io.dx.is_some(), dresidual: io.dresidual.is_some(), affine: false };
        let call = self.backward_call(&saved, &io, Op::ApplyGradientSums(wanted), types)?;
        if call.problem.layout.elements == 0 {
            return Ok(());
        }
        let weights = Affine::new(&call.grid, self.state.weight.as_deref(), None).weight;
        let mean = |of: fn(&GradientSums) -> f32| -> Vec<f32> {
            sums.iter().zip(weights.iter()).map(|(s, weight)| of(s) * weight / s.count.max(1) as f32).collect()
        };
        let given = [&mean(|s| s.sum_dy)[..], &mean(|s| s.sum_dy_xhat)];
        self.run_backward(&call, &saved, io, false, Some(given));
        Ok(())
    }
}
