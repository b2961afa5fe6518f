//! The steps of a synchronised batch norm: local sums, and the passes with those of the group.

use super::call::{StatsSource, Types};
use super::io::{Backward, Forward, Source};
use super::memory::input::Place;
use super::memory::store_policy::StorePolicy;
use super::norm::Norm;
use super::pass::forward;
use super::pass::params::Affine;
use super::saved::{Saved, Stat};
use crate::error::Error;
use crate::moments::Moments;
use crate::op::{Commit, Direction, Fusion, Gradients, Op, Statistics};
use crate::plan::Tensor;
use crate::sums::{GradientSums, check_channels};
use crate::tensor::{DType, ForwardPitches, TensorDescriptor};

impl Norm {
    pub(super) fn local_moments_bytes(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        (x, residual): (&[u8], Option<&[u8]>),
        pitches: &ForwardPitches,
        dtype: DType,
    ) -> Result<Vec<Moments>, Error> {
        self.descriptor().check_batch()?;
        let op = Op::LocalSums(Direction::Forward);
        let io =
            Forward { residual: residual.map(Source::From), pitches: pitches.of_inputs(), ..Forward::new(x, &mut []) };
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
        let sum =
            unsafe { call.output(Tensor::SecondOutput, bytemuck::cast_slice_mut(&mut memory), StorePolicy::Cached) };
        let x = Place::In(call.input(Tensor::Input, x));
        let residual = residual.map(|bytes| Place::In(call.input(Tensor::Residual, bytes)));
        let pass = forward::Pass {
            exec: call.exec,
            grid: &call.grid,
            centred: true,
            eps: self.descriptor().eps(),
            relu: false,
            affine: &Affine::new(&call.grid, None, None),
            x: if before { Place::Own(&sum) } else { x },
            residual: None,
            sum: residual.map(|residual| (x, residual, &sum)),
            y: None,
        };
        pass.add();
        Ok(pass.moments())
    }

    pub(super) fn forward_train_with_bytes(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        moments: &[Moments],
        commit: Commit,
        types: Types,
    ) -> Result<Saved, Error> {
        self.descriptor().check_batch()?;
        check_channels(moments.len(), self.descriptor())?;
        let call = self.forward_call(tensor, fusion, Statistics::Batch, Op::ApplyMoments, &io, types)?;
        io.check(&call.problem, true)?;
        let stats: Vec<Stat> = moments.iter().map(|m| Stat::new(m, self.descriptor.eps())).collect();
        if call.problem.layout.elements > 0 {
            self.run(&call, io, StatsSource::Given(&stats));
        }
        self.commit(moments, commit);
        Ok(self.keep(&call, stats))
    }

    pub(super) fn local_gradient_sums_bytes(
        &self,
        saved: &Saved,
        io: Backward<'_, u8, u8>,
        types: Types,
    ) -> Result<Vec<GradientSums>, Error> {
        // The rest is the last step's.
        let mut io = Backward { dsum: None, dx: None, dresidual: None, pitches: io.pitches.of_inputs(), ..io };
        let call = self.backward_call(saved, &io, Op::LocalSums(Direction::Backward), types)?;
        let (dweight, dbias) = (io.dweight.take(), io.dbias.take());
        let sums = if call.problem.layout.elements == 0 {
            vec![GradientSums::default(); self.descriptor().affine_len() as usize]
        } else {
            let sums = self.run_backward(&call, saved, io, true, None);
            let count = call.problem.layout.affine.count() as u32;
            let sums_of = |(&sum_dy, &sum_dy_xhat)| GradientSums::new(count, sum_dy, sum_dy_xhat);
            sums.bias().iter().zip(sums.weight()).map(sums_of).collect()
        };
        for (to, sum) in dweight.into_iter().flatten().zip(&sums) {
            *to = sum.sum_dy_xhat;
        }
        for (to, sum) in dbias.into_iter().flatten().zip(&sums) {
            *to = sum.sum_dy;
        }
        Ok(sums)
    }

    pub(super) fn backward_with_bytes(
        &self,
        saved: Saved,
        io: Backward<'_, u8, u8>,
        sums: &[GradientSums],
        types: Types,
    ) -> Result<(), Error> {
        check_channels(sums.len(), self.descriptor())?;
        let wanted = Gradients { affine: false, ..io.wanted() };
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
