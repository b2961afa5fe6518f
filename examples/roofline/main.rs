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
mod gpu;
mod measure;
mod report;

use cases::{Call, Case};
use data::Data;
use lexopt::ValueExt;
use measure::{Runner, check, measure};
use report::Row;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use wgpu_norm::plan::Plan;
use wgpu_norm::{Error, Profile, wgpu};

const USAGE: &str = "\
Times every norm against a copy of the same memory, on the same device and in the same run.

    cargo run --release --example roofline -- --quick

    --backend NAME   cpu, or an adapter's name; may be given again. Without it: the CPU and every real GPU
                     (software drivers only by name: lavapipe, swiftshader, gl)
    --op OP          train, eval or backward; may be given again. Without it: all three
    --only TEXT      cases whose line has this in it: 7x7, LayerNorm, channels-last
    --quick          small tensors, seconds instead of minutes
    --json OUT       every number, for scripts
    --plot OUT       the chart (default target/roofline.svg)

copies: time over that of a copy of one tensor, the median of pairs that ran one after the other. The least that a
call must move is 1 copy (train, eval) or 1.5 (backward). Results are checked against the reference first.";

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
    let devices = devices(args)?;
    let mut cases = cases::cases(args.quick);
    cases.retain(|case| args.calls.is_empty() || args.calls.contains(&case.call));
    cases.retain(|case| case.name().contains(&args.only));
    let bar = cli::progress((devices.len() * cases.len()) as u64);
    let mut rows = Vec::new();
    for device in &devices {
        bar.suspend(|| println!("{}", device.description()));
        for case in &cases {
            bar.set_message(format!("{} {} on {}", case.name(), case.call.name(), device.name()));
            let row = device.measure(case, args.quick).map_err(|e| format!("{}: {e}", case.name()))?;
            bar.suspend(|| row.print());
            rows.push(row);
            bar.inc(1);
        }
        bar.suspend(|| println!("\nTo paste into an issue:\n{}\n", report::line(&device.description(), &rows)));
    }
    bar.finish_and_clear();
    let plot = args.plot.clone().unwrap_or_else(|| "target/roofline.svg".into());
    report::plot(&rows, &plot)?;
    println!("{}", plot.display());
    match &args.json {
        Some(path) => report::json(&rows, path),
        None => Ok(()),
    }
}

/// Where to measure.
enum Device {
    Cpu,
    Gpu(Box<adapters::Gpu>),
}

fn devices(args: &Args) -> Result<Vec<Device>, String> {
    let (found, _) = adapters::enumerate();
    let unknown = args.backends.iter().find(|b| *b != "cpu" && !found.iter().any(|f| f.name == **b));
    if let Some(name) = unknown {
        let known: Vec<&str> = found.iter().map(|f| f.name.as_str()).collect();
        return Err(format!("there is no backend {name}; here are: cpu {}", known.join(" ")));
    }
    let wanted = |name: &str| args.backends.iter().any(|b| b == name);
    let mut devices = Vec::new();
    if args.backends.is_empty() || wanted("cpu") {
        devices.push(Device::Cpu);
    }
    for adapter in found {
        let real = adapter.info.device_type != wgpu::DeviceType::Cpu;
        if wanted(&adapter.name) || (args.backends.is_empty() && real) {
            let features = adapter.adapter.features() & gpu::TIMESTAMPS;
            devices
                .push(Device::Gpu(Box::new(adapter.open(features).map_err(|s| format!("{}: {}", s.name, s.reason))?)));
        }
    }
    Ok(devices)
}

impl Device {
    fn name(&self) -> &str {
        match self {
            Device::Cpu => "cpu",
            Device::Gpu(gpu) => &gpu.name,
        }
    }

    fn description(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match self {
            Device::Cpu => format!("wgpu-norm {version}, CPU, {} threads", rayon::current_num_threads()),
            Device::Gpu(gpu) => {
                let info = &gpu.info;
                format!("wgpu-norm {version}, {} ({:?}, {} {})", info.name, info.backend, info.driver, info.driver_info)
            }
        }
    }

    fn measure(&self, case: &Case, quick: bool) -> Result<Row, Error> {
        let small = case.small();
        let data = Data::new(&small)?;
        let error = self.with_runner(&small, &data, |runner| check(runner, &small, &data))?;
        if error > 1.0 || error.is_nan() {
            let what = format!("{error} times the tolerance off");
            return Err(Error::Communication(format!("wrong result, nothing was timed: {what}")));
        }
        let data = Data::new(case)?;
        let budget = Duration::from_millis(if quick { 200 } else { 1500 });
        let (measured, clock) =
            self.with_runner(case, &data, |runner| Ok((measure(runner, budget)?, runner.clock())))?;
        let plan = Plan::new(case.problem(), &self.profile())?;
        Ok(Row::new(self.name(), case, measured, plan.bytes(), clock))
    }

    fn profile(&self) -> Profile {
        match self {
            Device::Cpu => Profile::CPU,
            Device::Gpu(gpu) => Profile::new(gpu.info.device_type, &gpu.device.limits()),
        }
    }

    fn with_runner<R>(
        &self,
        case: &Case,
        data: &Data,
        run: impl FnOnce(&mut dyn Runner) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match self {
            Device::Cpu => run(&mut *cpu::runner(case, data)?),
            Device::Gpu(gpu) => {
                let context = wgpu_norm::gpu::Context::new(&gpu.device)?;
                run(&mut gpu::runner(gpu, &context, case, data)?)
            }
        }
    }
}
