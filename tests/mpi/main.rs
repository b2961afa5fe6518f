//! Groups over MPI: `cargo test --features mpi --test mpi`.
//!
//! The program starts itself with `mpirun -n 4` for each scenario, and checks how that ends.

#[path = "../common/adapters.rs"]
mod adapters;
#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/golden.rs"]
mod golden;
mod scenarios;
#[path = "../common/shards.rs"]
mod shards;
mod step;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Set for the ranks.
const SCENARIO: &str = "WGPU_NORM_MPI_SCENARIO";
/// A scenario that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    if let Ok(scenario) = std::env::var(SCENARIO) {
        scenarios::run(&scenario);
        return ExitCode::SUCCESS;
    }
    // As the usual harness: part of a name picks tests.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = 0;
    for (scenario, succeeds) in scenarios::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|part| scenario.contains(part)) {
            continue;
        }
        let result = start(scenario).and_then(|success| match success == succeeds {
            true => Ok(()),
            false => Err(format!("mpirun ended with {}", if success { "success" } else { "failure" })),
        });
        println!("test {scenario} ... {}", result.as_ref().err().map_or("ok", |error| error));
        failed += i32::from(result.is_err());
    }
    ExitCode::from(u8::from(failed > 0))
}

/// Runs a scenario on four ranks; whether all of them succeeded.
fn start(scenario: &str) -> Result<bool, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new("mpirun");
    command.args(["-n", "4"]);
    // More ranks than cores, and root in a container: Open MPI asks for a word first, MPICH does not know it.
    let version = Command::new("mpirun").arg("--version").output().map_err(|e| format!("mpirun: {e}"))?;
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        command.args(["--allow-run-as-root", "--oversubscribe"]);
    }
    let mut ranks = command
        .arg(this)
        .env(SCENARIO, scenario)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("mpirun does not start: {e}"))?;
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(status) = ranks.try_wait().map_err(|e| e.to_string())? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    ranks.kill().map_err(|e| e.to_string())?;
    Err(format!("not over after {LIMIT:?}"))
}
