//! Where to measure: the CPU and this machine's adapters.

use super::cases::Case;
use super::data::Data;
use super::measure::{Runner, check, measure};
use super::report::Row;
use super::{adapters, cpu, gpu};
use std::time::Duration;
use wgpu_norm::plan::Plan;
use wgpu_norm::{Error, Profile, wgpu};

pub enum Device {
    Cpu,
    Gpu(Box<adapters::Gpu>),
}

/// Those whose names are asked for, or else the CPU and every real GPU.
pub fn open(names: &[String]) -> Result<Vec<Device>, String> {
    if !names.is_empty() && names.iter().all(|name| name.eq_ignore_ascii_case("cpu")) {
        // Drivers may have something to say when they are looked for.
        return Ok(vec![Device::Cpu]);
    }
    let (found, _) = adapters::enumerate();
    let names: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    // The whole of a name is that device alone: "gl" is in many names.
    let has_all_of = |name: &String| name == "cpu" || found.iter().any(|f| f.name == *name);
    let asks_for = |name: &String, device: &str| if has_all_of(name) { name == device } else { device.contains(name) };
    let known = || found.iter().map(|f| f.name.as_str()).fold("cpu".to_owned(), |list, name| list + ", " + name);
    if let Some(name) = names.iter().find(|n| !has_all_of(n) && !found.iter().any(|f| f.name.contains(*n))) {
        return Err(format!("there is no backend {name} here. --backend takes: {}", known()));
    }
    let mut devices = Vec::new();
    if names.is_empty() || names.iter().any(|name| name == "cpu") {
        devices.push(Device::Cpu);
    }
    for adapter in &found {
        let real = adapter.info.device_type != wgpu::DeviceType::Cpu;
        if names.iter().any(|name| asks_for(name, &adapter.name)) || (names.is_empty() && real) {
            match adapter.open(adapter.adapter.features() & gpu::TIMESTAMPS) {
                Ok(gpu) => devices.push(Device::Gpu(Box::new(gpu))),
                // One that nobody asked for must not keep the others from being measured.
                Err(skipped) if names.is_empty() => println!("Skipped {skipped}\n"),
                Err(skipped) => return Err(skipped.to_string()),
            }
        }
    }
    if names.is_empty() && devices.len() == 1 {
        println!("There is no GPU here that is more than a program. --backend takes: {}\n", known());
    }
    Ok(devices)
}

impl Device {
    pub fn name(&self) -> &str {
        match self {
            Device::Cpu => "cpu",
            Device::Gpu(gpu) => &gpu.name,
        }
    }

    /// Who it is, and who measures.
    pub fn description(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match self {
            Device::Cpu => {
                format!("wgpu-norm {version} on cpu ({}, {} threads)", model(), rayon::current_num_threads())
            }
            Device::Gpu(gpu) => format!("wgpu-norm {version} on {gpu}"),
        }
    }

    /// Checks the case's result against the reference, then times it.
    pub fn measure(&self, case: &Case, budget: Duration) -> Result<Row, String> {
        let data = Data::new(case).map_err(|e| e.to_string())?;
        let (error, measured, clock) = self
            .with_runner(case, &data, |runner| {
                let error = check(runner, case, &data)?;
                let right = error <= 1.0;
                Ok((error, if right { Some(measure(runner, budget)?) } else { None }, runner.clock()))
            })
            .map_err(|e| e.to_string())?;
        let measured = measured.ok_or_else(|| {
            format!(
                "wrong result, {error:.1} times what is tolerated: nothing was timed. Please report it, with what \
                 `cargo run --release --example conformance -- tests/data/pytorch_golden.safetensors` prints"
            )
        })?;
        let plan_bytes = self.plan_bytes(case).map_err(|e| e.to_string())?;
        Ok(Row::new(case, self.name(), self.description(), clock, measured, plan_bytes))
    }

    /// Of the tensors, by the passes of a GPU's plan.
    fn plan_bytes(&self, case: &Case) -> Result<Option<u64>, Error> {
        let Device::Gpu(gpu) = self else { return Ok(None) };
        let profile = Profile::new(&gpu.info, &gpu.device.limits());
        Ok(Some(Plan::new(case.problem(), &profile)?.bytes()))
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

/// What the processor is called, where the system tells in a file.
fn model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}
