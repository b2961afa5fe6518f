//! Calls on bytes: checked, then run.

use super::exec::Exec;
use super::grid::Grid;
use super::io::{Backward, Forward, Source};
use super::memory::input::{Input, Place};
use super::memory::output::Output;
use super::memory::store_policy::StorePolicy;
use super::norm::Norm;
use super::pass::params::{Affine, StatVectors};
use super::pass::{backward, forward};
use super::reduce::source::GradientOf;
use super::running;
use super::saved::{Saved, Stat};
use crate::error::Error;
use crate::moments::Moments;
use crate::op::{Commit, Fusion, Op, Residual, Statistics};
use crate::plan::{Problem, Tensor};
use crate::tensor::{DType, TensorDescriptor};

/// Element types of x and y.
pub(super) type Types = (DType, DType);

/// A call that has been checked.
pub(super) struct Call {
    /// What is computed.
    pub problem: Problem,
    /// How work is dealt out.
    pub grid: Grid,
    pub exec: Exec,
    /// How an output that will not be read again in this call is written.
    policy: StorePolicy,
}

/// Where a forward pass's statistics come from.
pub(super) enum StatsSource<'a> {
    /// The input itself.
    Input,
    /// Somewhere else.
    Given(&'a [Stat]),
}

impl Call {
    fn new(norm: &Norm, problem: Problem, policy: StorePolicy) -> Result<Call, Error> {
        let elements = problem.layout.elements;
        let limit = isize::MAX as u64;
        if elements > limit {
            return Err(Error::TooLarge { what: "elements of a slice", required: elements, limit });
        }
        let (statistics, limit) = (problem.layout.stats.targets(), u32::MAX.into());
        if statistics > limit {
            return Err(Error::TooLarge { what: "statistics of one call", required: statistics, limit });
        }
        norm.state.check(&norm.descriptor)?;
        let exec = Exec::new(norm.level, elements as usize);
        Ok(Call { problem, grid: Grid::new(&problem, policy), exec, policy })
    }

    pub fn input<'a>(&self, tensor: Tensor, bytes: &'a [u8]) -> Input<'a> {
        let rows = self.grid.rows_of(self.problem.memory(tensor));
        Input { dtype: self.problem.dtype(tensor), bytes, rows }
    }

    /// # Safety
    ///
    /// As [`Output::new`]. The passes of `forward` and `backward` keep the promise: each of their tasks has rows of its
    /// own.
    pub unsafe fn output<'a>(&self, tensor: Tensor, bytes: &'a mut [u8], policy: StorePolicy) -> Output<'a> {
        let rows = self.grid.rows_of(self.problem.memory(tensor));
        // SAFETY: the caller's promise.
        unsafe { Output::new(self.problem.dtype(tensor), bytes, rows, policy) }
    }
}

impl Norm {
    pub(super) fn forward_train_bytes(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        commit: Commit,
        types: Types,
    ) -> Result<Saved, Error> {
        let call = self.forward_call(tensor, fusion, Statistics::Batch, Op::Forward, &io, types)?;
        io.check(&call.problem, true)?;
        let (moments, stats) = self.run(&call, io, StatsSource::Input);
        self.commit(&moments, commit);
        Ok(self.keep(&call, stats))
    }

    /// Takes a batch's moments into the running statistics.
    pub(super) fn commit(&mut self, moments: &[Moments], commit: Commit) {
        if let (Commit::Update, Some(how), Some(running)) =
            (commit, self.descriptor.running_stats(), &mut self.state.running)
        {
            running::update(running, how, moments);
        }
    }

    pub(super) fn forward_eval_bytes(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        types: Types,
    ) -> Result<(), Error> {
        self.evaluate(tensor, fusion, io, types, false).map(|_| ())
    }

    pub(super) fn forward_frozen_bytes(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        types: Types,
    ) -> Result<Saved, Error> {
        let (call, stats) = self.evaluate(tensor, fusion, io, types, true)?;
        Ok(self.keep(&call, stats))
    }

    fn evaluate(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        types: Types,
        backward_follows: bool,
    ) -> Result<(Call, Vec<Stat>), Error> {
        // A frozen layer has running statistics, or it is an error.
        let statistics = if backward_follows { Statistics::Running } else { self.descriptor.evaluation() };
        let call = self.forward_call(tensor, fusion, statistics, Op::Forward, &io, types)?;
        io.check(&call.problem, backward_follows)?;
        let stats = match &self.state.running {
            Some(running) => {
                let eps = self.descriptor.eps();
                let channels = running.running_mean.iter().zip(&running.running_var);
                let stats: Vec<Stat> = channels.map(|(&mean, &var)| Stat::given(mean, var, eps)).collect();
                self.run(&call, io, StatsSource::Given(&stats));
                stats
            }
            None => self.run(&call, io, StatsSource::Input).1,
        };
        Ok((call, stats))
    }

    pub(super) fn backward_bytes(&self, saved: Saved, mut io: Backward<'_, u8, u8>, types: Types) -> Result<(), Error> {
        let wanted = io.wanted();
        let call = self.backward_call(&saved, &io, Op::Backward(wanted), types)?;
        let (dweight, dbias) = (io.dweight.take(), io.dbias.take());
        let affine = self.run_backward(&call, &saved, io, wanted.affine, None);
        copy(dweight, affine.weight());
        copy(dbias, affine.bias());
        Ok(())
    }

    pub(super) fn forward_call(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        statistics: Statistics,
        op: Op,
        io: &Forward<'_, u8, u8>,
        (input, output): Types,
    ) -> Result<Call, Error> {
        if tensor.dtype != input {
            return Err(Error::DType { name: "x", expected: tensor.dtype, actual: input });
        }
        let problem = Problem::new(&self.descriptor, tensor, statistics, fusion, op)?;
        let problem = Problem { output, ..problem.with_forward_pitches(&io.pitches)? };
        Call::new(self, problem, io.policy(&problem))
    }

    pub(super) fn backward_call(
        &self,
        saved: &Saved,
        io: &Backward<'_, u8, u8>,
        op: Op,
        (input, output): Types,
    ) -> Result<Call, Error> {
        self.check_own(saved)?;
        let problem = saved.problem.backward(op)?.with_backward_pitches(&io.pitches)?;
        problem.check_types(input, output)?;
        problem.affine.check(["dweight", "dbias"], [io.dweight.is_some(), io.dbias.is_some()])?;
        io.check(&problem, self.descriptor.affine_len())?;
        Call::new(self, problem, io.policy(&problem))
    }

    /// Checks that `saved` is this layer's.
    pub(crate) fn check_own(&self, saved: &Saved) -> Result<(), Error> {
        if saved.layer == self.id { Ok(()) } else { Err(Error::Foreign { what: "layer" }) }
    }

    /// y, and the statistics that it is made with if they are the input's own.
    pub(super) fn run(&self, call: &Call, io: Forward<'_, u8, u8>, from: StatsSource) -> (Vec<Moments>, Vec<Stat>) {
        let fusion = call.problem.fusion;
        // SAFETY: `Pass` has tasks with areas of their own.
        let y = unsafe { call.output(Tensor::Output, io.y, call.policy) };
        // What is not held is read again.
        let holds_sum = matches!(from, StatsSource::Input) && forward::holds(&call.grid);
        let sum_policy = if holds_sum { call.policy } else { StorePolicy::Cached };
        // SAFETY: as above.
        let sum = io.sum.map(|sum| unsafe { call.output(Tensor::SecondOutput, sum, sum_policy) });
        let place = |source, tensor| match (source, &sum) {
            (Source::From(bytes), _) => Place::In(call.input(tensor, bytes)),
            (Source::InSum, Some(sum)) => Place::Own(sum),
            // Without a sum nothing is in it: see `Forward::check`.
            (Source::InPlace | Source::InSum, _) => Place::Own(&y),
        };
        let x = place(io.x, Tensor::Input);
        let residual = io.residual.map(|source| place(source, Tensor::Residual));
        let before = fusion.residual == Residual::Before;
        let added = residual.zip(sum.as_ref()).filter(|_| before).map(|(residual, sum)| (x, residual, sum));
        let pass = forward::Pass {
            exec: call.exec,
            grid: &call.grid,
            centred: call.problem.centred,
            eps: self.descriptor.eps(),
            relu: fusion.relu,
            affine: &self.affine(&call.grid),
            x: added.map_or(x, |(_, _, sum)| Place::Own(sum)),
            residual: residual.filter(|_| !before),
            sum: added,
            y: Some(&y),
        };
        match from {
            StatsSource::Input => pass.run(),
            StatsSource::Given(stats) => {
                pass.add();
                pass.write(stats);
                Default::default()
            }
        }
    }

    /// dx and dresidual, and sums for weight and bias if `affine`. `given`: the group's means of the gradient, in
    /// place of the tensor's own.
    pub(super) fn run_backward(
        &self,
        call: &Call,
        saved: &Saved,
        io: Backward<'_, u8, u8>,
        affine: bool,
        given: Option<[&[f32]; 2]>,
    ) -> backward::AffineGradients {
        let (problem, grid) = (&call.problem, &call.grid);
        let Backward { x, dy, residual, dsum, dx, dresidual, .. } = io;
        let (x, dy) = (call.input(Tensor::Input, x), call.input(Tensor::Gradient, dy));
        let [residual, dsum] = [residual, dsum].map(|bytes| Some(call.input(Tensor::Residual, bytes?)));
        let policy = call.policy;
        // SAFETY: `Pass` has tasks with areas of their own.
        let dx = dx.map(|bytes| unsafe { call.output(Tensor::Output, bytes, policy) });
        // SAFETY: as above.
        let dresidual = dresidual.map(|bytes| unsafe { call.output(Tensor::SecondOutput, bytes, policy) });
        let vectors = StatVectors::new(grid, &saved.stats);
        let weights = self.affine(grid);
        let pass = backward::Pass {
            exec: call.exec,
            grid,
            centred: problem.centred,
            gradient: GradientOf { grid, x, dy, residual, relu: problem.fusion.relu, affine: &weights },
            stats: &vectors,
            count: problem.layout.stats.count() as f32,
            projects: dx.is_some() && problem.statistics == Statistics::Batch,
            affine,
            dsum,
            dx: dx.as_ref(),
            dresidual: dresidual.as_ref(),
        };
        match given {
            None => pass.run(),
            Some(projection) => {
                pass.write(projection);
                backward::AffineGradients::default()
            }
        }
    }

    fn affine(&self, grid: &Grid) -> Affine<'_> {
        Affine::new(grid, self.state.weight.as_deref(), self.state.bias.as_deref())
    }

    pub(super) fn keep(&self, call: &Call, stats: Vec<Stat>) -> Saved {
        Saved { layer: self.id, problem: call.problem, stats }
    }
}

fn copy(to: Option<&mut [f32]>, from: &[f32]) {
    if let Some(to) = to {
        to.copy_from_slice(from);
    }
}
