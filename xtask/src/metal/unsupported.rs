//! What a wgpu device has and wgpu-norm has no use for. A call of it is a bug here.

/// Methods that do nothing but say so.
macro_rules! refused {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self $(, _: $argument)*) $(-> $result)? {
            unimplemented!(concat!("the stand-in for Metal has no ", stringify!($name)))
        })*
    };
    (mut $($name:ident($($argument:ty),*);)*) => {
        $(fn $name(&mut self $(, _: $argument)*) {
            unimplemented!(concat!("the stand-in for Metal has no ", stringify!($name)))
        })*
    };
    (unsafe $($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        $(unsafe fn $name(&self $(, _: $argument)*) $(-> $result)? {
            unimplemented!(concat!("the stand-in for Metal has no ", stringify!($name)))
        })*
    };
}
pub(super) use refused;

macro_rules! encoder {
    () => {
        $crate::metal::unsupported::refused! {
            copy_buffer_to_texture(wgpu::TexelCopyBufferInfo<'_>, wgpu::TexelCopyTextureInfo<'_>, wgpu::Extent3d);
            copy_texture_to_buffer(wgpu::TexelCopyTextureInfo<'_>, wgpu::TexelCopyBufferInfo<'_>, wgpu::Extent3d);
            copy_texture_to_texture(wgpu::TexelCopyTextureInfo<'_>, wgpu::TexelCopyTextureInfo<'_>, wgpu::Extent3d);
            begin_render_pass(&wgpu::RenderPassDescriptor<'_>) -> DispatchRenderPass;
            clear_texture(&DispatchTexture, &wgpu::ImageSubresourceRange);
            write_timestamp(&DispatchQuerySet, u32);
            resolve_query_set(&DispatchQuerySet, u32, u32, &DispatchBuffer, u64);
        }
        fn mark_acceleration_structures_built<'a>(
            &self,
            _: &mut dyn Iterator<Item = &'a wgpu::Blas>,
            _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
        ) {
            unimplemented!()
        }
        fn build_acceleration_structures<'a>(
            &self,
            _: &mut dyn Iterator<Item = &'a wgpu::BlasBuildEntry<'a>>,
            _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
        ) {
            unimplemented!()
        }
        fn transition_resources<'a>(
            &mut self,
            _: &mut dyn Iterator<Item = wgpu::wgt::BufferTransition<&'a DispatchBuffer>>,
            _: &mut dyn Iterator<Item = wgpu::wgt::TextureTransition<&'a DispatchTexture>>,
        ) {
            unimplemented!()
        }
    };
}
pub(super) use encoder;

macro_rules! pass {
    () => {
        $crate::metal::unsupported::refused! { mut
            set_immediates(u32, &[u8]);
            write_timestamp(&DispatchQuerySet, u32);
            begin_pipeline_statistics_query(&DispatchQuerySet, u32);
            end_pipeline_statistics_query();
            dispatch_workgroups_indirect(&DispatchBuffer, u64);
        }
        fn transition_resources<'a>(
            &mut self,
            _: &mut dyn Iterator<Item = wgpu::wgt::BufferTransition<&'a DispatchBuffer>>,
            _: &mut dyn Iterator<Item = wgpu::wgt::TextureTransition<&'a DispatchTextureView>>,
        ) {
            unimplemented!()
        }
    };
}
pub(super) use pass;

macro_rules! device {
    () => {
        $crate::metal::unsupported::refused! {
            create_render_pipeline(&wgpu::RenderPipelineDescriptor<'_>) -> DispatchRenderPipeline;
            create_mesh_pipeline(&wgpu::MeshPipelineDescriptor<'_>) -> DispatchRenderPipeline;
            create_texture(&wgpu::TextureDescriptor<'_>) -> DispatchTexture;
            create_external_texture(
                &wgpu::ExternalTextureDescriptor<'_>,
                &[&wgpu::TextureView]
            ) -> DispatchExternalTexture;
            create_blas(
                &wgpu::CreateBlasDescriptor<'_>,
                wgpu::BlasGeometrySizeDescriptors
            ) -> (Option<u64>, DispatchBlas);
            create_tlas(&wgpu::CreateTlasDescriptor<'_>) -> DispatchTlas;
            create_sampler(&wgpu::SamplerDescriptor<'_>) -> DispatchSampler;
            create_query_set(&wgpu::QuerySetDescriptor<'_>) -> DispatchQuerySet;
            create_render_bundle_encoder(&wgpu::RenderBundleEncoderDescriptor<'_>) -> DispatchRenderBundleEncoder;
            set_device_lost_callback(BoxDeviceLostCallback);
            on_uncaptured_error(std::sync::Arc<dyn wgpu::UncapturedErrorHandler>);
            push_error_scope(wgpu::ErrorFilter) -> u32;
            pop_error_scope(u32) -> std::pin::Pin<Box<dyn PopErrorScopeFuture>>;
            get_internal_counters() -> wgpu::InternalCounters;
            generate_allocator_report() -> Option<wgpu::AllocatorReport>;
        }
        $crate::metal::unsupported::refused! { unsafe
            create_shader_module_passthrough(&wgpu::ShaderModuleDescriptorPassthrough<'_>) -> DispatchShaderModule;
            create_pipeline_cache(&wgpu::PipelineCacheDescriptor<'_>) -> DispatchPipelineCache;
            start_graphics_debugger_capture();
            stop_graphics_debugger_capture();
        }
    };
}
pub(super) use device;

macro_rules! queue {
    () => {
        $crate::metal::unsupported::refused! {
            create_staging_buffer(wgpu::BufferSize) -> Option<DispatchQueueWriteBuffer>;
            validate_write_buffer(&DispatchBuffer, u64, wgpu::BufferSize) -> Option<()>;
            write_staging_buffer(&DispatchBuffer, u64, &DispatchQueueWriteBuffer);
            write_texture(wgpu::TexelCopyTextureInfo<'_>, &[u8], wgpu::TexelCopyBufferLayout, wgpu::Extent3d);
            get_timestamp_period() -> f32;
            compact_blas(&DispatchBlas) -> (Option<u64>, DispatchBlas);
            present(&DispatchSurfaceOutputDetail);
        }
    };
}
pub(super) use queue;
