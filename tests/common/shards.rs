//! Runs a case of the table as shards on the members of a group.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use super::cases::{Case, Data, Results, typed, untyped, with_types};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use wgpu_norm::sync::{Communicator, LocalGroup, SyncBatchNorm, join_all};
use wgpu_norm::{
    Commit, Element, Error, Gradients, Residual, State, TensorDescriptor,
    host::{Backend, Backward, Norm},
};

/// Rows of the batch for each member.
pub struct Shards(Vec<Range<usize>>, usize);

impl Shards {
    pub fn new(case: &Case, sizes: &[usize]) -> Shards {
        assert_eq!(sizes.iter().sum::<usize>(), case.shape[0], "shards are the batch");
        let row = case.shape[1..].iter().product();
        let mut start = 0;
        let ranges = sizes.iter().map(|&n| {
            start += n;
            start - n..start
        });
        Shards(ranges.collect(), row)
    }

    /// The shape of a member's shard.
    pub fn shape(&self, case: &Case, rank: usize) -> Vec<usize> {
        [&[self.0[rank].len()], &case.shape[1..]].concat()
    }

    /// A member's part of a tensor.
    pub fn of<'a>(&self, rank: usize, all: &'a [f64]) -> &'a [f64] {
        &all[self.0[rank].start * self.1..self.0[rank].end * self.1]
    }
}

/// What the members computed, put together, and each member's state.
pub struct Sharded {
    pub whole: Results,
    pub states: Vec<State>,
}

/// How the members of a group run.
#[derive(Clone, Copy, Debug)]
pub enum Drive {
    /// Each on a thread of its own.
    Threads,
    /// All on this thread.
    OneThread,
}

pub const DRIVES: [Drive; 2] = [Drive::Threads, Drive::OneThread];

/// What `member` makes of each rank of a group.
pub fn each<T: Send>(
    size: usize,
    wait: Duration,
    drive: Drive,
    member: impl AsyncFn(Arc<dyn Communicator>) -> T + Sync,
) -> Vec<T> {
    let members = LocalGroup::members(size, wait).into_iter().map(|m| -> Arc<dyn Communicator> { Arc::new(m) });
    match drive {
        Drive::OneThread => pollster::block_on(join_all(members.map(|m| member(m)))),
        Drive::Threads => std::thread::scope(|scope| {
            let run = &member;
            let threads: Vec<_> = members.map(|m| scope.spawn(move || pollster::block_on(run(m)))).collect();
            threads.into_iter().map(|t| t.join().expect("a member panicked")).collect()
        }),
    }
}

/// One training step of a group: each shard on its own member.
pub fn run_sharded(
    drive: Drive,
    members: &[Backend],
    case: &Case,
    data: &Data,
    shards: &Shards,
) -> Result<Sharded, Error> {
    let mut results = each(members.len(), Duration::from_secs(120), drive, async |group| {
        let rank = group.rank();
        run_shard(&members[rank], group, case, data, shards).await
    });
    // What the others have to say is that this one failed.
    let own = |result: &Result<_, Error>| {
        result.as_ref().is_err_and(|e| !matches!(e, Error::MemberFailed { .. } | Error::MemberGone { .. }))
    };
    if let Some(rank) = results.iter().position(own) {
        results.swap(0, rank);
    }
    Ok(join(results.into_iter().collect::<Result<Vec<Results>, Error>>()?))
}

/// One member's part of the step.
pub async fn run_shard(
    backend: &Backend,
    group: Arc<dyn Communicator>,
    case: &Case,
    data: &Data,
    shards: &Shards,
) -> Result<Results, Error> {
    let rank = group.rank();
    let norm = Norm::with_state(backend, case.descriptor.clone(), data.state.clone())?;
    let norm = SyncBatchNorm::new(norm, group)?;
    with_types!(case, boxed_step(norm, case, data, shards, rank)).await
}

/// Steps of all element types as one type.
fn boxed_step<'a, I: Element, O: Element>(
    norm: SyncBatchNorm,
    case: &'a Case,
    data: &'a Data,
    shards: &'a Shards,
    rank: usize,
) -> Pin<Box<dyn Future<Output = Result<Results, Error>> + 'a>> {
    Box::pin(member_step::<I, O>(norm, case, data, shards, rank))
}

/// Puts together what the members computed, by rank.
pub fn join(results: Vec<Results>) -> Sharded {
    let join = |of: fn(&Results) -> &[f64]| results.iter().flat_map(|r| of(r).to_vec()).collect::<Vec<f64>>();
    // Gradients of weight and bias stay local: the optimiser sums them.
    let total = |of: fn(&Results) -> Option<&Vec<f64>>| {
        let parts: Option<Vec<&Vec<f64>>> = results.iter().map(of).collect();
        parts.map(|p| (0..p[0].len()).map(|c| p.iter().map(|v| v[c]).sum()).collect())
    };
    let first = results[0].clone();
    let whole = Results {
        y: join(|r| &r.y),
        sum: first.sum.as_ref().map(|_| join(|r| r.sum.as_deref().unwrap_or_default())),
        dx: join(|r| &r.dx),
        dresidual: first.dresidual.as_ref().map(|_| join(|r| r.dresidual.as_deref().unwrap_or_default())),
        dweight: total(|r| r.dweight.as_ref()),
        dbias: total(|r| r.dbias.as_ref()),
        ..first
    };
    Sharded { whole, states: results.into_iter().map(|r| r.state).collect() }
}

async fn member_step<I: Element, O: Element>(
    mut norm: SyncBatchNorm,
    case: &Case,
    data: &Data,
    shards: &Shards,
    rank: usize,
) -> Result<Results, Error> {
    let shape = shards.shape(case, rank);
    let tensor = TensorDescriptor { shape: &shape, ..case.tensor() };
    let input = |all: &[f64]| typed::<I>(shards.of(rank, all));
    let x = input(&data.x);
    let dy = typed::<O>(shards.of(rank, &data.dy));
    let residual = data.residual.as_deref().map(input);
    let dsum = data.dsum.as_deref().map(input);
    let after = case.fusion.residual == Residual::After;
    let (output, saved) =
        norm.forward_train::<I, O>(&tensor, case.fusion, &x, residual.as_deref(), Commit::Update).await?;
    let statistics = norm.norm().statistics(&saved).await?;
    let io = Backward {
        x: output.sum.as_ref().unwrap_or(&x),
        residual: residual.as_deref().filter(|_| after),
        dy: &dy,
        dsum: dsum.as_deref(),
    };
    let wanted = Gradients { dx: true, dresidual: after, affine: true };
    let gradients = norm.backward(saved, io, wanted).await?;
    Ok(Results {
        y: untyped(&output.y),
        sum: output.sum.as_deref().map(untyped),
        statistics,
        dx: untyped(&gradients.dx.unwrap_or_default()),
        dresidual: gradients.dresidual.as_deref().map(untyped),
        dweight: gradients.dweight.as_deref().map(untyped),
        dbias: gradients.dbias.as_deref().map(untyped),
        state: norm.norm().state().await?,
    })
}
