//! The layer.

use super::apply::Row;
use super::backward::{self, Outputs, Projects};
use super::exec::Exec;
use super::forward::{self, Stat};
use super::grid::Grid;
use super::io::{Backward, Forward, Source};
use super::leaf::Gradient;
use super::running;
use super::saved::Saved;
use super::source::{Coefficients, SumsOf};
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::norm::NormDescriptor;
use crate::op::{Commit, Fusion, Gradients, Op, Residual, Statistics};
use crate::plan::{Plan, Problem, Tensor, Tree};
use crate::profile::Profile;
use crate::state::State;
use crate::tensor::TensorDescriptor;
use fearless_simd::Level;
use std::sync::atomic::{AtomicU64, Ordering};

/// A normalisation layer on the CPU.
///
/// Results have the same bits for any number of threads and any instruction set. Work is shared over rayon's
/// threads; to use fewer or others, call from inside `rayon::ThreadPool::install`. Small tensors stay on the
/// calling thread.
///
/// ```
/// use wgpu_norm::cpu::{Backward, Forward, Norm};
/// use wgpu_norm::{BatchNormDescriptor, Commit, Fusion, TensorDescriptor};
/// let mut layer = Norm::new(BatchNormDescriptor::new(2))?;
/// let batch = TensorDescriptor::new(&[3, 2]); // 3 samples of 2 channels
/// let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
/// let mut y = [0.0; 6];
/// let saved = layer.forward_train(&batch, Fusion::default(), Forward::new(&x, &mut y), Commit::Update)?;
/// assert_eq!(saved.mean(), [2.0, 20.0]);
/// assert!((y[0] + 1.2247).abs() < 1e-4 && y[2] == 0.0);
///
/// let (dy, mut dx) = ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0; 6]);
/// layer.backward(saved, Backward { dx: Some(&mut dx), ..Backward::new(&x, &dy) })?;
/// assert!((dx[0] + dx[2] + dx[4]).abs() < 1e-6);
///
/// // Evaluation uses the running statistics, so one sample will do.
/// layer.forward_eval(&TensorDescriptor::new(&[1, 2]), Fusion::default(), Forward::new(&x[..2], &mut y[..2]))?;
/// # Ok::<(), wgpu_norm::Error>(())
/// ```
#[derive(Debug)]
pub struct Norm {
    pub(super) descriptor: NormDescriptor,
    pub(super) state: State,
    pub(super) id: u64,
    pub(super) level: Level,
}

/// A call that has been checked.
pub(super) struct Call {
    pub problem: Problem,
    /// Which sums are made and which tensors written; how they are dealt out is the grid's.
    pub plan: Plan,
    pub grid: Grid,
    pub exec: Exec,
}

impl Norm {
    /// A new layer: weight 1, bias 0, running mean 0 and variance 1.
    ///
    /// [`Error::Parameter`], [`Error::Empty`] or [`Error::Groups`] if the descriptor is not valid.
    pub fn new(descriptor: impl Into<NormDescriptor>) -> Result<Norm, Error> {
        let descriptor = descriptor.into();
        let state = State::new(&descriptor)?;
        Norm::with_state(descriptor, state)
    }

    /// A layer with parameters from elsewhere. [`Error::Length`] if they are not what the descriptor asks for.
    pub fn with_state(descriptor: impl Into<NormDescriptor>, state: State) -> Result<Norm, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let descriptor = descriptor.into();
        descriptor.validate()?;
        state.check(&descriptor)?;
        Ok(Norm { descriptor, state, id: NEXT.fetch_add(1, Ordering::Relaxed), level: Level::new() })
    }

    /// What the layer was made from.
    pub fn descriptor(&self) -> &NormDescriptor {
        &self.descriptor
    }

    /// Weight, bias and running statistics.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Weight, bias and running statistics, to be changed by an optimiser or loaded. Lengths are checked at the
    /// next call.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    pub(super) fn typed_forward_train<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        mut io: Forward<'_, I, O>,
        commit: Commit,
    ) -> Result<Saved, Error> {
        let call = self.call::<I, O>(tensor, fusion, Statistics::Batch, Op::Forward)?;
        io.check(call.problem.layout.elements, fusion, true)?;
        add_residual(&call, &mut io);
        let moments = self.moments(&call, &io);
        let stats = self.stats(&moments);
        self.write(&call, &stats, io);
        if let (Commit::Update, Some(how), Some(running)) =
            (commit, self.descriptor.running_stats(), &mut self.state.running)
        {
            running::update(running, how, &moments);
        }
        Ok(self.keep(&call, stats))
    }

    pub(super) fn typed_forward_eval<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<(), Error> {
        self.evaluate(tensor, fusion, io, false).map(|_| ())
    }

    pub(super) fn typed_forward_frozen<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<Saved, Error> {
        let (call, stats) = self.evaluate(tensor, fusion, io, true)?;
        Ok(self.keep(&call, stats))
    }

    pub(super) fn typed_backward<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
    ) -> Result<(), Error> {
        let wanted = Gradients {
            dx: io.dx.is_some(),
            dresidual: io.dresidual.is_some(),
            affine: io.dweight.is_some() || io.dbias.is_some(),
        };
        let call = self.check_backward(&saved, &io, Op::Backward(wanted))?;
        let plan = &call.plan;
        let projects = plan.writes(Tensor::Output) && call.problem.statistics == Statistics::Batch;
        let mut coefficients = self.coefficients(&call.grid, &saved.stats);
        let gradient = Gradient { x: io.x, dy: io.dy, relu: call.problem.fusion.relu, residual: io.residual };
        if plan.reduces() {
            let down = Tree::new(&call.problem.layout.affine, &Profile::CPU).leaf_len() as usize;
            let source = SumsOf { gradient, grid: &call.grid, coefficients: &coefficients };
            let reduced = backward::reduce(call.exec, source, (projects, wanted.affine), down);
            copy(io.dweight, &reduced.weight);
            copy(io.dbias, &reduced.bias);
            coefficients.project(&call.grid, &reduced.stats, call.problem.layout.stats.count());
        }
        if plan.writes(Tensor::Output) || plan.writes(Tensor::SecondOutput) {
            let source = SumsOf { gradient, grid: &call.grid, coefficients: &coefficients };
            let projects = Projects { g: projects && call.problem.centred, gx: projects };
            backward::write(call.exec, source, io.dsum, projects, Outputs { dx: io.dx, dresidual: io.dresidual });
        }
        Ok(())
    }

    fn evaluate<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        mut io: Forward<'_, I, O>,
        backward_follows: bool,
    ) -> Result<(Call, Vec<Stat>), Error> {
        let running = self.state.running.as_ref().filter(|_| self.descriptor.running_stats().is_some());
        let statistics = if running.is_some() { Statistics::Running } else { Statistics::Batch };
        let call = self.call::<I, O>(tensor, fusion, statistics, Op::Forward)?;
        io.check(call.problem.layout.elements, fusion, backward_follows)?;
        add_residual(&call, &mut io);
        let stats = match running.filter(|_| !call.plan.reduces()) {
            Some(running) => {
                let eps = self.descriptor.eps();
                let channels = running.running_mean.iter().zip(&running.running_var);
                channels.map(|(&mean, &var)| Stat::given(mean, var, eps)).collect()
            }
            None => self.stats(&self.moments(&call, &io)),
        };
        self.write(&call, &stats, io);
        Ok((call, stats))
    }

    pub(super) fn call<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        statistics: Statistics,
        op: Op,
    ) -> Result<Call, Error> {
        if tensor.dtype != I::DTYPE {
            return Err(Error::DType { name: "x", expected: tensor.dtype, actual: I::DTYPE });
        }
        let mut problem = Problem::new(&self.descriptor, tensor, statistics, fusion, op)?;
        problem.output = O::DTYPE;
        self.state.check(&self.descriptor)?;
        let elements = problem.layout.elements;
        let limit = isize::MAX as u64;
        if elements > limit {
            return Err(Error::TooLarge { what: "elements of a slice", required: elements, limit });
        }
        let exec = Exec::new(self.level, elements as usize);
        let plan = Plan::new(problem, &Profile::CPU)?;
        Ok(Call { problem, plan, grid: Grid::new(&problem.layout), exec })
    }

    pub(super) fn check_backward<I: Element, O: Element>(
        &self,
        saved: &Saved,
        io: &Backward<'_, I, O>,
        op: Op,
    ) -> Result<Call, Error> {
        if saved.layer != self.id {
            return Err(Error::Foreign { what: "layer" });
        }
        if saved.problem.op.is_synchronised() != op.is_synchronised() {
            return Err(Error::Foreign { what: "kind of pass (synchronised or not)" });
        }
        self.state.check(&self.descriptor)?;
        let problem = Problem { op, ..saved.problem };
        if I::DTYPE != problem.input {
            return Err(Error::DType { name: "x", expected: problem.input, actual: I::DTYPE });
        }
        if O::DTYPE != problem.output {
            return Err(Error::DType { name: "dy", expected: problem.output, actual: O::DTYPE });
        }
        if io.dweight.is_some() && !problem.affine.weight {
            return Err(Error::Unexpected { name: "dweight", reason: "the layer has no weight" });
        }
        if io.dbias.is_some() && !problem.affine.bias {
            return Err(Error::Unexpected { name: "dbias", reason: "the layer has no bias" });
        }
        io.check(problem.layout.elements, problem.fusion, self.descriptor.affine_len())?;
        let exec = Exec::new(self.level, problem.layout.elements as usize);
        Ok(Call { problem, plan: Plan::new(problem, &Profile::CPU)?, grid: saved.grid, exec })
    }

    /// Moments of what is normalised: x, or the sum that has been written.
    pub(super) fn moments<I: Element, O: Element>(&self, call: &Call, io: &Forward<'_, I, O>) -> Vec<Moments> {
        let x = match (&io.sum, io.x) {
            (Some(sum), _) => sum,
            (None, Source::From(x)) => x,
            (None, Source::InPlace) => bytemuck::cast_slice(io.y),
        };
        forward::moments(call.exec, &call.grid, x, call.problem.centred)
    }

    pub(super) fn keep(&self, call: &Call, stats: Vec<Stat>) -> Saved {
        Saved::new(self.id, call.problem, call.grid, stats)
    }

    pub(super) fn stats(&self, moments: &[Moments]) -> Vec<Stat> {
        moments.iter().map(|m| Stat::new(m, self.descriptor.eps())).collect()
    }

    pub(super) fn coefficients<'a>(&'a self, grid: &Grid, stats: &[Stat]) -> Coefficients<'a> {
        Coefficients::new(grid, stats, self.state.weight.as_deref(), self.state.bias.as_deref())
    }

    pub(super) fn write<I: Element, O: Element>(&self, call: &Call, stats: &[Stat], io: Forward<'_, I, O>) {
        let row = |source| match source {
            Source::From(slice) => Row::At(slice),
            Source::InPlace => Row::InPlace,
        };
        let sources = match io.sum {
            Some(sum) => (Row::At(&*sum), Row::None),
            None => (row(io.x), io.residual.map_or(Row::None, row)),
        };
        let coefficients = self.coefficients(&call.grid, stats);
        forward::write(call.exec, &call.grid, &coefficients, sources, call.problem.fusion.relu, io.y);
    }
}

/// Writes x + residual where the norm is of the sum.
pub(super) fn add_residual<I: Element, O: Element>(call: &Call, io: &mut Forward<'_, I, O>) {
    if call.problem.fusion.residual != Residual::Before {
        return;
    }
    if let (Some(residual), Some(sum)) = (io.residual, &mut io.sum) {
        let slice = |source| match source {
            Source::From(slice) => slice,
            Source::InPlace => bytemuck::cast_slice(io.y),
        };
        forward::add(call.exec, slice(io.x), slice(residual), sum);
    }
}

fn copy(to: Option<&mut [f32]>, from: &[f32]) {
    if let Some(to) = to {
        to.copy_from_slice(from);
    }
}
