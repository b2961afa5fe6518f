//! The shaders in the languages of Vulkan, DX12 and Metal, given to those languages' own compilers: naga's validator looks
//! at what goes into its backends, not at what they write.

use crate::calls::{Pipeline, pipelines};
use crate::{progress, spirv};
use naga::back::{hlsl, msl};
use rayon::prelude::*;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};
use wgpu_norm::gpu::inspect::Shader;

/// A program that reads a language. It is called with these arguments, and a file.
struct Compiler {
    program: &'static str,
    arguments: &'static [&'static str],
    extension: &'static str,
    from: &'static str,
}

const COMPILERS: [Compiler; 3] = [
    Compiler {
        program: "spirv-val",
        arguments: &["--target-env", "vulkan1.3"],
        extension: "spv",
        from: "Debian's spirv-tools, or the Vulkan SDK",
    },
    Compiler {
        program: "dxc",
        arguments: &["-T", "cs_6_0", "-E", "main", "-Wno-parentheses-equality"],
        extension: "hlsl",
        from: "the Vulkan SDK, or DirectXShaderCompiler's releases",
    },
    Compiler { program: "xcrun", arguments: &["metal", "-c", "-o", "/dev/null"], extension: "metal", from: "Xcode" },
];

/// Writes the shaders of representative calls to a folder, and has them read by the compilers that are here.
pub fn check(all: bool, folder: &str) -> Result<(), String> {
    let pipelines = pipelines(all)?;
    let folder = Path::new(folder);
    fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
    each(&pipelines, |i, pipeline| write(folder, i, &pipeline.shader))?;
    println!("{} shaders in {}", pipelines.len(), folder.display());
    for compiler in &COMPILERS {
        let Compiler { program, extension, from, .. } = compiler;
        if Command::new(program).arg("--version").output().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            println!("{program}: skipped {extension}, as it is not on the PATH ({from})");
            continue;
        }
        each(&pipelines, |i, pipeline| {
            let file = file(folder, i, extension);
            let output = Command::new(program).args(compiler.arguments).arg(&file).output();
            let Output { status, stdout, stderr } = output.map_err(|e| format!("{program}: {e}"))?;
            let said = format!("{}{}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
            if status.success() {
                return Ok(());
            }
            let said: Vec<&str> = said.lines().take(8).collect();
            Err(format!("{program} refuses {} ({}):\n{}", file.display(), pipeline.call, said.join("\n")))
        })?;
        println!("{program}: reads them all");
    }
    Ok(())
}

/// Does something with each pipeline. What the first of those that failed said, with their number.
fn each(pipelines: &[Pipeline], run: impl Fn(usize, &Pipeline) -> Result<(), String> + Sync) -> Result<(), String> {
    let bar = progress(pipelines.len())?;
    let of = |(i, pipeline)| {
        let result = run(i, pipeline);
        bar.inc(1);
        result.err()
    };
    let failures: Vec<String> = pipelines.par_iter().enumerate().filter_map(of).collect();
    bar.finish_and_clear();
    match failures.first() {
        Some(first) => Err(format!("{first}\n{} of {} failed", failures.len(), pipelines.len())),
        None => Ok(()),
    }
}

/// One shader in each language, with what wgpu-hal 30 asks of naga where that changes the text.
fn write(folder: &Path, i: usize, shader: &Shader) -> Result<(), String> {
    let (module, info) = spirv::module(shader)?;
    let (words, _) = spirv::translate(shader, false)?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let options = hlsl::Options { zero_initialize_workgroup_memory: false, ..hlsl::Options::default() };
    let mut hlsl = String::new();
    hlsl::Writer::new(&mut hlsl, &options, &hlsl::PipelineOptions::default())
        .write(&module, &info, None)
        .map_err(|e| e.to_string())?;
    let options =
        msl::Options { lang_version: (2, 4), zero_initialize_workgroup_memory: false, ..msl::Options::default() };
    let (metal, _) =
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).map_err(|e| e.to_string())?;
    for (extension, text) in [("spv", bytes), ("hlsl", hlsl.into_bytes()), ("metal", metal.into_bytes())] {
        let file = file(folder, i, extension);
        fs::write(&file, text).map_err(|e| cannot_write(&file, e))?;
    }
    Ok(())
}

fn file(folder: &Path, i: usize, extension: &str) -> std::path::PathBuf {
    folder.join(format!("{i}.{extension}"))
}

fn cannot_write(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}. Choose another place with --out.", path.display())
}
