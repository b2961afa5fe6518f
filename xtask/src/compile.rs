//! One chip's pipelines, in a process of its own: loader and driver read their environment once.

use crate::calls::{Pipeline, pipelines};
use crate::isa::Counts;
use crate::module::module;
use crate::radv::{Compiled, Radv};
use crate::spirv::translate;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use wgpu_norm::DType;

/// The argument that makes this program the child.
pub const CHILD: &str = "compile";

/// What one pipeline is on one chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub chip: String,
    pub driver: String,
    /// Kernel, direction and how it reaches elements: a line of the budget.
    pub kernel: String,
    pub call: String,
    /// Elements of each tensor that an invocation has at a time; none where it merges what others have found.
    pub elements: u32,
    pub vgprs: u64,
    pub sgprs: u64,
    pub lds: u64,
    /// Subgroups that a SIMD can hold; a workgroup's shared memory is taken into account.
    pub waves: u64,
    pub instructions: u64,
    pub branches: u64,
    pub spills: u64,
    pub code_bytes: u64,
    /// Loads and stores of less than a unit, where tensors are aligned to units.
    pub narrow: u32,
    pub counts: Counts,
}

impl Measured {
    /// Instructions for each element of an invocation.
    pub fn instructions_an_element(&self) -> Option<f64> {
        (self.elements > 0).then(|| self.instructions as f64 / f64::from(self.elements))
    }
}

/// The child: a line of JSON a pipeline.
pub fn child(chip: &str, all: bool) -> Result<(), String> {
    let radv = Radv::open()?;
    for pipeline in pipelines(all)? {
        let compiled = module(&pipeline.shader)
            .and_then(|module| translate(&module, radv.robust_buffer_access2))
            .and_then(|(words, bindings)| radv.compile(&words, &bindings))
            .map_err(|e| format!("{}: {e}", pipeline.call))?;
        let measured = measure(chip, &radv.driver, &pipeline, &compiled)?;
        println!("{}", serde_json::to_string(&measured).map_err(|e| e.to_string())?);
    }
    Ok(())
}

/// The parent: all pipelines of a chip. `done` is called after each.
pub fn compile(chip: &str, all: bool, icd: &str, done: impl Fn()) -> Result<Vec<Measured>, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
    let mut command = Command::new(program);
    command.args([CHILD, chip]).args(all.then_some("--all")).stdout(Stdio::piped());
    command.env("RADV_FORCE_FAMILY", chip).env("MESA_SHADER_CACHE_DISABLE", "true");
    // Both names: the second is what loaders before 1.3.207 know.
    command.env("VK_DRIVER_FILES", icd).env("VK_ICD_FILENAMES", icd).env_remove("VK_ADD_DRIVER_FILES");
    let mut child = command.spawn().map_err(|e| format!("no process for {chip}: {e}"))?;
    let mut all = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        let line = line.map_err(|e| format!("{chip}: {e}"))?;
        all.push(serde_json::from_str(&line).map_err(|e| format!("{chip}: {e} in {line:?}"))?);
        done();
    }
    let status = child.wait().map_err(|e| format!("{chip}: {e}"))?;
    if !status.success() {
        return Err(format!("{chip} failed after {} pipelines ({status}); the reason is above", all.len()));
    }
    Ok(all)
}

fn measure(chip: &str, driver: &str, pipeline: &Pipeline, compiled: &Compiled) -> Result<Measured, String> {
    let Pipeline { call, shader } = pipeline;
    let statistic = |name: &str| {
        compiled.statistics.get(name).copied().ok_or_else(|| {
            let known: Vec<&String> = compiled.statistics.keys().collect();
            format!("this RADV tells no {name:?}, only {known:?}: adapt xtask/src/compile.rs")
        })
    };
    let counts = Counts::of(&compiled.assembly);
    let path = match (shader.tensors.is_empty(), shader.vec4) {
        (true, _) => "",
        (_, true) => "-vec4",
        (_, false) if shader.neighbours => "-halves",
        (_, false) => "-scalar",
    };
    let beside = match (shader.columns, shader.channels, shader.samples, shader.wide_rows) {
        (true, ..) => "-columns",
        (_, true, ..) => "-channels",
        (_, _, true, _) => "-samples",
        (.., true) => "-wide",
        _ => "",
    };
    Ok(Measured {
        chip: chip.into(),
        driver: driver.into(),
        kernel: format!("{:?}{beside}-{:?}{path}", shader.kernel, shader.direction).to_lowercase(),
        call: call.clone(),
        elements: shader.elements,
        vgprs: statistic("VGPRs")?,
        sgprs: statistic("SGPRs")?,
        lds: statistic("LDS size")?,
        waves: statistic("Subgroups per SIMD")? / waves_counted(chip, &compiled.assembly),
        instructions: statistic("Instructions")?,
        branches: statistic("Branches")?,
        spills: statistic("Spilled VGPRs")? + statistic("Spilled SGPRs")?,
        code_bytes: statistic("Code size")?,
        narrow: if shader.vec4 { narrow(&shader.tensors, &counts) } else { 0 },
        counts,
    })
}

/// On RDNA, RADV counts a subgroup of 64 as two.
fn waves_counted(chip: &str, assembly: &str) -> u64 {
    let rdna = chip.starts_with("navi") || chip.starts_with("gfx1");
    if rdna && !assembly.contains("exec_lo") { 2 } else { 1 }
}

/// A unit of four elements has 128 bits in f32, 64 in the 16-bit types. Without tensors there are no units.
fn narrow(tensors: &[(DType, bool)], counts: &Counts) -> u32 {
    let Some(least) = tensors.iter().map(|(dtype, _)| dtype.size() as usize).min() else { return 0 };
    counts.loads[..least].iter().chain(&counts.stores[..least]).sum()
}
