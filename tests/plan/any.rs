//! What holds of every plan, without a device: of thousands of calls, shapes, pitches and limits drawn at random. What
//! fails names its call's number; the same number draws the same call again.

use super::plans::{check_grids, check_partials, check_windows, kernels};
use super::random::{self, FEW_LANES, one_of};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus as Rng};
use std::collections::HashMap;
use wgpu_norm::plan::{Over, Plan, Problem, Tensor, Tree};
use wgpu_norm::{
    BackwardPitches, Direction, Error, ForwardPitches, Gradients, NormDescriptor, Op, Pitch, Profile, Residual,
    Statistics, TensorDescriptor,
};

const CALLS: u64 = 5000;

/// Elements of a tensor, as every one of them is looked for in every window.
const MOST: usize = 40_000;

/// Bindings that hold whatever is asked for.
const ROOMY: u64 = 1 << 40;

fn op(rng: &mut Rng, is_batch: bool, residual: Residual) -> Op {
    let direction = one_of(rng, &[Direction::Forward, Direction::Backward]);
    let dx = rng.random_bool(0.8);
    let dresidual = residual == Residual::After && rng.random_bool(0.5);
    let wanted = Gradients { dx, dresidual, affine: rng.random_bool(0.8) };
    match rng.random_range(0..if is_batch { 10 } else { 6 }) {
        0..3 => Op::Forward,
        3..6 => Op::Backward(wanted),
        6 => Op::LocalSums(direction),
        7 => Op::ApplyMoments,
        8 => Op::ApplyGradientSums(wanted),
        _ => Op::MergeSums(direction, rng.random_range(1..5000)),
    }
}

/// Rows and samples that lie up to a few rows apart.
fn pitch(rng: &mut Rng, problem: &Problem) -> Pitch {
    let memory = problem.layout.memory;
    let row = rng.random_bool(0.5).then(|| memory.width + rng.random_range(0..20));
    // A sample that is one row has one distance, by either name.
    if memory.rows == 1 {
        return if rng.random_bool(0.5) { Pitch { row, sample: None } } else { Pitch { row: None, sample: row } };
    }
    // Nor have layer norm's rows of one element.
    if memory.width == 1 && problem.layout.stat_of_affine.position != 0 {
        return Pitch { row, sample: None };
    }
    let sample = memory.rows * row.unwrap_or(memory.width);
    Pitch { row, sample: rng.random_bool(0.5).then(|| sample + rng.random_range(0..500)) }
}

fn with_pitches(rng: &mut Rng, problem: Problem) -> Problem {
    if rng.random_bool(0.6) {
        return problem;
    }
    let mut any = || if rng.random_bool(0.5) { pitch(rng, &problem) } else { Pitch::default() };
    let with_gaps = match problem.op.direction() {
        Direction::Forward => {
            let pitches = ForwardPitches { x: any(), residual: any(), y: any(), sum: any() };
            problem.with_forward_pitches(&pitches)
        }
        Direction::Backward => {
            let dresidual = any();
            let pitches = BackwardPitches { x: any(), dy: any(), dx: any(), dresidual, ..Default::default() };
            problem.with_backward_pitches(&pitches)
        }
    };
    with_gaps.expect("rows and samples do not overlap")
}

/// A kind of device with limits of its own, or one with few lanes, on which everything takes several of something.
fn profile(rng: &mut Rng) -> Profile {
    let kind = one_of(rng, &[Profile::GPU, Profile::GPU, Profile::SOFTWARE_GPU, FEW_LANES, FEW_LANES]);
    Profile {
        abreast: one_of(rng, &[1, 4, 4]),
        max_workgroups: one_of(rng, &[kind.max_workgroups, 300]),
        max_binding_size: one_of(rng, &[ROOMY, ROOMY, 1 << 20, 1 << 16, 20_000, 4_000]),
        offset_alignment: one_of(rng, &[32, 256]),
        ..kind
    }
}

#[test]
fn all_plans_keep_their_promises() {
    let (mut planned, mut refused) = (0, 0);
    for number in 0..CALLS {
        let mut rng = Rng::seed_from_u64(number);
        let (norm, shape) = random::norm(&mut rng, MOST);
        let (dtype, format) = (random::dtype(&mut rng), random::format(&mut rng, &norm));
        let tensor = TensorDescriptor { dtype, format, ..TensorDescriptor::new(&shape) };
        let fusion = random::fusion(&mut rng);
        let op = op(&mut rng, matches!(norm, NormDescriptor::Batch(_)), fusion.residual);
        let may_run = norm.running_stats().is_some() && matches!(op, Op::Forward | Op::Backward(_));
        let statistics = if may_run && rng.random_bool(0.3) { Statistics::Running } else { Statistics::Batch };
        let problem = match Problem::new(&norm, &tensor, statistics, fusion, op) {
            Ok(problem) => with_pitches(&mut rng, problem),
            // A channel of one element.
            Err(Error::TooFewValues { count: 1, .. }) => continue,
            Err(error) => panic!("call {number}: {error}"),
        };
        let profile = profile(&mut rng);
        let call =
            format!("call {number}: {} of {tensor:?}, {fusion:?} {op:?} {statistics:?}, {profile:?}", norm.name());
        let roomy = Profile { max_binding_size: ROOMY, ..profile };
        let without_limits = Plan::new(problem, &roomy).unwrap_or_else(|error| panic!("{call}: {error}"));
        check(&without_limits, &roomy, &call);
        match Plan::new(problem, &profile) {
            Ok(plan) => {
                check(&plan, &profile, &call);
                check_same_bits(&plan, &without_limits, &call);
                planned += 1;
            }
            Err(Error::TooLarge { required, limit, .. }) if profile != roomy => {
                assert!(required > limit, "{call}");
                refused += 1;
            }
            Err(error) => panic!("{call}: {error}"),
        }
    }
    println!("{planned} calls planned, {refused} refused");
    assert!(planned > CALLS / 2 && refused < planned / 10);
}

fn check(plan: &Plan, profile: &Profile, call: &str) {
    check_windows(plan, profile, call);
    check_grids(plan, profile, call);
    check_tensors(plan, call);
    check_partials(plan, call);
}

/// Each wanted tensor is written once, nothing else is, and what is read is read twice at the most; three times where
/// weights' gradients are sums over other elements than statistics are, and those of neither are of use to the other.
fn check_tensors(plan: &Plan, call: &str) {
    let Problem { op, fusion, layout, .. } = plan.problem;
    let before = fusion.residual == Residual::Before;
    let wanted = match op {
        _ if layout.elements == 0 => [false; 2],
        Op::Forward | Op::ApplyMoments => [true, before],
        Op::Backward(gradients) | Op::ApplyGradientSums(gradients) => [gradients.dx, gradients.dresidual],
        Op::LocalSums(_) | Op::MergeSums(..) => [false; 2],
    };
    for (tensor, wanted) in [Tensor::Output, Tensor::SecondOutput].into_iter().zip(wanted) {
        let writers = plan.passes.iter().filter(|p| p.writes.contains(&tensor)).count();
        assert_eq!(writers, usize::from(wanted), "{call}: {tensor:?} by {:?}", kernels(plan));
    }
    // So that an output may lie over what the call reads.
    let written = plan.passes.iter().position(|p| !p.writes.is_empty()).unwrap_or(plan.passes.len());
    let read_later = plan.passes.iter().skip(written + 1).any(|p| !p.reads.is_empty());
    assert!(!read_later, "{call}: tensors are read when one has been written, by {:?}", kernels(plan));
    let weighs_alone = matches!(op, Op::Backward(Gradients { affine: true, .. })) && !layout.is_per_channel();
    let most = if weighs_alone { 3 } else { 2 };
    for tensor in Tensor::ALL {
        let readers = plan.passes.iter().filter(|p| p.reads.contains(&tensor)).count();
        assert!(readers <= most, "{call}: {tensor:?} by {:?}", kernels(plan));
    }
}

/// Limits change windows, tiles and what is summed on the way, not what is added to what.
fn check_same_bits(plan: &Plan, roomy: &Plan, call: &str) {
    let trees = |plan: &Plan| -> HashMap<Over, Tree> {
        let sums = plan.passes.iter().filter(|p| !p.reads.is_empty() && p.reduces && p.partials_in == 0);
        sums.map(|p| (p.over, p.geometry.tree)).collect()
    };
    let (trees, expected) = (trees(plan), trees(roomy));
    for (over, tree) in &trees {
        assert!(expected.get(over).is_none_or(|expected| expected == tree), "{call}: {trees:?}, {expected:?}");
    }
    let rounds = |plan: &Plan| plan.passes.iter().find(|p| p.sums_columns()).map(|p| p.geometry.rounds);
    assert_eq!(rounds(plan), rounds(roomy), "{call}");
}
