//! Who runs what: instruction set and threads. Neither changes a bit of any result.

use fearless_simd::Level;
use rayon::prelude::*;

/// Elements below which one thread is faster than waking others.
const SERIAL: usize = 1 << 15;

/// Elements that a task should have at least, where the work can be cut anywhere.
const TASK: usize = 1 << 14;

/// Runs tasks on an instruction set, on this thread or on rayon's.
#[derive(Clone, Copy)]
pub(crate) struct Exec {
    pub level: Level,
    pub serial: bool,
}

impl Exec {
    pub fn new(level: Level, elements: usize) -> Exec {
        Exec { level, serial: elements < SERIAL }
    }

    /// Runs every task once.
    pub fn each<T: Send>(&self, tasks: impl IntoIterator<Item = T>, run: impl Fn(T) + Send + Sync) {
        if self.serial {
            tasks.into_iter().for_each(run);
        } else {
            tasks.into_iter().collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(run);
        }
    }

    /// Rows of a task: a multiple of sixteen, or all.
    pub fn rows_of_task(&self, width: usize, rows: usize) -> usize {
        if self.serial { rows.max(1) } else { (TASK / width.max(1)).next_multiple_of(16).clamp(16, rows.max(16)) }
    }
}

/// Pieces of an output that may be absent, to be dealt out to tasks.
pub(crate) fn pieces<T>(output: Option<&mut [T]>, len: usize) -> impl Iterator<Item = Option<&mut [T]>> {
    let mut chunks = output.map(|o| o.chunks_mut(len));
    std::iter::from_fn(move || match &mut chunks {
        Some(chunks) => chunks.next().map(Some),
        None => Some(None),
    })
}
