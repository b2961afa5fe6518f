//! The shaders in the languages of Vulkan, DX12 and Metal, given to those languages' own compilers: naga's validator looks
//! at what goes into its backends, not at what they write.

use crate::calls::{Pipeline, pipelines};
use crate::module::{BOUNDS, module};
use crate::{progress, spirv};
use naga::back::{hlsl, msl};
use naga::valid::ModuleInfo;
use naga::{AddressSpace, Module, StorageAccess};
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program that reads a language. It is called with these arguments, and a file.
struct Compiler {
    program: &'static [&'static str],
    arguments: &'static [&'static str],
    extension: &'static str,
    from: &'static str,
}

const COMPILERS: [Compiler; 3] = [
    Compiler {
        program: &["spirv-val"],
        arguments: &["--target-env", "vulkan1.3"],
        extension: "spv",
        from: "Debian's spirv-tools, or the Vulkan SDK",
    },
    Compiler {
        program: &["dxc"],
        // As wgpu-hal 30 calls it: naga writes HLSL of 2018.
        arguments: &["-T", "cs_6_0", "-E", "main", "-HV", "2018", "-Ges", "-no-warnings"],
        extension: "hlsl",
        from: "the Vulkan SDK, or DirectXShaderCompiler's releases",
    },
    Compiler {
        program: &["xcrun", "metal"],
        arguments: &["-std=metal2.4", "-c", "-o", "/dev/null"],
        extension: "metal",
        from: "Xcode, with its Metal toolchain",
    },
];

impl Compiler {
    fn command(&self) -> Command {
        let mut command = Command::new(self.program[0]);
        command.args(&self.program[1..]);
        command
    }

    fn is_here(&self) -> bool {
        self.command().arg("--version").output().is_ok_and(|output| output.status.success())
    }

    fn read(&self, file: &Path) -> Result<(), String> {
        let output = self.command().args(self.arguments).arg(file).output();
        let Output { status, stdout, stderr } = output.map_err(|e| format!("{}: {e}", self.program[0]))?;
        if status.success() {
            return Ok(());
        }
        let said = first_lines(8, &[stderr, stdout].concat());
        Err(format!("refused by {}: {}\n{said}", self.program.join(" "), file.display()))
    }
}

/// Writes the shaders of representative calls to a folder, and has them read by the compilers that are here.
pub fn check(all: bool, folder: &Path) -> Result<(), String> {
    let pipelines = pipelines(all)?;
    fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
    each(&pipelines, |i, pipeline| write(folder, i, &module(&pipeline.shader)?))?;
    println!("{} shaders in {}", pipelines.len(), folder.display());
    let mut failures = Vec::new();
    for compiler in &COMPILERS {
        let (name, extension) = (compiler.program.join(" "), compiler.extension);
        if !compiler.is_here() {
            println!("{name}: not here, so nobody reads .{extension} ({})", compiler.from);
            continue;
        }
        match each(&pipelines, |i, _| compiler.read(&file(folder, i, extension))) {
            Ok(()) => println!("{name}: reads every .{extension}"),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// Does something with each pipeline. What the first of those that failed said, with their number.
fn each(pipelines: &[Pipeline], run: impl Fn(usize, &Pipeline) -> Result<(), String> + Sync) -> Result<(), String> {
    let bar = progress(pipelines.len())?;
    let of = |(i, pipeline): (usize, &Pipeline)| {
        let result = run(i, pipeline);
        bar.inc(1);
        result.err().map(|error| format!("{}: {error}", pipeline.call))
    };
    let failures: Vec<String> = pipelines.par_iter().enumerate().filter_map(of).collect();
    bar.finish_and_clear();
    match failures.first() {
        Some(first) => Err(format!("{first}\n{} of {} failed", failures.len(), pipelines.len())),
        None => Ok(()),
    }
}

/// One shader in each language.
fn write(folder: &Path, i: usize, module: &(Module, ModuleInfo)) -> Result<(), String> {
    let (words, _) = spirv::translate(module, false)?;
    let words = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (extension, text) in [("spv", words), ("hlsl", hlsl_text(module)?), ("metal", msl_text(module)?)] {
        let file = file(folder, i, extension);
        fs::write(&file, text).map_err(|e| cannot_write(&file, e))?;
    }
    Ok(())
}

fn hlsl_text((module, info): &(Module, ModuleInfo)) -> Result<Vec<u8>, String> {
    let options = hlsl::Options { zero_initialize_workgroup_memory: false, ..hlsl::Options::default() };
    let mut text = String::new();
    let written = hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default()).write(module, info, None);
    names(written.map_err(|e| format!("HLSL: {e}"))?.entry_point_names)?;
    Ok(text.into_bytes())
}

/// Buffers have the numbers of their bindings, and their sizes the one behind.
pub fn msl_text((module, info): &(Module, ModuleInfo)) -> Result<Vec<u8>, String> {
    let resources: msl::BindingMap = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let binding = variable.binding?;
            let mutable =
                matches!(variable.space, AddressSpace::Storage { access } if access.contains(StorageAccess::STORE));
            Some((binding, msl::BindTarget { buffer: Some(binding.binding as u8), mutable, ..Default::default() }))
        })
        .collect();
    let sizes = resources.keys().map(|binding| binding.binding as u8 + 1).max();
    let resources = msl::EntryPointResources { resources, sizes_buffer: sizes, ..Default::default() };
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [("main".into(), resources)].into(),
        bounds_check_policies: BOUNDS,
        zero_initialize_workgroup_memory: false,
        fake_missing_bindings: false,
        ..msl::Options::default()
    };
    let written = msl::write_string(module, info, &options, &msl::PipelineOptions::default());
    let (text, written) = written.map_err(|e| format!("MSL: {e}"))?;
    names(written.entry_point_names)?;
    Ok(text.into_bytes())
}

/// An entry point that naga could not write is missing in its text.
fn names<E: std::fmt::Display>(names: Vec<Result<String, E>>) -> Result<(), String> {
    names.into_iter().try_for_each(|name| name.map(drop).map_err(|e| e.to_string()))
}

/// Of what a program said.
pub fn first_lines(lines: usize, said: &[u8]) -> String {
    String::from_utf8_lossy(said).lines().take(lines).collect::<Vec<_>>().join("\n")
}

fn file(folder: &Path, i: usize, extension: &str) -> PathBuf {
    folder.join(format!("{i}.{extension}"))
}

fn cannot_write(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}. Choose another place with --out.", path.display())
}
