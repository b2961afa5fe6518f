//! Passes: kernels, bytes, dispatches, trees, errors.

use super::plans::{ALL, PLAIN, RESNET50, batch, kernels, last, layer, plan, plan_for, traffic};
use std::collections::HashSet;
use wgpu_norm::plan::{Geometry, Kernel, Over, Pass, Plan, Problem, Tensor, Tree};
use wgpu_norm::{
    BatchNormDescriptor, DType, Error, Format, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor,
    LayerNormDescriptor, Momentum, NormDescriptor, Op, Profile, Residual, RmsNormDescriptor, Statistics,
    TensorDescriptor,
};

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
    // Samples: few enough that a statistic is on chip, with eight side by side in a workgroup, or more.
    for (samples, channels, expected) in [(4, 64, [1, 4]), (5, 64, [4, 4]), (5, 66, [1, 1])] {
        let shape = [samples, channels, 7, 7];
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
        // Sums for the gradients of weight and bias are made on the way to dx. Some rows fit on chip, but not with the sums
        // of their columns.
        let too_long = matches!(&norm, NormDescriptor::Layer(layer) if layer.normalized_shape[0] > 4096);
        let all = |n| if on_chip && !too_long { n } else { 2 * n };
        let tree = |wanted| plan(&norm, &tensor, PLAIN, Op::Backward(wanted)).passes[0].geometry.tree;
        assert_eq!(tree(ALL), tree(Gradients { affine: false, ..ALL }), "{shape:?}: dx has the same bits");
        assert_eq!(with(ALL, PLAIN), (all(2), 1), "{shape:?}");
        assert_eq!(with(Gradients { affine: false, ..ALL }, PLAIN), (split(2), 1), "{shape:?}");
        assert_eq!(with(Gradients { dx: false, ..ALL }, PLAIN), (2, 0), "{shape:?}");
        assert_eq!(with(ALL, Fusion { relu: true, ..PLAIN }), (all(2), 1), "{shape:?}");
        let after = Fusion { residual: Residual::After, relu: true };
        assert_eq!(with(Gradients { dresidual: true, ..ALL }, after), (all(3), 2), "{shape:?}");
        // dsum is added on the way out, where dx is written.
        let before = Fusion { residual: Residual::Before, relu: false };
        assert_eq!(with(ALL, before), (all(2) + 1, 1), "{shape:?}");
        assert_eq!(with(Gradients { dx: false, ..ALL }, before), (2, 0), "{shape:?}");
        let none = Gradients { dx: false, dresidual: false, affine: false };
        assert_eq!(plan(&norm, &tensor, PLAIN, Op::Backward(none)).passes, []);
        let plan = plan(&norm, &tensor, PLAIN, Op::Backward(ALL));
        assert_eq!(plan.bytes(), (all(2) as u64 + 1) * tensor.size().unwrap(), "{shape:?}");
        assert_eq!(plan.dispatches(), plan.passes.len(), "{shape:?}: one window");
        if matches!(norm, NormDescriptor::Batch(_)) {
            let expected: &[Kernel] = if on_chip { &[Kernel::Rows] } else { &[Kernel::Reduce, Kernel::Apply] };
            assert_eq!(kernels(&plan), expected, "{shape:?}");
        }
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
    // Columns are summed row by row, as beside dx.
    assert_eq!(with(Gradients { dx: false, ..ALL }), ((2, 0), HashSet::from([Over::Stats, Over::Affine])));
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
fn neighbouring_lanes_load_neighbours() {
    let spacing = |dtype, shape: &[usize], op| {
        let tensor = TensorDescriptor { dtype, ..TensorDescriptor::new(shape) };
        let plan = plan(&batch(shape[1]), &tensor, PLAIN, op);
        (plan.passes[0].geometry.tree.lanes, plan.spacing(&plan.passes[0]))
    };
    for op in [Op::Forward, Op::Backward(ALL)] {
        assert_eq!(spacing(DType::F32, &[32, 64, 7, 7], op), (8, 8));
        assert_eq!(spacing(DType::F32, &[32, 64, 6, 6], op), (8, 1), "loaded by fours");
        assert_eq!(spacing(DType::F16, &[32, 64, 7, 7], op), (8, 1), "two share a word");
    }
}

#[test]
fn elements_are_written_from_where_they_were_read_last() {
    let tensor = TensorDescriptor::new(&[128, 256, 56, 56]);
    for op in [Op::Forward, Op::Backward(ALL)] {
        let plan = plan(&batch(256), &tensor, PLAIN, op);
        let starts = |pass: &Pass| -> Vec<u64> { pass.dispatches.iter().map(|d| d.tiles.start).collect() };
        let rises = |starts: &[u64]| starts.len() > 1 && starts.is_sorted_by(|a, b| a < b);
        let (read, mut written) = (starts(&plan.passes[0]), starts(plan.passes.last().unwrap()));
        assert!(rises(&read), "{read:?}");
        written.reverse();
        assert!(rises(&written), "reversed: {written:?}");
        let reversed: Vec<bool> = plan.passes.iter().map(|pass| pass.reversed).collect();
        assert_eq!(reversed, kernels(&plan).iter().map(|&k| k == Kernel::Apply).collect::<Vec<_>>());
    }
    let evaluation = plan_for(&batch(256), &tensor, Statistics::Running, PLAIN, Op::Forward, &Profile::GPU).unwrap();
    assert!(!evaluation.passes[0].reversed, "nothing has been read before");
}

/// A weight is loaded with each leaf of a channel, not with each unit of a group.
#[test]
fn groups_go_by_channels_where_those_lie_in_a_row() {
    let norm = |groups, channels| GroupNormDescriptor::new(groups, channels).into();
    let cases: [(NormDescriptor, &[usize], Over); 7] = [
        (norm(8, 64), &[8, 64, 14, 14], Over::Channels),
        (norm(32, 256), &[2, 256, 100, 152], Over::Channels),
        // Of 28 elements; and of 36.
        (norm(8, 64), &[8, 64, 4, 7], Over::Stats),
        (norm(8, 64), &[8, 64, 4, 9], Over::Channels),
        // 40 channels of a group do not fit on chip, and the group does.
        (norm(1, 40), &[8, 40, 8, 8], Over::Stats),
        // Groups of 392 elements are loaded by fours, and channels of 49 would not be; of 7 channels neither is.
        (norm(8, 64), &[8, 64, 7, 7], Over::Stats),
        (norm(8, 56), &[8, 56, 7, 7], Over::Channels),
    ];
    for (norm, shape, expected) in cases {
        for op in [Op::Forward, Op::Backward(ALL)] {
            let plan = plan(&norm, &TensorDescriptor::new(shape), PLAIN, op);
            let writes = plan.passes.iter().find(|p| !p.writes.is_empty()).unwrap();
            assert_eq!(writes.over, expected, "{shape:?} {op:?}");
            let channels_last = plan_for(&norm, &last(shape), Statistics::Batch, PLAIN, op, &Profile::GPU).unwrap();
            assert!(channels_last.passes.iter().all(|p| p.over != Over::Channels), "{shape:?}");
        }
    }
    // On chip, where leaves are long: no pass more for the sake of weights.
    for (channels, side, expected) in [(32, 14, Over::Channels), (40, 8, Over::Stats), (64, 14, Over::Stats)] {
        let (shape, norm) = ([8, channels, side, side], norm(1, channels));
        let tensor = TensorDescriptor::new(&shape);
        let plan = plan_for(&norm, &tensor, Statistics::Batch, PLAIN, Op::Forward, &Profile::SOFTWARE_GPU).unwrap();
        assert_eq!((kernels(&plan), plan.passes[0].over), (vec![Kernel::Rows], expected), "{shape:?}");
    }
    // A sample has the bits that it has in a batch of another size.
    for samples in [1, 1 << 14, 1 << 20] {
        let plan = plan(&norm(8, 64), &TensorDescriptor::new(&[samples, 64, 8, 8]), PLAIN, Op::Forward);
        assert_eq!((kernels(&plan), plan.passes[0].over), (vec![Kernel::Rows], Over::Channels), "{samples}");
    }
}

/// Software drivers: what an invocation does not hold is read again, so leaves are long, and partial results are merged
/// to one before elements are written.
#[test]
fn long_leaves_have_parts() {
    let tree = |len, profile| {
        let layout = layer(len).layout(&TensorDescriptor::new(&[2, len])).unwrap();
        Tree::new(&layout.stats, profile)
    };
    for (len, expected) in [
        (64, (16, 1, 1, 1)),
        (65, (6, 3, 1, 1)),
        (784, (8, 25, 1, 1)),
        (4096, (8, 128, 1, 1)),
        (4097, (8, 65, 2, 2)),
        (32 * 4096, (8, 128, 32, 32)),
        (32 * 4096 + 1, (8, 65, 32, 64)),
    ] {
        let Tree { units, parts, lanes, leaves, .. } = tree(len, &Profile::SOFTWARE_GPU);
        assert_eq!((units, parts, lanes, leaves), expected, "{len}");
        assert_eq!(tree(len, &Profile::GPU).parts, 1, "real GPUs read once: {len}");
    }
    for (samples, expected) in [
        (32, &[Kernel::Rows] as &[Kernel]),
        (33, &[Kernel::Reduce, Kernel::Merge, Kernel::Apply]),
        (2000, &[Kernel::Reduce, Kernel::Merge, Kernel::Apply]),
        (9000, &[Kernel::Reduce, Kernel::Merge, Kernel::Merge, Kernel::Apply]),
    ] {
        let (shape, op) = ([samples, 64, 28, 28], Op::Forward);
        let tensor = TensorDescriptor::new(&shape);
        let plan = plan_for(&batch(64), &tensor, Statistics::Batch, PLAIN, op, &Profile::SOFTWARE_GPU).unwrap();
        assert_eq!(kernels(&plan), expected, "{samples}");
        // What elements are written with has been finished before.
        assert_eq!(plan.passes.last().unwrap().reduces, samples <= 32, "{samples}");
    }
}

#[test]
fn limits_do_not_change_the_tree() {
    // Groups that do not go by channels: too many of them for a chip, and loads of four that would be lost.
    let groups = [(1, [8, 40, 8, 8]), (8, [8, 64, 7, 7])]
        .map(|(groups, shape)| (GroupNormDescriptor::new(groups, shape[1]).into(), shape.to_vec(), true));
    for (norm, shape, _) in examples().into_iter().chain(groups) {
        let tensor = TensorDescriptor::new(&shape);
        let trees = |op, max_binding_size, max_workgroups| {
            let profile = Profile { max_binding_size, max_workgroups, ..Profile::GPU };
            let plan = plan_for(&norm, &tensor, Statistics::Batch, PLAIN, op, &profile).unwrap();
            plan.passes
                .iter()
                // Those that sum elements.
                .filter(|p| matches!(p.kernel, Kernel::Rows | Kernel::Reduce))
                .map(|p| (p.over, p.geometry.tree))
                .collect::<HashSet<_>>()
        };
        for op in [Op::Forward, Op::Backward(ALL)] {
            assert_eq!(trees(op, 128 << 20, 65535), trees(op, 2 << 20, 3000), "{shape:?}");
        }
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
    // With given statistics a forward pass on the CPU counts nothing.
    let (norm, many) = (bn(1).into(), TensorDescriptor::new(&[1 << 20, 1, 1 << 13]));
    let given = Problem::new(&norm, &many, Statistics::Running, PLAIN, Op::Forward).unwrap();
    let backward = Problem::new(&norm, &many, Statistics::Running, PLAIN, Op::Backward(ALL));
    assert!(matches!(backward, Err(Error::TooLarge { what: "values of one statistic", .. })));
    assert!(matches!(Plan::new(given, &Profile::GPU), Err(Error::TooLarge { what: "values of one statistic", .. })));
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
