//! The reference against what PyTorch computed in `f64`.

#[path = "common/golden.rs"]
mod golden;

use golden::{Case, error};
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::Path;
use wgpu_norm::{Momentum, Statistics, reference};

const FILE: &str = "tests/data/pytorch_golden.safetensors";
const TOLERANCE: f64 = 1e-9;

fn cases() -> Vec<Case> {
    golden::load(Path::new(FILE)).unwrap()
}

/// Runs a case: names of what was compared, and a line for each that was wrong.
fn run(case: &Case) -> (Vec<String>, Vec<String>) {
    let (mut compared, mut failures) = (Vec::new(), Vec::new());
    let mut compare = |what: &str, actual: &[f64], expected: &[f64], tolerance: f64| {
        let error = error(actual, expected);
        compared.push(what.to_string());
        // Not `error > tolerance`: a tolerance that is NaN must not pass.
        let within = error <= tolerance;
        if !within {
            failures.push(format!("{} {what}: error {error:.2e}, tolerance {tolerance:.2e}", case.name));
        }
    };
    let channels = case.descriptor.affine_len() as usize;
    let (mut tracked, mut skipped) = (vec![0; channels], vec![0; channels]);
    let mut running = case.running.clone();
    let mut drift = 0.0;
    for (i, step) in case.steps.iter().enumerate() {
        let at = |what: &str| if case.steps.len() > 1 { format!("{what}{i}") } else { what.to_string() };
        let tensor = case.tensor(step);
        let evaluation = if case.statistics() == Statistics::Running { case.running.as_ref() } else { None };
        let inputs = reference::Inputs {
            x: &step.x,
            residual: step.residual.as_deref(),
            weight: case.weight.as_deref(),
            bias: case.bias.as_deref(),
            running: evaluation.map(|(mean, var)| (&mean[..], &var[..])),
            fusion: case.fusion,
        };
        let forward = reference::forward(&case.descriptor, &tensor, &inputs).unwrap();
        // PyTorch's eps and momentum are f64, the descriptor's are those rounded to f32. That moves rstd by half
        // of the relative change of var + eps, and dx, which has three factors of rstd, by three times as much.
        let eps_rounding = (f64::from(case.descriptor.eps()) - case.eps).abs();
        let largest = |values: &[f64]| values.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
        let tolerance = TOLERANCE + 1.5 * eps_rounding * largest(&forward.rstd).powi(2);

        let expected = &step.expected;
        compare(&at("y"), &forward.y, &expected.y, tolerance);
        for (what, actual, expected) in [("mean", &forward.mean, &expected.mean), ("var", &forward.var, &expected.var)]
        {
            if let Some(expected) = expected {
                compare(&at(what), actual, expected, TOLERANCE);
            }
        }
        if let Some(dy) = &step.dy {
            let backward = reference::backward(&case.descriptor, &tensor, &inputs, dy, None).unwrap();
            for (what, actual, expected) in [
                ("dx", Some(&backward.dx), &expected.dx),
                ("dresidual", backward.dresidual.as_ref(), &expected.dresidual),
                ("dweight", Some(&backward.dweight), &expected.dweight),
                ("dbias", Some(&backward.dbias), &expected.dbias),
            ] {
                if let Some(expected) = expected {
                    compare(&at(what), actual.map_or(&[], |actual| actual), expected, tolerance);
                }
            }
        }
        if let (true, Some((mean, var))) = (case.training, &mut running) {
            if let (Some(Momentum::Exponential(rounded)), Some(exact)) =
                (case.descriptor.running_stats().map(|running| running.momentum), case.momentum)
            {
                let rounding = (f64::from(rounded) - exact).abs();
                drift += rounding * [&forward.mean[..], &forward.var, mean, var].map(largest).iter().sum::<f64>();
            }
            reference::update_running(&case.descriptor, mean, var, &mut tracked, &mut skipped, &forward).unwrap();
        }
    }
    if let Some((expected_mean, expected_var)) = &case.running_after {
        let (mean, var) = running.as_ref().unwrap();
        let scale = |expected: &[f64]| expected.iter().fold(1.0, |scale: f64, e| scale.max(e.abs()));
        compare("running_mean", mean, expected_mean, TOLERANCE + drift / scale(expected_mean));
        compare("running_var", var, expected_var, TOLERANCE + drift / scale(expected_var));
        if tracked != vec![case.steps.len() as u32; channels] {
            failures.push(format!("{} batches tracked: {tracked:?}, skipped: {skipped:?}", case.name));
        }
    }
    (compared, failures)
}

#[test]
fn every_expected_tensor_agrees() {
    let bytes = std::fs::read(FILE).unwrap();
    // Expected tensors are those stored as f64; inputs are not.
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let expected = file.tensors().iter().filter(|(_, tensor)| tensor.dtype() == Dtype::F64).count();

    let (compared, failures): (Vec<_>, Vec<_>) = cases().iter().map(run).unzip();
    let (compared, failures) = (compared.concat(), failures.concat());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(compared.len(), expected);
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
        ("running_mean", |case| &mut case.running_after.as_mut().unwrap().0),
        ("running_var", |case| &mut case.running_after.as_mut().unwrap().1),
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
            let (_, failures) = run(&spoiled);
            assert_eq!(failures.len(), 1, "{what}: {failures:?}");
            assert!(failures[0].starts_with(&format!("bn2d_add_relu {what}: ")), "{failures:?}");
        }
    }
    // What the reference is given matters as much: NaN in one value of x, all of its channel's results are off.
    let mut spoiled = case.clone();
    spoiled.steps[0].x[0] = f64::NAN;
    assert!(run(&spoiled).1.iter().any(|failure| failure.contains(" y: error inf")));
}
