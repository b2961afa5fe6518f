//! Runs a case on a device, with a copy kernel beside it.

use super::adapters::Gpu;
use super::cases::{Call, Case};
use super::data::Data;
use super::measure::Runner;
use std::time::Instant;
use wgpu::util::DeviceExt;
use wgpu_norm::{Commit, DType, Element, Error, Fusion, gpu, half, wgpu};

/// What exact times want: the first will do, with both nothing is between the calls and their times.
pub const TIMESTAMPS: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

/// Workgroup sizes and vectors of four words an invocation, of the copy kernels.
const COPIES: [(u32, u32); 5] = [(32, 1), (64, 1), (256, 1), (32, 8), (256, 4)];
/// Bytes that one copy dispatch takes: what WebGPU's default limits let a binding have.
const WINDOW: u64 = 128 << 20;
/// Calls that are timed together take at least so long, or there are so many: a GPU takes microseconds to begin and to
/// end, and in a network something else runs meanwhile.
const LONG: f64 = 300e-6;
const MOST_CALLS: usize = 50;

pub struct Runs<'a> {
    gpu: &'a Gpu,
    case: Case,
    norm: gpu::Norm,
    x: wgpu::Buffer,
    dy: wgpu::Buffer,
    out: wgpu::Buffer,
    affine: [wgpu::Buffer; 2],
    copies: [Option<wgpu::ComputePipeline>; COPIES.len()],
    /// How many calls, and how many copies, are timed together.
    calls: [usize; 2],
    stamps: Option<Stamps>,
}

/// When the device begins and ends with what is recorded between.
struct Stamps {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    between_passes: bool,
}

impl Stamps {
    fn new(device: &wgpu::Device) -> Option<Stamps> {
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let ty = wgpu::QueryType::Timestamp;
        Some(Stamps {
            set: device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("roofline"), ty, count: 2 }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            between_passes: device.features().contains(TIMESTAMPS),
        })
    }

    fn write(&self, encoder: &mut wgpu::CommandEncoder, index: u32) {
        if self.between_passes {
            return encoder.write_timestamp(&self.set, index);
        }
        // Some devices tell the time at the ends of passes alone: of one that does nothing.
        drop(encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("timestamp"),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.set,
                beginning_of_pass_write_index: None,
                end_of_pass_write_index: Some(index),
            }),
        }));
    }
}

pub fn runner<'a>(gpu: &'a Gpu, context: &gpu::Context, case: &Case, data: &Data) -> Result<Runs<'a>, Error> {
    let device = &gpu.device;
    let buffer = |contents: &[u8]| {
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("roofline"),
            contents,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        })
    };
    // Whole blocks of the copy kernel.
    let bytes = |values: &[f32]| {
        let mut bytes = narrow(case.dtype, values);
        bytes.resize(bytes.len().next_multiple_of(256), 0xff);
        bytes
    };
    let vector = vec![0xff; case.norm.affine_len() as usize * 4];
    let x = bytes(&data.x);
    let mut runs = Runs {
        gpu,
        case: case.clone(),
        norm: gpu::Norm::with_state(context, case.norm.clone(), &data.state)?,
        out: buffer(&vec![0xff; x.len()]),
        x: buffer(&x),
        dy: buffer(&bytes(&data.dy)),
        affine: [buffer(&vector), buffer(&vector)],
        copies: Default::default(),
        calls: [1; 2],
        stamps: Stamps::new(device),
    };
    // A driver that leaves passes out which do nothing has no times for them.
    let [from, to] = &runs.affine;
    let copy = |encoder: &mut wgpu::CommandEncoder| {
        encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        Ok(())
    };
    if runs.time(100, copy)? <= 0.0 {
        runs.stamps = None;
    }
    Ok(runs)
}

fn narrow(dtype: DType, values: &[f32]) -> Vec<u8> {
    fn of<T: Element>(values: &[f32]) -> Vec<u8> {
        bytemuck::cast_slice(&values.iter().map(|&v| T::from_f32(v)).collect::<Vec<T>>()).to_vec()
    }
    match dtype {
        DType::F16 => of::<half::f16>(values),
        DType::BF16 => of::<half::bf16>(values),
        DType::F32 => of::<f32>(values),
    }
}

/// Copies `each` vectors of four words an invocation.
fn copy_kernel(device: &wgpu::Device, workgroup: u32, each: u32) -> wgpu::ComputePipeline {
    let lines: String = (0..each).map(|i| format!("    copy(first + {}u);\n", i * workgroup)).collect();
    let text = format!(
        "@group(0) @binding(0) var<storage, read> from_here: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> to_here: array<vec4<u32>>;
fn copy(i: u32) {{
    if (i < arrayLength(&from_here)) {{
        to_here[i] = from_here[i];
    }}
}}
@compute @workgroup_size({workgroup})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let first = (id.x + id.y * n.x) * {}u + lane;
{lines}}}",
        workgroup * each
    );
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("copy"),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("copy"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}

impl Runs<'_> {
    /// Seconds that the device, or where it cannot tell the host, takes for each of the calls that are recorded.
    fn time(
        &self,
        calls: usize,
        mut record: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), Error>,
    ) -> Result<f64, Error> {
        let device = &self.gpu.device;
        let mut encoder = device.create_command_encoder(&Default::default());
        if let Some(stamps) = &self.stamps {
            stamps.write(&mut encoder, 0);
        }
        for _ in 0..calls {
            record(&mut encoder)?;
        }
        if let Some(stamps) = &self.stamps {
            stamps.write(&mut encoder, 1);
            encoder.resolve_query_set(&stamps.set, 0..2, &stamps.resolved, 0);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.gpu.queue.submit([commands]);
        self.wait()?;
        let wall = start.elapsed().as_secs_f64();
        let Some(stamps) = &self.stamps else { return Ok(wall / calls as f64) };
        let bytes = self.read(&stamps.resolved, 16)?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let seconds =
            ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(self.gpu.queue.get_timestamp_period()) * 1e-9;
        Ok(seconds / calls as f64)
    }

    fn wait(&self) -> Result<(), Error> {
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| Error::Readback(e.to_string()))?;
        Ok(())
    }

    fn read(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>, Error> {
        let device = &self.gpu.device;
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
        self.gpu.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        self.wait()?;
        let view = staging.get_mapped_range(..).map_err(|e| Error::Readback(e.to_string()))?;
        Ok(view.to_vec())
    }
}

/// How many calls to time together, after so many took so long each.
fn enough(calls: usize, seconds: f64) -> usize {
    ((LONG / seconds).ceil() as usize).clamp(calls, MOST_CALLS)
}

impl Runner for Runs<'_> {
    fn copies(&self) -> Vec<String> {
        COPIES.map(|(size, each)| format!("workgroups of {size}, {each} vec4 an invocation")).into()
    }

    fn copy(&mut self, way: usize) -> Result<f64, Error> {
        let (size, each) = COPIES[way];
        let pipeline = self.copies[way].get_or_insert_with(|| copy_kernel(&self.gpu.device, size, each)).clone();
        let layout = pipeline.get_bind_group_layout(0);
        let seconds = self.time(self.calls[1], |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            for start in (0..self.x.size()).step_by(WINDOW as usize) {
                let bytes = WINDOW.min(self.x.size() - start);
                let binding = |binding, buffer| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: start,
                        size: std::num::NonZero::new(bytes),
                    }),
                };
                let group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("copy"),
                    layout: &layout,
                    entries: &[binding(0, &self.x), binding(1, &self.out)],
                });
                pass.set_bind_group(0, &group, &[]);
                let groups = (bytes / 16).div_ceil(u64::from(size * each)) as u32;
                let x = groups.min(32768);
                pass.dispatch_workgroups(x, groups.div_ceil(x), 1);
            }
            Ok(())
        })?;
        self.calls[1] = enough(self.calls[1], seconds);
        Ok(seconds)
    }

    fn run(&mut self) -> Result<f64, Error> {
        let (tensor, fusion, calls) = (self.case.tensor(), Fusion::default(), self.calls[0]);
        let io = gpu::Forward::new(self.x.as_entire_buffer_binding(), self.out.as_entire_buffer_binding());
        let train =
            |encoder: &mut wgpu::CommandEncoder| self.norm.forward_train(encoder, &tensor, fusion, &io, Commit::Update);
        let seconds = match self.case.call {
            Call::Train => self.time(calls, |encoder| train(encoder).map(drop)),
            Call::Eval => self.time(calls, |encoder| self.norm.forward_eval(encoder, &tensor, fusion, &io)),
            Call::Backward => {
                let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
                let mut saved = (0..calls).map(|_| train(&mut encoder)).collect::<Result<Vec<_>, Error>>()?;
                self.gpu.queue.submit([encoder.finish()]);
                self.wait()?;
                let affine = self.case.norm.affine();
                let [dweight, dbias] = self.affine.each_ref().map(|b| b.as_entire_buffer_binding());
                let io = gpu::Backward {
                    dx: Some(self.out.as_entire_buffer_binding()),
                    dweight: affine.weight.then_some(dweight),
                    dbias: affine.bias.then_some(dbias),
                    ..gpu::Backward::new(self.x.as_entire_buffer_binding(), self.dy.as_entire_buffer_binding())
                };
                self.time(calls, |encoder| saved.pop().map_or(Ok(()), |saved| self.norm.backward(encoder, saved, &io)))
            }
        }?;
        self.calls[0] = enough(calls, seconds);
        Ok(seconds)
    }

    fn output(&mut self) -> Result<Vec<f32>, Error> {
        fn of<T: Element>(bytes: &[u8]) -> Vec<f32> {
            bytemuck::pod_collect_to_vec::<u8, T>(bytes).into_iter().map(T::to_f32).collect()
        }
        let bytes = self.read(&self.out, self.out.size())?;
        let bytes = &bytes[..self.case.tensor_bytes() as usize];
        Ok(match self.case.dtype {
            DType::F16 => of::<half::f16>(bytes),
            DType::BF16 => of::<half::bf16>(bytes),
            DType::F32 => of::<f32>(bytes),
        })
    }

    fn affine_gradients(&mut self) -> Result<[Vec<f32>; 2], Error> {
        let [dweight, dbias] = &self.affine;
        let read = |buffer: &wgpu::Buffer| self.read(buffer, buffer.size()).map(|b| bytemuck::pod_collect_to_vec(&b));
        Ok([read(dweight)?, read(dbias)?])
    }

    fn clock(&self) -> &'static str {
        if self.stamps.is_some() { "timestamps" } else { "wall clock" }
    }

    fn tolerance(&self) -> f64 {
        1e-6
    }
}
