//! How close the norms come to a copy of the same memory: see `--help`.

#[path = "../../tests/common/adapters.rs"]
mod adapters;
mod cases;
#[path = "../common/chart.rs"]
mod chart;
#[path = "../common/cli.rs"]
mod cli;
mod cpu;
mod data;
mod device;
mod gpu;
mod measure;
mod plot;
mod report;

use cases::Call;
use lexopt::ValueExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
Times every norm against a copy of the same memory, on the same device and in
the same run. Results are checked against the reference first.

    cargo run --release --example roofline -- --quick

    --backend NAME  cpu, or an adapter's name or part of it; may be given again.
                    Without it: the CPU and every real GPU (software drivers
                    only by name: lavapipe, swiftshader, gl)
    --op OP         train, eval or backward; may be given again. Without it: all
    --only TEXT     cases with this in their name: 7x7, LayerNorm, channels-last
    --quick         small tensors, a minute at most on a real device
    --json OUT      every number, for scripts
    --plot OUT      the chart (default target/roofline.svg)";

#[derive(Default)]
struct Args {
    backends: Vec<String>,
    calls: Vec<Call>,
    only: String,
    quick: bool,
    json: Option<PathBuf>,
    plot: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut args = Args::default();
    cli::parse(USAGE, |option, parser| {
        match option {
            "backend" => args.backends.push(parser.value()?.string()?),
            "op" => args.calls.push(parser.value()?.parse_with(|name| {
                Call::ALL.into_iter().find(|c| c.name() == name).ok_or("it is train, eval or backward")
            })?),
            "only" => args.only = parser.value()?.string()?,
            "quick" => args.quick = true,
            "json" => args.json = Some(parser.value()?.into()),
            "plot" => args.plot = Some(parser.value()?.into()),
            _ => return Ok(false),
        }
        Ok(true)
    });
    cli::end(run(&args))
}

fn run(args: &Args) -> Result<(), String> {
    let mut cases = cases::cases(args.quick);
    cases.retain(|case| args.calls.is_empty() || args.calls.contains(&case.call));
    cases.retain(|case| case.name().contains(&args.only));
    if cases.is_empty() {
        return Err(format!(
            "no case of these operations has \"{}\" in its name; names are like BatchNorm 64x64x28x28 f16",
            args.only
        ));
    }
    let plot = args.plot.clone().unwrap_or_else(|| "target/roofline.svg".into());
    // Not after minutes of work.
    for path in args.json.iter().chain([&plot]) {
        writable(path)?;
    }
    let devices = device::open(&args.backends)?;
    let budget = Duration::from_millis(if args.quick { 200 } else { 1500 });
    let bar = cli::progress((devices.len() * cases.len()) as u64);
    let mut rows = Vec::new();
    let mut summaries = Vec::new();
    let mut failures = Vec::new();
    for device in &devices {
        let first = rows.len();
        bar.suspend(|| println!("{}\n\n{}", device.description(), report::head()));
        for (i, case) in cases.iter().enumerate() {
            let name = case.name();
            bar.set_message(format!("{}: {name} {}", device.name(), case.call.name()));
            let row = device.measure(case, budget);
            bar.suspend(|| {
                if i == 0 || cases[i - 1].name() != name {
                    println!("{name}");
                }
                match &row {
                    Ok(row) => println!("{}", row.line()),
                    Err(_) => println!("  {} failed: see below", case.call.name()),
                }
            });
            match row {
                Ok(row) => rows.push(row),
                Err(e) => failures.push(format!("{name}, {} on {}: {e}", case.call.name(), device.name())),
            }
            bar.inc(1);
        }
        bar.suspend(|| println!());
        if rows.len() > first {
            summaries.push(report::summary(&rows[first..]));
        }
    }
    bar.finish_and_clear();
    if !rows.is_empty() {
        show(&rows, &summaries, &plot, args.json.as_deref())?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// What all rows together are shown as.
fn show(rows: &[report::Row], summaries: &[String], plot: &Path, json: Option<&Path>) -> Result<(), String> {
    println!("{}\n", report::LEGEND);
    plot::plot(rows, plot)?;
    println!("Chart: {}", plot.display());
    if let Some(path) = json {
        report::json(rows, path)?;
        println!("Every number: {}", path.display());
    }
    println!("To paste into an issue:\n\n{}", summaries.join("\n"));
    Ok(())
}

/// Makes the file, and the folders on the way to it.
fn writable(path: &Path) -> Result<(), String> {
    let folders = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let file = folders.and_then(|()| std::fs::File::options().create(true).append(true).open(path));
    file.map(drop).map_err(|e| format!("{}: {e}. Choose another place with --json or --plot", path.display()))
}
