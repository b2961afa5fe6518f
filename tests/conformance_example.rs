//! The conformance example: its exit status and what it says.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "../examples/conformance/app.rs"]
mod app;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/conformance.rs"]
mod conformance;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/member.rs"]
mod member;
#[path = "../examples/conformance/report.rs"]
mod report;

use safetensors::tensor::{SafeTensors, TensorView, serialize};
use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;

const FILE: &str = "tests/data/pytorch_golden.safetensors";

/// Exit status, stdout, stderr.
fn run(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("conformance").chain(args.iter().copied()).map(OsString::from);
    let status = app::run(args, &mut out, &mut err);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn temporary(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn what_cannot_be_run_is_status_2() {
    let truncated = temporary("truncated.safetensors");
    std::fs::write(&truncated, &std::fs::read(FILE).unwrap()[..1000]).unwrap();
    let unwritable = temporary("absent/out.json");
    let table: &[(&[&str], &str)] = &[
        (&["absent.safetensors"], "absent.safetensors: cannot be read"),
        (&["Cargo.toml"], "Cargo.toml: not a complete safetensors file"),
        (&[truncated.to_str().unwrap()], "not a complete safetensors file"),
        (&[], "FILE.safetensors is missing"),
        (&[FILE, FILE], "unexpected argument"),
        (&[FILE, "--fast"], "--fast"),
        (&[FILE, "--backend"], "missing argument"),
        (&[FILE, "--backend", "abacus"], "there is no backend \"abacus\" here; there are: reference, cpu"),
        (&[FILE, "--backend", "reference", "--json", unwritable.to_str().unwrap()], "out.json: cannot be written"),
    ];
    for (args, expected) in table {
        let (status, _, err) = run(args);
        assert_eq!(status, 2, "{args:?}: {err}");
        assert!(err.starts_with("conformance: ") && err.contains(expected), "{args:?}: {err:?}");
    }
}

#[test]
fn help_is_status_0() {
    let (status, out, err) = run(&["--help"]);
    assert!(status == 0 && err.is_empty() && out.contains("Usage: conformance FILE.safetensors"), "{out}{err}");
}

#[test]
fn a_backend_that_agrees_is_status_0() {
    let report = temporary("passed.json");
    let (status, out, _) = run(&[FILE, "--verbose", "--json", report.to_str().unwrap(), "--backend", "reference"]);
    let cases = golden::load(FILE.as_ref()).unwrap();
    assert_eq!(status, 0, "{out}");
    assert!(out.starts_with(&format!("reference: {} passed, 0 failed, 0 skipped\n", cases.len())), "{out}");
    assert_eq!(out.lines().count(), 2 + cases.len());
    assert!(out.contains("passed sync_bn2d_uneven (as one whole batch): worst is "), "{out}");
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let backend = &report["backends"][0];
    assert_eq!((&backend["name"], &backend["passed"]), (&"reference".into(), &cases.len().into()));
    let first = &backend["cases"][0];
    assert_eq!((&first["name"], &first["checks"][0]["tensor"]), (&"article_bn1d_32x16".into(), &"y".into()));
    assert!(first["checks"][0]["error"].as_f64().unwrap() < 1e-9);
}

/// The sharded cases, on a group of everything that is here; and on CPU workers.
#[test]
fn sharded_cases_run_as_groups() {
    let sharded = golden::load(FILE.as_ref()).unwrap().iter().filter(|case| !case.shard_sizes.is_empty()).count();
    assert!(sharded > 0);
    let found = !adapters::enumerate().0.is_empty();
    if found {
        let (status, out, _) = run(&[FILE, "--verbose", "--backend", "mixed"]);
        assert_eq!(status, 0, "{out}");
        assert!(out.starts_with(&format!("mixed: {sharded} passed, 0 failed, 0 skipped\n")), "{out}");
        assert!(out.contains("passed sync_bn2d_uneven (as a group of 3): worst is "), "{out}");
    } else {
        adapters::say(format_args!("skipped: no adapter is here for a mixed group"));
    }
    let (status, out, _) = run(&[FILE, "--verbose", "--backend", "cpu"]);
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("passed sync_bn2d_uneven (as a group of 3): worst is "), "{out}");
}

/// A value that is off in one tensor fails one case, and only that.
#[test]
fn a_wrong_value_is_status_1() {
    let bytes = std::fs::read(FILE).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let mut data = view.data().to_vec();
        if name == "bn2d_relu/dx" {
            data[..8].copy_from_slice(&7.5f64.to_le_bytes());
        }
        (name, view.dtype(), view.shape().to_vec(), data)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let spoiled = temporary("spoiled.safetensors");
    std::fs::write(&spoiled, serialize(views, metadata.metadata().clone()).unwrap()).unwrap();

    let (status, out, _) = run(&[spoiled.to_str().unwrap(), "--backend", "reference"]);
    let passed = golden::load(&spoiled).unwrap().len() - 1;
    assert_eq!(status, 1, "{out}");
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some(&*format!("reference: {passed} passed, 1 failed, 0 skipped")));
    let line = lines.next().unwrap();
    assert!(line.starts_with("  FAILED bn2d_relu: dx: error ") && line.contains(", tolerance 1.00e-9"), "{line}");
    assert_eq!(lines.next(), None);
}
