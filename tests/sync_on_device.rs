//! Members whose tensors lie in buffers of their own, beside others: the bits of members that are given slices.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/shards.rs"]
mod shards;

use cases::{Case, Data, Results, typed, untyped};
use shards::{Drive, Shards, each, run_shard};
use std::sync::Arc;
use std::time::Duration;
use wgpu::util::DeviceExt;
use wgpu_norm::sync::{Communicator, DeviceSyncBatchNorm};
use wgpu_norm::{
    BatchNormDescriptor, Commit, Error, Format, Fusion, Residual, TensorDescriptor, gpu,
    host::{Backend, Statistic},
};

const WAIT: Duration = Duration::from_secs(60);

fn buffer(device: &wgpu::Device, contents: &[f32]) -> wgpu::Buffer {
    // An empty shard has buffers, too.
    let contents = if contents.is_empty() { &[0.0] } else { contents };
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(contents),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
    })
}

/// As [`run_shard`], of a case in `f32`.
async fn run_on_device(
    gpu: &adapters::Gpu,
    context: &gpu::Context,
    group: Arc<dyn Communicator>,
    case: &Case,
    data: &Data,
    shards: &Shards,
) -> Result<Results, Error> {
    let rank = group.rank();
    let norm = gpu::Norm::with_state(context, case.descriptor.clone(), &data.state)?;
    let layer = DeviceSyncBatchNorm::new(norm, &gpu.queue, group)?;
    let (device, shape) = (&gpu.device, shards.shape(case, rank));
    let tensor = TensorDescriptor { shape: &shape, ..case.tensor() };
    let elements: usize = shape.iter().product();
    let input = |all: &[f64]| buffer(device, &typed::<f32>(shards.of(rank, all)));
    let output = |len: usize| buffer(device, &vec![f32::NAN; len]);
    let (x, dy) = (input(&data.x), input(&data.dy));
    let (residual, dsum) = (data.residual.as_deref().map(input), data.dsum.as_deref().map(input));
    let (y, sum, dx, dresidual) = (output(elements), output(elements), output(elements), output(elements));
    let channels = case.descriptor.affine_len() as usize;
    let (dweight, dbias) = (output(channels), output(channels));
    let all = |buffer: &wgpu::Buffer| -> Vec<f32> {
        shards::read(device, &gpu.queue, device.create_command_encoder(&Default::default()), buffer)
    };

    let io = gpu::Forward {
        residual: residual.as_ref().map(|b| b.as_entire_buffer_binding()),
        sum: case.has_sum().then(|| sum.as_entire_buffer_binding()),
        ..gpu::Forward::new(x.as_entire_buffer_binding(), y.as_entire_buffer_binding())
    };
    let encoder = device.create_command_encoder(&Default::default());
    let (encoder, saved) = layer.forward_train(encoder, &tensor, case.fusion, &io, Commit::Update).await?;
    let after = case.fusion.residual == Residual::After;
    let statistics = saved.statistics().expect("those of the batch");
    let statistics = (statistics.buffer.clone(), statistics.size.map_or(0, |size| size.get() as usize));
    gpu.queue.submit([encoder.finish()]);
    let words = &all(&statistics.0)[..statistics.1 / 4];
    let statistics = words.chunks(4).map(|s| Statistic {
        mean: f64::from(s[0]) + f64::from(s[1]),
        rstd: s[2].into(),
        var: s[3].into(),
    });
    let statistics = statistics.collect();

    let io = gpu::Backward {
        residual: residual.as_ref().filter(|_| after && case.fusion.relu).map(|b| b.as_entire_buffer_binding()),
        dsum: dsum.as_ref().map(|b| b.as_entire_buffer_binding()),
        dx: Some(dx.as_entire_buffer_binding()),
        dresidual: after.then(|| dresidual.as_entire_buffer_binding()),
        dweight: Some(dweight.as_entire_buffer_binding()),
        dbias: Some(dbias.as_entire_buffer_binding()),
        ..gpu::Backward::new(
            if case.has_sum() { &sum } else { &x }.as_entire_buffer_binding(),
            dy.as_entire_buffer_binding(),
        )
    };
    let encoder = device.create_command_encoder(&Default::default());
    let encoder = layer.backward(encoder, saved, &io).await?;
    gpu.queue.submit([encoder.finish()]);
    let tensor = |buffer: &wgpu::Buffer| untyped(&all(buffer)[..elements]);
    let state: Vec<f32> = all(layer.norm().state_buffer());
    Ok(Results {
        y: tensor(&y),
        sum: case.has_sum().then(|| tensor(&sum)),
        statistics,
        dx: tensor(&dx),
        dresidual: after.then(|| tensor(&dresidual)),
        dweight: Some(untyped(&all(&dweight))),
        dbias: Some(untyped(&all(&dbias))),
        state: layer.norm().parse_state(bytemuck::cast_slice(&state))?,
    })
}

fn table() -> Vec<(Case, Vec<usize>)> {
    let bn = |c, shape: &[usize]| Case::new(BatchNormDescriptor::new(c), shape);
    let after = Fusion { residual: Residual::After, relu: true };
    let before = Fusion { residual: Residual::Before, relu: false };
    vec![
        (bn(6, &[8, 6, 5, 5]), vec![3, 1, 4]),
        (bn(6, &[6, 6, 5, 5]), vec![0, 4, 2]),
        (bn(10, &[4, 10]), vec![1, 1, 1, 1]),
        (Case { fusion: after, ..bn(4, &[7, 4, 33]) }, vec![5, 2]),
        (Case { fusion: before, format: Format::ChannelsLast, ..bn(8, &[6, 8, 3, 5]) }, vec![2, 1, 3]),
    ]
}

#[test]
fn buffers_give_the_bits_of_slices() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let Backend::Gpu { context, .. } = backend else { continue };
        for (case, sizes) in table() {
            let (data, shards) = (Data::new(&case), Shards::new(&case, &sizes));
            let of = |on_device: bool| {
                each(sizes.len(), WAIT, Drive::OneThread, async |group| match group.rank() {
                    // The last is on the CPU.
                    rank if rank + 1 == sizes.len() => run_shard(&Backend::Cpu, group, &case, &data, &shards).await,
                    _ if on_device => run_on_device(gpu, context, group, &case, &data, &shards).await,
                    _ => run_shard(backend, group, &case, &data, &shards).await,
                })
            };
            for (rank, (buffers, slices)) in of(true).into_iter().zip(of(false)).enumerate() {
                let name = format!("{}: {} in {sizes:?}, rank {rank}", gpu.name, case.name());
                assert_eq!(buffers.unwrap(), slices.unwrap(), "{name}");
            }
        }
    }
}

/// What its last step would find wrong keeps a member from the exchange, and nobody's statistics change.
#[test]
fn a_member_that_cannot_end_does_not_begin() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let Backend::Gpu { context, .. } = backend else { continue };
        let device = &gpu.device;
        let (full, short) = (buffer(device, &[1.0, 2.0, 3.0, 5.0]), buffer(device, &[0.0; 3]));
        let (full, short) = (full.as_entire_buffer_binding(), short.as_entire_buffer_binding());
        let results = each(2, WAIT, Drive::OneThread, async |group| {
            let (rank, plain) = (group.rank(), Fusion::default());
            let norm = gpu::Norm::new(context, BatchNormDescriptor::new(2)).unwrap();
            let layer = DeviceSyncBatchNorm::new(norm, &gpu.queue, group).unwrap();
            let tensor = TensorDescriptor::new(&[2, 2]);
            let y = buffer(device, &[0.0; 4]);
            let encoder = || device.create_command_encoder(&Default::default());
            let of = |bad: bool| {
                let y = if bad { short.clone() } else { y.as_entire_buffer_binding() };
                gpu::Forward::new(full.clone(), y)
            };
            let forward = layer.forward_train(encoder(), &tensor, plain, &of(rank == 1), Commit::Update).await;
            let forward = forward.map(|_| ()).unwrap_err();
            let (after, saved) =
                layer.forward_train(encoder(), &tensor, plain, &of(false), Commit::Update).await.unwrap();
            gpu.queue.submit([after.finish()]);
            let dx = if rank == 0 { short.clone() } else { y.as_entire_buffer_binding() };
            let io = gpu::Backward { dx: Some(dx), ..gpu::Backward::new(full.clone(), full.clone()) };
            let backward = layer.backward(encoder(), saved, &io).await.map(|_| ()).unwrap_err();
            let state: Vec<f32> = shards::read(device, &gpu.queue, encoder(), layer.norm().state_buffer());
            let state = layer.norm().parse_state(bytemuck::cast_slice(&state)).unwrap();
            (forward, backward, state.running.unwrap().tracked)
        });
        let [(forward, backward, tracked), (own_forward, own_backward, own_tracked)] = &results[..] else {
            panic!("two members")
        };
        assert_eq!(*forward, Error::MemberFailed { rank: 1 }, "{}", gpu.name);
        assert!(matches!(own_forward, Error::BufferTooSmall { name: "y", .. }), "{}: {own_forward}", gpu.name);
        assert!(matches!(backward, Error::BufferTooSmall { name: "dx", .. }), "{}: {backward}", gpu.name);
        assert_eq!(*own_backward, Error::MemberFailed { rank: 0 }, "{}", gpu.name);
        assert_eq!([tracked, own_tracked], [&[1, 1]; 2], "{}", gpu.name);
    }
}
