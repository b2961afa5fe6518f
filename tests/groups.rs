//! What members of a group tell each other: errors, time-outs, several layers at once.

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

use shards::DRIVES;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use wgpu_norm::host::{Backend, Backward, Norm};
use wgpu_norm::sync::{
    BackwardPart, Communicator, ForwardPart, LocalGroup, SyncBatchNorm, all_reduce, backward_together,
    forward_train_together, join_all,
};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Error, Fusion, GradientSums, Gradients, Moments, Momentum, NonFinite, Residual,
    State, TensorDescriptor,
};

const WAIT: Duration = Duration::from_secs(60);

/// What each rank makes of its membership: ranks on threads, then again all on one thread.
fn each<T: Send>(size: usize, wait: Duration, member: impl AsyncFn(Arc<dyn Communicator>) -> T + Sync) -> Vec<Vec<T>> {
    DRIVES.into_iter().map(|drive| shards::each(size, wait, drive, &member)).collect()
}

fn layer(features: usize, group: Arc<dyn Communicator>) -> SyncBatchNorm {
    SyncBatchNorm::new(Norm::new(&Backend::Cpu, BatchNormDescriptor::new(features)).unwrap(), group).unwrap()
}

async fn train(layer: &mut SyncBatchNorm, shape: &[usize]) -> Result<State, Error> {
    let x = vec![1.5f32; shape.iter().product()];
    let tensor = TensorDescriptor::new(shape);
    let (_, saved) = layer.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Update).await?;
    drop(saved);
    layer.norm().state().await
}

/// Counts have 32 bits: shards that fit may be too many together.
#[test]
fn more_values_than_are_counted_are_an_error_on_every_member() {
    let moments = |count| Moments { count, mean_hi: 1.0, mean_lo: 0.0, m2: 1.0 };
    let results = each(2, WAIT, async |group| {
        let all = all_reduce(&*group, DType::F32, Ok(vec![vec![moments(1 << 31)]])).await;
        let most = all_reduce(&*group, DType::F32, Ok(vec![vec![moments((1 << 31) - group.rank() as u32)]])).await;
        (all, most)
    });
    for (all, most) in results.concat() {
        assert!(matches!(all, Err(Error::TooLarge { required: 0x1_0000_0000, limit: 0xffff_ffff, .. })), "{all:?}");
        assert_eq!(most.unwrap()[0][0].count, u32::MAX);
    }
}

/// A task that its waker alone keeps, as some executors have it, ends with the waker: within the call that wakes it.
#[test]
fn a_waker_may_own_its_exchange() {
    struct Task(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    // The other one comes, or is gone, or the first one has waited too long.
    for (wait, comes) in [(WAIT, true), (WAIT, false), (Duration::from_millis(100), false)] {
        let [first, second] = LocalGroup::members(2, wait).try_into().unwrap();
        let exchange = Box::pin(async move { drop(first.all_gather(&[1]).await) });
        let task = Arc::new(Task(Mutex::new(Some(exchange))));
        let waker = Waker::from(task.clone());
        let mut held = task.0.lock().unwrap().take().unwrap();
        assert!(held.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        *task.0.lock().unwrap() = Some(held);
        drop((task, waker));
        let (sender, receiver) = mpsc::channel();
        // On a thread of its own, which is left where it hangs.
        std::thread::spawn(move || {
            if !comes && wait < WAIT {
                std::thread::sleep(5 * wait);
            }
            let said = comes.then(|| pollster::block_on(second.all_gather(&[2])));
            drop(second);
            sender.send(said)
        });
        let said = receiver.recv_timeout(WAIT).expect("nobody waits for the group's mutex for ever");
        assert_eq!(said.map(Result::unwrap), comes.then(|| vec![vec![1], vec![2]]));
    }
}

#[test]
fn one_value_in_all_is_an_error_on_every_member() {
    let results = each(3, WAIT, async |group| {
        let rows = usize::from(group.rank() == 1);
        let mut layer = layer(2, group);
        let error = train(&mut layer, &[rows, 2]).await.unwrap_err();
        (error, layer.norm().state().await.unwrap())
    });
    for (error, state) in results.concat() {
        assert!(matches!(error, Error::TooFewValues { count: 1, .. }), "{error}");
        assert_eq!(state, State::new(BatchNormDescriptor::new(2)).unwrap());
    }
}

#[test]
fn no_value_in_all_leaves_running_statistics_alone() {
    for state in each(2, WAIT, async |group| train(&mut layer(2, group), &[0, 2]).await.unwrap()).concat() {
        assert_eq!(state, State::new(BatchNormDescriptor::new(2)).unwrap());
    }
}

#[test]
fn members_that_disagree_all_get_the_error() {
    let channels = each(3, WAIT, async |group| {
        let channels = if group.rank() == 2 { 5 } else { 4 };
        train(&mut layer(channels, group), &[2, channels]).await.unwrap_err()
    });
    for error in channels.concat() {
        assert!(matches!(error, Error::Disagreement { rank: 2, .. }), "{error}");
        assert!(error.to_string().ends_with("rank 0 has 4, rank 2 has 5"), "{error}");
    }
    let dtypes = each(2, WAIT, async |group| {
        let dtype = if group.rank() == 1 { DType::F16 } else { DType::F32 };
        all_reduce(&*group, dtype, Ok(vec![vec![Moments::EMPTY; 3]])).await.unwrap_err()
    });
    for error in dtypes.concat() {
        assert!(matches!(error, Error::Disagreement { what: "the element type", rank: 1, .. }), "{error}");
    }
    let calls = each(2, WAIT, async |group| {
        if group.rank() == 0 {
            all_reduce(&*group, DType::F32, Ok(vec![vec![Moments::EMPTY; 3]])).await.unwrap_err()
        } else {
            all_reduce(&*group, DType::F32, Ok(vec![vec![GradientSums::default(); 3]])).await.unwrap_err()
        }
    });
    for error in calls.concat() {
        assert!(matches!(error, Error::Disagreement { what: "the call", .. }), "{error}");
    }
}

#[test]
fn an_error_of_one_member_reaches_all() {
    let all = each(3, WAIT, async |group| {
        let wrong = group.rank() == 1;
        // The layer has 4 channels.
        train(&mut layer(4, group), if wrong { &[2, 3] } else { &[2, 4] }).await.unwrap_err()
    });
    for errors in all {
        assert!(matches!(errors[0], Error::MemberFailed { rank: 1 }), "{}", errors[0]);
        assert!(matches!(errors[1], Error::Axis { .. }), "{}", errors[1]);
        assert!(matches!(errors[2], Error::MemberFailed { rank: 1 }), "{}", errors[2]);
    }
}

#[test]
fn a_member_that_does_not_come_is_a_time_out() {
    let short = Duration::from_millis(200);
    // Kept until the end, or its absence would be noticed before the time-out.
    let absent = std::sync::Mutex::new(Vec::new());
    let errors = each(3, short, async |group| {
        if group.rank() == 2 {
            absent.lock().unwrap().push(group);
            return None;
        }
        let mut layer = layer(4, group);
        let first = train(&mut layer, &[2, 4]).await.unwrap_err();
        let state = layer.norm().state().await.unwrap();
        assert_eq!(state, State::new(BatchNormDescriptor::new(4)).unwrap(), "half-written state");
        Some((first, train(&mut layer, &[2, 4]).await.unwrap_err()))
    });
    for (first, again) in errors.concat().into_iter().flatten() {
        for error in [first, again] {
            assert!(matches!(&error, Error::Timeout { missing, .. } if missing == &[2]), "{error}");
        }
    }
}

/// The others would take its message of this exchange for that of the next.
#[test]
fn a_member_that_gives_up_an_exchange_breaks_the_group() {
    let members = LocalGroup::members(2, WAIT);
    let mut given_up = members[0].all_gather(b"first");
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(given_up.as_mut().poll(&mut context).is_pending());
    let twice = pollster::block_on(members[0].all_gather(b"second")).unwrap_err();
    assert!(matches!(twice, Error::Communication(_)), "{twice}");
    drop(given_up);
    for member in &members {
        let error = pollster::block_on(member.all_gather(b"second")).unwrap_err();
        assert!(matches!(error, Error::MemberGone { rank: 0 }), "{error}");
    }
}

/// The same of a call that is dropped on its way to the exchange, while a device makes its sums.
#[test]
fn a_member_that_gives_up_a_call_breaks_the_group() {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let layers = LocalGroup::members(2, WAIT).into_iter().map(|member| {
            let norm = Norm::new(backend, BatchNormDescriptor::new(4)).unwrap();
            SyncBatchNorm::new(norm, Arc::new(member)).unwrap()
        });
        let mut layers: Vec<SyncBatchNorm> = layers.collect();
        {
            let mut given_up = Box::pin(train(&mut layers[0], &[2, 4]));
            let mut context = Context::from_waker(Waker::noop());
            assert!(given_up.as_mut().poll(&mut context).is_pending(), "{}", gpu.name);
        }
        // Of another batch, whose message would fit that call.
        let rest = layers.iter_mut().map(|layer| train(layer, &[3, 4]));
        for result in pollster::block_on(join_all(rest)) {
            assert!(matches!(result, Err(Error::MemberGone { rank: 0 })), "{}: {result:?}", gpu.name);
        }
    }
}

#[test]
fn several_layers_share_a_message() {
    let all = each(2, WAIT, async |group| {
        let one = |x: f32| Moments { count: 1, mean_hi: x, mean_lo: 0.0, m2: 0.0 };
        let x = group.rank() as f32;
        let local = vec![vec![one(x), one(2.0 * x)], vec![one(4.0 * x)], vec![]];
        all_reduce(&*group, DType::F32, Ok(local)).await.unwrap()
    });
    for merged in all.concat() {
        assert_eq!(merged.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!((merged[0][1].mean(), merged[1][0].mean(), merged[1][0].count), (1.0, 2.0, 2));
    }
}

const WANTED: Gradients = Gradients { dx: true, dresidual: false, affine: true };

/// A member's shard of a layer's input: a row or two of noise around the rank.
fn shard(rank: usize, channels: usize, seed: u64) -> ([usize; 2], Vec<f32>) {
    let shape = [rank % 2 + 1, channels];
    let x = cases::noise(seed + rank as u64, shape.iter().product(), rank as f64, 1.0);
    (shape, cases::narrow(x))
}

/// Two layers forward and backward, in one exchange each way or one after the other: all that they give.
async fn two_layers(
    backend: &Backend,
    group: Arc<dyn Communicator>,
    together: bool,
) -> Result<Vec<(Vec<f32>, Option<Vec<f32>>, Option<Vec<f32>>, State)>, Error> {
    let rank = group.rank();
    let relu = Fusion { relu: true, ..Fusion::default() };
    let inputs = [(5, Fusion::default(), shard(rank, 5, 10)), (3, relu, shard(rank, 3, 20))];
    let tensors = inputs.each_ref().map(|(_, _, (shape, _))| TensorDescriptor::new(shape));
    let mut layers = Vec::new();
    for (channels, ..) in &inputs {
        let norm = Norm::new(backend, BatchNormDescriptor::new(*channels))?;
        layers.push(SyncBatchNorm::new(norm, group.clone())?);
    }
    let parts = layers.iter_mut().zip(&inputs).zip(&tensors);
    let mut parts: Vec<_> = parts
        .map(|((layer, (_, fusion, (_, x))), tensor)| ForwardPart { layer, tensor, fusion: *fusion, x, residual: None })
        .collect();
    let mut forward = Vec::new();
    if together {
        forward = forward_train_together::<f32, f32>(&mut parts, Commit::Update).await?;
    } else {
        for part in &mut parts {
            let ForwardPart { layer, tensor, fusion, x, residual } = part;
            forward.push(layer.forward_train::<f32, f32>(tensor, *fusion, x, *residual, Commit::Update).await?);
        }
    }
    let (outputs, saved): (Vec<_>, Vec<_>) = forward.into_iter().unzip();
    let (layers, mut gradients) = (&layers, Vec::new());
    let rest = layers.iter().zip(&inputs).zip(saved);
    let parts = rest.map(|((layer, (_, _, (_, x))), saved)| BackwardPart { layer, saved, io: Backward::new(x, x) });
    if together {
        gradients = backward_together(parts.collect(), WANTED).await?;
    } else {
        for p in parts {
            gradients.push(p.layer.backward(p.saved, p.io, WANTED).await?);
        }
    }
    let mut results = Vec::new();
    for ((layer, output), gradients) in layers.iter().zip(outputs).zip(gradients) {
        results.push((output.y, gradients.dx, gradients.dweight, layer.norm().state().await?));
    }
    Ok(results)
}

#[test]
fn layers_together_give_the_bits_of_one_after_the_other() {
    let gpus: Vec<_> = backends::gpus().collect();
    let _turns: Vec<_> = gpus.iter().map(|(gpu, _)| gpu.turn()).collect();
    let backends: Vec<Backend> = gpus.iter().map(|(_, backend)| (*backend).clone()).chain([Backend::Cpu]).collect();
    let run = |together: bool| {
        let member = async |group: Arc<dyn Communicator>| {
            two_layers(&backends[group.rank() % backends.len()], group, together).await.unwrap()
        };
        shards::each(4, WAIT, shards::Drive::OneThread, member)
    };
    let (together, apart) = (run(true), run(false));
    assert_eq!(together, apart);
    assert!(together.iter().all(|member| member.iter().all(|(_, dx, dweight, _)| dx.is_some() && dweight.is_some())));
}

/// Members that would end with different running statistics do not begin.
#[test]
fn settings_must_be_the_same() {
    let standard = BatchNormDescriptor::new(4);
    let others = [
        (
            BatchNormDescriptor { eps: 1e-3, ..standard.clone() },
            Commit::Update,
            "eps: rank 0 has 0.00001, rank 1 has 0.001",
        ),
        (
            BatchNormDescriptor { momentum: Momentum::Exponential(0.3), ..standard.clone() },
            Commit::Update,
            "0.1, rank 1 has 0.3",
        ),
        (
            BatchNormDescriptor { momentum: Momentum::Cumulative, ..standard.clone() },
            Commit::Update,
            "the cumulative average",
        ),
        (
            BatchNormDescriptor { non_finite: NonFinite::Poison, ..standard.clone() },
            Commit::Update,
            "rank 0 has no, rank 1 has yes",
        ),
        (standard.clone(), Commit::Skip, "rank 0 has yes, rank 1 has no"),
    ];
    for (other, commit, words) in others {
        let errors = each(2, WAIT, async |group| {
            let (descriptor, commit) =
                if group.rank() == 1 { (other.clone(), commit) } else { (standard.clone(), Commit::Update) };
            let norm = Norm::new(&Backend::Cpu, descriptor.clone()).unwrap();
            let mut layer = SyncBatchNorm::new(norm, group).unwrap();
            let (x, tensor) = ([1.0f32, 2.0, 3.0, 4.0], TensorDescriptor::new(&[1, 4]));
            let pass = layer.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, commit);
            let error = pass.await.unwrap_err();
            assert_eq!(layer.norm().state().await.unwrap(), State::new(descriptor).unwrap());
            error
        });
        for error in errors.into_iter().flatten() {
            assert!(matches!(error, Error::Disagreement { rank: 1, .. }), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

/// One layer has a residual too few, the other is fine: neither may change.
#[test]
fn an_error_in_one_of_several_layers_is_one_of_the_call() {
    let all = each(2, WAIT, async |group| {
        let wrong = group.rank() == 1;
        let residual = Fusion { residual: Residual::After, relu: false };
        let (mut first, mut second) = (layer(4, group.clone()), layer(4, group));
        let (x, tensor) = ([1.0, 2.0, 3.0, 4.0], TensorDescriptor::new(&[1, 4]));
        let part = |layer, fusion| ForwardPart { layer, tensor: &tensor, fusion, x: &x, residual: None };
        let mut parts =
            [part(&mut first, Fusion::default()), part(&mut second, if wrong { residual } else { Fusion::default() })];
        let error = forward_train_together::<f32, f32>(&mut parts, Commit::Update).await.unwrap_err();
        (error, [first.norm().state().await.unwrap(), second.norm().state().await.unwrap()])
    });
    for members in all {
        assert!(matches!(members[0].0, Error::MemberFailed { rank: 1 }), "{}", members[0].0);
        assert!(matches!(members[1].0, Error::Missing { .. }), "{}", members[1].0);
        let untouched = State::new(BatchNormDescriptor::new(4)).unwrap();
        assert!(members.iter().all(|(_, states)| states.iter().all(|state| *state == untouched)));
    }
}

/// What the first step of backward does not need is looked at before the exchange all the same.
#[test]
fn a_gradient_too_many_is_an_error_on_every_member() {
    let all = each(2, WAIT, async |group| {
        let wrong = group.rank() == 1;
        let mut layer = layer(4, group);
        let (x, tensor) = ([1.0f32, 2.0, 3.0, 4.0], TensorDescriptor::new(&[1, 4]));
        let forward = layer.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Update);
        let (_, saved) = forward.await.unwrap();
        let io = Backward { dsum: wrong.then_some(&x[..]), ..Backward::new(&x, &x) };
        layer.backward(saved, io, WANTED).await.unwrap_err()
    });
    for errors in all {
        assert!(matches!(errors[0], Error::MemberFailed { rank: 1 }), "{}", errors[0]);
        assert!(matches!(errors[1], Error::Unexpected { name: "dsum", .. }), "{}", errors[1]);
    }
}

#[test]
fn layers_of_two_groups_do_not_go_together() {
    let group = || -> Arc<dyn Communicator> { Arc::new(LocalGroup::members(1, WAIT).remove(0)) };
    let (mut first, mut second) = (layer(2, group()), layer(2, group()));
    let (x, tensor) = ([1.0, 2.0, 3.0, 4.0], TensorDescriptor::new(&[2, 2]));
    let mut parts = [&mut first, &mut second].map(|layer| ForwardPart {
        layer,
        tensor: &tensor,
        fusion: Fusion::default(),
        x: &x,
        residual: None,
    });
    let error = pollster::block_on(forward_train_together::<f32, f32>(&mut parts, Commit::Update)).unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
}
