//! Plans of tests, without a device.

use std::collections::HashSet;
use std::ops::Range;
use wgpu_norm::layout::Walk;
use wgpu_norm::plan::{Geometry, Kernel, Pass, Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, Error, Format, Fusion, Gradients, LayerNormDescriptor, NormDescriptor, Op, Profile, Residual,
    Statistics, TensorDescriptor,
};

pub const PLAIN: Fusion = Fusion { residual: Residual::None, relu: false };
pub const ALL: Gradients = Gradients { dx: true, dresidual: false, affine: true };

pub fn batch(channels: usize) -> NormDescriptor {
    BatchNormDescriptor::new(channels).into()
}

pub fn layer(len: usize) -> NormDescriptor {
    LayerNormDescriptor::new(&[len]).into()
}

pub fn last<'a>(shape: &'a [usize]) -> TensorDescriptor<'a> {
    TensorDescriptor { format: Format::ChannelsLast, ..TensorDescriptor::new(shape) }
}

pub fn plan(norm: &NormDescriptor, tensor: &TensorDescriptor, fusion: Fusion, op: Op) -> Plan {
    plan_for(norm, tensor, Statistics::Batch, fusion, op, &Profile::GPU).unwrap()
}

pub fn plan_for(
    norm: &NormDescriptor,
    tensor: &TensorDescriptor,
    statistics: Statistics,
    fusion: Fusion,
    op: Op,
    profile: &Profile,
) -> Result<Plan, Error> {
    Plan::new(Problem::new(norm, tensor, statistics, fusion, op)?, profile)
}

pub fn kernels(plan: &Plan) -> Vec<Kernel> {
    plan.passes.iter().map(|p| p.kernel).collect()
}

/// Channels and side of ResNet-50's images at its batch norms.
pub const RESNET50: [(usize, usize); 12] = [
    (64, 112),
    (64, 56),
    (256, 56),
    (128, 56),
    (128, 28),
    (512, 28),
    (256, 28),
    (256, 14),
    (1024, 14),
    (512, 14),
    (512, 7),
    (2048, 7),
];

/// Tensors read and written by all passes together.
pub fn traffic(plan: &Plan) -> (usize, usize) {
    (plan.passes.iter().map(|p| p.reads.len()).sum(), plan.passes.iter().map(|p| p.writes.len()).sum())
}

/// Elements of a tile of a target, as the documentation of [`wgpu_norm::plan::Tree`] defines them.
pub fn elements(plan: &Plan, walk: &Walk, pass: &Pass, target: u64, tile: u64) -> Vec<u64> {
    let Geometry { tree, leaves, .. } = pass.geometry;
    let (lanes, units) = (u64::from(tree.lanes), u64::from(tree.parts * tree.units));
    let mut found = Vec::new();
    for leaf in tile * u64::from(leaves)..(tile + 1) * u64::from(leaves) {
        let (segment, q) = (leaf / tree.leaves, leaf % tree.leaves);
        for unit in (0..units).filter(|_| segment < walk.segments) {
            let chunk = 4 * (q / lanes * units + unit) * lanes;
            let together = plan.spacing(pass) == 1;
            let elements = (0..4).map(|i| chunk + if together { 4 * (q % lanes) + i } else { q % lanes + i * lanes });
            found.extend(elements.filter(|&j| j < walk.len).map(|j| walk.offset(target, segment, j)));
        }
    }
    found
}

/// Elements of a window.
pub fn length(range: Range<u64>) -> u64 {
    range.end - range.start
}

/// The windows of each pass over elements hold what its dispatches touch, fit the limit, and miss nothing.
pub fn check_windows(plan: &Plan, profile: &Profile, case: &str) {
    let bytes = plan.problem.input.size().max(plan.problem.output.size());
    for pass in plan.passes.iter().filter(|p| !p.reads.is_empty()) {
        let targets = plan.walk(pass.over).targets();
        let mut taken = vec![false; plan.problem.layout.elements as usize];
        let mut tiles_taken = HashSet::new();
        for d in &pass.dispatches {
            let tensors = pass.reads.iter().chain(&pass.writes).map(|&t| (plan.walk_of(pass.over, t), t));
            let windows: Vec<_> = tensors.map(|(walk, t)| (walk, d.window(&walk), t)).collect();
            for (_, window, tensor) in &windows {
                let size = (window.end - window.start) * bytes + profile.offset_alignment;
                assert!(size <= profile.max_binding_size, "{case}: {d:?}");
                assert!(window.end <= plan.problem.memory(*tensor).span(), "{case}: {d:?}");
            }
            for (target, tile) in d.targets.clone().flat_map(|t| d.tiles.clone().map(move |tile| (t, tile))) {
                assert!(tiles_taken.insert((target, tile)), "{case}: tile {tile} of {target} twice");
                for (walk, window, tensor) in &windows {
                    let outside = elements(plan, walk, pass, target, tile).into_iter().find(|at| !window.contains(at));
                    assert_eq!(
                        outside, None,
                        "{case}: element of {target} of {tensor:?} is not in {window:?} of {d:?}"
                    );
                }
                for at in elements(plan, &plan.walk(pass.over), pass, target, tile) {
                    assert!(!std::mem::replace(&mut taken[at as usize], true), "{case}: {at} twice");
                }
            }
        }
        assert!(taken.iter().all(|&t| t), "{case}: {:?} misses elements", pass.kernel);
        assert_eq!(tiles_taken.len() as u64, targets * pass.geometry.tiles, "{case}");
    }
}

/// Grids hold all of their work, within the limits, and little more; a workgroup's columns are in one window.
pub fn check_grids(plan: &Plan, profile: &Profile, call: &str) {
    for (pass, d) in plan.passes.iter().flat_map(|p| p.dispatches.iter().map(move |d| (p, d))) {
        let work = (d.targets.end - d.targets.start).div_ceil(pass.geometry.targets.into());
        let work = work * (d.tiles.end - d.tiles.start);
        let [x, y, z] = d.grid.map(u64::from);
        assert!(x.max(y) <= profile.max_workgroups.into() && z == 1, "{call}: {:?}", d.grid);
        assert!(x * y >= work && x * y < work + y.max(1), "{call}: {:?} for {work}", d.grid);
        // A plane of columns' sums belongs to a workgroup, whatever the window that it is in.
        let is_whole = d.targets.start.is_multiple_of(pass.geometry.targets.into());
        assert!(is_whole || !pass.sums_columns(), "{call}: {:?}", d.targets);
    }
}

/// Partial results are there when they are read, whole, and no pass writes where it reads.
pub fn check_partials(plan: &Plan, call: &str) {
    let ends = |at: u64, len: u64| at..at + len;
    // What is there: pieces that a pass has written, apart from each other.
    let mut there: Vec<Range<u64>> = Vec::new();
    if matches!(plan.problem.op, Op::MergeSums(..) | Op::ApplyMoments | Op::ApplyGradientSums(_)) {
        // What other members have sent.
        there.extend(plan.passes.first().map(|p| ends(p.partials_in_at, p.all_partials_in(&plan.problem))));
    }
    for pass in &plan.passes {
        let read = ends(pass.partials_in_at, pass.all_partials_in(&plan.problem));
        let written = ends(pass.partials_out_at, pass.all_partials_out(&plan.problem));
        assert!(
            read.is_empty() || there.iter().any(|piece| piece.start <= read.start && read.end <= piece.end),
            "{call}: {:?} reads {read:?} of {there:?}",
            pass.kernel
        );
        let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        // A merge of none loads one, and drops it.
        let loaded = read.start..read.end.max(read.start + u64::from(pass.kernel == Kernel::Merge));
        assert!(!overlap(&loaded, &written), "{call}: {:?} loads {loaded:?} and writes {written:?}", pass.kernel);
        assert!(read.end.max(written.end) * 16 <= plan.scratch(), "{call}: {:?}", pass.kernel);
        there.retain(|piece| !overlap(piece, &written));
        there.extend((!written.is_empty()).then_some(written));
    }
}
