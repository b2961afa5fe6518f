//! Every implementation against the reference, from one table.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;

use cases::{Case, Data, compare, norms, run};
use wgpu_norm::{DType, Format, Fusion, Residual, Statistics, host};

/// Runs a list of cases on a backend and fails with all that is wrong.
fn check(name: &str, backend: &host::Backend, base: f64, cases: &[Case]) {
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in cases {
        let data = Data::new(case);
        match run(backend, case, &data) {
            Err(error) => wrong.push(format!("{}: {error}", case.name())),
            Ok(results) => {
                wrong.extend(compare(case, &data, &results, base).iter().map(|f| format!("{}: {f}", case.name())));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}: {} results are off:\n{}", wrong.len(), wrong.join("\n"));
}

fn shapes() -> Vec<Case> {
    norms()
}

fn offsets() -> Vec<Case> {
    let offsets = [(1e4, 1.0), (1e6, 1.0), (1.0, 1e-4), (-3e5, 0.5)];
    // Of two values 1e-4 apart dx is a small difference of numbers 300 times larger: no `f32` algorithm has it.
    let enough = |case: &Case| case.descriptor.layout(&case.tensor()).is_ok_and(|l| l.stats.count() > 2);
    offsets
        .into_iter()
        .flat_map(|(mean, std)| {
            let some = norms().into_iter().step_by(7).filter(enough);
            some.map(move |case| Case { mean, std, ..case })
        })
        .collect()
}

fn fusions() -> Vec<Case> {
    let mut cases = Vec::new();
    for residual in [Residual::None, Residual::After, Residual::Before] {
        for relu in [false, true] {
            // A prime step and another start each time: every norm meets every fusion, and every shape some.
            let start = cases.len() % 7;
            cases.extend(
                norms().into_iter().skip(start).step_by(7).map(|c| Case { fusion: Fusion { residual, relu }, ..c }),
            );
        }
    }
    cases
}

fn running_statistics() -> Vec<Case> {
    let fusions = [
        Fusion::default(),
        Fusion { residual: Residual::After, relu: true },
        Fusion { residual: Residual::Before, relu: false },
    ];
    let tracking: Vec<Case> = norms().into_iter().filter(|c| c.descriptor.running_stats().is_some()).collect();
    fusions
        .into_iter()
        .flat_map(|fusion| tracking.iter().map(move |c| Case { fusion, statistics: Statistics::Running, ..c.clone() }))
        .collect()
}

fn channels_last() -> Vec<Case> {
    let fusion = Fusion { residual: Residual::After, relu: true };
    let norms = norms().into_iter().filter(|c| c.shape.len() > 2);
    norms
        .filter(|c| !c.descriptor.name().starts_with("Layer") && !c.descriptor.name().starts_with("RMS"))
        .map(|case| Case { format: Format::ChannelsLast, fusion, ..case })
        .collect()
}

fn element_types() -> Vec<Case> {
    let pairs =
        [(DType::F16, DType::F16), (DType::BF16, DType::BF16), (DType::F16, DType::F32), (DType::F32, DType::BF16)];
    let fusion = Fusion { residual: Residual::Before, relu: false };
    pairs
        .into_iter()
        .flat_map(|(input, output)| {
            let some = norms().into_iter().enumerate().skip(input.size() as usize).step_by(5);
            some.map(move |(i, case)| Case {
                input,
                output,
                fusion: if i % 2 == 0 { fusion } else { Fusion { residual: Residual::After, relu: true } },
                format: if i % 3 == 0 && case.descriptor.layout(&channels_last_of(&case)).is_ok() {
                    Format::ChannelsLast
                } else {
                    Format::ChannelsFirst
                },
                ..case
            })
        })
        .collect()
}

fn channels_last_of(case: &Case) -> wgpu_norm::TensorDescriptor<'_> {
    wgpu_norm::TensorDescriptor { format: Format::ChannelsLast, ..case.tensor() }
}

/// One test a table and implementation; an adapter that is not here is printed as skipped by `adapters`.
macro_rules! implementations {
    ($($table:ident),* $(,)?) => {
        mod cpu {
            $(#[test]
            fn $table() {
                super::check("cpu", &wgpu_norm::host::Backend::Cpu, 5e-7, &super::$table());
            })*
        }
        mod gpu {
            $(#[test]
            fn $table() {
                for (gpu, backend) in super::backends::gpus() {
                    let _turn = gpu.turn();
                    super::check(&gpu.name, backend, 1e-6, &super::$table());
                }
            })*
        }
    };
}
implementations!(shapes, offsets, fusions, running_statistics, channels_last, element_types);
