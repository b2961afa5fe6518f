//! What a wgpu device has and wgpu-norm has no use for. A call of it is a bug here.

/// Methods, by their signatures, that do nothing but say so.
macro_rules! refused {
    ($({$($signature:tt)*})*) => {
        $($($signature)* {
            unimplemented!(concat!("no call of the stand-in for Metal: ", stringify!($($signature)*)))
        })*
    };
}
pub(super) use refused;

macro_rules! encoder {
    () => {
        $crate::metal::unsupported::refused! {
            { fn copy_buffer_to_texture(
                &self,
                _: wgpu::TexelCopyBufferInfo<'_>,
                _: wgpu::TexelCopyTextureInfo<'_>,
                _: wgpu::Extent3d,
            ) }
            { fn copy_texture_to_buffer(
                &self,
                _: wgpu::TexelCopyTextureInfo<'_>,
                _: wgpu::TexelCopyBufferInfo<'_>,
                _: wgpu::Extent3d,
            ) }
            { fn copy_texture_to_texture(
                &self,
                _: wgpu::TexelCopyTextureInfo<'_>,
                _: wgpu::TexelCopyTextureInfo<'_>,
                _: wgpu::Extent3d,
            ) }
            { fn begin_render_pass(&self, _: &wgpu::RenderPassDescriptor<'_>) -> DispatchRenderPass }
            { fn clear_texture(&self, _: &DispatchTexture, _: &wgpu::ImageSubresourceRange) }
            { fn write_timestamp(&self, _: &DispatchQuerySet, _: u32) }
            { fn resolve_query_set(&self, _: &DispatchQuerySet, _: u32, _: u32, _: &DispatchBuffer, _: u64) }
            { fn mark_acceleration_structures_built<'a>(
                &self,
                _: &mut dyn Iterator<Item = &'a wgpu::Blas>,
                _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
            ) }
            { fn build_acceleration_structures<'a>(
                &self,
                _: &mut dyn Iterator<Item = &'a wgpu::BlasBuildEntry<'a>>,
                _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
            ) }
            { fn transition_resources<'a>(
                &mut self,
                _: &mut dyn Iterator<Item = wgpu::wgt::BufferTransition<&'a DispatchBuffer>>,
                _: &mut dyn Iterator<Item = wgpu::wgt::TextureTransition<&'a DispatchTexture>>,
            ) }
            { fn clear_buffer(&self, _: &DispatchBuffer, _: u64, _: Option<u64>) }
            { fn insert_debug_marker(&self, _: &str) }
            { fn push_debug_group(&self, _: &str) }
            { fn pop_debug_group(&self) }
        }
    };
}
pub(super) use encoder;

macro_rules! pass {
    () => {
        $crate::metal::unsupported::refused! {
            { fn set_immediates(&mut self, _: u32, _: &[u8]) }
            { fn write_timestamp(&mut self, _: &DispatchQuerySet, _: u32) }
            { fn begin_pipeline_statistics_query(&mut self, _: &DispatchQuerySet, _: u32) }
            { fn end_pipeline_statistics_query(&mut self) }
            { fn dispatch_workgroups_indirect(&mut self, _: &DispatchBuffer, _: u64) }
            { fn transition_resources<'a>(
                &mut self,
                _: &mut dyn Iterator<Item = wgpu::wgt::BufferTransition<&'a DispatchBuffer>>,
                _: &mut dyn Iterator<Item = wgpu::wgt::TextureTransition<&'a DispatchTextureView>>,
            ) }
            { fn insert_debug_marker(&mut self, _: &str) }
            { fn push_debug_group(&mut self, _: &str) }
            { fn pop_debug_group(&mut self) }
        }
    };
}
pub(super) use pass;

macro_rules! device {
    () => {
        $crate::metal::unsupported::refused! {
            { fn create_render_pipeline(&self, _: &wgpu::RenderPipelineDescriptor<'_>) -> DispatchRenderPipeline }
            { fn create_mesh_pipeline(&self, _: &wgpu::MeshPipelineDescriptor<'_>) -> DispatchRenderPipeline }
            { fn create_texture(&self, _: &wgpu::TextureDescriptor<'_>) -> DispatchTexture }
            { fn create_external_texture(
                &self,
                _: &wgpu::ExternalTextureDescriptor<'_>,
                _: &[&wgpu::TextureView],
            ) -> DispatchExternalTexture }
            { fn create_blas(
                &self,
                _: &wgpu::CreateBlasDescriptor<'_>,
                _: wgpu::BlasGeometrySizeDescriptors,
            ) -> (Option<u64>, DispatchBlas) }
            { fn create_tlas(&self, _: &wgpu::CreateTlasDescriptor<'_>) -> DispatchTlas }
            { fn create_sampler(&self, _: &wgpu::SamplerDescriptor<'_>) -> DispatchSampler }
            { fn create_query_set(&self, _: &wgpu::QuerySetDescriptor<'_>) -> DispatchQuerySet }
            { fn create_render_bundle_encoder(
                &self,
                _: &wgpu::RenderBundleEncoderDescriptor<'_>,
            ) -> DispatchRenderBundleEncoder }
            { fn set_device_lost_callback(&self, _: BoxDeviceLostCallback) }
            { fn on_uncaptured_error(&self, _: std::sync::Arc<dyn wgpu::UncapturedErrorHandler>) }
            { fn get_internal_counters(&self) -> wgpu::InternalCounters }
            { fn generate_allocator_report(&self) -> Option<wgpu::AllocatorReport> }
            { unsafe fn create_shader_module_passthrough(
                &self,
                _: &wgpu::ShaderModuleDescriptorPassthrough<'_>,
            ) -> DispatchShaderModule }
            { unsafe fn create_pipeline_cache(&self, _: &wgpu::PipelineCacheDescriptor<'_>) -> DispatchPipelineCache }
            { unsafe fn start_graphics_debugger_capture(&self) }
            { unsafe fn stop_graphics_debugger_capture(&self) }
            { fn destroy(&self) }
        }
    };
}
pub(super) use device;

macro_rules! queue {
    () => {
        $crate::metal::unsupported::refused! {
            { fn create_staging_buffer(&self, _: wgpu::BufferSize) -> Option<DispatchQueueWriteBuffer> }
            { fn validate_write_buffer(&self, _: &DispatchBuffer, _: u64, _: wgpu::BufferSize) -> Option<()> }
            { fn write_staging_buffer(&self, _: &DispatchBuffer, _: u64, _: &DispatchQueueWriteBuffer) }
            { fn write_texture(
                &self,
                _: wgpu::TexelCopyTextureInfo<'_>,
                _: &[u8],
                _: wgpu::TexelCopyBufferLayout,
                _: wgpu::Extent3d,
            ) }
            { fn get_timestamp_period(&self) -> f32 }
            { fn compact_blas(&self, _: &DispatchBlas) -> (Option<u64>, DispatchBlas) }
            { fn present(&self, _: &DispatchSurfaceOutputDetail) }
            { fn on_submitted_work_done(&self, _: BoxSubmittedWorkDoneCallback) }
        }
    };
}
pub(super) use queue;
