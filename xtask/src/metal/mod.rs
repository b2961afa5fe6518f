//! Calls on a stand-in for Metal: what naga writes for it, compiled by clang as C++ with fast math, and run with an
//! invocation a thread under ThreadSanitizer.

mod buffer;
mod commands;
mod device;
mod memory;
mod program;
mod unsupported;

use crate::calls::fusions;
use crate::progress;
use crate::table::cases::{Case, Data, base, compare, half, last, noise, norms, run};
use crate::table::conformance::{self, Implementation};
use crate::table::golden;
use device::Device;
use rayon::prelude::*;
use std::path::Path;
use wgpu_norm::{BatchNormDescriptor, DType, Error, Profile, Statistics, gpu, host};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/pytorch_golden.safetensors");

/// What is run.
enum Job {
    /// Of the tests' table, against the reference.
    Case(Profile, Box<Case>),
    /// Of the golden file, against PyTorch.
    Golden(Box<golden::Case>),
}

/// Runs calls of the table that the tests share, and PyTorch's of groups. `all`: every one of both. `named`: only
/// those whose names have this. Kernels are compiled in the folder, which is emptied.
pub fn check(all: bool, named: &str, folder: &Path) -> Result<(), String> {
    program::prepare(folder)?;
    let golden = golden::load(Path::new(GOLDEN))?.into_iter().filter(|case| all || !case.shard_sizes.is_empty());
    let cases = cases(if all { 1 } else { 7 }).into_iter().map(|(profile, case)| Job::Case(profile, Box::new(case)));
    let jobs = cases.chain(golden.map(|case| Job::Golden(Box::new(case))));
    let jobs: Vec<Job> = jobs.filter(|job| job.name().contains(named)).collect();
    if jobs.is_empty() {
        return Err(format!("no case's name contains {named:?}; --all has more"));
    }
    let bar = progress(jobs.len())?;
    let of = |job: &Job| {
        let wrong = job.wrong(folder);
        bar.inc(1);
        wrong
    };
    let wrong: Vec<String> = jobs.par_iter().filter_map(of).collect();
    bar.finish_and_clear();
    if !wrong.is_empty() {
        return Err(format!("{}\n{} of {} cases failed", wrong.join("\n"), wrong.len(), jobs.len()));
    }
    if named.is_empty() {
        let buffers = memory::check(folder)?;
        println!("a step without memory for one of its {buffers} buffers is an error and leaves nothing behind");
    }
    println!("{} cases on a stand-in for Metal: all results are right, and no invocations race", jobs.len());
    std::fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))
}

impl Job {
    fn name(&self) -> String {
        match self {
            Job::Case(_, case) => case.name(),
            Job::Golden(case) => case.name.clone(),
        }
    }

    /// What is wrong with its results, and what failed.
    fn wrong(&self, folder: &Path) -> Option<String> {
        let device = Device::new(folder);
        let checks = match self {
            Job::Case(profile, case) => {
                let data = Data::new(case);
                backend(&device, profile)
                    .and_then(|b| run(&b, case, &data).map(|results| compare(case, &data, &results, base(&b))))
            }
            Job::Golden(case) => {
                let backend = backend(&device, &Profile::GPU);
                let checks = backend.and_then(|b| conformance::run(Implementation::Backends(&[b]), case));
                checks.map(|checks| checks.into_iter().filter(|check| !check.passes()).collect())
            }
        };
        let mut wrong = device.failures();
        match checks {
            Ok(checks) => wrong.extend(checks.iter().map(|check| check.to_string())),
            Err(error) => wrong.push(error.to_string()),
        }
        (!wrong.is_empty()).then(|| format!("{}:\n{}", self.name(), wrong.join("\n")))
    }
}

fn backend(device: &Device, profile: &Profile) -> Result<host::Backend, Error> {
    let queue = wgpu::Queue::from_custom(device.clone());
    let context = gpu::Context::with_profile(&wgpu::Device::from_custom(device.clone()), *profile, None)?;
    Ok(host::Backend::Gpu { context, queue })
}

/// Every so many norms of the table, with a GPU's profile and a software driver's. What else differs between cases is drawn,
/// the same each time.
fn cases(step: usize) -> Vec<(Profile, Case)> {
    let mut drawn = noise(1, 10_000, 0.5, 12f64.sqrt().recip()).into_iter();
    let mut draw = |n: usize| (drawn.next().expect("numbers enough") * n as f64) as usize;
    let dtypes = [DType::F32, DType::F16, DType::F32, DType::BF16];
    let mut cases = Vec::new();
    for case in norms().into_iter().step_by(step) {
        for profile in [Profile::GPU, Profile::SOFTWARE_GPU] {
            let mut case = half(dtypes[draw(4)], Case { fusion: fusions()[draw(5)], ..case.clone() });
            if draw(4) == 0 {
                case.output = dtypes[draw(4)];
            }
            if draw(3) == 0 && case.descriptor.running_stats().is_some() {
                case.statistics = Statistics::Running;
            }
            // Of few values dx is a small difference of large ones.
            let has_values = case.descriptor.layout(&case.tensor()).is_ok_and(|layout| layout.stats.count() > 2);
            if case.input == DType::F32 && case.output == DType::F32 && has_values {
                (case.mean, case.std) = ([0.5, 1e6, -3e4][draw(3)], 1.0);
            }
            let channels_last = last(case.clone());
            if draw(3) == 0 && case.descriptor.layout(&channels_last.tensor()).is_ok() {
                case = channels_last;
            }
            cases.push((profile, case));
        }
    }
    // Channels of several rows abreast, which no norm of the table has.
    let wide = half(DType::F16, last(Case::new(BatchNormDescriptor::new(33), &[4, 33, 9, 10])));
    cases.extend([Profile::GPU, Profile::SOFTWARE_GPU].map(|profile| (profile, wide.clone())));
    cases
}
