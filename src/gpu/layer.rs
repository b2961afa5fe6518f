//! A layer on a device: its state and its calls.

use super::buffer::new_buffer;
use super::context::Context;
use super::encode::{Prepared, Vectors};
use super::io::{self, Backward, Forward, InPlace, ReadAgain, Tensors, check_binding};
use super::key::Update;
use super::params::Numbers;
use super::recent::{KEPT, Recent};
use super::saved::{Pool, Saved};
use super::state::{state_buffer, stride};
use crate::error::Error;
use crate::norm::{NonFinite, NormDescriptor};
use crate::op::{Commit, Fusion, Op, Statistics};
use crate::plan::{Plan, Problem};
use crate::state::State;
use crate::tensor::TensorDescriptor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use wgpu::{BufferUsages, CommandEncoder};

/// Any of the five norms on a device.
///
/// ```no_run
/// # fn f(device: &wgpu_norm::wgpu::Device, encoder: &mut wgpu_norm::wgpu::CommandEncoder,
/// #      x: &wgpu_norm::wgpu::Buffer, y: &wgpu_norm::wgpu::Buffer) -> Result<(), wgpu_norm::Error> {
/// use wgpu_norm::{BatchNormDescriptor, Commit, Fusion, TensorDescriptor, gpu};
/// let context = gpu::Context::new(device)?;
/// let norm = gpu::Norm::new(&context, BatchNormDescriptor::new(64))?;
/// let images = TensorDescriptor::new(&[32, 64, 56, 56]);
/// let io = gpu::Forward::new(x.as_entire_buffer_binding(), y.as_entire_buffer_binding());
/// let saved = norm.forward_train(encoder, &images, Fusion::default(), &io, Commit::Update)?;
/// # Ok(()) }
/// ```
///
/// It keeps what its last eight calls were recorded with, the callers' buffers among it, until other calls take their
/// place or it is dropped; [`Norm::keep_calls`] makes it more or fewer. A call with other buffers or offsets makes new bind
/// groups, a shape that is new to the context may need new pipelines, which a driver compiles while the call is recorded: to
/// have them beforehand, record the call into an encoder that is dropped. The [`Context`] keeps them all. Forward
/// passes of layer and RMS norm have the same pipelines for any number of rows (one sample of several heads may have others
/// than many), batch, group and instance norm mostly others for another image size, and an offset that is no multiple of four
/// elements may need others, too: who takes images of any size had better pad them to a few sizes.
#[derive(Debug)]
pub struct Norm {
    context: Context,
    pub(super) descriptor: NormDescriptor,
    pub(super) state: wgpu::Buffer,
    id: u64,
    label: Option<String>,
    pool: Arc<Pool>,
    scratch: Mutex<Scratch>,
}

#[derive(Debug, Default)]
struct Scratch {
    partials: Option<wgpu::Buffer>,
    plans: Recent<Arc<Plan>>,
    prepared: Recent<(Call, Arc<Prepared>)>,
}

/// What a prepared call was prepared for.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    problem: Problem,
    update: Update,
    tensors: [Option<(wgpu::Buffer, u64)>; 5],
    saved: wgpu::Buffer,
}

impl Norm {
    /// A layer with PyTorch's initial state: weight 1, bias 0, running mean 0, running variance 1.
    ///
    /// [`Error::Parameter`], [`Error::Empty`] or [`Error::Groups`] if the descriptor is not valid, [`Error::TooLarge`] if its
    /// state does not fit a binding, [`Error::NewBuffer`] if the device is lost or has no memory for it.
    pub fn new(context: &Context, descriptor: impl Into<NormDescriptor>) -> Result<Norm, Error> {
        let descriptor = descriptor.into();
        let state = State::new(&descriptor)?;
        Norm::with_state(context, descriptor, &state)
    }

    /// A layer with a state of yours. Errors as [`Norm::new`] and [`State::check`]; [`Error::NewBuffer`] if the device is lost
    /// or has no memory for it.
    pub fn with_state(context: &Context, descriptor: impl Into<NormDescriptor>, state: &State) -> Result<Norm, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let descriptor = descriptor.into();
        descriptor.validate()?;
        state.check(&descriptor)?;
        Ok(Norm {
            context: context.clone(),
            state: state_buffer(context, &descriptor, state)?,
            descriptor,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            label: None,
            pool: Arc::default(),
            scratch: Mutex::default(),
        })
    }

    /// The layer with a name for its compute passes and bind groups, by which captures, profilers and wgpu's own errors tell
    /// it from others: by default the norm's. Errors of its calls come as [`Error::Layer`] then, with that name.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Norm {
        self.label = Some(label.into());
        self
    }

    /// The result of a call, whose error tells which layer it is of, if that has a label.
    pub(super) fn named<T>(&self, call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        call().map_err(|error| match &self.label {
            Some(label) => Error::Layer { label: label.clone(), error: Box::new(error) },
            None => error,
        })
    }

    /// What its compute passes are called.
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(self.descriptor.name())
    }

    /// Keeps what the last so many calls were recorded with, by default eight: more where one layer makes many calls a step
    /// (two for each step of a recurrent network), so that none makes its bind groups anew; none where each step has buffers of its own, which are then freed when their user drops them. What is more
    /// than that is let go at once, but for up to eight buffers of saved statistics, which are the layer's own.
    pub fn keep_calls(&self, calls: usize) {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        // Plans hold no buffers.
        scratch.plans.keep_only(calls.max(KEPT));
        scratch.prepared.keep_only(calls);
        // A call's saved statistics are a part of what it was recorded with.
        self.pool.keep_only(calls.max(KEPT));
    }

    /// What the layer is.
    pub fn descriptor(&self) -> &NormDescriptor {
        &self.descriptor
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Training: y from the batch's own statistics; `commit` says whether the running statistics take them in.
    ///
    /// Encoders with calls of one layer are submitted in the order in which they were recorded ([why](super)): where the forward
    /// pass's encoder is dropped, or submitted later, backward reads what no pass has written.
    ///
    /// y may be written over the residual, unless the ReLU behind it needs that again. With
    /// [`Residual::Before`](crate::Residual::Before) backward reads the sum: y and sum may each lie over x or over the
    /// residual, as a transformer's residual stream does that is updated in place. Errors: shape, dtype, buffers ([`Error`]
    /// names each); nothing is recorded then.
    pub fn forward_train(
        &self,
        encoder: &mut CommandEncoder,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: &Forward,
        commit: Commit,
    ) -> Result<Saved, Error> {
        self.named(|| {
            let problem = Problem::new(&self.descriptor, tensor, Statistics::Batch, fusion, Op::Forward)?;
            self.forward(encoder, problem, io, InPlace::training(fusion), None, self.update(commit))
        })
    }

    /// Evaluation: y from the running statistics; from the batch's own where the layer tracks none.
    ///
    /// y may be written over x or over the residual. Errors as [`Norm::forward_train`].
    pub fn forward_eval(
        &self,
        encoder: &mut CommandEncoder,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: &Forward,
    ) -> Result<(), Error> {
        self.named(|| {
            let statistics = self.descriptor.evaluation();
            let problem = Problem::new(&self.descriptor, tensor, statistics, fusion, Op::Forward)?;
            self.forward(encoder, problem, io, InPlace::Any, None, Update::Never).map(drop)
        })
    }

    /// A frozen layer in a network that trains: y from the running statistics, and what backward needs, a copy of them
    /// among it. y may lie over the residual, as in training.
    ///
    /// [`Error::Missing`] where the layer tracks no running statistics.
    pub fn forward_frozen(
        &self,
        encoder: &mut CommandEncoder,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: &Forward,
    ) -> Result<Saved, Error> {
        self.named(|| {
            let problem = Problem::new(&self.descriptor, tensor, Statistics::Running, fusion, Op::Forward)?;
            let saved = self.forward(encoder, problem, io, InPlace::training(fusion), None, Update::Never)?;
            // Those of the layer may be others by the time of the backward pass.
            let (from, bytes) = self.running_bytes();
            encoder.copy_buffer_to_buffer(&self.state, from, &saved.buffer, 0, bytes);
            Ok(saved)
        })
    }

    /// Any forward pass. `sums`: those of the group, where it is synchronised.
    pub(super) fn forward(
        &self,
        encoder: &mut CommandEncoder,
        problem: Problem,
        io: &Forward,
        in_place: InPlace,
        sums: Option<&wgpu::Buffer>,
        update: Update,
    ) -> Result<Saved, Error> {
        let (plan, tensors) = self.forward_plan(problem, io, in_place)?;
        let saved = self.saved(plan.problem, io.read_again(plan.problem.fusion))?;
        self.record(encoder, &plan, &tensors, &saved, sums, update)?;
        Ok(saved)
    }

    /// Any forward pass's plan, and its tensors, checked.
    pub(super) fn forward_plan<'a>(
        &self,
        problem: Problem,
        io: &'a Forward,
        in_place: InPlace,
    ) -> Result<(Arc<Plan>, Tensors<'a>), Error> {
        let mut problem = problem.with_forward_pitches(&io.pitches)?;
        problem.output = io.y_dtype.unwrap_or(problem.input);
        let tensors = io.tensors(problem.fusion)?;
        let plan = self.plan(problem)?;
        io::check(&plan, &tensors, in_place)?;
        self.check_apart(&plan, &tensors)?;
        Ok((plan, tensors))
    }

    /// Gradients of the pass that gave `saved`; those that `io` leaves out cost nothing. Weight and bias are read once more:
    /// they must be those of the forward pass still.
    ///
    /// [`Error::Foreign`] if `saved` is another layer's, [`Error::Moved`] if x is not where the forward pass read it, unless
    /// [`Backward::moved`] says so. An error, too, uses `saved` up ([`Norm::backward_retained`] does not).
    pub fn backward(&self, encoder: &mut CommandEncoder, saved: Saved, io: &Backward) -> Result<(), Error> {
        self.backward_retained(encoder, &saved, io)
    }

    /// As [`Norm::backward`], and `saved` stays: for another backward pass of the same forward pass (PyTorch's `retain_graph`),
    /// or another try after an error; and until the commands are submitted, where a layer's forward and backward passes go to
    /// encoders of their own, as its memory serves the layer's next call once it is dropped ([why](super)). A gradient that was
    /// written over x leaves no x for another.
    pub fn backward_retained(&self, encoder: &mut CommandEncoder, saved: &Saved, io: &Backward) -> Result<(), Error> {
        self.named(|| {
            let (plan, tensors) = self.backward_plan(Op::Backward(io.wanted()), saved, io)?;
            self.check_affine(saved, io, &plan, &tensors)?;
            self.record(encoder, &plan, &tensors, saved, None, Update::Never)?;
            self.copy_affine(encoder, saved, io);
            Ok(())
        })
    }

    /// Any backward pass's plan, and its tensors, checked.
    pub(super) fn backward_plan<'a>(
        &self,
        op: Op,
        saved: &Saved,
        io: &'a Backward,
    ) -> Result<(Arc<Plan>, Tensors<'a>), Error> {
        self.check_own(saved)?;
        let problem = saved.problem.backward(op)?.with_backward_pitches(&io.pitches)?;
        let tensors = io.tensors(problem.fusion)?;
        let plan = self.plan(io::without_unused(problem, &tensors))?;
        io::check(&plan, &tensors, InPlace::Gradients)?;
        if !io.moved {
            saved.check_inputs(&plan, &tensors)?;
        }
        Ok((plan, tensors))
    }

    /// A plan, made once for the calls that come again and again.
    pub(super) fn plan(&self, problem: Problem) -> Result<Arc<Plan>, Error> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = scratch.plans.find(|plan| plan.problem == problem) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan::new(problem, self.context.profile())?);
        scratch.plans.keep(plan.clone());
        Ok(plan)
    }

    /// Checks that `saved` is this layer's.
    pub(crate) fn check_own(&self, saved: &Saved) -> Result<(), Error> {
        if saved.layer == self.id { Ok(()) } else { Err(Error::Foreign { what: "layer" }) }
    }

    /// Checks that no tensor lies in the layer's own memory.
    pub(super) fn check_apart(&self, plan: &Plan, tensors: &Tensors) -> Result<(), Error> {
        io::check_apart(plan, tensors, [None; 2], [Some(&self.state), None])
    }

    /// Checks where gradients of weight and bias go.
    pub(super) fn check_affine(
        &self,
        saved: &Saved,
        io: &Backward,
        plan: &Plan,
        tensors: &Tensors,
    ) -> Result<(), Error> {
        self.descriptor.affine().check(["dweight", "dbias"], [io.dweight.is_some(), io.dbias.is_some()])?;
        let bytes = self.descriptor.affine_len() * 4;
        for (name, vector) in [("dweight", &io.dweight), ("dbias", &io.dbias)] {
            let Some(binding) = vector else { continue };
            check_binding(name, binding, bytes, 4, BufferUsages::COPY_DST)?;
        }
        let (dweight, dbias) = (io.dweight.as_ref(), io.dbias.as_ref());
        let vectors = [dweight.map(|b| ("dweight", b, bytes)), dbias.map(|b| ("dbias", b, bytes))];
        io::check_apart(plan, tensors, vectors, [Some(&self.state), Some(&saved.buffer)])
    }

    /// Records the copies of gradients of weight and bias to where the caller wants them.
    pub(super) fn copy_affine(&self, encoder: &mut CommandEncoder, saved: &Saved, io: &Backward) {
        let start = self.gradients_at(&saved.problem);
        for (i, to) in [&io.dweight, &io.dbias].into_iter().enumerate() {
            let Some(to) = to else { continue };
            let from = (start + i as u64 * stride(&self.descriptor)) * 4;
            encoder.copy_buffer_to_buffer(&saved.buffer, from, to.buffer, to.offset, self.descriptor.affine_len() * 4);
        }
    }

    /// What a training pass does to the running statistics.
    pub(super) fn update(&self, commit: Commit) -> Update {
        match (commit, self.descriptor.running_stats().map(|r| r.non_finite)) {
            (Commit::Skip, _) | (_, None) => Update::Never,
            (Commit::Update, Some(NonFinite::Skip)) => Update::IfFinite,
            (Commit::Update, Some(NonFinite::Poison)) => Update::Always,
        }
    }

    fn saved(&self, problem: Problem, inputs: ReadAgain) -> Result<Saved, Error> {
        let size = (self.gradients_at(&problem) + 2 * stride(&self.descriptor)) * 4;
        let limit = self.context.profile().max_binding_size;
        if size > limit {
            return Err(Error::TooLarge { what: "bytes of the saved statistics", required: size, limit });
        }
        let buffer = self.pool.take(self.context.device(), size)?;
        Ok(Saved { layer: self.id, problem, inputs, buffer, pool: self.pool.clone() })
    }

    /// Records a plan. `sums`: partial results that the call is given, where the plan takes any.
    pub(super) fn record(
        &self,
        encoder: &mut CommandEncoder,
        plan: &Plan,
        tensors: &Tensors,
        saved: &Saved,
        sums: Option<&wgpu::Buffer>,
        update: Update,
    ) -> Result<(), Error> {
        let prepared = match sums {
            // New each time: no call would find what was made with them.
            Some(partials) => Arc::new(self.prepare(plan, tensors, &saved.buffer, partials, update)?),
            None => self.prepared(plan, tensors, saved, update)?,
        };
        prepared.encode(encoder, self.label());
        Ok(())
    }

    /// What a call is recorded with, made once for the calls that come again and again.
    fn prepared(&self, plan: &Plan, tensors: &Tensors, saved: &Saved, update: Update) -> Result<Arc<Prepared>, Error> {
        let call = Call {
            problem: plan.problem,
            update,
            tensors: tensors.each_ref().map(|t| t.as_ref().map(|b| (b.buffer.clone(), b.offset))),
            saved: saved.buffer.clone(),
        };
        let scratch = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, prepared)) = scratch().prepared.find(|(c, _)| *c == call) {
            return Ok(prepared.clone());
        }
        let partials = scratch().partials(&self.context, plan)?;
        // Not under the lock: what wgpu has to say of it may be told to a handler that uses the layer.
        let prepared = Arc::new(self.prepare(plan, tensors, &saved.buffer, &partials, update)?);
        scratch().prepared.keep((call, prepared.clone()));
        Ok(prepared)
    }

    /// Records a plan whose result is its last partial results, and their copy to `result`. `fill` may record
    /// copies of what comes in to the beginning of the scratch buffer, which it is given.
    pub(super) fn record_sums(
        &self,
        encoder: &mut CommandEncoder,
        plan: &Plan,
        tensors: &Tensors,
        saved: Option<&Saved>,
        result: &wgpu::Buffer,
        fill: impl FnOnce(&mut CommandEncoder, &wgpu::Buffer),
    ) -> Result<(), Error> {
        let partials = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).partials(&self.context, plan)?;
        let saved = saved.map(|s| &s.buffer).unwrap_or(self.context.unused());
        let prepared = self.prepare(plan, tensors, saved, &partials, Update::Never)?;
        fill(encoder, &partials);
        prepared.encode(encoder, self.label());
        encoder.copy_buffer_to_buffer(&partials, plan.result_at(), result, 0, result.size());
        Ok(())
    }

    fn prepare(
        &self,
        plan: &Plan,
        tensors: &Tensors,
        saved: &wgpu::Buffer,
        partials: &wgpu::Buffer,
        update: Update,
    ) -> Result<Prepared, Error> {
        let vectors = Vectors { label: self.label(), state: &self.state, saved, partials };
        Prepared::new(&self.context, plan, tensors, vectors, &self.numbers(&plan.problem), update)
    }

    fn numbers(&self, problem: &Problem) -> Numbers {
        Numbers {
            eps: self.descriptor.eps(),
            momentum: self.descriptor.running_stats().map_or(0.0, |running| running.momentum.number()),
            state_stride: stride(&self.descriptor) as u32,
            gradients_at: self.gradients_at(problem) as u32,
        }
    }

    /// Word of the saved buffer at which gradients of weight and bias begin, behind statistics: the pass's own, or two
    /// vectors of a frozen pass.
    fn gradients_at(&self, problem: &Problem) -> u64 {
        match problem.statistics {
            Statistics::Batch => (problem.layout.stats.targets() * 4).next_multiple_of(64),
            Statistics::Running => 2 * stride(&self.descriptor),
        }
    }
}

impl Scratch {
    fn partials(&mut self, context: &Context, plan: &Plan) -> Result<wgpu::Buffer, Error> {
        let size = plan.scratch();
        if size == 0 {
            return Ok(context.unused().clone());
        }
        let limit = context.profile().max_binding_size;
        if size > limit {
            return Err(Error::TooLarge { what: "bytes of partial results", required: size, limit });
        }
        if let Some(buffer) = self.partials.as_ref().filter(|b| b.size() >= size) {
            return Ok(buffer.clone());
        }
        let buffer = new_buffer(
            context.device(),
            &wgpu::BufferDescriptor {
                label: Some("wgpu-norm partials"),
                size,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            },
        )?;
        self.partials = Some(buffer.clone());
        Ok(buffer)
    }
}
