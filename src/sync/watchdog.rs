//! The time-outs of a group within one process: a future that waits needs somebody who wakes it.

use super::local::Shared;
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

/// Starts the thread that watches a group's time; it ends with the group.
pub(super) fn start(group: &Arc<Shared>) -> std::io::Result<Thread> {
    let group = Arc::downgrade(group);
    let watchdog = thread::Builder::new().name("wgpu-norm watchdog".into()).spawn(move || run(&group))?;
    Ok(watchdog.thread().clone())
}

/// A round that begins while this sleeps cannot time out before it wakes: nobody needs to tell it of one.
fn run(group: &Weak<Shared>) {
    while let Some(left) = group.upgrade().map(|group| group.check()) {
        // A group may be made with a time-out of 0.
        thread::park_timeout(left.max(Duration::from_millis(1)));
    }
}
