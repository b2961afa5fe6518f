//! A kernel in MSL as a program of this machine.

use crate::compilers::metal;
use naga::valid::ModuleInfo;
use naga::{AddressSpace, ArraySize, Module, TypeInner};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

const STANDARD_LIBRARY: &str = include_str!("metal_stdlib.hpp");
const RUN: &str = include_str!("run.hpp");
const COMPILER: &str = "clang++";

/// What Metal's compiler does unless it is told otherwise, and what finds races.
const OPTIONS: [&str; 11] = [
    "-std=c++17",
    "-O2",
    "-ffast-math",
    "-march=native",
    "-fsanitize=thread",
    "-g1",
    "-w",
    "-pthread",
    "-Wno-c++11-narrowing",
    "-Xclang",
    "-cl-single-precision-constant",
];

/// An empty folder for kernels, with what they include.
pub fn prepare(folder: &Path) -> Result<(), String> {
    match Command::new(COMPILER).arg("--version").output() {
        Ok(output) if output.status.success() => {}
        _ => return Err(format!("no {COMPILER} on the PATH: install Debian's clang and libclang-rt-dev")),
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| failed(folder, e))?;
    }
    fs::create_dir_all(folder).map_err(|e| format!("{}. Choose another place with --out.", failed(folder, e)))?;
    write(&folder.join("metal_stdlib.hpp"), STANDARD_LIBRARY.as_bytes())?;
    write(&folder.join("run.hpp"), RUN.as_bytes())
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Program {
    label: String,
    executable: PathBuf,
}

/// Part of a buffer that a kernel is given.
pub struct Bound {
    pub binding: u32,
    /// Which of the dispatch's buffers.
    pub buffer: usize,
    pub offset: u64,
    pub size: u64,
}

impl Program {
    /// Compiles a kernel, unless the folder has it already.
    pub fn new(folder: &Path, label: &str, module: &(Module, ModuleInfo)) -> Result<Program, String> {
        let text = source(module)?;
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let executable = folder.join(format!("{:016x}", hasher.finish()));
        if !executable.exists() {
            // Another thread may be at the same.
            let new = folder.join(format!("{}.new", number()));
            let file = new.with_extension("cpp");
            write(&file, text.as_bytes())?;
            let output = Command::new(COMPILER).args(OPTIONS).arg(&file).arg("-o").arg(&new).output();
            let Output { status, stderr, .. } = output.map_err(|e| format!("{COMPILER}: {e}"))?;
            if !status.success() {
                return Err(format!("{label}: {COMPILER} refused {}\n{}", file.display(), first(8, &stderr)));
            }
            fs::rename(&new, &executable).map_err(|e| failed(&executable, e))?;
        }
        Ok(Program { label: label.into(), executable })
    }

    /// Runs it on buffers, which it may change.
    pub fn run(&self, grid: [u32; 3], buffers: &mut [Vec<u8>], bound: &[Bound]) -> Result<(), String> {
        let folder = self.executable.with_extension(number().to_string());
        fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        let file = |i: usize| folder.join(i.to_string());
        for (i, buffer) in buffers.iter().enumerate() {
            write(&file(i), buffer)?;
        }
        let mut command = Command::new(&self.executable);
        command.args(grid.map(|n| n.to_string())).env("TSAN_OPTIONS", "halt_on_error=1");
        for Bound { binding, buffer, offset, size } in bound {
            command.arg(binding.to_string()).arg(file(*buffer)).args([offset.to_string(), size.to_string()]);
        }
        let output = command.output().map_err(|e| failed(&self.executable, e))?;
        if !output.status.success() {
            let (label, program) = (&self.label, self.executable.display());
            return Err(format!("{label} ({program}), {}:\n{}", output.status, first(24, &output.stderr)));
        }
        for (i, buffer) in buffers.iter_mut().enumerate() {
            *buffer = fs::read(file(i)).map_err(|e| failed(&file(i), e))?;
        }
        fs::remove_dir_all(&folder).map_err(|e| failed(&folder, e))
    }
}

/// The kernel as C++, and how it is called.
fn source(module: &(Module, ModuleInfo)) -> Result<String, String> {
    let text = String::from_utf8(metal(module)?).map_err(|e| e.to_string())?;
    let text = with_swizzles_called(&text)
        .replace("#include <metal_stdlib>", "#include \"metal_stdlib.hpp\"")
        .replace("#include <simd/simd.h>", "");
    let (module, info) = module;
    // In the order of naga's arguments.
    let used = module.global_variables.iter().filter(|&(handle, _)| !info.get_entry_point(0)[handle].is_empty());
    let mut order: Vec<String> = used
        .filter_map(|(_, variable)| match (variable.space, variable.binding) {
            (AddressSpace::WorkGroup, _) => Some("run::SHARED".into()),
            (_, Some(binding)) => Some(binding.binding.to_string()),
            _ => None,
        })
        .collect();
    let is_sized = |ty| matches!(module.types[ty].inner, TypeInner::Array { size: ArraySize::Dynamic, .. });
    let sized = module.global_variables.iter().filter(|(_, variable)| is_sized(variable.ty));
    let sized: Vec<String> = sized.filter_map(|(_, v)| Some(v.binding?.binding.to_string())).collect();
    if text.contains("_mslBufferSizes&") {
        order.push("run::SIZES".into());
    }
    let workgroup = module.entry_points[0].workgroup_size.iter().product::<u32>();
    let (order, sized) = (order.join(", "), sized.join(", "));
    let call = format!("run::main(main_, {{{order}}}, {{{sized}}}, {workgroup}, argv)");
    Ok(format!("{text}\n#include \"run.hpp\"\nint main(int, char **argv) {{ return {call}; }}\n"))
}

/// Vectors in C++ have no swizzles, but functions of their names.
fn with_swizzles_called(text: &str) -> String {
    let mut called = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('.') {
        let (before, from) = rest.split_at(at + 1);
        let name: String = from.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        called += before;
        called += &name;
        if (2..=4).contains(&name.len()) && name.chars().all(|c| "xyzw".contains(c)) {
            called += "()";
        }
        rest = &from[name.len()..];
    }
    called + rest
}

/// Another one each time.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn first(lines: usize, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().take(lines).collect::<Vec<_>>().join("\n")
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|e| failed(path, e))
}

fn failed(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
