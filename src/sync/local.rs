//! A group within one process: GPUs of any vendor and CPU workers, each on a thread of its own.

use super::exchange::Communicator;
use crate::error::Error;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Makes the members of a group within one process.
///
/// ```
/// use std::time::Duration;
/// use wgpu_norm::sync::{Communicator, LocalGroup};
/// let members = LocalGroup::members(2, Duration::from_secs(5));
/// std::thread::scope(|scope| {
///     for member in &members {
///         scope.spawn(move || {
///             let said = member.all_gather(&[member.rank() as u8]).unwrap();
///             assert_eq!(said, [[0], [1]]);
///         });
///     }
/// });
/// ```
#[derive(Debug)]
pub struct LocalGroup;

/// One member of a [`LocalGroup`]: give each to a thread of its own, or all of them would wait for each other.
#[derive(Debug)]
pub struct LocalMember {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    timeout: Duration,
    round: Mutex<Round>,
    changed: Condvar,
}

#[derive(Debug)]
struct Round {
    number: u64,
    messages: Vec<Option<Vec<u8>>>,
    /// Of the round before: nobody can overwrite it before everybody has come to the next one.
    gathered: Arc<Vec<Vec<u8>>>,
    /// A member did not come: nobody can tell any more which round the others are in.
    broken: Option<Vec<usize>>,
}

impl LocalGroup {
    /// A group of `size` members that wait for each other for at most `timeout` in each exchange.
    pub fn members(size: usize, timeout: Duration) -> Vec<LocalMember> {
        let shared = Arc::new(Shared {
            timeout,
            round: Mutex::new(Round { number: 0, messages: vec![None; size], gathered: Arc::default(), broken: None }),
            changed: Condvar::new(),
        });
        (0..size).map(|rank| LocalMember { rank, shared: shared.clone() }).collect()
    }
}

impl Communicator for LocalMember {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.round.lock().unwrap_or_else(PoisonError::into_inner).messages.len()
    }

    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let shared = &*self.shared;
        let timed_out = |missing| Error::Timeout { missing, seconds: shared.timeout.as_secs_f64() };
        let mut round = shared.round.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(missing) = &round.broken {
            return Err(timed_out(missing.clone()));
        }
        let (number, start) = (round.number, Instant::now());
        round.messages[self.rank] = Some(message.to_vec());
        if round.messages.iter().all(Option::is_some) {
            let gathered = round.messages.iter_mut().filter_map(Option::take).collect();
            round.gathered = Arc::new(gathered);
            round.number += 1;
            shared.changed.notify_all();
        }
        while round.number == number {
            if let Some(missing) = &round.broken {
                return Err(timed_out(missing.clone()));
            }
            let left = shared.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                let missing: Vec<usize> = (0..round.messages.len()).filter(|&r| round.messages[r].is_none()).collect();
                round.broken = Some(missing.clone());
                shared.changed.notify_all();
                return Err(timed_out(missing));
            }
            round = shared.changed.wait_timeout(round, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(round.gathered.to_vec())
    }
}

impl Drop for LocalMember {
    /// Who waits for a member that is gone need not wait for the time-out.
    fn drop(&mut self) {
        let mut round = self.shared.round.lock().unwrap_or_else(PoisonError::into_inner);
        if round.broken.is_none() {
            round.broken = Some(vec![self.rank]);
        }
        self.shared.changed.notify_all();
    }
}
