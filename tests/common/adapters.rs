//! Every adapter that wgpu finds here, under a short and stable name.
//!
//! A module for `#[path]`: all tests that touch a GPU share it, and so does the conformance
//! example. It needs nothing but wgpu and pollster.
//!
//! The environment has a say:
//! * `WGPU_NORM_REQUIRE=lavapipe,swiftshader,gl` names adapters whose absence is an error;
//! * `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` leave adapters out, as they do for any wgpu program.

#![allow(dead_code)] // each program that includes this file uses a part of it

use std::fmt;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The software adapters that the tests want everywhere.
pub const SOFTWARE: [&str; 3] = ["gl", "lavapipe", "swiftshader"];

/// An adapter and a device on it, opened once and shared by all threads.
pub struct Gpu {
    /// "lavapipe", "swiftshader", "gl", or made of the adapter's own name and its backend.
    pub name: String,
    pub info: wgpu::AdapterInfo,
    pub adapter: wgpu::Adapter,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// Where the adapter offers less than WebGPU's default limits; empty on a conforming one.
    pub reduced: Vec<Reduced>,
    turn: Mutex<()>,
}

/// A WebGPU default limit that an adapter does not reach.
#[derive(Clone, Debug)]
pub struct Reduced {
    pub limit: &'static str,
    pub default: u64,
    pub offered: u64,
}

/// An adapter, or a driver's attempt at one, that is left out.
#[derive(Clone, Debug)]
pub struct Skipped {
    pub name: String,
    pub reason: String,
}

/// An adapter that has not been opened.
#[derive(Clone)]
pub struct Found {
    pub name: String,
    pub info: wgpu::AdapterInfo,
    pub adapter: wgpu::Adapter,
}

impl Gpu {
    /// On OpenGL waits until no other thread holds this adapter; others may be used by several threads.
    ///
    /// Hold the guard from the first GPU call to the readback. wgpu's GL backend locks its one
    /// context while the driver works (llvmpipe runs a dispatch within the submit), and a second
    /// thread that waits for it panics after six seconds.
    pub fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let alone = self.info.backend == wgpu::Backend::Gl;
        // A test that failed while it had its turn must not fail the others.
        alone.then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Found {
    /// Opens a device with WebGPU's default limits, or what the adapter has of them, and with
    /// the given features.
    pub fn open(&self, features: wgpu::Features) -> Result<Gpu, Skipped> {
        let skip = |reason: String| Skipped { name: self.name.clone(), reason };
        if !self.adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
            return Err(skip("it has no compute shaders".into()));
        }
        let missing = features - self.adapter.features();
        if !missing.is_empty() {
            return Err(skip(format!("it lacks {missing:?}")));
        }
        let (default, offered) = (wgpu::Limits::default(), self.adapter.limits());
        let mut reduced = Vec::new();
        default.check_limits_with_fail_fn(&offered, false, |limit, default, offered| {
            reduced.push(Reduced { limit, default, offered });
        });
        let (device, queue) = pollster::block_on(self.adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some(&self.name),
            required_features: features,
            required_limits: default.or_worse_values_from(&offered),
            ..Default::default()
        }))
        .map_err(|error| skip(format!("it does not open: {error}")))?;
        Ok(Gpu {
            name: self.name.clone(),
            info: self.info.clone(),
            adapter: self.adapter.clone(),
            device,
            queue,
            reduced,
            turn: Mutex::new(()),
        })
    }
}

/// Lists the adapters of all backends, each once, without opening them.
pub fn enumerate() -> (Vec<Found>, Vec<Skipped>) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let wanted = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default().to_lowercase();
    let mut found: Vec<Found> = Vec::new();
    let mut skipped = Vec::new();
    for adapter in pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all())) {
        let info = adapter.get_info();
        let mut name = short_name(&info);
        if found.iter().any(|other| other.info == info) {
            // A driver that the Vulkan loader was told of twice. Two equal cards differ in their PCI address.
            skipped.push(Skipped { name, reason: "listed twice".into() });
        } else if !name.contains(&wanted) && !info.name.to_lowercase().contains(&wanted) {
            skipped.push(Skipped { name, reason: format!("WGPU_ADAPTER_NAME={wanted} leaves it out") });
        } else {
            let equal = found.iter().filter(|other| short_name(&other.info) == name).count();
            if equal > 0 {
                name = format!("{name}-{}", equal + 1);
            }
            found.push(Found { name, info, adapter });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    (found, skipped)
}

/// Prints a line on stderr even from a test that passes: the test harness keeps back what
/// `eprintln!` prints.
pub fn say(line: fmt::Arguments<'_>) {
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// All adapters, opened when first asked for, with no features. Says what it skips.
///
/// Fails if `WGPU_NORM_REQUIRE` names one that is not here.
pub fn open_all() -> Result<&'static [Gpu], String> {
    static ALL: OnceLock<Result<Vec<Gpu>, String>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let (found, mut skipped) = enumerate();
        let mut gpus = Vec::new();
        for found in found {
            match found.open(wgpu::Features::empty()) {
                Ok(gpu) => gpus.push(gpu),
                Err(reason) => skipped.push(reason),
            }
        }
        for name in SOFTWARE {
            if !gpus.iter().any(|gpu| gpu.name == name) && !skipped.iter().any(|skipped| skipped.name == name) {
                skipped.push(Skipped { name: name.into(), reason: "wgpu does not find it".into() });
            }
        }
        for skipped in &skipped {
            say(format_args!("skipped adapter {skipped}"));
        }
        let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
        required(&names).map(|()| gpus)
    });
    all.as_deref().map_err(String::clone)
}

/// [`open_all`] for tests: a missing required adapter is a panic.
pub fn all() -> &'static [Gpu] {
    open_all().unwrap_or_else(|message| panic!("{message}"))
}

/// Checks that every adapter named in `WGPU_NORM_REQUIRE` is among those found.
pub fn required(found: &[&str]) -> Result<(), String> {
    check_required(&std::env::var("WGPU_NORM_REQUIRE").unwrap_or_default(), found)
}

/// [`required`] with the list as an argument. "mpi" is no adapter: `scripts/test` looks after it.
pub fn check_required(list: &str, found: &[&str]) -> Result<(), String> {
    let missing: Vec<&str> =
        list.split(',').map(str::trim).filter(|name| !["", "mpi"].contains(name) && !found.contains(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    Err(format!(
        "WGPU_NORM_REQUIRE asks for adapters that are not here: {}; found: {found} \
         (scripts/test installs software drivers and tells the Vulkan loader of them)",
        missing.join(", ")
    ))
}

/// The name by which reports, `--backend` and `WGPU_NORM_REQUIRE` know an adapter.
pub fn short_name(info: &wgpu::AdapterInfo) -> String {
    let name = info.name.to_lowercase();
    match info.backend {
        wgpu::Backend::Gl => "gl".into(),
        wgpu::Backend::Vulkan if name.contains("llvmpipe") => "lavapipe".into(),
        wgpu::Backend::Vulkan if name.contains("swiftshader") => "swiftshader".into(),
        backend => {
            // What stands in brackets is a version more often than not: it would make the name unstable.
            let name = name.split(['(', '/']).next().unwrap_or_default();
            let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
            words.chain([backend.to_str()]).collect::<Vec<_>>().join("-")
        }
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}", self.name, self.info.name, self.info.backend)?;
        for detail in [&self.info.driver, &self.info.driver_info] {
            if !detail.is_empty() {
                write!(f, ", {detail}")?;
            }
        }
        write!(f, ")")
    }
}

impl fmt::Display for Reduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, WebGPU's default is {}", self.limit, self.offered, self.default)
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}
