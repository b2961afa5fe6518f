//! What PyTorch computed in `f64`, on the reference, the CPU and every adapter.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/conformance.rs"]
mod conformance;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/member.rs"]
mod member;

use conformance::Implementation;
use golden::Case;
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::Path;
use wgpu_norm::host::Backend;

const FILE: &str = "tests/data/pytorch_golden.safetensors";

fn cases() -> Vec<Case> {
    golden::load(Path::new(FILE)).unwrap()
}

/// Runs a case: the file's names of what was compared, and a line for each that was wrong.
fn run(implementation: Implementation, case: &Case) -> (Vec<String>, Vec<String>) {
    match conformance::run(implementation, case) {
        Err(error) => (Vec::new(), vec![format!("{}: {error}", case.name)]),
        Ok(checks) => (
            checks.iter().map(|check| format!("{}/{}", case.name, check.what)).collect(),
            checks.iter().filter(|check| !check.passes()).map(|check| format!("{} {check}", case.name)).collect(),
        ),
    }
}

fn check(name: &str, implementation: Implementation, cases: &[Case]) {
    assert!(!cases.is_empty());
    let (compared, failures): (Vec<_>, Vec<_>) = cases.iter().map(|case| run(implementation, case)).unzip();
    let (compared, failures) = (compared.concat(), failures.concat());
    assert!(failures.is_empty(), "{name}: {} results are off:\n{}", failures.len(), failures.join("\n"));

    // Expected tensors are those stored as f64; inputs are not.
    let bytes = std::fs::read(FILE).unwrap();
    for (tensor, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let is_expected =
            view.dtype() == Dtype::F64 && cases.iter().any(|case| tensor.starts_with(&format!("{}/", case.name)));
        assert!(!is_expected || compared.contains(&tensor), "{name}: nothing was compared with {tensor}");
    }
}

#[test]
fn reference() {
    check("reference", Implementation::Reference, &cases());
}

#[test]
fn cpu() {
    check("cpu", Implementation::Backends(&[Backend::Cpu]), &cases());
}

#[test]
fn gpu() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let another = pollster::block_on(Backend::open(&gpu.adapter)).expect("an adapter opens twice");
        check(&gpu.name, Implementation::Backends(&[backend.clone(), another]), &cases());
    }
}

/// Groups of everything that is here.
#[test]
fn mixed() {
    let gpus: Vec<_> = backends::gpus().collect();
    let _turns: Vec<_> = gpus.iter().map(|(gpu, _)| gpu.turn()).collect();
    let all: Vec<Backend> = [Backend::Cpu].into_iter().chain(gpus.iter().map(|(_, b)| (*b).clone())).collect();
    let sharded: Vec<Case> = cases().into_iter().filter(|case| !case.shard_sizes.is_empty()).collect();
    check("mixed", Implementation::Backends(&all), &sharded);
}

/// A comparison that cannot fail is worth nothing: every expected tensor is spoiled in turn.
#[test]
fn a_wrong_value_is_found() {
    let case = cases().into_iter().find(|case| case.name == "bn2d_add_relu").unwrap();
    type Tensor = fn(&mut Case) -> &mut Vec<f64>;
    let tensors: [(&str, Tensor); 9] = [
        ("y", |case| &mut case.steps[0].expected.y),
        ("dx", |case| case.steps[0].expected.dx.as_mut().unwrap()),
        ("dresidual", |case| case.steps[0].expected.dresidual.as_mut().unwrap()),
        ("dweight", |case| case.steps[0].expected.dweight.as_mut().unwrap()),
        ("dbias", |case| case.steps[0].expected.dbias.as_mut().unwrap()),
        ("mean", |case| case.steps[0].expected.mean.as_mut().unwrap()),
        ("var", |case| case.steps[0].expected.var.as_mut().unwrap()),
        ("running_mean_after", |case| &mut case.running_after.as_mut().unwrap().0),
        ("running_var_after", |case| &mut case.running_after.as_mut().unwrap().1),
    ];
    for (what, tensor) in tensors {
        let spoil: [fn(&mut Vec<f64>); 4] = [
            |values| values[1] += 1e-7 * values.iter().fold(1.0, |scale: f64, v| scale.max(v.abs())),
            |values| values[1] = f64::NAN,
            |values| values[1] = f64::INFINITY,
            |values| values.truncate(1),
        ];
        for spoil in spoil {
            let mut spoiled = case.clone();
            spoil(tensor(&mut spoiled));
            let (_, failures) = run(Implementation::Reference, &spoiled);
            assert_eq!(failures.len(), 1, "{what}: {failures:?}");
            assert!(failures[0].starts_with(&format!("bn2d_add_relu {what}: ")), "{failures:?}");
        }
    }
    // What an implementation is given matters as much: NaN in one value of x, all of its channel's results are off.
    let mut spoiled = case.clone();
    spoiled.steps[0].x[0] = f64::NAN;
    let (_, failures) = run(Implementation::Reference, &spoiled);
    assert!(failures.iter().any(|failure| failure.contains(" y: error inf")));
}
