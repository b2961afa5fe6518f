//! SPIR-V as wgpu makes it on Vulkan, so that the driver gets what it gets from users.

use crate::module::BOUNDS;
use crate::radv::Binding;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{AddressSpace, Module, ShaderStage};

/// The words, and what the shader binds. `robust`: see `Radv::robust_buffer_access2`.
pub fn translate((module, info): &(Module, ModuleInfo), robust: bool) -> Result<(Vec<u32>, Vec<Binding>), String> {
    let bindings = module.global_variables.iter().filter_map(|(_, variable)| {
        let binding = variable.binding.as_ref()?.binding;
        Some(Binding { binding, uniform: variable.space == AddressSpace::Uniform })
    });
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(module, info, &options(robust), Some(&pipeline)).map_err(|e| e.to_string())?;
    Ok((words, bindings.collect()))
}

/// What wgpu-hal 30 sets (vulkan/adapter.rs and `compile_stage` in vulkan/device.rs) on a Vulkan 1.3 device.
fn options(robust: bool) -> spv::Options<'static> {
    spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        bounds_check_policies: BoundsCheckPolicies {
            buffer: if robust { BoundsCheckPolicy::Unchecked } else { BOUNDS.buffer },
            ..BOUNDS
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
