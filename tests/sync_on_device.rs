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
#[path = "common/transfer.rs"]
mod transfer;

use cases::{Case, Data, Results, compare, typed, untyped};
use shards::{Drive, Shards, each, run_shard};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use wgpu_norm::sync::{Communicator, DeviceSyncBatchNorm, LocalGroup};
use wgpu_norm::{
    BatchNormDescriptor, Commit, Error, Format, Fusion, Residual, TensorDescriptor, gpu,
    host::{Backend, Statistic},
};

const WAIT: Duration = Duration::from_secs(60);

fn buffer(gpu: &adapters::Gpu, contents: &[f32]) -> wgpu::Buffer {
    // An empty shard has buffers, too.
    transfer::upload(gpu, if contents.is_empty() { &[0.0] } else { contents })
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
    let input = |all: &[f64]| buffer(gpu, &typed::<f32>(shards.of(rank, all)));
    let output = |len: usize| buffer(gpu, &vec![f32::NAN; len]);
    let (given, dy) = (input(&data.x), input(&data.dy));
    let x = buffer(gpu, &vec![f32::NAN; elements.max(1)]);
    let (residual, dsum) = (data.residual.as_deref().map(input), data.dsum.as_deref().map(input));
    let (y, sum, dx, dresidual) = (output(elements), output(elements), output(elements), output(elements));
    let channels = case.descriptor.affine_len() as usize;
    let (dweight, dbias) = (output(channels), output(channels));
    let all = |buffer: &wgpu::Buffer| -> Vec<f32> { transfer::read_now(gpu, buffer) };

    let io = gpu::Forward {
        residual: residual.as_ref().map(|b| b.as_entire_buffer_binding()),
        sum: case.has_sum().then(|| sum.as_entire_buffer_binding()),
        ..gpu::Forward::new(x.as_entire_buffer_binding(), y.as_entire_buffer_binding())
    };
    let mut encoder = device.create_command_encoder(&Default::default());
    // What was recorded before the call runs before it.
    encoder.copy_buffer_to_buffer(&given, 0, &x, 0, x.size());
    let saved = layer.forward_train(&mut encoder, &tensor, case.fusion, &io, Commit::Update).await?;
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
    let mut encoder = device.create_command_encoder(&Default::default());
    layer.backward(&mut encoder, saved, &io).await?;
    gpu.queue.submit([encoder.finish()]);
    let tensor = |buffer: &wgpu::Buffer| untyped(&all(buffer)[..elements]);
    Ok(Results {
        y: tensor(&y),
        sum: case.has_sum().then(|| tensor(&sum)),
        statistics,
        dx: tensor(&dx),
        dresidual: after.then(|| tensor(&dresidual)),
        dweight: Some(untyped(&all(&dweight))),
        dbias: Some(untyped(&all(&dbias))),
        state: transfer::state(gpu, layer.norm()),
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
            let name = format!("{}: {} in {sizes:?}", gpu.name, case.name());
            let [buffers, slices] = [true, false].map(|on_device| -> Vec<Results> {
                of(on_device).into_iter().map(|result| result.unwrap_or_else(|e| panic!("{name}: {e}"))).collect()
            });
            assert!(buffers == slices, "{name}: other bits than from slices");
            let wrong = compare(&case, &data, &shards::join(buffers).whole, 1e-6);
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
        }
    }
}

/// A member of a group with a layer of two channels, on buffers of its own.
struct Member<'a> {
    gpu: &'a adapters::Gpu,
    layer: DeviceSyncBatchNorm,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    short: wgpu::Buffer,
}

impl<'a> Member<'a> {
    fn new(gpu: &'a adapters::Gpu, context: &gpu::Context, group: Arc<dyn Communicator>) -> Member<'a> {
        let norm = gpu::Norm::new(context, BatchNormDescriptor::new(2)).unwrap();
        let layer = DeviceSyncBatchNorm::new(norm, &gpu.queue, group).unwrap();
        let [x, y, short] = [&[1.0, 2.0, 3.0, 5.0][..], &[0.0; 4], &[0.0; 3]].map(|of| buffer(gpu, of));
        Member { gpu, layer, x, y, short }
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&Default::default())
    }

    async fn train(&self, encoder: &mut wgpu::CommandEncoder, y: &wgpu::Buffer) -> Result<gpu::Saved, Error> {
        let io = gpu::Forward::new(self.x.as_entire_buffer_binding(), y.as_entire_buffer_binding());
        let tensor = TensorDescriptor::new(&[2, 2]);
        self.layer.forward_train(encoder, &tensor, Fusion::default(), &io, Commit::Update).await
    }

    async fn backward(&self, saved: gpu::Saved, dx: &wgpu::Buffer, dweight: &wgpu::Buffer) -> Result<(), Error> {
        let io = gpu::Backward {
            dx: Some(dx.as_entire_buffer_binding()),
            dweight: Some(wgpu::BufferBinding { size: 8.try_into().ok(), ..dweight.as_entire_buffer_binding() }),
            ..gpu::Backward::new(self.x.as_entire_buffer_binding(), self.x.as_entire_buffer_binding())
        };
        self.layer.backward(&mut self.encoder(), saved, &io).await
    }

    fn tracked(&self) -> Vec<u32> {
        transfer::state(self.gpu, self.layer.norm()).running.unwrap().tracked
    }
}

/// What its last step would find wrong keeps a member from the exchange, and nobody's statistics change; what was recorded
/// before is not lost.
#[test]
fn a_member_that_cannot_end_does_not_begin() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let Backend::Gpu { context, .. } = backend else { continue };
        let mut results = each(2, WAIT, Drive::OneThread, async |group| {
            let rank = group.rank();
            let member = Member::new(gpu, context, group);
            let Member { y, short, .. } = &member;
            let mut encoder = member.encoder();
            let saved = member.train(&mut encoder, y).await.unwrap();
            let short_y = member.train(&mut encoder, if rank == 1 { short } else { y }).await.map(drop).unwrap_err();
            gpu.queue.submit([encoder.finish()]);
            let tracked = member.tracked();
            let short_dx = member.backward(saved, if rank == 0 { short } else { y }, short).await.unwrap_err();
            let mut encoder = member.encoder();
            let saved = member.train(&mut encoder, y).await.unwrap();
            gpu.queue.submit([encoder.finish()]);
            let dx_over_dweight = member.backward(saved, y, if rank == 0 { y } else { short }).await.unwrap_err();
            (tracked, [short_y, short_dx, dx_over_dweight])
        });
        let (second, first) = (results.pop().unwrap(), results.pop().unwrap());
        assert_eq!([first.0, second.0], [[1, 1]; 2], "{}", gpu.name);
        let failed = |rank| Error::MemberFailed { rank };
        let [short_y, short_dx, dx_over_dweight] = first.1;
        assert_eq!(short_y, failed(1), "{}", gpu.name);
        assert!(matches!(short_dx, Error::BufferTooSmall { name: "dx", .. }), "{}: {short_dx}", gpu.name);
        assert!(matches!(dx_over_dweight, Error::Overlap { .. }), "{}: {dx_over_dweight}", gpu.name);
        let [short_y, others @ ..] = second.1;
        assert!(matches!(short_y, Error::BufferTooSmall { name: "y", .. }), "{}: {short_y}", gpu.name);
        assert_eq!(others, [failed(0), failed(0)], "{}", gpu.name);
    }
}

/// A call that is dropped while the device makes its sums.
#[test]
fn a_member_that_gives_up_a_call_breaks_the_group() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let Backend::Gpu { context, .. } = backend else { continue };
        let members: Vec<Member> =
            LocalGroup::members(2, WAIT).into_iter().map(|group| Member::new(gpu, context, Arc::new(group))).collect();
        let mut encoder = members[0].encoder();
        {
            let mut given_up = Box::pin(members[0].train(&mut encoder, &members[0].y));
            assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "{}", gpu.name);
        }
        for member in &members {
            let error = pollster::block_on(member.train(&mut member.encoder(), &member.y)).map(drop).unwrap_err();
            assert!(matches!(error, Error::MemberGone { rank: 0 }), "{}: {error}", gpu.name);
        }
    }
}
