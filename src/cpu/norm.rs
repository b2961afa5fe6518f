//! The layer, and its calls on slices of elements. What they do is in `call` and `sync`, on bytes: compiled once, in
//! this crate, whatever the element types.

use super::io::{Backward, Forward};
use super::saved::Saved;
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::norm::NormDescriptor;
use crate::op::{Commit, Fusion};
use crate::state::State;
use crate::sums::GradientSums;
use crate::tensor::{ForwardPitches, TensorDescriptor};
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

impl Norm {
    /// A new layer: weight 1, bias 0, running mean 0 and variance 1.
    ///
    /// [`Error::Parameter`], [`Error::Empty`] or [`Error::Groups`] if the descriptor is not valid.
    pub fn new(descriptor: impl Into<NormDescriptor>) -> Result<Norm, Error> {
        let descriptor = descriptor.into();
        let state = State::new(&descriptor)?;
        Norm::with_state(descriptor, state)
    }

    /// A layer with parameters from elsewhere. Errors as [`Norm::new`] and [`State::check`].
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

    /// Weight, bias and running statistics, to be changed by an optimiser or loaded. [`State::check`] is done by the next
    /// call.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Training: normalises with the batch's own statistics, takes them into the running ones if `commit` says
    /// so, and keeps what [`Norm::backward`] needs.
    ///
    /// `tensor` describes x; all slices have its length. [`Error::TooFewValues`] for batch and instance norm if
    /// there is one value per statistic; [`Error::Length`], [`Error::Missing`], [`Error::Unexpected`],
    /// [`Error::Overlap`] and [`Error::DType`] if the slices are not what shape and fusion ask for. Then nothing
    /// has been written.
    pub fn forward_train<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
        commit: Commit,
    ) -> Result<Saved, Error> {
        self.forward_train_bytes(tensor, fusion, io.cast(), commit, (I::DTYPE, O::DTYPE))
    }

    /// Evaluation: normalises with the running statistics if the layer tracks them, otherwise with the input's
    /// own. x or the residual may be where y goes.
    ///
    /// Errors as [`Norm::forward_train`]; [`Error::TooFewValues`] only if statistics are the input's own.
    pub fn forward_eval<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<(), Error> {
        self.forward_eval_bytes(tensor, fusion, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// Evaluation that keeps what [`Norm::backward`] needs: a frozen layer inside a network that trains.
    ///
    /// Errors as [`Norm::forward_eval`], but that x may be where y goes only if backward does not need it; [`Error::Missing`]
    /// where the layer tracks no running statistics.
    pub fn forward_frozen<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<Saved, Error> {
        self.forward_frozen_bytes(tensor, fusion, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// Gradients of the pass that returned `saved`, with PyTorch's meaning. Weight and bias are read once more: they must be
    /// those of the forward pass still.
    ///
    /// Where nothing came through the ReLU, nothing goes back. Gradients of statistics are included where the
    /// statistics were the batch's own. [`Error::Foreign`] if `saved` is another layer's; [`Error::Length`],
    /// [`Error::Missing`] and [`Error::Unexpected`] if the slices are not what shape and fusion ask for,
    /// [`Error::DType`] if their element types are not those of the forward pass. Then nothing has been written.
    ///
    /// A saved state is used up, by an error, too, so it cannot be used twice:
    ///
    /// ```compile_fail
    /// # use wgpu_norm::{cpu::*, *};
    /// # fn f(layer: &Norm, saved: Saved, x: &[f32], dy: &[f32]) {
    /// layer.backward(saved, Backward::new(x, dy)).unwrap();
    /// layer.backward(saved, Backward::new(x, dy)).unwrap();
    /// # }
    /// ```
    pub fn backward<I: Element, O: Element>(&self, saved: Saved, io: Backward<'_, I, O>) -> Result<(), Error> {
        self.backward_bytes(saved, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// First step, forward: moments of this shard, one a channel. An empty shard (N = 0) has moments of count 0.
    ///
    /// With [`Residual::Before`](crate::Residual::Before) `residual` is added to x, rounded to its type. Only batch norm has this
    /// ([`Error::Unexpected`] for the others).
    pub fn local_moments<I: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
        pitches: &ForwardPitches,
    ) -> Result<Vec<Moments>, Error> {
        let residual = residual.map(bytemuck::cast_slice);
        self.local_moments_bytes(tensor, fusion, (bytemuck::cast_slice(x), residual), pitches, I::DTYPE)
    }

    /// Last step, forward: as [`Norm::forward_train`], with the moments of the whole group. Of several shards that one layer
    /// takes, micro-batches of one batch, one alone has [`Commit::Update`].
    ///
    /// [`Error::TooFewValues`] is for the caller to raise, who knows the counts: running statistics are left
    /// alone for a count of 0, and `running_var` for a count of 1.
    pub fn forward_train_with<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
        moments: &[Moments],
        commit: Commit,
    ) -> Result<Saved, Error> {
        self.forward_train_with_bytes(tensor, fusion, io.cast(), moments, commit, (I::DTYPE, O::DTYPE))
    }

    /// First step, backward: sums of this shard, which are also its own dbias and dweight.
    ///
    /// Those stay local, as in PyTorch: the optimiser of data-parallel training sums (or averages) them over the members
    /// with all other gradients. dsum, dx and dresidual of `io` are left to the last step. Errors as [`Norm::backward`];
    /// [`Error::Foreign`] also if `saved` is not from [`Norm::forward_train_with`].
    pub fn local_gradient_sums<I: Element, O: Element>(
        &self,
        saved: &Saved,
        io: Backward<'_, I, O>,
    ) -> Result<Vec<GradientSums>, Error> {
        self.local_gradient_sums_bytes(saved, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// Last step, backward: dx (and dresidual) from the sums of the whole group, one a channel: [`Error::Length`] if they are
    /// not. dweight and dbias of `io` are the first step's, and left alone. Other errors as [`Norm::local_gradient_sums`].
    pub fn backward_with<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
        sums: &[GradientSums],
    ) -> Result<(), Error> {
        self.backward_with_bytes(saved, io.cast(), sums, (I::DTYPE, O::DTYPE))
    }
}
