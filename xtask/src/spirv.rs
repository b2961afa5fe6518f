//! From WGSL to SPIR-V as wgpu does it on Vulkan, so that the driver gets what it gets from users.

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};
use wgpu_norm::gpu::inspect::Shader;

use crate::radv::Binding;

/// A shader as wgpu hands it to its backends: validated, with the pipeline's constants in place.
pub fn module(shader: &Shader) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(&shader.wgsl).map_err(|e| e.emit_to_string(&shader.wgsl))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
        .validate(&module)
        .map_err(|e| e.emit_to_string(&shader.wgsl))?;
    let constants = shader.constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((ShaderStage::Compute, "main"));
    naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .map(|(module, info)| (module.into_owned(), info.into_owned()))
        .map_err(|e| e.to_string())
}

/// The words, and what the shader binds. `robust`: see `Radv::robust_buffer_access2`.
pub fn translate(shader: &Shader, robust: bool) -> Result<(Vec<u32>, Vec<Binding>), String> {
    let (module, info) = module(shader)?;
    let bindings = module.global_variables.iter().filter_map(|(_, variable)| {
        let binding = variable.binding.as_ref()?.binding;
        Some(Binding { binding, uniform: variable.space == AddressSpace::Uniform })
    });
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(&module, &info, &options(robust), Some(&pipeline)).map_err(|e| e.to_string())?;
    Ok((words, bindings.collect()))
}

/// What wgpu-hal 30 sets (vulkan/adapter.rs and `compile_stage` in vulkan/device.rs) on a Vulkan 1.3 device.
fn options(robust: bool) -> spv::Options<'static> {
    spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Restrict,
            buffer: if robust { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict },
            image_load: BoundsCheckPolicy::Restrict,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        // As the crate's pipelines ask for it.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: true,
        emit_int_div_checks: true,
        // All bindings are in group 0 and keep their numbers.
        fake_missing_bindings: true,
        ..spv::Options::default()
    }
}
