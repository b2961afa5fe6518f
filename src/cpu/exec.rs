//! Who runs what: instruction set and threads. Neither changes a bit of any result.

use super::grid::Grid;
use super::memory::area::Scratch;
use super::memory::nontemporal::fence;
use super::reduce::rows_at_once;
use fearless_simd::{Level, Simd, SimdBase};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Elements up to which one thread is faster than waking others.
const SERIAL: usize = 1 << 17;

/// Elements that a task should have at least, where the work can be cut anywhere.
const TASK: usize = 1 << 15;

/// Relays that a thread has, so that one that is late can be helped.
const RELAYS: usize = 4;

/// Runs code with a level's instruction set, of three on x86-64: all loops are compiled for each, and SSE4.2 has little
/// over SSE2 that they would use.
macro_rules! dispatch {
    ($level:expr, $simd:ident => $run:expr) => {{
        let level: fearless_simd::Level = $level;
        #[cfg(target_arch = "x86_64")]
        {
            if let Some($simd) = level.as_avx512() {
                $simd.vectorize(#[inline(always)] || $run)
            } else if let Some($simd) = level.as_avx2() {
                $simd.vectorize(#[inline(always)] || $run)
            } else if let Some($simd) = level.as_sse2() {
                $simd.vectorize(#[inline(always)] || $run)
            } else {
                unreachable!("every x86-64 has SSE2")
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        fearless_simd::dispatch!(level, $simd => $run)
    }};
}
pub(crate) use dispatch;

/// Whether loops are compiled for the least that an x86-64 has, SSE2, or for a browser: there are fewer of them then, as
/// little is to be won with copies for each form of a row, and each takes its time to build.
pub(crate) const fn is_baseline<S: Simd>() -> bool {
    cfg!(any(target_arch = "x86_64", target_family = "wasm")) && <S::f32s as SimdBase<S>>::LEN <= 4
}

/// Runs a block as a function of its own, compiled for a level's instruction set: functions that take a quarter of a
/// megabyte take minutes to compile, and their parts seconds. It owns what it uses, as what is borrowed would be read again.
macro_rules! apart {
    ($simd:expr, $run:expr) => {
        $crate::cpu::exec::run_apart(
            $simd,
            #[inline(always)]
            move || $run,
        )
    };
}
pub(crate) use apart;

#[inline(never)]
pub(crate) fn run_apart<S: Simd, R>(simd: S, run: impl FnOnce() -> R) -> R {
    simd.vectorize(run)
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// Lends the thread's scratch memory to a task.
fn with_scratch(run: impl FnOnce(&mut Scratch)) {
    let mut scratch = SCRATCH.take().unwrap_or_else(Scratch::new);
    run(&mut scratch);
    fence();
    SCRATCH.set(Some(scratch));
}

/// Runs tasks on an instruction set, on this thread or on rayon's.
#[derive(Clone, Copy)]
pub(crate) struct Exec {
    pub level: Level,
    pub serial: bool,
}

impl Exec {
    pub fn new(level: Level, elements: usize) -> Exec {
        Exec { level, serial: elements <= SERIAL }
    }

    /// Runs every task once.
    pub fn each<T: Send>(&self, tasks: impl IntoIterator<Item = T>, run: impl Fn(T, &mut Scratch) + Send + Sync) {
        if self.serial {
            with_scratch(|scratch| tasks.into_iter().for_each(|task| run(task, scratch)));
        } else {
            let tasks = tasks.into_iter().collect::<Vec<_>>().into_par_iter().with_max_len(1);
            tasks.for_each(|task| with_scratch(|scratch| run(task, scratch)));
        }
    }

    /// Runs every task once; if `overlapping`, a few neighbours in turn, so that the next can begin before the last has
    /// ended.
    pub fn relay<T: Send>(
        &self,
        overlapping: bool,
        mut tasks: impl ExactSizeIterator<Item = T>,
        run: impl Fn(&mut dyn Iterator<Item = T>, &mut Scratch) + Send + Sync,
    ) {
        if self.serial {
            return with_scratch(|scratch| run(&mut tasks, scratch));
        }
        let few = if overlapping { tasks.len() / (RELAYS * rayon::current_num_threads()) } else { 1 };
        let relays = tasks.collect::<Vec<_>>().into_par_iter().chunks(few.max(1)).with_max_len(1);
        relays.for_each(|tasks| with_scratch(|scratch| run(&mut tasks.into_iter(), scratch)));
    }

    /// Runs ranges of rows that make up the whole tensor.
    pub fn each_rows(&self, grid: &Grid, run: impl Fn(Range<usize>, &mut Scratch) + Send + Sync) {
        let all = grid.all_rows();
        let step = self.rows_of_task(grid, grid.width, all);
        self.each(0..all.div_ceil(step), |i, scratch| run(i * step..((i + 1) * step).min(all), scratch));
    }

    /// Rows of a task, each of which has so many elements: a multiple of those that are reduced side by side, or all.
    pub fn rows_of_task(&self, grid: &Grid, elements: usize, rows: usize) -> usize {
        let once = rows_at_once(grid);
        if self.serial {
            rows.max(1)
        } else {
            (TASK / elements.max(1)).next_multiple_of(once).clamp(once, rows.max(once))
        }
    }

    /// Columns of a task that takes so many rows of them, a multiple of `panel`; all, if so many tasks are enough without that.
    pub fn columns_of_task(&self, tasks: usize, rows: usize, width: usize, panel: usize) -> usize {
        if self.enough(tasks) {
            width
        } else {
            (TASK / rows.max(1)).next_multiple_of(panel).clamp(panel, width.max(panel))
        }
    }

    /// Threads that share the work.
    pub fn threads(&self) -> usize {
        if self.serial { 1 } else { rayon::current_num_threads() }
    }

    /// Whether threads that share so many tasks of one size are busy for three quarters of the time.
    pub fn is_even(&self, tasks: usize) -> bool {
        let threads = self.threads();
        4 * tasks >= 3 * threads * tasks.div_ceil(threads)
    }

    /// Whether so many tasks of one size keep all threads busy.
    pub fn enough(&self, tasks: usize) -> bool {
        self.serial || tasks >= 4 * rayon::current_num_threads()
    }
}
