//! The project's own tools. `cargo xtask isa` shows what AMD's compiler makes of the shaders, without a GPU; `cargo xtask
//! translate` has them read by the compilers of other platforms; `cargo xtask metal` runs them on a stand-in for Metal.

mod budget;
mod calls;
mod compile;
mod compilers;
mod isa;
mod metal;
mod module;
mod radv;
mod report;
mod spirv;
mod table;

use indicatif::{ProgressBar, ProgressStyle};
use lexopt::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask isa [--chip NAME]... [--all] [--each] [--json FILE]

Compiles the pipelines that representative calls use with Mesa's RADV for GPUs that are not there, prints what
they cost, and fails if one exceeds xtask/isa-budget.toml.

  --chip NAME  a name that RADV_FORCE_FAMILY takes (default: navi21, gfx1100 and vega10)
  --all        also the pipelines of every other operation, and of outputs of another element type: slow
  --each       a line for each pipeline, not only for each kernel
  --json FILE  all numbers of all pipelines

cargo xtask translate [--all] [--out FOLDER]

Writes the same pipelines' shaders as SPIR-V, HLSL and MSL, and has them read by spirv-val, dxc and xcrun metal, where
they are on the PATH.

  --all        as above
  --out FOLDER where the files go (default: target/shaders)

cargo xtask metal [--all] [--case NAME]

Runs calls of the tests' table, and PyTorch's of groups, on a stand-in for Metal: the MSL compiled by clang as C++ with
fast math, an invocation a thread, watched by ThreadSanitizer. Needs Linux; on a Mac the tests run on Metal itself.

  --all        every case of both: slow
  --case NAME  only those whose names, which failures tell, contain this";

const CHIPS: [&str; 3] = ["navi21", "gfx1100", "vega10"];
const ICDS: &str = "/usr/share/vulkan/icd.d";

/// What a command does.
#[derive(Default)]
enum Task {
    #[default]
    Isa,
    Translate,
    Metal,
    /// A chip's part of the first, in a process of its own.
    Compile(String),
}

#[derive(Default)]
struct Options {
    task: Task,
    chips: Vec<String>,
    all: bool,
    each: bool,
    json: Option<String>,
    out: Option<PathBuf>,
    case: String,
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    match parser.next()? {
        Some(Value(command)) if command == "isa" => {}
        Some(Value(command)) if command == "translate" => options.task = Task::Translate,
        Some(Value(command)) if command == "metal" => options.task = Task::Metal,
        Some(Value(command)) if command == compile::CHILD => {
            options.task = Task::Compile(parser.value()?.string()?);
        }
        Some(Long("help") | Short('h')) => {
            println!("{USAGE}");
            std::process::exit(0);
        }
        _ => return Err("the tasks are isa, translate and metal".into()),
    }
    let isa = matches!(options.task, Task::Isa);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("all") => options.all = true,
            Long("chip") if isa => options.chips.push(parser.value()?.string()?),
            Long("each") if isa => options.each = true,
            Long("json") if isa => options.json = Some(parser.value()?.string()?),
            Long("out") if matches!(options.task, Task::Translate) => options.out = Some(parser.value()?.into()),
            Long("case") if matches!(options.task, Task::Metal) => options.case = parser.value()?.string()?,
            Long("help") | Short('h') => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let result = match options() {
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
        Ok(options) => match &options.task {
            Task::Isa => isa(&options),
            Task::Translate => compilers::check(options.all, &options.out.clone().unwrap_or_else(|| beside("shaders"))),
            Task::Metal => metal::check(options.all, &options.case, &beside("metal")),
            Task::Compile(chip) => compile::child(chip, options.all),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn isa(options: &Options) -> Result<(), String> {
    let budget = budget::Budget::load()?;
    let icd = icd()?;
    let chips = if options.chips.is_empty() { CHIPS.map(String::from).to_vec() } else { options.chips.clone() };
    let pipelines = calls::pipelines(options.all)?.len();
    let bar = progress(pipelines * chips.len())?;
    let compile = |chip| compile::compile(chip, options.all, &icd, || bar.inc(1));
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = chips.iter().map(|chip| scope.spawn(|| compile(chip))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    bar.finish_and_clear();
    let mut measured = Vec::new();
    for (chip, result) in chips.iter().zip(results) {
        let of_chip = result?;
        if options.each {
            println!("{}", report::each(&of_chip));
        }
        println!("{}", report::kernels(chip, &of_chip));
        measured.extend(of_chip);
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&measured).map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("{path}: {e}. Choose another place with --json."))?;
    }
    let driver = measured.first().map_or("", |m| &m.driver);
    println!("{pipelines} pipelines on {} chips, {driver}", chips.len());
    judge(&budget, driver, &measured)
}

/// Where files go if nobody says where: beside what cargo builds.
fn beside(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).join(name)
}

fn progress(steps: usize) -> Result<ProgressBar, String> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta:>4}").map_err(|e| e.to_string())?;
    Ok(ProgressBar::new(steps as u64).with_style(style))
}

fn judge(budget: &budget::Budget, driver: &str, measured: &[compile::Measured]) -> Result<(), String> {
    // A set, as a kernel without a budget is told of once.
    let excesses: BTreeSet<String> = measured.iter().flat_map(|m| budget.check(m)).collect();
    for excess in &excesses {
        println!("{excess}");
    }
    if !driver.contains(&format!("Mesa {}.", budget.mesa)) {
        println!("xtask/isa-budget.toml is for Mesa {}: nothing here is a failure.", budget.mesa);
    } else if !excesses.is_empty() {
        return Err(format!(
            "{} numbers exceed xtask/isa-budget.toml: make the shader cheaper, or argue for the number there",
            excesses.len()
        ));
    }
    Ok(())
}

/// RADV's manifest, so that the loader takes no other driver.
fn icd() -> Result<String, String> {
    let entries = std::fs::read_dir(ICDS).into_iter().flatten().flatten();
    let mut paths = entries.map(|e| e.path().display().to_string()).filter(|p| p.contains("/radeon_icd"));
    paths.next().ok_or_else(|| format!("no radeon_icd*.json in {ICDS}: install Debian's mesa-vulkan-drivers"))
}
