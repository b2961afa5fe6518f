//! A kernel in MSL as a program of this machine.

use crate::compilers::{first_lines, msl_text};
use naga::valid::ModuleInfo;
use naga::{AddressSpace, Binding, BuiltIn, Module};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

const COMPILER: &str = "clang++";

/// What Metal's compiler does unless it is told otherwise; what finds races, which does not look at wider accesses; what
/// makes MSL of C++.
const OPTIONS: [&str; 12] = [
    "-O2",
    "-ffast-math",
    "-march=native",
    "-mprefer-vector-width=128",
    "-fsanitize=thread",
    "-g1",
    "-pthread",
    "-std=c++17",
    "-w",
    "-Wno-c++11-narrowing",
    "-Xclang",
    "-cl-single-precision-constant",
];

/// Seconds that a dispatch may take: where invocations meet different numbers of barriers they wait for ever.
const LIMIT: &str = "300";

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Program {
    label: String,
    executable: PathBuf,
}

/// Part of a buffer that a kernel is given.
#[derive(Clone, Debug)]
pub struct Bound<B> {
    pub binding: u32,
    pub buffer: B,
    pub offset: u64,
    pub size: u64,
}

/// Makes a folder for kernels, empty, and sees whether programs can be made in it.
pub fn prepare(folder: &Path) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("the stand-in for Metal needs Linux. On a Mac the tests themselves run on Metal: cargo test".into());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| failed(folder, e))?;
    }
    fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
    write(&folder.join("metal_stdlib.hpp"), include_bytes!("metal_stdlib.hpp"))?;
    write(&folder.join("run.hpp"), include_bytes!("run.hpp"))?;
    let executable = folder.join("empty");
    let result = compile("int main() {}", &executable).and_then(|()| {
        let output = Command::new(&executable).output().map_err(|e| failed(&executable, e))?;
        if output.status.success() { Ok(()) } else { Err(first_lines(8, &output.stderr)) }
    });
    let advice =
        "the stand-in for Metal needs clang++ and its ThreadSanitizer: install Debian's clang and libclang-rt-dev";
    result.map_err(|said| format!("{advice}\n{said}"))
}

/// C++ to an executable; the text stays beside it.
fn compile(text: &str, executable: &Path) -> Result<(), String> {
    let file = executable.with_extension("cpp");
    write(&file, text.as_bytes())?;
    let output = Command::new(COMPILER).args(OPTIONS).arg(&file).arg("-o").arg(executable).output();
    let Output { status, stderr, .. } = output.map_err(|e| format!("{COMPILER}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{COMPILER} refused {}\n{}", file.display(), first_lines(8, &stderr)))
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
            let new = folder.join(format!("new-{}", unique_number()));
            compile(&text, &new).map_err(|e| format!("{label}: {e}"))?;
            fs::rename(&new, &executable).map_err(|e| failed(&executable, e))?;
        }
        Ok(Program { label: label.into(), executable })
    }

    /// Runs it on buffers, which it may change. A race is an error that comes after that.
    pub fn run(&self, grid: [u32; 3], buffers: &mut [Vec<u8>], bound: &[Bound<usize>]) -> Result<(), String> {
        let folder = self.executable.with_extension(unique_number().to_string());
        fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        let file = |i: usize| folder.join(i.to_string());
        for (i, buffer) in buffers.iter().enumerate() {
            write(&file(i), buffer)?;
        }
        let mut command = Command::new("timeout");
        command.arg(LIMIT).arg(&self.executable).args(grid.map(|n| n.to_string()));
        for Bound { binding, buffer, offset, size } in bound {
            command.arg(binding.to_string()).arg(file(*buffer)).args([offset.to_string(), size.to_string()]);
        }
        // Where there is no llvm-symbolizer.
        let output = command.env("TSAN_OPTIONS", "allow_addr2line=1").output().map_err(|e| format!("timeout: {e}"))?;
        for (i, buffer) in buffers.iter_mut().enumerate() {
            *buffer = fs::read(file(i)).map_err(|e| failed(&file(i), e))?;
        }
        fs::remove_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        if output.status.success() {
            return Ok(());
        }
        let (label, program) = (&self.label, self.executable.display());
        Err(format!("{label} ({program}), {}:\n{}", output.status, first_lines(24, &output.stderr)))
    }
}

/// The kernel as C++, and how it is called.
fn source(module: &(Module, ModuleInfo)) -> Result<String, String> {
    let text = String::from_utf8(msl_text(module)?).map_err(|e| e.to_string())?;
    let text = with_swizzles_called(&text)
        .replace("#include <metal_stdlib>", "#include \"metal_stdlib.hpp\"")
        .replace("#include <simd/simd.h>", "");
    let (module, info) = module;
    let entry = &module.entry_points[0];
    // What run.hpp takes a kernel's arguments for that are no references.
    let is_known = |binding: &Option<Binding>| {
        matches!(binding, Some(Binding::BuiltIn(BuiltIn::WorkGroupId | BuiltIn::LocalInvocationIndex)))
    };
    if let Some(other) = entry.function.arguments.iter().find(|argument| !is_known(&argument.binding)) {
        return Err(format!("the stand-in for Metal knows no {:?}", other.binding));
    }
    // In the order of naga's arguments.
    let used = module.global_variables.iter().filter(|&(handle, _)| !info.get_entry_point(0)[handle].is_empty());
    let mut order: Vec<String> = used
        .filter_map(|(_, variable)| match (variable.space, variable.binding) {
            (AddressSpace::WorkGroup, _) => Some("run::SHARED".into()),
            (_, Some(binding)) => Some(binding.binding.to_string()),
            _ => None,
        })
        .collect();
    if text.contains("_mslBufferSizes&") {
        order.push("run::SIZES".into());
    }
    let is_sized = |ty| module.types[ty].inner.needs_host_buffer_byte_size(&module.types);
    let sized = module.global_variables.iter().filter(|(_, variable)| is_sized(variable.ty));
    let sized: Vec<String> = sized.filter_map(|(_, v)| Some(v.binding?.binding.to_string())).collect();
    let (order, sized) = (order.join(", "), sized.join(", "));
    let workgroup = entry.workgroup_size.iter().product::<u32>();
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

fn unique_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|e| failed(path, e))
}

fn failed(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
