//! RADV on hardware that is not there: compiles compute pipelines and tells what it made of them.
//!
//! The only unsafe code of this program. `RADV_FORCE_FAMILY` and `VK_DRIVER_FILES` must be set when the process
//! starts: the loader and the driver read them once.

use ash::{Device, Entry, Instance, khr, vk};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};

/// A device of the one chip that this process was started for.
pub struct Radv {
    pub driver: String,
    /// Whether out-of-bounds accesses are the hardware's business, and not the shader's.
    pub robust_buffer_access2: bool,
    device: Device,
    executables: khr::pipeline_executable_properties::Device,
    instance: Instance,
    // Unloads the library when it goes.
    _entry: Entry,
}

/// What the driver tells of a pipeline.
pub struct Compiled {
    pub statistics: BTreeMap<String, u64>,
    pub assembly: String,
}

/// Whether a storage buffer or a uniform is bound, by binding.
pub struct Binding {
    pub binding: u32,
    pub uniform: bool,
}

fn explain(what: &'static str) -> impl Fn(vk::Result) -> String {
    move |error| format!("{what}: {error:?}. Is Mesa's libvulkan_radeon of this system complete?")
}

fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Radv {
    pub fn open() -> Result<Radv, String> {
        // SAFETY: Loading runs the initialisers of the system's Vulkan loader, which are meant for that.
        let entry = unsafe { Entry::load() }.map_err(|e| format!("{e}. Install libvulkan1."))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: The structures live until the call returns. No handle is used after its parent is destroyed:
        // `Drop` destroys in the right order, and until `Radv` is there failure ends the process.
        unsafe {
            let instance = entry.create_instance(&info, None).map_err(explain("no Vulkan instance"))?;
            let devices = instance.enumerate_physical_devices().map_err(explain("no Vulkan devices"))?;
            let Some(&physical) = devices.first() else {
                return Err("RADV does not know this chip: give --chip a name that its RADV_FORCE_FAMILY takes".into());
            };
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let driver = format!("{} {}", text(&driver.driver_name), text(&driver.driver_info));

            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
            let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut robust);
            instance.get_physical_device_features2(physical, &mut features);
            let robust_buffer_access2 = robust.robust_buffer_access2 == vk::TRUE;

            let mut robust =
                vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(robust_buffer_access2);
            let mut statistics =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let mut extensions = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
            if robust_buffer_access2 {
                extensions.push(ash::ext::robustness2::NAME.as_ptr());
            }
            let mut info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_features(&core)
                .enabled_extension_names(&extensions)
                .push_next(&mut statistics);
            if robust_buffer_access2 {
                info = info.push_next(&mut robust);
            }
            let device = instance.create_device(physical, &info, None).map_err(explain("the device does not open"))?;
            let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Radv { driver, robust_buffer_access2, device, executables, instance, _entry: entry })
        }
    }

    /// A compute pipeline from SPIR-V whose entry point is `main`.
    pub fn compile(&self, spirv: &[u32], bindings: &[Binding]) -> Result<Compiled, String> {
        let entries: Vec<_> = bindings
            .iter()
            .map(|b| {
                let kind =
                    if b.uniform { vk::DescriptorType::UNIFORM_BUFFER } else { vk::DescriptorType::STORAGE_BUFFER };
                vk::DescriptorSetLayoutBinding::default()
                    .binding(b.binding)
                    .descriptor_type(kind)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let device = &self.device;
        // SAFETY: All handles are this device's and live until the end of the block; naga has validated the
        // SPIR-V's module. What an error leaves behind goes with the process, which ends on it.
        unsafe {
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&entries);
            let set = device.create_descriptor_set_layout(&info, None).map_err(explain("no descriptor set layout"))?;
            let sets = [set];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&info, None).map_err(explain("no pipeline layout"))?;
            let info = vk::ShaderModuleCreateInfo::default().code(spirv);
            let module = device.create_shader_module(&info, None).map_err(explain("no shader module"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let capture = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let info = vk::ComputePipelineCreateInfo::default().flags(capture).stage(stage).layout(layout);
            let pipeline = device
                .create_compute_pipelines(vk::PipelineCache::null(), &[info], None)
                .map_err(|(_, error)| explain("the pipeline does not compile")(error))?[0];
            let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let compiled =
                Compiled { statistics: self.statistics(&executable)?, assembly: self.assembly(&executable)? };
            device.destroy_pipeline(pipeline, None);
            device.destroy_shader_module(module, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set, None);
            Ok(compiled)
        }
    }

    fn statistics(&self, executable: &vk::PipelineExecutableInfoKHR) -> Result<BTreeMap<String, u64>, String> {
        // SAFETY: The pipeline of `executable` is alive and was made with CAPTURE_STATISTICS. RADV's numbers are
        // 64-bit integers; others are left out by their format before the union is read.
        unsafe {
            let all =
                self.executables.get_pipeline_executable_statistics(executable).map_err(explain("no statistics"))?;
            let integers = all.iter().filter(|s| s.format == vk::PipelineExecutableStatisticFormatKHR::UINT64);
            Ok(integers.map(|s| (text(&s.name), s.value.u64)).collect())
        }
    }

    fn assembly(&self, executable: &vk::PipelineExecutableInfoKHR) -> Result<String, String> {
        let query = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let handle = self.device.handle();
        // SAFETY: The pipeline is alive and was made with CAPTURE_INTERNAL_REPRESENTATIONS. The first two calls
        // (in one function of ash) tell how many bytes each text has, the third gets buffers of that size.
        unsafe {
            let mut all = self
                .executables
                .get_pipeline_executable_internal_representations(executable)
                .map_err(explain("no representations"))?;
            let mut texts: Vec<Vec<u8>> = all.iter().map(|r| vec![0; r.data_size]).collect();
            for (representation, text) in all.iter_mut().zip(&mut texts) {
                representation.p_data = text.as_mut_ptr().cast();
            }
            let mut count = all.len() as u32;
            query(handle, executable, &mut count, all.as_mut_ptr()).result().map_err(explain("no texts"))?;
            let assembly = all.iter().zip(&texts).find(|(r, _)| text(&r.name) == "Assembly");
            let Some((_, bytes)) = assembly else {
                return Err("RADV gives no assembly: it was built without a disassembler".into());
            };
            let bytes = CStr::from_bytes_until_nul(bytes).map_or(&bytes[..], CStr::to_bytes);
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

impl Drop for Radv {
    fn drop(&mut self) {
        // SAFETY: Everything made from the device is destroyed at the end of `compile`.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
