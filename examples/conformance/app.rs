//! The program, with its arguments and streams as parameters: a test runs it too.

use super::adapters::{self, Found};
use super::conformance::{self, Implementation};
use super::golden::{self, Case};
use super::report::{Outcome, Report, json};
use indicatif::{ProgressBar, ProgressStyle};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use wgpu_norm::host::Backend;

const HELP: &str = "\
Runs every case of a golden file on this machine's backends and compares with what PyTorch computed in f64.

    cargo run --release --example conformance -- tests/data/pytorch_golden.safetensors

Usage: conformance FILE.safetensors [--backend NAME]... [--verbose] [--json OUT]

    --backend NAME  reference, cpu, an adapter's name, or mixed; may be given again. Without it: all there are.
    --verbose       a line for every case, with its worst error
    --json OUT      writes every error and tolerance to OUT
    --help          this

Cases with shard sizes run as groups: of CPU workers, of devices of the adapter, or, as \"mixed\", of all adapters
and the CPU together. The reference takes the whole batch.

The file's format: tests/data/generate_pytorch_golden.py. Errors are relative to max(1, largest |expected|).
Tolerances: 5e-7 on the CPU and 1e-6 on a GPU for y, dx, dresidual, statistics and running statistics, four
times that for dweight and dbias; for f16 and bf16 half an ulp more; 1e-9 for the reference.
WGPU_BACKEND and WGPU_ADAPTER_NAME leave adapters out; WGPU_NORM_REQUIRE names those that must be here.

Exit status: 0 no case failed; 1 one did; 2 the file cannot be read or is malformed, or the arguments are wrong.
";

struct Args {
    file: PathBuf,
    backends: Vec<String>,
    verbose: bool,
    json: Option<PathBuf>,
}

/// Runs the program and returns its exit status. The first argument is its name.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut impl Write, err: &mut impl Write) -> u8 {
    let result = match parse(args) {
        Ok(Some(args)) => verify(&args, out, err),
        Ok(None) => write!(out, "{HELP}").map(|()| true).map_err(|e| cannot_write("stdout", e)),
        Err(error) => Err(format!("{error}; --help tells what there is")),
    };
    match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(message) => {
            // Nobody is left to be told that stderr is closed; the status tells.
            let _ = writeln!(err, "conformance: {message}");
            2
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Option<Args>, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut file, mut backends, mut verbose, mut json) = (None, Vec::new(), false, None);
    let mut parser = lexopt::Parser::from_iter(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("backend") => backends.push(parser.value()?.string()?),
            Long("verbose") | Short('v') => verbose = true,
            Long("json") => json = Some(parser.value()?.into()),
            Long("help") | Short('h') => return Ok(None),
            Value(value) if file.is_none() => file = Some(value.into()),
            _ => return Err(arg.unexpected()),
        }
    }
    let file = file.ok_or("FILE.safetensors is missing")?;
    Ok(Some(Args { file, backends, verbose, json }))
}

/// What a name stands for; adapters are opened when it is their turn.
enum Candidate {
    Reference,
    Cpu,
    Adapter(Box<Found>),
    /// All adapters and the CPU in one group.
    Mixed(Vec<Found>),
}

impl Candidate {
    fn name(&self) -> &str {
        match self {
            Candidate::Reference => "reference",
            Candidate::Cpu => "cpu",
            Candidate::Adapter(found) => &found.name,
            Candidate::Mixed(_) => "mixed",
        }
    }

    fn takes(&self, case: &Case) -> bool {
        !matches!(self, Candidate::Mixed(_)) || !case.shard_sizes.is_empty()
    }
}

fn candidates(wanted: &[String], err: &mut impl Write) -> Result<Vec<Candidate>, String> {
    let (found, skipped) = adapters::enumerate();
    let mut all = vec![Candidate::Reference, Candidate::Cpu];
    let mixed = (!found.is_empty()).then(|| Candidate::Mixed(found.clone()));
    all.extend(found.into_iter().map(Box::new).map(Candidate::Adapter).chain(mixed));
    let names: Vec<String> = all.iter().map(|candidate| candidate.name().to_string()).collect();
    if wanted.is_empty() {
        for skipped in &skipped {
            writeln!(err, "skipped adapter {skipped}").map_err(|e| cannot_write("stderr", e))?;
        }
        adapters::required(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        return Ok(all);
    }
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        return Err(format!("there is no backend {unknown:?} here; there are: {}", names.join(", ")));
    }
    all.retain(|candidate| wanted.iter().any(|name| name == candidate.name()));
    Ok(all)
}

/// Runs all cases on all backends; whether none failed.
fn verify(args: &Args, out: &mut impl Write, err: &mut impl Write) -> Result<bool, String> {
    let cases = golden::load(&args.file)?;
    let candidates = candidates(&args.backends, err)?;
    // Draws on stderr, and only if that is a terminal.
    let runs = candidates.iter().map(|candidate| cases.iter().filter(|case| candidate.takes(case)).count());
    let progress = ProgressBar::new(runs.sum::<usize>() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        progress.set_style(style);
    }
    let mut reports = Vec::new();
    for candidate in &candidates {
        let report = run_cases(candidate, &cases, &progress);
        progress.suspend(|| report.write(args.verbose, out)).map_err(|e| cannot_write("stdout", e))?;
        reports.push(report);
    }
    progress.finish_and_clear();
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", json(&args.file, &reports));
        std::fs::write(path, text).map_err(|e| cannot_write(&path.display().to_string(), e))?;
    }
    Ok(reports.iter().all(|report| report.failed() == 0))
}

fn run_cases<'a>(candidate: &Candidate, cases: &'a [Case], progress: &ProgressBar) -> Report<'a> {
    let complaints: Complaints = Arc::default();
    let opened = open(candidate, cases, &complaints);
    let device = opened.as_ref().map_or(String::new(), |opened| opened.device.clone());
    let outcomes = cases.iter().filter(|case| candidate.takes(case)).map(|case| {
        progress.set_message(format!("{}: {}", candidate.name(), case.name));
        let outcome = match &opened {
            Err(reason) => Outcome::Skipped(reason.clone()),
            Ok(Opened { backends, .. }) if backends.is_empty() => {
                run_case(Implementation::Reference, case, &complaints)
            }
            Ok(Opened { backends, .. }) => run_case(Implementation::Backends(backends), case, &complaints),
        };
        progress.inc(1);
        (case, outcome)
    });
    let groups = !matches!(candidate, Candidate::Reference);
    Report { name: candidate.name().into(), device, groups, outcomes: outcomes.collect() }
}

/// What drivers refused.
type Complaints = Arc<Mutex<Vec<String>>>;

struct Opened {
    device: String,
    /// None: the reference.
    backends: Vec<Backend>,
}

/// Opens what a candidate needs, or tells why that cannot be.
fn open(candidate: &Candidate, cases: &[Case], complaints: &Complaints) -> Result<Opened, String> {
    match candidate {
        Candidate::Reference => Ok(Opened { device: "scalar, f64".into(), backends: Vec::new() }),
        Candidate::Cpu => Ok(Opened { device: Backend::Cpu.name(), backends: vec![Backend::Cpu] }),
        Candidate::Adapter(found) => {
            let members = cases.iter().map(|case| case.shard_sizes.len()).max().unwrap_or(0).max(1);
            let opened: Vec<_> = (0..members).map(|_| device(found, complaints)).collect::<Result<_, _>>()?;
            let device = opened.first().map_or(String::new(), |(device, _)| device.clone());
            Ok(Opened { device, backends: opened.into_iter().map(|(_, backend)| backend).collect() })
        }
        Candidate::Mixed(all) => {
            // One that does not open says so under its own name.
            let opened = all.iter().filter_map(|found| device(found, complaints).ok());
            let (devices, backends): (Vec<_>, Vec<_>) = opened.chain([(Backend::Cpu.name(), Backend::Cpu)]).unzip();
            Ok(Opened { device: devices.join(", "), backends })
        }
    }
}

fn device(found: &Found, complaints: &Complaints) -> Result<(String, Backend), String> {
    let gpu = found.open(wgpu_norm::wgpu::Features::empty()).map_err(|skipped| skipped.reason)?;
    // A driver that refuses something is a result, not the end of the program.
    let complaints = complaints.clone();
    gpu.device.on_uncaptured_error(Arc::new(move |error| {
        complaints.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
    }));
    let backend = Backend::from_device(&gpu.device, &gpu.queue).map_err(|error| error.to_string())?;
    Ok((gpu.to_string(), backend))
}

fn run_case(implementation: Implementation, case: &Case, complaints: &Mutex<Vec<String>>) -> Outcome {
    let result = conformance::run(implementation, case);
    let complaints = std::mem::take(&mut *complaints.lock().unwrap_or_else(PoisonError::into_inner));
    match result {
        // The first says what is wrong, the others what follows from it; wgpu takes many lines for one.
        _ if !complaints.is_empty() => Outcome::Error(complaints[0].split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(error) => Outcome::Error(error.to_string()),
        Ok(checks) => Outcome::Compared(checks),
    }
}

fn cannot_write(what: &str, error: std::io::Error) -> String {
    format!("{what}: cannot be written: {error}")
}
