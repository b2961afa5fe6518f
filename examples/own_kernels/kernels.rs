//! The kernels of `kernels.wgsl` on a device, and the linear layer that they make.

use rand::{RngExt, rngs::Xoshiro256PlusPlus as Rng};
use std::error::Error;
use wgpu_norm::wgpu::{self, BufferUsages, util::DeviceExt};

const LEARNING_RATE: f64 = 0.05;
/// What `@workgroup_size` says in the kernels.
const WORKGROUP: usize = 64;

pub struct Kernels {
    device: wgpu::Device,
    queue: wgpu::Queue,
    multiply: wgpu::ComputePipeline,
    squared_error: wgpu::ComputePipeline,
    descend: wgpu::ComputePipeline,
}

impl Kernels {
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Kernels {
        let module = device.create_shader_module(wgpu::include_wgsl!("kernels.wgsl"));
        let pipeline = |kernel| {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel),
                layout: None,
                module: &module,
                entry_point: Some(kernel),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[("learning_rate", LEARNING_RATE)],
                    ..Default::default()
                },
                cache: None,
            })
        };
        let [multiply, squared_error, descend] = ["multiply", "squared_error", "descend"].map(pipeline);
        Kernels { device, queue, multiply, squared_error, descend }
    }

    /// `product = a · b`, which is stored row by row.
    fn multiply(&self, label: String, a: &Matrix, b: &Matrix, product: &Matrix) -> Dispatch {
        let sizes = [a.strides[0], a.strides[1], b.strides[0], b.strides[1], product.shape[1], a.shape[1]];
        let sizes = self.buffer(&label, &sizes.map(|size| size as u32), BufferUsages::UNIFORM);
        let bindings = [a.binding(), b.binding(), product.binding(), sizes.as_entire_buffer_binding()];
        self.dispatch(label, &self.multiply, product, &bindings)
    }

    /// Each row's loss, and the gradient of their mean with respect to y.
    pub fn squared_error(&self, y: &Tensor, targets: &Matrix, squared_errors: &Matrix) -> Dispatch {
        let bindings = [y.value.binding(), targets.binding(), squared_errors.binding(), y.gradient.binding()];
        self.dispatch("squared error".into(), &self.squared_error, targets, &bindings)
    }

    /// `parameter -= learning_rate * gradient`.
    pub fn descend(&self, label: String, parameter: wgpu::BufferBinding, gradient: &Matrix) -> Dispatch {
        self.dispatch(label, &self.descend, gradient, &[gradient.binding(), parameter])
    }

    fn dispatch(
        &self,
        label: String,
        pipeline: &wgpu::ComputePipeline,
        result: &Matrix,
        bindings: &[wgpu::BufferBinding],
    ) -> Dispatch {
        let resources = bindings.iter().cloned().map(wgpu::BindingResource::Buffer);
        let entries = (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource });
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&label),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries.collect::<Vec<_>>(),
        });
        let workgroups = (result.shape[0] * result.shape[1]).div_ceil(WORKGROUP) as u32;
        Dispatch { label, pipeline: pipeline.clone(), bind_group, workgroups }
    }

    fn buffer<T: bytemuck::Pod>(&self, label: &str, values: &[T], usage: BufferUsages) -> wgpu::Buffer {
        let contents = bytemuck::cast_slice(values);
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: Some(label), contents, usage })
    }

    pub fn matrix(&self, label: &str, shape: [usize; 2], value: impl FnMut() -> f32) -> Matrix {
        let values: Vec<f32> = std::iter::repeat_with(value).take(shape[0] * shape[1]).collect();
        // Kernels and norms bind it; norms copy the gradients of their parameters to it.
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        Matrix { buffer: self.buffer(label, &values, usage), shape, strides: [shape[1], 1] }
    }

    pub fn tensor(&self, label: &str, shape: [usize; 2], value: impl FnMut() -> f32) -> Tensor {
        let gradient = self.matrix(&format!("{label} gradient"), shape, || 0.0);
        Tensor { value: self.matrix(label, shape, value), gradient }
    }

    pub fn encoder(&self, label: &str) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) })
    }

    pub fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.queue.submit([encoder.finish()]);
    }

    pub fn write(&self, matrix: &Matrix, values: &[f32]) {
        self.queue.write_buffer(&matrix.buffer, 0, bytemuck::cast_slice(values));
    }

    /// What is in the buffer after all that was submitted.
    pub fn read<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer) -> Result<Vec<T>, Box<dyn Error>> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: buffer.size(),
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.encoder("readback");
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.submit(encoder);
        // If this fails, get_mapped_range says so.
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?))
    }
}

/// A kernel with its buffers, made once and recorded in every step.
pub struct Dispatch {
    label: String,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: u32,
}

impl Dispatch {
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let descriptor = wgpu::ComputePassDescriptor { label: Some(&self.label), timestamp_writes: None };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }
}

/// Numbers in a buffer, read in rows or in columns.
#[derive(Clone)]
pub struct Matrix {
    pub buffer: wgpu::Buffer,
    pub shape: [usize; 2],
    /// From a row to the next, and from a column to the next.
    strides: [usize; 2],
}

impl Matrix {
    /// The same buffer, read the other way.
    pub fn transposed(&self) -> Matrix {
        let ([rows, columns], [down, right]) = (self.shape, self.strides);
        Matrix { buffer: self.buffer.clone(), shape: [columns, rows], strides: [right, down] }
    }

    pub fn binding(&self) -> wgpu::BufferBinding<'_> {
        self.buffer.as_entire_buffer_binding()
    }
}

/// Values, and the gradient of the loss with respect to them.
#[derive(Clone)]
pub struct Tensor {
    pub value: Matrix,
    pub gradient: Matrix,
}

/// `y = x · weightᵀ`. It needs no bias: the batch norm behind it would subtract that with the mean.
pub struct Linear {
    pub y: Tensor,
    pub forward: Dispatch,
    backward: [Dispatch; 2],
    pub update: Dispatch,
}

impl Linear {
    /// With PyTorch's initial values: uniform within ±1/sqrt(inputs).
    pub fn new(kernels: &Kernels, name: &str, x: &Tensor, outputs: usize, rng: &mut Rng) -> Linear {
        let [rows, inputs] = x.value.shape;
        let bound = 1.0 / (inputs as f32).sqrt();
        let label = |part| format!("{name} {part}");
        let weight = kernels.tensor(&label("weight"), [outputs, inputs], || rng.random_range(-bound..bound));
        let y = kernels.tensor(&label("y"), [rows, outputs], || 0.0);
        Linear {
            forward: kernels.multiply(label("forward"), &x.value, &weight.value.transposed(), &y.value),
            // The first layer's dx is for nothing, and small.
            backward: [
                kernels.multiply(label("dweight"), &y.gradient.transposed(), &x.value, &weight.gradient),
                kernels.multiply(label("dx"), &y.gradient, &weight.value, &x.gradient),
            ],
            update: kernels.descend(label("update"), weight.value.binding(), &weight.gradient),
            y,
        }
    }

    pub fn backward(&self, encoder: &mut wgpu::CommandEncoder) {
        self.backward.iter().for_each(|dispatch| dispatch.record(encoder));
    }
}
