//! Messages on their way between two MPI processes, with the memory that MPI works on.

use mpi::request::{Request, StaticScope};
use mpi::topology::{Communicator, Rank};
use mpi::traits::{Destination, Equivalence, Source};
use std::ptr::NonNull;

/// Messages of a group are the only ones of its communicator, and they do not overtake each other.
const TAG: mpi::Tag = 0;

/// Memory in MPI's hands until the request has completed. Until then it is leaked, for MPI may write to it, or
/// read it, at any time: nobody else can say when that ends.
pub(super) struct InFlight {
    request: Option<Request<'static, [u8]>>,
    memory: NonNull<[u8]>,
}

// SAFETY: request and memory belong to nobody else, and MPI lets any thread complete a request, at the thread
// level that `MpiGroup::check` sees to before each use.
unsafe impl Send for InFlight {}

impl InFlight {
    fn start(bytes: Vec<u8>, start: impl FnOnce(&'static mut [u8]) -> Request<'static, [u8]>) -> InFlight {
        let mut memory = NonNull::from(Box::leak(bytes.into_boxed_slice()));
        // SAFETY: leaked just now, and not touched before the request has completed.
        let request = start(unsafe { memory.as_mut() });
        InFlight { request: Some(request), memory }
    }

    /// The memory, once MPI needs it no more; only once.
    fn complete(&mut self) -> Option<Vec<u8>> {
        match self.request.take()?.test() {
            // SAFETY: it came from a box, and MPI and the request that borrowed it have done with it.
            Ok(_) => Some(Vec::from(unsafe { Box::from_raw(self.memory.as_ptr()) })),
            Err(pending) => {
                self.request = Some(pending);
                None
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // A request that is dropped panics; the memory of one under way stays where it is.
        std::mem::forget(self.request.take());
    }
}

/// A message to another rank.
pub(super) struct Outgoing {
    pub to: usize,
    transfer: InFlight,
}

impl Outgoing {
    pub fn start(group: &dyn Communicator, to: usize, message: &[u8]) -> Outgoing {
        let process = group.process_at_rank(to as Rank);
        let send = |bytes: &'static mut [u8]| process.immediate_send_with_tag(StaticScope, &*bytes, TAG);
        Outgoing { to, transfer: InFlight::start(message.to_vec(), send) }
    }

    /// Whether it has gone; not to be asked again after that.
    pub fn is_done(&mut self) -> bool {
        self.transfer.complete().is_some()
    }
}

/// A message from another rank.
pub(super) enum Incoming {
    Expected,
    UnderWay(InFlight),
    Done(Vec<u8>),
}

impl Incoming {
    /// Looks whether the message has come; its length is known then.
    pub fn advance(&mut self, group: &dyn Communicator, from: usize) {
        if let Incoming::Expected = self {
            let process = group.process_at_rank(from as Rank);
            let Some((message, status)) = process.immediate_matched_probe_with_tag(TAG) else { return };
            let bytes = vec![0; status.count(u8::equivalent_datatype()).max(0) as usize];
            let receive = |bytes: &'static mut [u8]| message.immediate_matched_receive_into(StaticScope, bytes);
            *self = Incoming::UnderWay(InFlight::start(bytes, receive));
        }
        if let Incoming::UnderWay(transfer) = self
            && let Some(message) = transfer.complete()
        {
            *self = Incoming::Done(message);
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Incoming::Done(_))
    }

    /// Nothing, if it has not come.
    pub fn into_message(self) -> Vec<u8> {
        if let Incoming::Done(message) = self { message } else { Vec::new() }
    }
}
