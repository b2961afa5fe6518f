//! A group within one process: GPUs of any vendor and CPU workers.

use super::exchange::{Communicator, Exchange};
use super::watchdog;
use crate::error::Error;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Makes the members of a group within one process.
///
/// One thread can drive them all, or each has a thread of its own:
///
/// ```
/// use std::time::Duration;
/// use wgpu_norm::sync::{Communicator, LocalGroup};
/// let members = LocalGroup::members(2, Duration::from_secs(5));
/// let messages = [[10], [11]];
///
/// let exchanges = members.iter().zip(&messages).map(|(member, message)| member.all_gather(message));
/// for said in pollster::block_on(wgpu_norm::sync::join_all(exchanges)) {
///     assert_eq!(said.unwrap(), [[10], [11]]);
/// }
///
/// std::thread::scope(|scope| {
///     for (member, message) in members.iter().zip(&messages) {
///         scope.spawn(move || assert_eq!(pollster::block_on(member.all_gather(message)).unwrap(), [[10], [11]]));
///     }
/// });
/// ```
#[derive(Debug)]
pub struct LocalGroup;

/// One member of a [`LocalGroup`]. Its exchange waits for the others without blocking its thread; one that is
/// dropped before it has ended breaks the group.
#[derive(Debug)]
pub struct LocalMember {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    size: usize,
    timeout: Duration,
    round: Mutex<Round>,
    /// Who wakes members that have waited too long; none in a group of one.
    watchdog: OnceLock<Thread>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    messages: Vec<Option<Vec<u8>>>,
    /// Who waits in this round.
    wakers: Vec<Option<Waker>>,
    /// Who need not wait any more, woken when the mutex is free.
    woken: Vec<Waker>,
    /// Of this round; `None` before its first member comes.
    deadline: Option<Instant>,
    /// Of the round before: nobody can overwrite it before everybody has come to the next one.
    gathered: Arc<Vec<Vec<u8>>>,
    /// In an exchange, by rank.
    busy: Vec<bool>,
    /// Why the group cannot be used any more: nobody can tell which round the others are in.
    broken: Option<Error>,
}

impl LocalGroup {
    /// A group of `size` members that wait for each other for at most `timeout` in each exchange.
    pub fn members(size: usize, timeout: Duration) -> Vec<LocalMember> {
        let round = Round {
            number: 0,
            messages: vec![None; size],
            wakers: vec![None; size],
            woken: Vec::new(),
            deadline: None,
            gathered: Arc::default(),
            busy: vec![false; size],
            broken: None,
        };
        let shared = Arc::new(Shared { size, timeout, round: Mutex::new(round), watchdog: OnceLock::new() });
        if size > 1 {
            match watchdog::start(&shared) {
                Ok(thread) => drop(shared.watchdog.set(thread)),
                Err(e) => {
                    let reason = Error::Communication(format!("no thread to watch the time: {e}"));
                    shared.with(|round| round.break_off(reason));
                }
            }
        }
        (0..size).map(|rank| LocalMember { rank, shared: shared.clone() }).collect()
    }
}

impl Shared {
    /// Looks at the round or changes it. Wakers are woken and dropped after that, as both may drop a task, and with it an exchange
    /// or a member, which lock the mutex.
    fn with<T>(&self, change: impl FnOnce(&mut Round) -> T) -> T {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut round);
        let woken = std::mem::take(&mut round.woken);
        drop(round);
        woken.into_iter().for_each(Waker::wake);
        result
    }

    /// Breaks the group if somebody has waited too long. Returns for how long nobody can have.
    pub fn check(&self) -> Duration {
        self.with(|round| {
            let Some(deadline) = round.deadline else { return self.timeout };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing = (0..self.size).filter(|&r| round.messages[r].is_none()).collect();
                round.break_off(Error::Timeout { missing, seconds: self.timeout.as_secs_f64() });
            }
            left
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(watchdog) = self.watchdog.get() {
            watchdog.unpark();
        }
    }
}

impl Round {
    fn break_off(&mut self, reason: Error) {
        self.broken.get_or_insert(reason);
        self.deadline = None;
        self.wake();
    }

    fn wake(&mut self) {
        self.woken.extend(self.wakers.iter_mut().filter_map(Option::take));
    }
}

impl LocalMember {
    /// Leaves the message; the last one's completes the round. Returns the round's number.
    fn come(&self, message: &[u8]) -> Result<u64, Error> {
        self.shared.with(|round| {
            if let Some(reason) = &round.broken {
                return Err(reason.clone());
            }
            let number = round.number;
            round.messages[self.rank] = Some(message.to_vec());
            if round.messages.iter().all(Option::is_some) {
                round.gathered = Arc::new(round.messages.iter_mut().filter_map(Option::take).collect());
                round.number += 1;
                round.deadline = None;
                round.wake();
            } else if round.deadline.is_none() {
                round.deadline = Instant::now().checked_add(self.shared.timeout);
            }
            Ok(number)
        })
    }

    fn wait(&self, number: u64, context: &Context) -> Poll<Result<Vec<Vec<u8>>, Error>> {
        let (said, _replaced) = self.shared.with(|round| {
            if round.number != number {
                return (Poll::Ready(Ok(round.gathered.to_vec())), None);
            }
            if let Some(reason) = &round.broken {
                return (Poll::Ready(Err(reason.clone())), None);
            }
            (Poll::Pending, round.wakers[self.rank].replace(context.waker().clone()))
        });
        said
    }
}

impl Communicator for LocalMember {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    fn all_gather<'a>(&'a self, message: &'a [u8]) -> Exchange<'a> {
        Box::pin(async move {
            let mut turn = Turn::take(self)?;
            let number = self.come(message)?;
            let gathered = poll_fn(|context| self.wait(number, context)).await;
            turn.over = true;
            gathered
        })
    }

    fn give_up(&self) {
        self.shared.with(|round| round.break_off(Error::MemberGone { rank: self.rank }));
    }
}

impl Drop for LocalMember {
    /// Who waits for a member that is gone need not wait for the time-out.
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A member's place in an exchange.
struct Turn<'a> {
    member: &'a LocalMember,
    over: bool,
}

impl Turn<'_> {
    fn take(member: &LocalMember) -> Result<Turn<'_>, Error> {
        let busy = member.shared.with(|round| std::mem::replace(&mut round.busy[member.rank], true));
        if busy {
            return Err(Error::Communication(format!("rank {} is in another exchange already", member.rank)));
        }
        Ok(Turn { member, over: false })
    }
}

impl Drop for Turn<'_> {
    /// A member that gives up an exchange would take the answer for that of its next one.
    fn drop(&mut self) {
        let LocalMember { rank, shared } = self.member;
        // In this order, or another call of this member could take the turn in between.
        if !self.over {
            self.member.give_up();
        }
        shared.with(|round| round.busy[*rank] = false);
    }
}
