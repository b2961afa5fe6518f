//! A group over processes and machines: MPI.

use super::exchange::{Communicator, Exchange};
use super::transfer::{Incoming, Outgoing};
use crate::error::Error;
use mpi::Threading;
use mpi::environment::{is_finalized, threading_support};
use mpi::topology::{Communicator as _, SimpleCommunicator};
use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// This process's membership of a group: the ranks of an MPI communicator.
///
/// ```no_run
/// use std::{sync::Arc, time::Duration};
/// use wgpu_norm::mpi::{Threading, initialize_with_threading};
/// use wgpu_norm::sync::{Communicator, MpiGroup, SyncBatchNorm};
/// use wgpu_norm::{BatchNormDescriptor, host};
/// let (universe, _) = initialize_with_threading(Threading::Multiple).expect("MPI starts once");
/// let group = Arc::new(MpiGroup::new(&universe.world(), Duration::from_secs(60))?) as Arc<dyn Communicator>;
/// let norm = host::Norm::new(&host::Backend::Cpu, BatchNormDescriptor::new(64))?;
/// let layer = SyncBatchNorm::new(norm, group)?;
/// # Ok::<(), wgpu_norm::Error>(())
/// ```
///
/// **Threads.** If MPI was started with `Threading::Multiple`, exchanges may run on any thread. Otherwise MPI must
/// not be called from two threads at once, and exchanges run on the thread that made the group alone:
/// [`Error::Communication`] on another.
///
/// **Time-outs.** The time runs from the first poll of an exchange. An exchange looks for messages each time it is
/// polled and asks to be polled again, as MPI itself does while it waits. After a time-out each later call is the same
/// [`Error::Timeout`]; when a call was dropped before its exchange ended, or that failed, it is [`Error::MemberGone`], of this
/// rank, and the other ranks' time runs out.
/// Messages that others never took stay in memory. A rank whose time ends while the last message is on its way fails where
/// others do not, and their running statistics differ then: go on from a checkpoint.
///
/// **Ending.** Keep the `Universe` until the last exchange is over; later ones are [`Error::Communication`]. MPI's
/// finalisation waits for all ranks: after a time-out, end the job with MPI's `abort` if a rank may never come.
/// A process that dies ends the job, unless MPI's error handler has been changed.
pub struct MpiGroup {
    /// Never freed: that is collective, and a destructor cannot wait for the others. MPI's finalisation frees it.
    communicator: ManuallyDrop<SimpleCommunicator>,
    rank: usize,
    size: usize,
    timeout: Duration,
    /// Where MPI may be called; `None`: on any thread.
    thread: Option<ThreadId>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    busy: bool,
    broken: Option<Error>,
}

// SAFETY: a communicator is a handle that MPI allows all threads of a process to use, at the thread level that
// `check` sees to: at `MPI_THREAD_MULTIPLE` concurrently, below it on one thread alone.
unsafe impl Send for MpiGroup {}
// SAFETY: as above.
unsafe impl Sync for MpiGroup {}

impl std::fmt::Debug for MpiGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MpiGroup(rank {} of {})", self.rank, self.size)
    }
}

impl MpiGroup {
    /// A group of all ranks of a communicator: the world, or a part of it for a process group. Each member waits
    /// for the others for at most `timeout` in each exchange.
    ///
    /// All ranks of the communicator make the call together. Messages go through a duplicate of the communicator,
    /// so they never mix with yours; making that waits for all ranks without a time-out, and it lives until MPI is
    /// finalised: make groups once. [`Error::Unexpected`] for a communicator between two groups of processes.
    pub fn new(communicator: &dyn mpi::topology::Communicator, timeout: Duration) -> Result<MpiGroup, Error> {
        if communicator.test_inter() {
            let reason = "it joins two groups of processes: merge them first";
            return Err(Error::Unexpected { name: "the communicator", reason });
        }
        let communicator = communicator.duplicate();
        Ok(MpiGroup {
            rank: communicator.rank() as usize,
            size: communicator.size() as usize,
            communicator: ManuallyDrop::new(communicator),
            timeout,
            thread: (threading_support() != Threading::Multiple).then(|| thread::current().id()),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether MPI may be called here and now.
    fn check(&self) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::Communication(why.into()));
        if is_finalized() {
            return refuse("MPI is finalised already");
        }
        match self.thread {
            Some(thread) if thread != thread::current().id() => {
                refuse("below MPI_THREAD_MULTIPLE only the thread that made the group may use it")
            }
            _ => Ok(()),
        }
    }
}

impl Communicator for MpiGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather<'a>(&'a self, message: &'a [u8]) -> Exchange<'a> {
        Box::pin(async move {
            let mut round = Round::begin(self, message)?;
            poll_fn(|context| round.poll(context)).await?;
            Ok(round.finish())
        })
    }

    fn give_up(&self) {
        self.state().broken.get_or_insert(Error::MemberGone { rank: self.rank });
    }
}

/// An exchange under way on this rank.
struct Round<'a> {
    group: &'a MpiGroup,
    deadline: Option<Instant>,
    outgoing: Vec<Outgoing>,
    /// By rank; this one's own message is there from the start.
    incoming: Vec<Incoming>,
    over: bool,
}

impl Round<'_> {
    fn begin<'a>(group: &'a MpiGroup, message: &[u8]) -> Result<Round<'a>, Error> {
        group.check()?;
        let limit = i32::MAX as u64;
        if message.len() as u64 > limit {
            return Err(Error::TooLarge { what: "bytes of a message", required: message.len() as u64, limit });
        }
        let mut state = group.state();
        if let Some(reason) = &state.broken {
            return Err(reason.clone());
        }
        if std::mem::replace(&mut state.busy, true) {
            return Err(Error::Communication(format!("rank {} is in another exchange already", group.rank)));
        }
        drop(state);
        let own = |rank| if rank == group.rank { Incoming::Done(message.to_vec()) } else { Incoming::Expected };
        Ok(Round {
            group,
            deadline: Instant::now().checked_add(group.timeout),
            outgoing: (0..group.size)
                .filter(|&rank| rank != group.rank)
                .map(|rank| Outgoing::start(&*group.communicator, rank, message))
                .collect(),
            incoming: (0..group.size).map(own).collect(),
            over: false,
        })
    }

    fn poll(&mut self, context: &Context) -> Poll<Result<(), Error>> {
        self.group.check()?;
        for (rank, message) in self.incoming.iter_mut().enumerate() {
            message.advance(&*self.group.communicator, rank);
        }
        self.outgoing.retain_mut(|message| !message.is_done());
        let is_missing =
            |&rank: &usize| !self.incoming[rank].is_done() || self.outgoing.iter().any(|message| message.to == rank);
        let missing: Vec<usize> = (0..self.group.size).filter(is_missing).collect();
        if missing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let error = Error::Timeout { missing, seconds: self.group.timeout.as_secs_f64() };
            self.group.state().broken = Some(error.clone());
            return Poll::Ready(Err(error));
        }
        // MPI wakes nobody.
        thread::yield_now();
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        self.over = true;
        std::mem::take(&mut self.incoming).into_iter().map(Incoming::into_message).collect()
    }
}

impl Drop for Round<'_> {
    /// A rank that gives up an exchange would take the others' messages for those of its next one.
    fn drop(&mut self) {
        // In this order, or another call of this rank could begin in between.
        if !self.over {
            self.group.give_up();
        }
        self.group.state().busy = false;
    }
}
