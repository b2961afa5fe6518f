//! Recording a layer that has been recorded before allocates nothing beyond what wgpu itself does for the same commands.

#[path = "common/adapters.rs"]
mod adapters;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use wgpu_norm::{BatchNormDescriptor, Commit, Fusion, LayerNormDescriptor, TensorDescriptor, gpu};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has no counter any more.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

/// The commands of one layer's call, recorded with wgpu alone: one pass of `dispatches` dispatches.
fn bare(encoder: &mut wgpu::CommandEncoder, kernels: &[(wgpu::ComputePipeline, wgpu::BindGroup)], dispatches: usize) {
    let mut pass =
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("BatchNorm"), timestamp_writes: None });
    for kernel in &kernels[..dispatches] {
        pass.set_pipeline(&kernel.0);
        pass.set_bind_group(0, &kernel.1, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
}

/// A kernel with as many buffers as a layer's.
fn kernel(device: &wgpu::Device) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
    let buffers = [(); 5].map(|()| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    });
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(
            "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            @group(0) @binding(2) var<storage, read_write> c: array<u32>;
            @group(0) @binding(3) var<storage, read_write> d: array<u32>;
            @group(0) @binding(4) var<storage, read_write> e: array<u32>;
            @compute @workgroup_size(1) fn main() { a[0] = b[0] + c[0] + d[0] + e[0]; }"
                .into(),
        ),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &std::array::from_fn::<_, 5, _>(|i| wgpu::BindGroupEntry {
            binding: i as u32,
            resource: buffers[i].as_entire_binding(),
        }),
    });
    (pipeline, group)
}

/// Of a training batch: more than fit on a chip in the larger images.
const SAMPLES: usize = 32;

/// Channels and side of ResNet-50's 53 batch norms, with how many there are of each.
const RESNET50: [(usize, usize, usize); 12] = [
    (64, 112, 1),
    (64, 56, 6),
    (256, 56, 4),
    (128, 56, 1),
    (128, 28, 7),
    (512, 28, 5),
    (256, 28, 1),
    (256, 14, 11),
    (1024, 14, 7),
    (512, 14, 1),
    (512, 7, 5),
    (2048, 7, 4),
];

#[test]
fn recording_allocates_only_what_wgpu_does() {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let device = &gpu.device;
        let context = gpu::Context::new(device).unwrap();
        let buffer = || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: (SAMPLES * 64 * 112 * 112 * 4) as u64,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        // Three sets of buffers that take turns, as frames in flight have them.
        let sets = [(); 3].map(|()| (buffer(), buffer()));
        let ios =
            sets.each_ref().map(|(x, y)| gpu::Forward::new(x.as_entire_buffer_binding(), y.as_entire_buffer_binding()));
        let kernels: Vec<_> = (0..8).map(|_| kernel(device)).collect();
        let mut layers = Vec::new();
        for (channels, side, times) in RESNET50 {
            for _ in 0..times {
                let norm = gpu::Norm::new(&context, BatchNormDescriptor::new(channels)).unwrap();
                layers.push((norm, [SAMPLES, channels, side, side]));
            }
        }
        assert_eq!(layers.len(), 53);
        let record = |io: &gpu::Forward| {
            let mut encoder = device.create_command_encoder(&Default::default());
            let start = std::time::Instant::now();
            let ours = allocations(|| {
                for (norm, shape) in &layers {
                    let tensor = TensorDescriptor::new(shape);
                    // Dropped, what was saved is the next call's.
                    let saved = norm.forward_train(&mut encoder, &tensor, Fusion::default(), io, Commit::Update);
                    drop(saved.unwrap());
                }
            });
            let time = start.elapsed();
            drop(encoder);
            (ours, time)
        };
        for io in ios.iter().cycle().take(9) {
            record(io);
        }
        let dispatches: Vec<usize> = layers.iter().map(|(norm, shape)| dispatches(norm, shape)).collect();
        let mut encoder = device.create_command_encoder(&Default::default());
        let start = std::time::Instant::now();
        let of_wgpu = allocations(|| dispatches.iter().for_each(|&n| bare(&mut encoder, &kernels, n)));
        let bare_time = start.elapsed();
        let (ours, time) = ios.each_ref().map(record).into_iter().max().expect("three sets");
        adapters::say(format_args!(
            "{}: recording ResNet-50's batch norms of {SAMPLES} images took {time:?} and {ours} allocations; {of_wgpu} and {bare_time:?} with wgpu alone",
            gpu.name
        ));
        assert!(ours <= of_wgpu, "{}: {ours} allocations, wgpu alone makes {of_wgpu}", gpu.name);
    }
}

/// A layer that has met more shapes than it keeps buffers for goes on to use what it has of the last.
#[test]
fn a_ninth_shape_is_kept_too() {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let device = &gpu.device;
        let norm = gpu::Norm::new(&gpu::Context::new(device).unwrap(), LayerNormDescriptor::new(&[4])).unwrap();
        let [x, y] = [(); 2].map(|()| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 4096 * 16,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        });
        let io = gpu::Forward::new(x.as_entire_buffer_binding(), y.as_entire_buffer_binding());
        let record = |rows: usize| {
            let mut encoder = device.create_command_encoder(&Default::default());
            allocations(|| {
                let tensor = [rows, 4];
                let tensor = TensorDescriptor::new(&tensor);
                drop(norm.forward_train(&mut encoder, &tensor, Fusion::default(), &io, Commit::Skip).unwrap());
            })
        };
        let warm = |rows| {
            record(rows);
            record(rows);
            record(rows)
        };
        let first = warm(100);
        for rows in 1..=9 {
            warm(200 * rows);
        }
        let last = warm(4000);
        assert!(last <= first, "{}: {last} allocations after other shapes, {first} before", gpu.name);
    }
}

/// A layer that makes many calls a step, each with buffers of its own, keeps them all if it is told to.
#[test]
fn as_many_calls_are_kept_as_it_is_told() {
    const CALLS: usize = 24;
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let device = &gpu.device;
        let norm = gpu::Norm::new(&gpu::Context::new(device).unwrap(), LayerNormDescriptor::new(&[4])).unwrap();
        let buffers = [(); 3 + CALLS].map(|()| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 256,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        });
        let [y, dy] = [&buffers[0], &buffers[1]].map(|buffer| buffer.as_entire_buffer_binding());
        let (tensor, plain) = (TensorDescriptor::new(&[2, 4]), Fusion::default());
        // Forward passes, and their backward passes in the other order.
        let step = || {
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut kept = Vec::with_capacity(CALLS);
            allocations(|| {
                for x in &buffers[2..2 + CALLS] {
                    let io = gpu::Forward::new(x.as_entire_buffer_binding(), y.clone());
                    kept.push(norm.forward_train(&mut encoder, &tensor, plain, &io, Commit::Skip).unwrap());
                }
                for (x, dx) in buffers[2..].iter().zip(&buffers[3..]).rev() {
                    let io = gpu::Backward::new(x.as_entire_buffer_binding(), dy.clone());
                    let io = gpu::Backward { dx: Some(dx.as_entire_buffer_binding()), ..io };
                    norm.backward(&mut encoder, kept.pop().unwrap(), &io).unwrap();
                }
            })
        };
        step();
        let too_many = step();
        norm.keep_calls(2 * CALLS);
        step();
        let all_kept = step();
        norm.keep_calls(0);
        let none_kept = step();
        let name = &gpu.name;
        assert!(all_kept < too_many && all_kept < none_kept, "{name}: {all_kept} of {too_many} and {none_kept}");
        assert!(all_kept <= 2 * CALLS * 8, "{name}: {all_kept} allocations for {CALLS} calls, forward and backward");
    }
}

fn dispatches(norm: &gpu::Norm, shape: &[usize]) -> usize {
    use wgpu_norm::plan::{Plan, Problem};
    use wgpu_norm::{Op, Statistics};
    let tensor = TensorDescriptor::new(shape);
    let problem = Problem::new(norm.descriptor(), &tensor, Statistics::Batch, Fusion::default(), Op::Forward).unwrap();
    Plan::new(problem, norm.context().profile()).unwrap().dispatches()
}
