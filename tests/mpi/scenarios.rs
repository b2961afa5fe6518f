//! What the ranks do. A rank that panics makes mpirun fail.

use super::step;
use std::sync::Arc;
use std::time::Duration;
use wgpu_norm::host::{Backend, Norm};
use wgpu_norm::mpi::collective::CommunicatorCollectives;
use wgpu_norm::mpi::environment::Universe;
use wgpu_norm::mpi::topology::{Color, Communicator as _};
use wgpu_norm::mpi::{self, Threading};
use wgpu_norm::sync::{Communicator, MpiGroup, SyncBatchNorm, all_reduce, join_all};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Error, Fusion, GradientSums, Moments, Running, State, TensorDescriptor,
};

/// Each with whether it succeeds.
pub const ALL: [(&str, bool); 8] = [
    ("step", true),
    ("process_groups", true),
    ("disagreement", true),
    ("one_thread", true),
    ("any_thread", true),
    ("absent", true),
    ("absent_long", true),
    ("abort", false),
];

const WAIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(500);

pub fn run(scenario: &str) {
    let level = if scenario == "one_thread" { Threading::Funneled } else { Threading::Multiple };
    let (universe, provided) = mpi::initialize_with_threading(level).expect("MPI starts once");
    assert!(provided >= level, "MPI gives {provided:?}, {level:?} is needed");
    assert_eq!(universe.world().size(), 4);
    match scenario {
        "step" => step::check(&group(&universe, WAIT)),
        "process_groups" => process_groups(&universe),
        "disagreement" => disagreement(&universe),
        "one_thread" => threads(&universe, false),
        "any_thread" => threads(&universe, true),
        "absent" => absent(&universe, 4),
        // Too long for MPI to send before somebody takes it.
        "absent_long" => absent(&universe, 1 << 18),
        "abort" => abort(&universe),
        _ => panic!("there is no scenario {scenario}"),
    }
}

fn group(universe: &Universe, timeout: Duration) -> Arc<dyn Communicator> {
    Arc::new(MpiGroup::new(&universe.world(), timeout).unwrap())
}

fn exchange(group: &dyn Communicator, message: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    pollster::block_on(group.all_gather(message))
}

/// Two groups of two, and the world at the same time, each rank in its own order.
fn process_groups(universe: &Universe) {
    let world = universe.world();
    let rank = world.rank() as usize;
    let half = world.split_by_color(Color::with_value(rank as i32 % 2)).unwrap();
    let half = MpiGroup::new(&half, WAIT).unwrap();
    assert_eq!((half.rank(), half.size()), (rank / 2, 2));
    let all = MpiGroup::new(&world, WAIT).unwrap();
    for round in 0..100u8 {
        let message = vec![round + rank as u8; 1000 * rank];
        let expected = |ranks: &[usize]| ranks.iter().map(|&r| vec![round + r as u8; 1000 * r]).collect::<Vec<_>>();
        let mut exchanges = vec![half.all_gather(&message), all.all_gather(&message)];
        exchanges.rotate_left(rank % 2);
        let mut said = pollster::block_on(join_all(exchanges));
        said.rotate_right(rank % 2);
        assert_eq!(said[0].as_ref().unwrap(), &expected(&[rank % 2, rank % 2 + 2]));
        assert_eq!(said[1].as_ref().unwrap(), &expected(&[0, 1, 2, 3]));
    }
}

/// Every rank gets the error, and the group goes on after it.
fn disagreement(universe: &Universe) {
    let group = group(universe, WAIT);
    let odd = group.rank() == 2;
    let reduce = |channels, dtype| {
        pollster::block_on(all_reduce(&*group, dtype, Ok(vec![vec![Moments::EMPTY; channels]]))).map(drop)
    };
    let error = reduce(if odd { 5 } else { 4 }, DType::F32).unwrap_err();
    assert!(matches!(error, Error::Disagreement { rank: 2, .. }), "{error}");
    assert!(error.to_string().ends_with("rank 0 has 4, rank 2 has 5"), "{error}");
    let error = reduce(4, if odd { DType::F16 } else { DType::F32 }).unwrap_err();
    assert!(matches!(error, Error::Disagreement { what: "the element type", rank: 2, .. }), "{error}");
    let error = if odd {
        pollster::block_on(all_reduce(&*group, DType::F32, Ok(vec![vec![GradientSums::default(); 4]]))).map(drop)
    } else {
        reduce(4, DType::F32)
    };
    assert!(matches!(error, Err(Error::Disagreement { what: "the call", rank: 2, .. })), "{error:?}");
    let error = train(&group, if odd { 3 } else { 4 }).0.unwrap_err();
    assert!(matches!((odd, &error), (true, Error::Axis { .. }) | (false, Error::MemberFailed { rank: 2 })), "{error}");
    let (result, state) = train(&group, 4);
    result.unwrap();
    assert_eq!(state.running.unwrap().num_batches_tracked(), 1);
}

/// A step of a layer of 4 channels on one row of `channels`, and the state after it.
fn train(group: &Arc<dyn Communicator>, channels: usize) -> (Result<(), Error>, State) {
    let norm = Norm::new(&Backend::Cpu, BatchNormDescriptor::new(4)).unwrap();
    let mut layer = SyncBatchNorm::new(norm, group.clone()).unwrap();
    let (shape, x) = ([1, channels], vec![group.rank() as f32; channels]);
    let tensor = TensorDescriptor::new(&shape);
    let step = layer.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Update);
    (pollster::block_on(step).map(drop), pollster::block_on(layer.norm().state()).unwrap())
}

/// Below `Threading::Multiple` another thread is refused, and the group is as good as before.
fn threads(universe: &Universe, allowed: bool) {
    let group = group(universe, WAIT);
    let elsewhere = std::thread::scope(|scope| scope.spawn(|| exchange(&*group, b"elsewhere")).join().unwrap());
    if allowed {
        assert_eq!(elsewhere.unwrap(), [b"elsewhere"; 4]);
    } else {
        let error = elsewhere.unwrap_err();
        assert!(matches!(error, Error::Communication(_)), "{error}");
    }
    assert_eq!(exchange(&*group, b"here").unwrap(), [b"here"; 4]);
}

/// Rank 3 does not come to the second exchange. All ranks end all the same.
fn absent(universe: &Universe, len: usize) {
    let group = group(universe, SHORT);
    let message = vec![group.rank() as u8; len];
    // Ranks do not start at the same moment.
    universe.world().barrier();
    assert_eq!(exchange(&*group, &message).unwrap().len(), 4);
    if group.rank() == 3 {
        return;
    }
    let first = exchange(&*group, &message).unwrap_err();
    assert!(matches!(&first, Error::Timeout { missing, .. } if missing == &[3]), "{first}");
    let (again, state) = train(&group, 4);
    assert_eq!(again.unwrap_err(), first);
    let untouched = Running { running_mean: vec![0.0; 4], running_var: vec![1.0; 4], ..state.running.clone().unwrap() };
    assert_eq!((state.running.as_ref(), untouched.num_batches_tracked()), (Some(&untouched), 0));
}

/// Rank 3 never comes and never ends: who finds out ends the job.
fn abort(universe: &Universe) {
    let group = group(universe, SHORT);
    universe.world().barrier();
    if group.rank() == 3 {
        std::thread::sleep(Duration::from_secs(3600));
        return;
    }
    let error = exchange(&*group, b"anybody?").unwrap_err();
    assert!(matches!(&error, Error::Timeout { missing, .. } if missing == &[3]), "{error}");
    universe.world().abort(1);
}
