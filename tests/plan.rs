//! What plans promise, without a device: bytes, dispatches, windows, grids, errors.

use std::collections::HashSet;
use wgpu_norm::layout::{Memory, Walk};
use wgpu_norm::plan::{Geometry, Kernel, Over, Pass, Plan, Problem, Tensor, Tree};
use wgpu_norm::{
    BackwardPitches, BatchNormDescriptor, DType, Direction, Error, Format, ForwardPitches, Fusion, Gradients,
    GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor, Momentum, NormDescriptor, Op, Pitch, Profile,
    Residual, RmsNormDescriptor, Statistics, TensorDescriptor,
};

const PLAIN: Fusion = Fusion { residual: Residual::None, relu: false };
const ALL: Gradients = Gradients { dx: true, dresidual: false, affine: true };

fn batch(channels: usize) -> NormDescriptor {
    BatchNormDescriptor::new(channels).into()
}

fn layer(len: usize) -> NormDescriptor {
    LayerNormDescriptor::new(&[len]).into()
}

fn last<'a>(shape: &'a [usize]) -> TensorDescriptor<'a> {
    TensorDescriptor { format: Format::ChannelsLast, ..TensorDescriptor::new(shape) }
}

fn plan(norm: &NormDescriptor, tensor: &TensorDescriptor, fusion: Fusion, op: Op) -> Plan {
    plan_for(norm, tensor, Statistics::Batch, fusion, op, &Profile::GPU).unwrap()
}

fn plan_for(
    norm: &NormDescriptor,
    tensor: &TensorDescriptor,
    statistics: Statistics,
    fusion: Fusion,
    op: Op,
    profile: &Profile,
) -> Result<Plan, Error> {
    Plan::new(Problem::new(norm, tensor, statistics, fusion, op)?, profile)
}

fn kernels(plan: &Plan) -> Vec<Kernel> {
    plan.passes.iter().map(|p| p.kernel).collect()
}

/// Tensors read and written by all passes together.
fn traffic(plan: &Plan) -> (usize, usize) {
    (plan.passes.iter().map(|p| p.reads.len()).sum(), plan.passes.iter().map(|p| p.writes.len()).sum())
}

/// (norm, shape, whether a statistic fits on chip)
fn examples() -> Vec<(NormDescriptor, Vec<usize>, bool)> {
    vec![
        (batch(256), vec![8, 256, 7, 7], true),
        (batch(1024), vec![32, 1024, 14, 14], true),
        (batch(2048), vec![32, 2048, 7, 7], true),
        (batch(256), vec![32, 256, 56, 56], false),
        (layer(768), vec![512, 768], true),
        (layer(8192), vec![512, 8192], true),
        (layer(40000), vec![8, 40000], false),
        (RmsNormDescriptor::new(&[768]).into(), vec![512, 768], true),
        (GroupNormDescriptor::new(32, 256).into(), vec![2, 256, 14, 14], true),
        (GroupNormDescriptor::new(32, 256).into(), vec![2, 256, 100, 152], false),
        (InstanceNormDescriptor::new(64).into(), vec![2, 64, 28, 28], true),
        (InstanceNormDescriptor::new(64).into(), vec![2, 64, 200, 200], false),
    ]
}

#[test]
fn channels_last_goes_four_abreast_where_there_are_fours() {
    // Samples: few enough that a statistic is on chip, or more.
    for (samples, channels, expected) in [(2, 64, [1, 4]), (64, 64, [4, 4]), (64, 66, [1, 1])] {
        let shape = [samples, channels, 28, 28];
        let training = plan(&batch(channels), &last(&shape), PLAIN, Op::Forward);
        let evaluation =
            plan_for(&batch(channels), &last(&shape), Statistics::Running, PLAIN, Op::Forward, &Profile::GPU).unwrap();
        let abreast = [&training, &evaluation].map(|plan| plan.passes[0].geometry.abreast);
        assert_eq!(abreast, expected, "{shape:?}");
        for pass in training.passes.iter().chain(&evaluation.passes) {
            let Geometry { workgroup, leaves, targets, abreast, .. } = pass.geometry;
            assert_eq!(targets, workgroup / leaves * abreast, "{shape:?} {:?}", pass.kernel);
            assert!(u64::from(workgroup * abreast) * 16 <= 16384, "WebGPU's default workgroup memory");
        }
    }
}

#[test]
fn forward_moves_the_least_bytes() {
    for (norm, shape, on_chip) in examples() {
        let tensor = TensorDescriptor::new(&shape);
        let size = tensor.size().unwrap();
        let training = plan(&norm, &tensor, PLAIN, Op::Forward);
        let expected: (&[Kernel], _) =
            if on_chip { (&[Kernel::Rows], (1, 1)) } else { (&[Kernel::Reduce, Kernel::Apply], (2, 1)) };
        assert_eq!((kernels(&training).as_slice(), traffic(&training)), expected, "{shape:?}");
        assert_eq!(training.bytes(), if on_chip { 2 } else { 3 } * size);
        assert_eq!(training.dispatches(), training.passes.len(), "{shape:?}: one window");
        if norm.running_stats().is_some() {
            let evaluation = plan_for(&norm, &tensor, Statistics::Running, PLAIN, Op::Forward, &Profile::GPU).unwrap();
            assert_eq!((kernels(&evaluation), traffic(&evaluation)), (vec![Kernel::Apply], (1, 1)));
            assert_eq!(evaluation.bytes(), 2 * size);
        }
    }
}

#[test]
fn element_types_count_as_they_are() {
    let tensor = TensorDescriptor { dtype: DType::F16, ..TensorDescriptor::new(&[8, 256, 7, 7]) };
    let mut problem = Problem::new(&batch(256), &tensor, Statistics::Batch, PLAIN, Op::Forward).unwrap();
    problem.output = DType::F32;
    let elements = tensor.len().unwrap();
    assert_eq!(Plan::new(problem, &Profile::GPU).unwrap().bytes(), elements * (2 + 4));
    let backward = Plan::new(Problem { op: Op::Backward(ALL), ..problem }, &Profile::GPU).unwrap();
    // x and dx in the input's type, dy in the output's.
    assert_eq!(backward.bytes(), elements * (2 + 4 + 2));
}

#[test]
fn a_residual_costs_one_read() {
    let tensor = TensorDescriptor::new(&[32, 256, 56, 56]);
    let after = plan(&batch(256), &tensor, Fusion { residual: Residual::After, relu: true }, Op::Forward);
    assert_eq!(traffic(&after), (3, 1));
    let before = plan(&batch(256), &tensor, Fusion { residual: Residual::Before, relu: false }, Op::Forward);
    // Both passes need the sum, and it is an output.
    assert_eq!(traffic(&before), (4, 2));
    let before = plan(&layer(768), &TensorDescriptor::new(&[512, 768]), before.problem.fusion, Op::Forward);
    assert_eq!((kernels(&before), traffic(&before)), (vec![Kernel::Rows], (2, 2)));
}

#[test]
fn backward_moves_the_least_bytes() {
    for (norm, shape, on_chip) in examples() {
        let tensor = TensorDescriptor::new(&shape);
        let with = |wanted, fusion| traffic(&plan(&norm, &tensor, fusion, Op::Backward(wanted)));
        let split = |n| if on_chip { n } else { 2 * n };
        // Sums for the gradients of weight and bias are made on the way to dx, but for groups that fit on chip and for rows
        // that do not, or not with the sums of their columns.
        let apart = match &norm {
            NormDescriptor::Group(_) if on_chip => 2,
            NormDescriptor::Layer(layer) if layer.normalized_shape[0] > 4096 => 2,
            _ => 0,
        };
        let tree = |wanted| plan(&norm, &tensor, PLAIN, Op::Backward(wanted)).passes[0].geometry.tree;
        assert_eq!(tree(ALL), tree(Gradients { affine: false, ..ALL }), "{shape:?}: dx has the same bits");
        assert_eq!(with(ALL, PLAIN), (split(2) + apart, 1), "{shape:?}");
        assert_eq!(with(Gradients { affine: false, ..ALL }, PLAIN), (split(2), 1), "{shape:?}");
        assert_eq!(with(Gradients { dx: false, ..ALL }, PLAIN), (2, 0), "{shape:?}");
        assert_eq!(with(ALL, Fusion { relu: true, ..PLAIN }), (split(2) + apart, 1), "{shape:?}");
        let after = Fusion { residual: Residual::After, relu: true };
        let apart_after = if apart > 0 { 3 } else { 0 };
        assert_eq!(with(Gradients { dresidual: true, ..ALL }, after), (split(3) + apart_after, 2), "{shape:?}");
        // dsum is added on the way out, where dx is written.
        let before = Fusion { residual: Residual::Before, relu: false };
        assert_eq!(with(ALL, before), (split(2) + 1 + apart, 1), "{shape:?}");
        assert_eq!(with(Gradients { dx: false, ..ALL }, before), (2, 0), "{shape:?}");
        let none = Gradients { dx: false, dresidual: false, affine: false };
        assert_eq!(plan(&norm, &tensor, PLAIN, Op::Backward(none)).passes, []);
    }
}

#[test]
fn each_gradient_left_out_saves_its_passes() {
    let (norm, tensor) = (layer(768), TensorDescriptor::new(&[512, 768]));
    let with = |wanted| {
        let plan = plan(&norm, &tensor, PLAIN, Op::Backward(wanted));
        (traffic(&plan), plan.passes.iter().map(|p| p.over).collect::<HashSet<_>>())
    };
    assert_eq!(with(ALL), ((2, 1), HashSet::from([Over::Stats, Over::Affine])));
    assert_eq!(with(Gradients { affine: false, ..ALL }), ((2, 1), HashSet::from([Over::Stats])));
    assert_eq!(with(Gradients { dx: false, ..ALL }), ((2, 0), HashSet::from([Over::Affine])));
}

#[test]
fn frozen_statistics_need_no_projection() {
    let tensor = TensorDescriptor::new(&[32, 256, 56, 56]);
    let with = |wanted, fusion| {
        let op = Op::Backward(wanted);
        let plan = plan_for(&batch(256), &tensor, Statistics::Running, fusion, op, &Profile::GPU).unwrap();
        (kernels(&plan), traffic(&plan))
    };
    let dx = Gradients { affine: false, ..ALL };
    assert_eq!(with(dx, PLAIN), (vec![Kernel::Apply], (1, 1)), "dx needs dy alone");
    assert_eq!(with(dx, Fusion { relu: true, ..PLAIN }), (vec![Kernel::Apply], (2, 1)), "and x for the mask");
    let after = Fusion { residual: Residual::After, relu: false };
    let dresidual = Gradients { dx: false, dresidual: true, affine: false };
    assert_eq!(with(dresidual, after), (vec![Kernel::Apply], (1, 1)));
    assert_eq!(with(ALL, PLAIN).1, (4, 1));
}

/// Elements of a tile of a target, as the documentation of [`Tree`] defines them.
fn elements(walk: &Walk, pass: &Pass, target: u64, tile: u64) -> Vec<u64> {
    let Geometry { tree, leaves, .. } = pass.geometry;
    let (lanes, units) = (u64::from(tree.lanes), u64::from(tree.units));
    let mut found = Vec::new();
    for leaf in tile * u64::from(leaves)..(tile + 1) * u64::from(leaves) {
        let (segment, q) = (leaf / tree.leaves, leaf % tree.leaves);
        for unit in (0..units).filter(|_| segment < walk.segments) {
            let start = 4 * ((q / lanes * units + unit) * lanes + q % lanes);
            found.extend((start..start + 4).filter(|&j| j < walk.len).map(|j| walk.offset(target, segment, j)));
        }
    }
    found
}

fn length(range: std::ops::Range<u64>) -> u64 {
    range.end - range.start
}

/// The windows of each pass over elements hold what its dispatches touch, fit the limit, and miss nothing.
fn check_windows(plan: &Plan, profile: &Profile, case: &str) {
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
                    let outside = elements(walk, pass, target, tile).into_iter().find(|at| !window.contains(at));
                    assert_eq!(
                        outside, None,
                        "{case}: element of {target} of {tensor:?} is not in {window:?} of {d:?}"
                    );
                }
                for at in elements(&plan.walk(pass.over), pass, target, tile) {
                    assert!(!std::mem::replace(&mut taken[at as usize], true), "{case}: {at} twice");
                }
            }
        }
        assert!(taken.iter().all(|&t| t), "{case}: {:?} misses elements", pass.kernel);
        assert_eq!(tiles_taken.len() as u64, targets * pass.geometry.tiles, "{case}");
    }
}

#[test]
fn windows_cover_every_element_once() {
    let images: [&[usize]; 6] = [&[5, 6, 13], &[2, 4, 300], &[1, 6, 70], &[70, 6], &[1, 2, 2000], &[3, 64, 3]];
    let mut cases: Vec<(NormDescriptor, TensorDescriptor)> = Vec::new();
    for shape in images {
        for tensor in [TensorDescriptor::new(shape), last(shape)] {
            cases.push((batch(shape[1]), tensor));
            cases.push((GroupNormDescriptor::new(2, shape[1]).into(), tensor));
            if shape.len() > 2 {
                cases.push((InstanceNormDescriptor::new(shape[1]).into(), tensor));
            }
        }
    }
    for shape in [&[33, 48], &[4, 3000], &[1, 5000]] {
        cases.push((layer(shape[1]), TensorDescriptor::new(shape)));
    }
    let small =
        Profile { workgroup: 8, min_lanes: 4, min_element_lanes: 8, max_lanes: 8, target_lanes: 4, ..Profile::GPU };
    let ops = [Op::Forward, Op::Backward(ALL)];
    let (mut windows, mut refused) = (0, 0);
    for (norm, tensor) in &cases {
        for (limit, row) in [1 << 20, 20000, 4000, 1200, 800].into_iter().flat_map(|l| [(l, small), (l, Profile::GPU)])
        {
            let profile = Profile { max_binding_size: limit, offset_alignment: 32, max_units: 2, ..row };
            for (op, strided) in ops.into_iter().flat_map(|op| [(op, false), (op, true)]) {
                let case = format!("{} {tensor:?} {op:?} limit {limit} workgroup {}", norm.name(), row.workgroup);
                let mut problem = Problem::new(norm, tensor, Statistics::Batch, PLAIN, op).unwrap();
                if strided {
                    let Memory { rows, width, .. } = problem.layout.memory;
                    let row = width + 3;
                    let x = Pitch { row: Some(row), sample: Some(rows * row + 5) };
                    let y = Pitch { row: None, sample: Some(2 * rows * width) };
                    problem = match op {
                        Op::Forward => problem.with_forward_pitches(&ForwardPitches { x, y, ..Default::default() }),
                        _ => problem.with_backward_pitches(&BackwardPitches { x, dx: y, ..Default::default() }),
                    }
                    .unwrap();
                }
                match Plan::new(problem, &profile) {
                    Ok(plan) => {
                        windows += plan.dispatches();
                        check_windows(&plan, &profile, &case);
                    }
                    // Leaves are not cut: 2048 elements that lanes interleave, or rows a whole row apart.
                    Err(Error::TooLarge { what: "elements of one leaf in a binding", required, limit: elements }) => {
                        refused += 1;
                        assert!(required > elements && required <= 3 * 2 * 5000 + 1, "{case}");
                    }
                    Err(error) => panic!("{case}: {error}"),
                }
            }
        }
    }
    println!("{windows} dispatches, {refused} calls refused");
    assert!(windows > 2000 && refused < 200);
}

/// Channels and side of ResNet-50's images at its batch norms.
const RESNET50: [(usize, usize); 12] = [
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

#[test]
fn resnet50_at_64_images_fits_default_bindings() {
    for (c, side) in RESNET50 {
        let shape = [64, c, side, side];
        for tensor in [TensorDescriptor::new(&shape), last(&shape)] {
            let (size, sample) = (tensor.size().unwrap(), (c * side * side) as u64);
            for op in [Op::Forward, Op::Backward(ALL)] {
                let plan = plan(&batch(c), &tensor, PLAIN, op);
                // Not one pass more than a device with larger bindings needs.
                let roomy = Profile { max_binding_size: 1 << 30, ..Profile::GPU };
                let roomy = plan_for(&batch(c), &tensor, Statistics::Batch, PLAIN, op, &roomy).unwrap();
                assert_eq!(plan.bytes(), roomy.bytes(), "{tensor:?}");
                for pass in plan.passes.iter().filter(|p| !p.reads.is_empty()) {
                    let windows = if size > 128 << 20 { 2 } else { 1 };
                    assert_eq!(pass.dispatches.len(), windows, "{tensor:?}");
                    let (mut element, mut tile) = (0, 0);
                    for d in &pass.dispatches {
                        let walk = &plan.walk(pass.over);
                        let window = d.window(walk);
                        assert_eq!((window.start, d.tiles.start, &d.targets), (element, tile, &(0..c as u64)));
                        assert!((window.end - window.start) * 4 + 256 <= 128 << 20);
                        assert!(window.start.is_multiple_of(sample) && window.end.is_multiple_of(sample));
                        // The first and last tile of every target lie within.
                        for target in d.targets.clone() {
                            for tile in [d.tiles.start, d.tiles.end - 1] {
                                let outside = |at: &u64| !window.contains(at);
                                assert_eq!(elements(walk, pass, target, tile).iter().find(|at| outside(at)), None);
                            }
                        }
                        (element, tile) = (window.end, d.tiles.end);
                    }
                    assert_eq!((element, tile), (size / 4, pass.geometry.tiles));
                }
            }
        }
    }
    assert_eq!(TensorDescriptor::new(&[64, 256, 56, 56]).size().unwrap(), 205_520_896);
}

#[test]
fn a_sample_over_the_limit_is_cut_between_channels_or_rows() {
    // A sample of 268 MB.
    let shape = [2, 64, 1024, 1024];
    for (norm, tensor) in [
        (batch(64), TensorDescriptor::new(&shape)),
        (batch(64), last(&shape)),
        (GroupNormDescriptor::new(8, 64).into(), TensorDescriptor::new(&shape)),
        (GroupNormDescriptor::new(8, 64).into(), last(&shape)),
        (InstanceNormDescriptor::new(64).into(), TensorDescriptor::new(&shape)),
        (layer(64 << 20), TensorDescriptor::new(&[2, 64 << 20])),
    ] {
        let plan = plan(&norm, &tensor, PLAIN, Op::Forward);
        for pass in plan.passes.iter().filter(|p| !p.reads.is_empty()) {
            let sizes: Vec<u64> = pass.dispatches.iter().map(|d| length(d.window(&plan.walk(pass.over)))).collect();
            assert!((5..=8).contains(&sizes.len()), "{tensor:?}: {sizes:?}");
            assert_eq!(sizes.iter().sum::<u64>(), tensor.len().unwrap(), "{tensor:?}: windows do not overlap");
            assert!(sizes.iter().all(|s| s * 4 + 256 <= 128 << 20));
        }
    }
}

#[test]
fn large_grids_are_folded() {
    let cases = [
        (batch(512), vec![256, 512, 56, 56]),
        (layer(512), vec![5_000_000, 512]),
        (layer(8192), vec![100_000, 8192]),
        (GroupNormDescriptor::new(32, 64).into(), vec![8000, 64, 64, 64]),
    ];
    for (norm, shape) in cases {
        for profile in [Profile::GPU, Profile { max_binding_size: 1 << 40, max_workgroups: 1000, ..Profile::GPU }] {
            let op = Op::Backward(ALL);
            let tensor = TensorDescriptor::new(&shape);
            let plan = plan_for(&norm, &tensor, Statistics::Batch, PLAIN, op, &profile).unwrap();
            let mut folded = false;
            for (pass, d) in plan.passes.iter().flat_map(|p| p.dispatches.iter().map(move |d| (p, d))) {
                let blocks = (d.targets.end - d.targets.start).div_ceil(pass.geometry.targets.into());
                let groups = blocks * (d.tiles.end - d.tiles.start);
                let [x, y, z] = d.grid.map(u64::from);
                assert!(x * y >= groups && x * y < groups + y, "{d:?}");
                assert!(x.max(y) <= profile.max_workgroups.into() && z == 1);
                folded |= y > 1;
            }
            assert!(folded || profile.max_workgroups > 1000, "{shape:?}");
        }
    }
    // As many dispatches at once as a large device takes.
    let roomy = Profile { max_binding_size: 1 << 40, ..Profile::GPU };
    let rows = TensorDescriptor::new(&[1_000_000, 2048]);
    let plan = plan_for(&layer(2048), &rows, Statistics::Batch, PLAIN, Op::Forward, &roomy).unwrap();
    assert_eq!((plan.dispatches(), plan.passes[0].dispatches[0].grid), (1, [62500, 4, 1]));
}

#[test]
fn more_than_2_to_the_32_elements() {
    let images = [1 << 12, 256, 64, 64]; // 2^32 elements
    let more = [5000, 256, 65, 65];
    let cases: [(NormDescriptor, TensorDescriptor); 7] = [
        (batch(256), TensorDescriptor::new(&images)),
        (batch(256), TensorDescriptor::new(&more)),
        (batch(256), last(&more)),
        (GroupNormDescriptor::new(32, 256).into(), TensorDescriptor::new(&more)),
        (GroupNormDescriptor::new(32, 256).into(), last(&more)),
        (layer(4096), TensorDescriptor::new(&[3_000_000, 4096])),
        (layer(3 << 20), TensorDescriptor::new(&[2000, 3 << 20])),
    ];
    for profile in [Profile::GPU, Profile { max_binding_size: 1 << 45, ..Profile::GPU }, Profile::CPU] {
        for (norm, tensor) in &cases {
            for op in [Op::Forward, Op::Backward(ALL)] {
                let plan = plan_for(norm, tensor, Statistics::Batch, PLAIN, op, &profile).unwrap();
                let total = tensor.len().unwrap();
                assert_eq!(plan.problem.layout.elements, total);
                let tensors = traffic(&plan).0 + traffic(&plan).1;
                assert_eq!(plan.bytes(), tensors as u64 * 4 * total);
                for pass in plan.passes.iter().filter(|p| !p.reads.is_empty()) {
                    let covered: u64 = pass.dispatches.iter().map(|d| length(d.window(&plan.walk(pass.over)))).sum();
                    let tiles = |d: &wgpu_norm::plan::Dispatch| {
                        (d.targets.end - d.targets.start) * (d.tiles.end - d.tiles.start)
                    };
                    let targets = plan.walk(pass.over).targets();
                    assert_eq!(pass.dispatches.iter().map(tiles).sum::<u64>(), targets * pass.geometry.tiles);
                    assert_eq!(covered, total, "{} {tensor:?}", norm.name());
                    assert!(pass.dispatches.iter().all(|d| length(d.window(&plan.walk(pass.over))) <= 1 << 32));
                    let (last, tile) = (pass.dispatches.last().unwrap(), pass.geometry.tiles - 1);
                    let walk = &plan.walk(pass.over);
                    let at = elements(walk, pass, targets - 1, tile.min(last.tiles.end - 1));
                    assert!(at.iter().all(|at| last.window(walk).contains(at)), "{} {tensor:?}", norm.name());
                }
            }
        }
    }
}

#[test]
fn many_partial_results_are_merged_first() {
    let tensor = TensorDescriptor::new(&[256, 4, 256, 256]);
    let forward = plan(&batch(4), &tensor, PLAIN, Op::Forward);
    assert_eq!(kernels(&forward), [Kernel::Reduce, Kernel::Merge, Kernel::Apply]);
    let [reduce, merge, apply] = &forward.passes[..] else { unreachable!() };
    // 65536 elements are 8 tiles of 256 leaves of 32.
    assert_eq!((reduce.partials_out, merge.partials_in), (256 * 8, 256 * 8));
    assert_eq!((merge.partials_out, apply.partials_in), (8, 8));
    assert!(apply.partials_in <= apply.geometry.leaves.into());
    assert_eq!((reduce.partials_out_at, merge.partials_in_at), (0, 0));
    assert_eq!((merge.partials_out_at, apply.partials_in_at), (256 * 8 * 4, 256 * 8 * 4), "behind what it reads");
    assert_eq!(forward.scratch(), (256 * 8 + 8) * 4 * 16);
    assert_eq!(traffic(&forward), (2, 1), "a merge moves no tensor");

    let gradients = Op::Backward(Gradients { dx: false, ..ALL });
    let affine = plan(&layer(8), &TensorDescriptor::new(&[1 << 20, 8]), PLAIN, gradients);
    assert_eq!(kernels(&affine).first(), Some(&Kernel::Reduce));
    assert_eq!(affine.passes.last().map(|p| (p.kernel, p.finishes)), Some((Kernel::Merge, true)));
    for pair in affine.passes.windows(2) {
        assert_eq!(pair[0].partials_out, pair[1].partials_in);
    }
}

/// What passes leave for one that comes later is where that looks for it.
#[test]
fn sums_on_the_way_to_dx_are_found_again() {
    let backward = |norm: &NormDescriptor, shape: &[usize], wanted, profile: &Profile| {
        let (tensor, op) = (TensorDescriptor::new(shape), Op::Backward(wanted));
        plan_for(norm, &tensor, Statistics::Batch, PLAIN, op, profile).unwrap()
    };
    use Kernel::{Apply, Merge, Reduce, Rows};
    let dx = Gradients { affine: false, ..ALL };
    let group: NormDescriptor = GroupNormDescriptor::new(32, 256).into();
    let instance: NormDescriptor = InstanceNormDescriptor::new(64).into();
    let cases: [(&NormDescriptor, &[usize], &[Kernel]); 7] = [
        // Four rows side by side, eight one after the other.
        (&layer(768), &[512, 768], &[Rows, Merge]),
        (&layer(768), &[1 << 15, 768], &[Rows, Merge, Merge]),
        (&instance, &[2, 64, 28, 28], &[Rows, Merge]),
        (&instance, &[300, 64, 200, 200], &[Reduce, Apply, Merge, Merge]),
        (&group, &[2, 256, 64, 64], &[Reduce, Apply, Merge]),
        (&group, &[2, 256, 100, 152], &[Reduce, Merge, Apply, Merge]),
        (&group, &[300, 256, 64, 64], &[Reduce, Apply, Merge, Merge]),
    ];
    for (norm, shape, expected) in cases {
        let plan = backward(norm, shape, ALL, &Profile::GPU);
        assert_eq!(kernels(&plan), expected, "{shape:?}");
        for pass in &plan.passes {
            check_partials(&plan, pass);
        }
        let last = plan.passes.last().unwrap();
        assert_eq!((last.over, last.finishes), (Over::Affine, true), "{shape:?}");
        // Every weight's partial results, of each block of rows or each sample, are merged.
        let merge = plan.passes.iter().find(|p| p.over == Over::Affine && p.planes_in && !p.planes_out).unwrap();
        let rows = &plan.passes[0];
        let planes = match norm {
            NormDescriptor::Layer(_) => shape[0].div_ceil(rows.geometry.targets as usize),
            _ => shape[0],
        };
        assert_eq!(merge.partials_in, planes as u64, "{shape:?}");
    }
    // Sums of channels are read twice: between the two nobody writes there.
    for (groups, channels, samples, profile) in [
        (32, 256, 300, Profile::GPU),
        (1, 1024, 300, Profile::GPU),
        (
            1,
            70,
            40,
            Profile { workgroup: 4, min_lanes: 4, min_element_lanes: 4, max_lanes: 4, target_lanes: 4, ..Profile::GPU },
        ),
    ] {
        let norm = GroupNormDescriptor::new(groups, channels).into();
        let plan = backward(&norm, &[samples, channels, 64, 64], ALL, &profile);
        let readers: Vec<usize> = (0..plan.passes.len())
            .filter(|&i| plan.passes[i].weighs || (plan.passes[i].over == Over::Affine && plan.passes[i].planes_in))
            .filter(|&i| !plan.passes[i].planes_out)
            .collect();
        let [first, second] = readers[..] else { panic!("{:?}", kernels(&plan)) };
        let sums = |p: &Pass| {
            let n = p.partials_in * plan.walk(p.over).targets();
            p.partials_in_at..p.partials_in_at + n
        };
        assert_eq!(sums(&plan.passes[first]), sums(&plan.passes[second]));
        assert_eq!(length(sums(&plan.passes[first])), (samples * channels) as u64);
        for pass in &plan.passes[first..second] {
            check_partials(&plan, pass);
            let end = pass.partials_out_at + pass.partials_out * plan.walk(pass.over).targets();
            let sums = sums(&plan.passes[first]);
            assert!(end <= sums.start || pass.partials_out_at >= sums.end || pass.partials_out == 0);
        }
        // And dx has the same passes, so the same bits, whether the weights' gradients are wanted or not.
        let alone = backward(&norm, &[samples, channels, 64, 64], dx, &profile);
        assert_eq!(alone.passes, plan.passes[..alone.passes.len()]);
    }
    // Limits do not change what dx is summed from.
    let (norm, shape) = (GroupNormDescriptor::new(16, 1024).into(), [256, 1024, 256]);
    let [roomy, small] = [128 << 20, 2 << 20].map(|max_binding_size| {
        let profile = Profile { max_binding_size, ..Profile::GPU };
        backward(&norm, &shape, ALL, &profile).passes[0].over
    });
    assert_eq!([roomy, small], [Over::Affine; 2]);
    // Where partial results would not fit a binding, the tensors are read for the weights.
    let small = Profile { max_binding_size: 1 << 19, ..Profile::GPU };
    assert_eq!(traffic(&backward(&layer(768), &[1 << 15, 768], ALL, &small)), (4, 1));
}

/// The smallest tiles of these tensors would leave more partial results than a binding holds.
#[test]
fn partial_results_fit_a_binding() {
    let backward = Op::Backward(Gradients { dx: false, ..ALL });
    let cases: [(NormDescriptor, &[usize], Op); 6] = [
        (batch(256), &[512, 256, 56, 56], Op::Forward),
        (batch(256), &[1 << 18, 256], Op::Forward),
        (batch(4), &[1 << 24, 4], Op::LocalSums(Direction::Forward)),
        (batch(1024), &[1 << 17, 1024], Op::Backward(ALL)),
        (layer(4096), &[1 << 17, 4096], backward),
        (layer(8), &[1 << 23, 8], backward),
    ];
    for profile in [Profile::GPU, Profile::SOFTWARE_GPU] {
        for (norm, shape, op) in &cases {
            for dtype in [DType::F32, DType::F16] {
                let format = if norm.running_stats().is_some() { Format::ChannelsLast } else { Format::ChannelsFirst };
                let tensor = TensorDescriptor { dtype, format, ..TensorDescriptor::new(shape) };
                let plan = plan_for(norm, &tensor, Statistics::Batch, PLAIN, *op, &profile).unwrap();
                let (scratch, elements) = (plan.scratch(), tensor.len().unwrap());
                assert!(scratch > 0 && scratch <= profile.max_binding_size, "{shape:?}: {scratch} bytes");
                // One of 16 bytes for 32 elements, and one for 32 of those, at most.
                assert!(scratch <= elements * 33 / 64, "{shape:?} {dtype:?}: {scratch} bytes for {elements}");
                for pass in &plan.passes {
                    check_partials(&plan, pass);
                }
            }
        }
    }
}

/// What a pass writes lies in the scratch buffer, and apart from what it reads there.
fn check_partials(plan: &Plan, pass: &Pass) {
    let targets = plan.walk(pass.over).targets();
    let [read, written] = [(pass.partials_in_at, pass.partials_in), (pass.partials_out_at, pass.partials_out)]
        .map(|(at, n)| at..at + n * targets);
    assert!(read.end <= written.start || written.end <= read.start, "{read:?} {written:?}");
    assert!(read.end.max(written.end) * 16 <= plan.scratch());
}

/// Samples of one element each are runs: an element is still a leaf, so a batch may be sharded anywhere.
#[test]
fn single_elements_are_joined() {
    for profile in [Profile::GPU, Profile::SOFTWARE_GPU] {
        for channels in [1, 3, 64] {
            for samples in [2, 4, 5, 32, 256, 257, 1000, 70000] {
                let shape = [samples, channels];
                let plan = plan_for(
                    &batch(channels),
                    &TensorDescriptor::new(&shape),
                    Statistics::Batch,
                    PLAIN,
                    Op::Forward,
                    &profile,
                )
                .unwrap();
                let Geometry { tree, .. } = plan.passes[0].geometry;
                let units = if samples <= 4 { 1 } else { 2 };
                assert_eq!((tree.singles, tree.lanes, tree.units), (true, 1, units), "{shape:?}");
                assert_eq!(tree.leaves, (samples as u64).div_ceil(tree.leaf_len()).next_power_of_two(), "{shape:?}");
                // Few channels fit whole on one chip.
                let on_chip = plan.passes[0].kernel == Kernel::Rows;
                assert!(channels < 64 || on_chip == (samples <= profile.workgroup as usize), "{shape:?}");
                let walk = plan.walk(Over::Stats);
                assert_eq!((walk.segments, walk.len, walk.stride), (1, samples as u64, channels as u64));
            }
        }
    }
    let images = TensorDescriptor::new(&[8, 4, 3]);
    assert_eq!(plan(&batch(4), &images, PLAIN, Op::Forward).walk(Over::Stats).segments, 8, "rows stay rows");
}

#[test]
fn a_shard_has_the_tree_of_the_whole() {
    for profile in [Profile::GPU, Profile::SOFTWARE_GPU, Profile::CPU] {
        for (c, side) in RESNET50 {
            for format in [Format::ChannelsFirst, Format::ChannelsLast] {
                let tree = |n| {
                    let shape = [n, c, side, side];
                    let tensor = TensorDescriptor { format, ..TensorDescriptor::new(&shape) };
                    Tree::new(&batch(c).layout(&tensor).unwrap().stats, &profile)
                };
                for n in [32, 16, 8, 1] {
                    assert_eq!(tree(n), tree(64), "{c} {side} {n}");
                }
            }
        }
    }
}

#[test]
fn limits_do_not_change_the_tree() {
    for (norm, shape, _) in examples() {
        let tensor = TensorDescriptor::new(&shape);
        let trees = |max_binding_size, max_workgroups| {
            let profile = Profile { max_binding_size, max_workgroups, ..Profile::GPU };
            let plan = plan_for(&norm, &tensor, Statistics::Batch, PLAIN, Op::Backward(ALL), &profile).unwrap();
            plan.passes
                .iter()
                // Those that sum elements.
                .filter(|p| matches!(p.kernel, Kernel::Rows | Kernel::Reduce))
                .map(|p| (p.over, p.geometry.tree))
                .collect::<HashSet<_>>()
        };
        assert_eq!(trees(128 << 20, 65535), trees(2 << 20, 3000), "{shape:?}");
    }
}

#[test]
fn instance_norm_averages_in_a_pass_of_its_own() {
    let norm = InstanceNormDescriptor { track_running_stats: true, ..InstanceNormDescriptor::new(8) }.into();
    let plan = plan(&norm, &TensorDescriptor::new(&[4, 8, 100]), PLAIN, Op::Forward);
    assert_eq!(kernels(&plan), [Kernel::Rows, Kernel::Running]);
    assert!(plan.uses(Tensor::Input) && plan.writes(Tensor::Output) && !plan.writes(Tensor::Input));
}

/// Every error that planning can give, by its variant and the numbers in its message.
#[test]
fn errors_name_the_numbers() {
    let fails = |norm: NormDescriptor, shape: &[usize], words: &[&str]| {
        let tensor = TensorDescriptor::new(shape);
        let error = plan_for(&norm, &tensor, Statistics::Batch, PLAIN, Op::Forward, &Profile::GPU).unwrap_err();
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
        error
    };
    macro_rules! fails {
        ($norm:expr, $shape:expr, $words:expr, $variant:pat) => {
            let error = fails($norm.into(), &$shape, &$words);
            assert!(matches!(error, $variant), "{error:?}");
        };
    }
    let (bn, ln) = (BatchNormDescriptor::new, LayerNormDescriptor::new);
    fails!(bn(4), [4], ["BatchNorm", "[4]", "has 1"], Error::Rank { .. });
    fails!(bn(4), [1, 4, 1, 1, 1, 1], ["[1, 4, 1, 1, 1, 1]", "has 6"], Error::Rank { .. });
    fails!(ln(&[2, 3]), [3], ["LayerNorm", "[3]", "has 1"], Error::Rank { .. });
    fails!(bn(4), [], ["has 0"], Error::Rank { .. });
    fails!(bn(4), [2, 5, 3], ["[2, 5, 3]", "is 5", "for 4"], Error::Axis { .. });
    fails!(ln(&[6, 7]), [2, 6, 8], ["[2, 6, 8]", "is 8", "for 7"], Error::Axis { .. });
    fails!(bn(0), [2, 0], ["num_features is 0"], Error::Empty { .. });
    fails!(GroupNormDescriptor::new(1, 0), [2, 0], ["num_channels is 0"], Error::Empty { .. });
    fails!(ln(&[]), [2], ["normalized_shape"], Error::Empty { .. });
    fails!(ln(&[3, 0]), [3, 0], ["normalized_shape"], Error::Empty { .. });
    fails!(bn(4), [0, 4], ["N is 0"], Error::Empty { .. });
    fails!(bn(4), [2, 4, 3, 0], ["spatial axis 3 is 0"], Error::Empty { .. });
    fails!(ln(&[4]), [0, 4], ["is 0"], Error::Empty { .. });
    fails!(GroupNormDescriptor::new(3, 8), [2, 8], ["8 channels", "3 equal"], Error::Groups { channels: 8, groups: 3 });
    fails!(GroupNormDescriptor::new(0, 8), [2, 8], ["8 channels", "0 equal"], Error::Groups { .. });
    let few = ["more than 1 value", "larger batch", "evaluation", "GroupNorm"];
    fails!(bn(4), [1, 4], few, Error::TooFewValues { count: 1, .. });
    fails!(bn(4), [1, 4, 1, 1], ["[1, 4, 1, 1]"], Error::TooFewValues { .. });
    fails!(InstanceNormDescriptor::new(4), [9, 4, 1], ["[9, 4, 1]"], Error::TooFewValues { .. });
    for (eps, text) in [(0.0, "is 0,"), (-1e-3, "-0.001"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        fails!(BatchNormDescriptor { eps, ..bn(4) }, [2, 4], ["eps", text, "positive"], Error::Parameter { .. });
        fails!(LayerNormDescriptor { eps, ..ln(&[4]) }, [2, 4], ["eps"], Error::Parameter { name: "eps", .. });
    }
    for (m, text) in [(-0.5, "-0.5"), (1.5, "1.5"), (f32::NAN, "NaN")] {
        let norm = BatchNormDescriptor { momentum: Momentum::Exponential(m), ..bn(4) };
        fails!(norm, [2, 4], ["momentum", text, "0..=1"], Error::Parameter { name: "momentum", .. });
    }
    fails!(bn(4), [usize::MAX, 4], ["elements of the tensor"], Error::TooLarge { .. });
    fails!(bn(4), [2, 4, usize::MAX, usize::MAX], ["elements of the tensor"], Error::TooLarge { .. });
    fails!(ln(&[usize::MAX]), [2, usize::MAX], ["18446744073709551615"], Error::TooLarge { .. });
    let limit = ["8589934592", "4294967295"];
    fails!(bn(1), [1 << 20, 1, 1 << 13], limit, Error::TooLarge { what: "values of one statistic", .. });
    let rows = ["5000000000", "4294967295"];
    fails!(ln(&[1]), [5_000_000_000, 1], rows, Error::TooLarge { what: "targets of one pass", .. });

    let tensor = TensorDescriptor::new(&[2, 4, 8]);
    let untracked = BatchNormDescriptor { track_running_stats: false, ..bn(4) };
    for norm in [untracked.into(), GroupNormDescriptor::new(2, 4).into()] {
        let error = plan_for(&norm, &tensor, Statistics::Running, PLAIN, Op::Forward, &Profile::GPU).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }) && error.to_string().contains("running statistics"), "{error}");
    }
    let error = plan_for(&layer(8), &last(&[2, 4, 8]), Statistics::Batch, PLAIN, Op::Forward, &Profile::GPU);
    assert!(matches!(error, Err(Error::Unexpected { .. })), "{error:?}");

    let (norm, rows) = (GroupNormDescriptor::new(1, 1).into(), [u32::MAX as usize, 1]);
    let dweight = Op::Backward(Gradients { dx: false, ..ALL });
    let error =
        plan_for(&norm, &TensorDescriptor::new(&rows), Statistics::Batch, PLAIN, dweight, &Profile::GPU).unwrap_err();
    assert_eq!(error.to_string(), "leaves of one statistic: 4294967295 needed, the limit is 2147483648");

    // Devices that are too small.
    let too_small = |profile: Profile, shape: &[usize], words: &[&str]| {
        let tensor = TensorDescriptor::new(shape);
        let error = plan_for(&batch(shape[1]), &tensor, Statistics::Batch, PLAIN, Op::Forward, &profile).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    };
    too_small(Profile { max_binding_size: 256, ..Profile::GPU }, &[2, 4, 8], &["limit is 0"]);
    too_small(Profile { max_binding_size: 0, ..Profile::GPU }, &[2, 4, 8], &["limit is 0"]);
    too_small(Profile { max_binding_size: 256 + 16, ..Profile::GPU }, &[2, 4, 80], &["80 needed", "limit is 4"]);
    too_small(Profile { max_workgroups: 2, ..Profile::GPU }, &[2, 4096, 64], &["limit is 4"]);
    let tiny = Profile { max_binding_size: 256 + 16, ..Profile::GPU };
    too_small(tiny, &[1 << 16, 4, 4], &["windows of one pass: 262144 needed", "65536"]);
}
