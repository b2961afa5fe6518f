//! What happened to each case of a backend, as lines and as JSON.

use super::cases::Check;
use super::golden::Case;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

pub enum Outcome {
    Compared(Vec<Check>),
    /// The call failed.
    Error(String),
    Skipped(String),
}

pub struct Report<'a> {
    pub name: String,
    pub device: String,
    /// Whether cases with `shard_sizes` ran as groups.
    pub groups: bool,
    pub outcomes: Vec<(&'a Case, Outcome)>,
}

impl Outcome {
    fn status(&self) -> &'static str {
        match self {
            Outcome::Compared(checks) if checks.iter().all(Check::passes) => "passed",
            Outcome::Compared(_) | Outcome::Error(_) => "failed",
            Outcome::Skipped(_) => "skipped",
        }
    }
}

impl Report<'_> {
    fn count(&self, status: &str) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| outcome.status() == status).count()
    }

    /// How a case with `shard_sizes` ran.
    fn remark(&self, case: &Case) -> Option<String> {
        match case.shard_sizes.len() {
            0 => None,
            members if self.groups => Some(format!("as a group of {members}")),
            _ => Some("as one whole batch".into()),
        }
    }

    pub fn failed(&self) -> usize {
        self.count("failed")
    }

    pub fn write(&self, verbose: bool, out: &mut impl Write) -> std::io::Result<()> {
        let [passed, failed, skipped] = ["passed", "failed", "skipped"].map(|status| self.count(status));
        writeln!(out, "{}: {passed} passed, {failed} failed, {skipped} skipped", self.name)?;
        if verbose {
            writeln!(out, "  {}", self.device)?;
        }
        for (case, outcome) in &self.outcomes {
            let name = &case.name;
            match outcome {
                Outcome::Skipped(reason) => writeln!(out, "  skipped {name}: {reason}")?,
                Outcome::Error(error) => writeln!(out, "  FAILED {name}: {error}")?,
                Outcome::Compared(checks) => {
                    for check in checks.iter().filter(|check| !check.passes()) {
                        writeln!(out, "  FAILED {name}: {check}")?;
                    }
                    let worst = checks.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
                    if let (true, "passed", Some(worst)) = (verbose, outcome.status(), worst) {
                        let remark = self.remark(case).map(|remark| format!(" ({remark})")).unwrap_or_default();
                        writeln!(out, "  passed {name}{remark}: worst is {worst}")?;
                    }
                }
            }
        }
        out.flush()
    }
}

/// How much of its tolerance an error uses up.
fn share(check: &Check) -> f64 {
    // An exact comparison has nothing to use up.
    if check.tolerance == 0.0 { check.error } else { check.error / check.tolerance }
}

/// Everything. An error that is not finite (missing values, NaN) is null.
pub fn json(file: &Path, reports: &[Report]) -> Value {
    let check = |check: &Check| {
        let Check { what, error, tolerance } = check;
        json!({"tensor": what, "error": error, "tolerance": tolerance, "passed": check.passes()})
    };
    let case = |report: &Report, (case, outcome): &(&Case, Outcome)| {
        let mut value = json!({"name": case.name, "kind": case.kind, "status": outcome.status()});
        match outcome {
            Outcome::Compared(checks) => value["checks"] = checks.iter().map(check).collect(),
            Outcome::Error(reason) | Outcome::Skipped(reason) => value["reason"] = json!(reason),
        }
        if let Some(remark) = report.remark(case) {
            value["remark"] = json!(remark);
        }
        value
    };
    let backend = |report: &Report| {
        let [passed, failed, skipped] = ["passed", "failed", "skipped"].map(|status| report.count(status));
        json!({
            "name": report.name, "device": report.device,
            "passed": passed, "failed": failed, "skipped": skipped,
            "cases": report.outcomes.iter().map(|outcome| case(report, outcome)).collect::<Value>(),
        })
    };
    json!({"file": file.display().to_string(), "backends": reports.iter().map(backend).collect::<Value>()})
}
