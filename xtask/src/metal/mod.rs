//! Calls on a stand-in for Metal: what naga writes for it, compiled by clang as C++ with fast math, and run with an
//! invocation a thread under ThreadSanitizer.

mod buffer;
mod commands;
mod device;
mod program;
mod unsupported;

use crate::progress;
use crate::table::cases::{Case, Data, compare, half, last, norms, run};
use device::Device;
use rayon::prelude::*;
use std::path::Path;
use wgpu_norm::{DType, Fusion, Profile, Residual, gpu, host};

/// What results may be off by: as on a GPU.
const TOLERANCE: f64 = 1e-6;

/// Runs calls of the table that the tests share, and compares them with the reference. `all`: every case.
pub fn check(all: bool, folder: &Path) -> Result<(), String> {
    let folder = &folder.join("kernels");
    program::prepare(folder)?;
    let cases = cases(if all { 1 } else { 7 });
    let bar = progress(cases.len())?;
    let wrong: Vec<String> = cases
        .par_iter()
        .flat_map_iter(|(profile, case)| {
            let wrong = check_case(profile, case, folder);
            bar.inc(1);
            wrong
        })
        .collect();
    bar.finish_and_clear();
    if !wrong.is_empty() {
        return Err(format!("{}\n{} things are wrong in {} calls", wrong.join("\n"), wrong.len(), cases.len()));
    }
    println!("{} calls on a stand-in for Metal: all results are right, and no invocations race", cases.len());
    Ok(())
}

/// Every so many norms of the table, with a GPU's profile and a software driver's. Fusions, element types, means and formats
/// take turns.
fn cases(step: usize) -> Vec<(Profile, Case)> {
    let fusion = |residual, relu| Fusion { residual, relu };
    let fusions = [
        Fusion::default(),
        fusion(Residual::After, true),
        fusion(Residual::None, true),
        fusion(Residual::Before, false),
        fusion(Residual::After, false),
    ];
    let dtypes = [DType::F32, DType::F16, DType::F32, DType::BF16];
    let means = [0.5, 1e6, -3e4];
    let profiles = [Profile::GPU, Profile::SOFTWARE_GPU];
    let mut cases = Vec::new();
    for (i, case) in norms().into_iter().step_by(step).enumerate() {
        for (k, profile) in profiles.into_iter().enumerate() {
            // Periods without a common factor, so that everything meets everything.
            let turn = i + k;
            let case = half(dtypes[turn % 4], Case { fusion: fusions[turn % 5], ..case.clone() });
            let far = Case { mean: means[turn % 3], std: 1.0, ..case.clone() };
            let case = if case.input == DType::F32 { far } else { case };
            let channels_last = last(case.clone());
            let has_formats = case.descriptor.layout(&channels_last.tensor()).is_ok();
            cases.push((profile, if has_formats && turn % 7 % 2 == 1 { channels_last } else { case }));
        }
    }
    cases
}

fn check_case(profile: &Profile, case: &Case, folder: &Path) -> Vec<String> {
    let device = Device::new(folder);
    let queue = wgpu::Queue::from_custom(device.clone());
    let context = gpu::Context::with_profile(&wgpu::Device::from_custom(device.clone()), *profile, None);
    let results = context.and_then(|context| {
        let backend = host::Backend::Gpu { context, queue, name: "Metal".into() };
        let data = Data::new(case);
        run(&backend, case, &data).map(|results| compare(case, &data, &results, TOLERANCE))
    });
    let mut wrong = device.failures();
    match results {
        Ok(checks) => wrong.extend(checks.iter().map(|check| check.to_string())),
        Err(error) => wrong.push(error.to_string()),
    }
    wrong.into_iter().map(|what| format!("{}: {what}", case.name())).collect()
}
