//! From WGSL to what naga's backends are given.

use naga::back::pipeline_constants::process_overrides;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};
use wgpu_norm::gpu::inspect::Shader;

/// What wgpu-hal 30 asks of them, but for buffers where the device itself checks.
pub const BOUNDS: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Restrict,
    buffer: BoundsCheckPolicy::Restrict,
    image_load: BoundsCheckPolicy::Restrict,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// A shader as wgpu hands it to its backends.
pub fn module(shader: &Shader) -> Result<(Module, ModuleInfo), String> {
    parse(&shader.wgsl, &shader.constants)
}

/// A text: validated, with the pipeline's constants in place.
pub fn parse(wgsl: &str, constants: &[(&str, f64)]) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
        .validate(&module)
        .map_err(|e| e.emit_to_string(wgsl))?;
    let constants = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((ShaderStage::Compute, "main"));
    process_overrides(&module, &info, entry, &constants)
        .map(|(module, info)| (module.into_owned(), info.into_owned()))
        .map_err(|e| e.to_string())
}
