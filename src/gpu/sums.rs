//! The three steps of a synchronised batch norm, each a call of its own: local sums, merge, apply.

use super::buffer::{new_buffer, with_contents};
use super::context::Context;
use super::io::{self, Backward, Forward, InPlace, Tensors};
use super::key::Update;
use super::layer::Norm;
use super::saved::Saved;
use crate::error::Error;
use crate::moments::Moments;
use crate::op::{Commit, Direction, Fusion, Gradients, Op, Statistics};
use crate::plan::{Plan, Problem};
use crate::sums::{GradientSums, Sum, check_channels, check_count};
use crate::tensor::{ForwardPitches, TensorDescriptor};
use std::marker::PhantomData;
use std::sync::Arc;
use wgpu::{BufferUsages, CommandEncoder};

const LABEL: &str = "wgpu-norm sums";
const USAGE: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_SRC).union(BufferUsages::COPY_DST);

/// One [`Moments`] or [`GradientSums`] a channel, in device memory.
#[derive(Clone, Debug)]
pub struct DeviceSums<S> {
    pub(super) buffer: wgpu::Buffer,
    /// Most values of one channel.
    values: u64,
    of: PhantomData<S>,
}

impl<S: Sum> DeviceSums<S> {
    fn new(context: &Context, channels: usize, values: u64) -> Result<DeviceSums<S>, Error> {
        let size = (channels * size_of::<S>()) as u64;
        let descriptor = wgpu::BufferDescriptor { label: Some(LABEL), size, usage: USAGE, mapped_at_creation: false };
        Ok(DeviceSums { buffer: new_buffer(context.device(), &descriptor)?, values, of: PhantomData })
    }

    /// From host memory, without a queue: what came from other members. [`Error::Empty`] if it is nothing,
    /// [`Error::TooLarge`] if it exceeds a buffer, [`Error::NewBuffer`] if the device has no memory for it.
    pub fn from_slice(context: &Context, sums: &[S]) -> Result<DeviceSums<S>, Error> {
        if sums.is_empty() {
            return Err(Error::Empty { what: "the number of sums" });
        }
        let values = sums.iter().map(|sum| sum.count().into()).max().unwrap_or(0);
        Ok(DeviceSums { buffer: with_contents(context.device(), LABEL, USAGE, sums)?, values, of: PhantomData })
    }

    /// The buffer, to copy from and read back as a `[S]`.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// [`Error::Readback`] if what was read back is not what the device was to make: it refused the commands.
    pub(crate) fn check_read(&self, sums: &[S]) -> Result<(), Error> {
        if sums.iter().all(|sum| u64::from(sum.count()) <= self.values) {
            return Ok(());
        }
        Err(Error::Readback("the commands have not run: wgpu's own error says why".into()))
    }

    /// Number of channels.
    pub fn channels(&self) -> u64 {
        self.buffer.size() / size_of::<S>() as u64
    }
}

impl Norm {
    /// First step, forward: moments of this shard. An empty shard (N = 0) has moments of count 0.
    ///
    /// With [`Residual::Before`](crate::Residual::Before) `residual` is added to x. Only batch norm has this
    /// ([`Error::Unexpected`] for the others).
    pub fn local_moments(
        &self,
        encoder: &mut CommandEncoder,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        x: wgpu::BufferBinding,
        residual: Option<wgpu::BufferBinding>,
        pitches: &ForwardPitches,
    ) -> Result<DeviceSums<Moments>, Error> {
        self.named(|| {
            let tensors = [Some(x), fusion.residual_of_moments(residual)?, None, None, None];
            let op = Op::LocalSums(Direction::Forward);
            let problem = self.synchronised(tensor, fusion, op)?.with_forward_pitches(&pitches.of_inputs())?;
            let plan = self.plan(io::without_unused(problem, &tensors))?;
            io::check(&plan, &tensors, InPlace::Never)?;
            self.check_apart(&plan, &tensors)?;
            self.local_sums(encoder, &plan, &tensors, None)
        })
    }

    /// Last step, forward: y from the moments of the whole group. Every member must be given the same. Of several shards that
    /// one layer takes, micro-batches of one batch, one alone has [`Commit::Update`].
    ///
    /// [`Error::TooFewValues`] is for the caller to raise, who knows the counts: the device leaves running
    /// statistics alone for a count of 0, and `running_var` for a count of 1.
    pub fn forward_train_with(
        &self,
        encoder: &mut CommandEncoder,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: &Forward,
        moments: &DeviceSums<Moments>,
        commit: Commit,
    ) -> Result<Saved, Error> {
        self.named(|| {
            let problem = self.synchronised(tensor, fusion, Op::ApplyMoments)?;
            check_channels(moments.channels() as usize, self.descriptor())?;
            let update = self.update(commit);
            self.forward(encoder, problem, io, InPlace::training(fusion), Some(&moments.buffer), update)
        })
    }

    /// First step, backward: sums of this shard, which are also its own dweight and dbias.
    ///
    /// Those stay local, as in PyTorch: the optimiser of data-parallel training sums (or averages) them over
    /// the members with all other gradients. dsum, dx and dresidual of `io` are left to the last step. Errors as
    /// [`Norm::backward`]; [`Error::Foreign`] also if `saved` is not from [`Norm::forward_train_with`].
    pub fn local_gradient_sums(
        &self,
        encoder: &mut CommandEncoder,
        saved: &Saved,
        io: &Backward,
    ) -> Result<DeviceSums<GradientSums>, Error> {
        // The rest is the last step's.
        let pitches = io.pitches.of_inputs();
        let io = &Backward { dsum: None, dx: None, dresidual: None, pitches, ..io.clone() };
        self.named(|| {
            let (plan, tensors) = self.backward_plan(Op::LocalSums(Direction::Backward), saved, io)?;
            self.check_affine(saved, io, &plan, &tensors)?;
            let sums = self.local_sums(encoder, &plan, &tensors, Some(saved))?;
            self.copy_affine(encoder, saved, io);
            Ok(sums)
        })
    }

    /// Last step, backward: dx (and dresidual) from the sums of the whole group, one a channel: [`Error::Length`] if they are
    /// not. dweight and dbias of `io` are the first step's, and left alone. Other errors as [`Norm::local_gradient_sums`].
    pub fn backward_with(
        &self,
        encoder: &mut CommandEncoder,
        saved: Saved,
        io: &Backward,
        sums: &DeviceSums<GradientSums>,
    ) -> Result<(), Error> {
        self.record_backward_with(encoder, &saved, io, sums)
    }

    /// As [`Norm::backward_retained`].
    pub(crate) fn record_backward_with(
        &self,
        encoder: &mut CommandEncoder,
        saved: &Saved,
        io: &Backward,
        sums: &DeviceSums<GradientSums>,
    ) -> Result<(), Error> {
        self.named(|| {
            check_channels(sums.channels() as usize, self.descriptor())?;
            let (plan, tensors) = self.last_backward_plan(saved, io)?;
            self.record(encoder, &plan, &tensors, saved, Some(&sums.buffer), Update::Never)
        })
    }

    /// What the last step, forward, would find wrong before it has the sums of the group.
    pub(crate) fn check_train_with(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: &Forward,
    ) -> Result<(), Error> {
        self.named(|| {
            let problem = self.synchronised(tensor, fusion, Op::ApplyMoments)?;
            self.forward_plan(problem, io, InPlace::training(fusion)).map(drop)
        })
    }

    /// The same, backward.
    pub(crate) fn check_backward_with(&self, saved: &Saved, io: &Backward) -> Result<(), Error> {
        self.named(|| self.last_backward_plan(saved, io).map(drop))
    }

    fn last_backward_plan<'a>(&self, saved: &Saved, io: &'a Backward) -> Result<(Arc<Plan>, Tensors<'a>), Error> {
        let wanted = Gradients { affine: false, ..io.wanted() };
        let (plan, tensors) = self.backward_plan(Op::ApplyGradientSums(wanted), saved, io)?;
        self.check_affine(saved, io, &plan, &tensors)?;
        Ok((plan, tensors))
    }

    /// Merges sums of several shards on one device, in the order given: shards of one batch, or micro-batches.
    ///
    /// The same bits as [`Moments::merge`] in a binary tree. [`Error::TooLarge`] if the largest counts of all
    /// shards together exceed what is counted, 2^32 - 1.
    pub fn merge_sums<S: Sum>(
        &self,
        encoder: &mut CommandEncoder,
        shards: &[&DeviceSums<S>],
    ) -> Result<DeviceSums<S>, Error> {
        self.named(|| self.merged(encoder, shards))
    }

    fn merged<S: Sum>(&self, encoder: &mut CommandEncoder, shards: &[&DeviceSums<S>]) -> Result<DeviceSums<S>, Error> {
        let channels = self.descriptor().affine_len();
        let shape = [1, channels as usize];
        let count = u32::try_from(shards.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return Err(Error::Empty { what: "the number of shards" });
        }
        for shard in shards {
            check_channels(shard.channels() as usize, self.descriptor())?;
        }
        let values = check_count(shards.iter().map(|shard| shard.values))?;
        let op = Op::MergeSums(S::DIRECTION, count);
        let problem = self.synchronised(&TensorDescriptor::new(&shape), Fusion::default(), op)?;
        let plan = self.plan(problem)?;
        let merged = DeviceSums::new(self.context(), channels as usize, values)?;
        self.record_sums(encoder, &plan, &Tensors::default(), None, &merged.buffer, |encoder, scratch| {
            for (i, shard) in shards.iter().enumerate() {
                let size = shard.buffer.size();
                encoder.copy_buffer_to_buffer(&shard.buffer, 0, scratch, i as u64 * size, size);
            }
        })?;
        Ok(merged)
    }

    fn synchronised(&self, tensor: &TensorDescriptor, fusion: Fusion, op: Op) -> Result<Problem, Error> {
        self.descriptor().check_batch()?;
        Problem::new(self.descriptor(), tensor, Statistics::Batch, fusion, op)
    }

    fn local_sums<S: Sum>(
        &self,
        encoder: &mut CommandEncoder,
        plan: &Plan,
        tensors: &Tensors,
        saved: Option<&Saved>,
    ) -> Result<DeviceSums<S>, Error> {
        let values = plan.problem.layout.stats.count();
        let sums = DeviceSums::new(self.context(), self.descriptor().affine_len() as usize, values)?;
        self.record_sums(encoder, plan, tensors, saved, &sums.buffer, |_, _| {})?;
        Ok(sums)
    }
}
