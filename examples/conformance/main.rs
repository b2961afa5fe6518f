//! Verifies this machine's backends against a golden file: see `--help`.

#[path = "../../tests/common/adapters.rs"]
mod adapters;
mod app;
#[path = "../../tests/common/cases.rs"]
mod cases;
#[path = "../../tests/common/conformance.rs"]
mod conformance;
#[path = "../../tests/common/golden.rs"]
mod golden;
#[path = "../../tests/common/member.rs"]
mod member;
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(app::run(std::env::args_os(), &mut std::io::stdout(), &mut std::io::stderr()))
}
