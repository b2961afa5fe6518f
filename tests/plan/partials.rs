//! Partial results that passes leave for others, without a device: how many, where they lie, and whether they fit a binding.

use super::plans::{
    ALL, PLAIN, batch, check_partials, check_windows, kernels, last, layer, length, plan, plan_for, traffic,
};
use wgpu_norm::plan::{Geometry, Kernel, Over, Pass, Plan, Problem};
use wgpu_norm::{
    BackwardPitches, DType, Direction, Format, Gradients, GroupNormDescriptor, InstanceNormDescriptor, NormDescriptor,
    Op, Pitch, Profile, Statistics, TensorDescriptor,
};

#[test]
fn many_partial_results_are_merged_first() {
    // 65536 elements are 8 tiles of 256 leaves of 32; a merge's tile has 2048 partial results.
    for (samples, op, merges) in
        [(256, Op::Forward, 1), (257, Op::Forward, 2), (256, Op::Backward(ALL), 1), (257, Op::Backward(ALL), 2)]
    {
        let shape = [samples, 4, 256, 256];
        let plan = plan(&batch(4), &TensorDescriptor::new(&shape), PLAIN, op);
        let [reduce, merge, .., apply] = &plan.passes[..] else { panic!("{:?}", kernels(&plan)) };
        let last = &plan.passes[merges];
        let expected = [&[Kernel::Reduce] as &[Kernel], &[Kernel::Merge; 2][..merges], &[Kernel::Apply]].concat();
        assert_eq!(kernels(&plan), expected);
        let tiles = 8 * samples as u64;
        assert_eq!((reduce.partials_out, merge.partials_in), (tiles, tiles));
        assert_eq!((merge.geometry.tree.units, merge.geometry.leaves), (8, 256));
        assert_eq!((reduce.partials_out_at, merge.partials_in_at), (0, 0));
        // A single result is finished at once in a forward pass, and elements are written as in evaluation.
        let finished = op == Op::Forward;
        assert_eq!((last.finishes, apply.finishes, apply.reduces), (finished, !finished, !finished));
        assert_eq!(last.partials_out, u64::from(!finished));
        assert_eq!(apply.partials_in, last.partials_out);
        for pair in plan.passes.windows(2) {
            assert_eq!((pair[0].partials_out, pair[0].partials_out_at), (pair[1].partials_in, pair[1].partials_in_at));
        }
        check_partials(&plan, &format!("{shape:?}"));
        assert_eq!(plan.scratch(), (tiles + merge.partials_out) * 4 * 16);
        assert!(apply.reversed);
        let read = if op == Op::Forward { 2 } else { 4 };
        assert_eq!(traffic(&plan), (read, 1), "a merge moves no tensor");
    }
    // Few are merged by whoever writes elements, which saves a dispatch.
    let few = plan(&batch(64), &TensorDescriptor::new(&[32, 64, 56, 56]), PLAIN, Op::Forward);
    assert_eq!(kernels(&few), [Kernel::Reduce, Kernel::Apply]);
    assert!((2..=256).contains(&few.passes[1].partials_in) && few.passes[1].finishes);

    let gradients = Op::Backward(Gradients { dx: false, ..ALL });
    let group = GroupNormDescriptor::new(2, 8).into();
    let cases: [(&NormDescriptor, &[usize], Kernel); 2] =
        [(&layer(8), &[1 << 20, 8], Kernel::Apply), (&group, &[1 << 17, 8, 8], Kernel::Reduce)];
    for (norm, shape, first) in cases {
        let affine = plan(norm, &TensorDescriptor::new(shape), PLAIN, gradients);
        assert_eq!(kernels(&affine)[..2], [first, Kernel::Merge]);
        assert_eq!(affine.passes.last().map(|p| (p.kernel, p.finishes)), Some((Kernel::Merge, true)));
        for pair in affine.passes.windows(2) {
            let [out, taken] = [pair[0].all_partials_out(&affine.problem), pair[1].all_partials_in(&affine.problem)];
            assert_eq!(out, taken);
        }
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
    let cases: [(&NormDescriptor, &[usize], &[Kernel]); 19] = [
        // A workgroup takes all of them.
        (&layer(768), &[32, 768], &[Rows]),
        (&layer(768), &[33, 768], &[Rows, Merge]),
        // Rows that are not on chip: four side by side.
        (&layer(5000), &[32, 5000], &[Reduce, Apply]),
        (&layer(5000), &[33, 5000], &[Reduce, Apply, Merge]),
        (&layer(12288), &[2048, 12288], &[Reduce, Merge, Apply, Merge]),
        (&layer(20000), &[3, 20000], &[Reduce, Merge, Apply]),
        // Four rows side by side, eight one after the other.
        (&layer(768), &[512, 768], &[Rows, Merge]),
        (&layer(768), &[1 << 15, 768], &[Rows, Merge]),
        (&layer(768), &[1 << 17, 768], &[Rows, Merge]),
        (&layer(768), &[1 << 20, 768], &[Rows, Merge, Merge]),
        (&instance, &[2, 64, 28, 28], &[Rows, Merge]),
        (&instance, &[300, 64, 200, 200], &[Reduce, Apply, Merge]),
        (&instance, &[2049, 64, 100, 100], &[Reduce, Apply, Merge, Merge]),
        // Groups of eight channels, on chip and not.
        (&group, &[2, 256, 14, 14], &[Rows, Merge]),
        (&group, &[2, 256, 32, 32], &[Rows, Merge]),
        (&group, &[2, 256, 64, 64], &[Reduce, Apply, Merge]),
        (&group, &[2, 256, 100, 152], &[Reduce, Merge, Apply, Merge]),
        (&group, &[300, 256, 64, 64], &[Reduce, Apply, Merge]),
        (&group, &[2049, 256, 64, 64], &[Reduce, Apply, Merge, Merge]),
    ];
    for (norm, shape, expected) in cases {
        let plan = backward(norm, shape, ALL, &Profile::GPU);
        assert_eq!(kernels(&plan), expected, "{shape:?}");
        check_partials(&plan, &format!("{shape:?}"));
        let last = plan.passes.last().unwrap();
        assert!(last.finishes && (last.over == Over::Affine || last.sums_columns()), "{shape:?}");
        // Every weight's partial results, of each block of rows or each sample, are merged.
        let planes = match plan.passes.iter().find(|p| p.sums_columns()) {
            Some(rows) => shape[0].div_ceil(rows.geometry.targets as usize),
            None => shape[0],
        };
        let merge = plan.passes.iter().find(|p| p.over == Over::Affine && p.planes_in);
        assert_eq!(merge.map_or(1, |merge| merge.partials_in), planes as u64, "{shape:?}");
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
            .collect();
        let [first, second] = readers[..] else { panic!("{:?}", kernels(&plan)) };
        let sums = |p: &Pass| {
            let n = p.partials_in * plan.walk(p.over).targets();
            p.partials_in_at..p.partials_in_at + n
        };
        assert_eq!(sums(&plan.passes[first]), sums(&plan.passes[second]));
        assert_eq!(length(sums(&plan.passes[first])), (samples * channels) as u64);
        check_partials(&plan, &format!("{groups} groups of {channels} channels"));
        for pass in &plan.passes[first..second] {
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
    assert_eq!([roomy, small], [Over::Instances; 2]);
    // Where partial results of rows on chip would not fit a binding, more rows are summed together.
    for (size, expected) in [(16 << 20, (2, 1)), (4 << 20, (4, 1))] {
        let small = Profile { max_binding_size: size, ..Profile::GPU };
        let plan = backward(&layer(768), &[1 << 15, 768], ALL, &small);
        assert_eq!(traffic(&plan), expected);
        assert!(plan.scratch() <= size, "{} of {size}", plan.scratch());
    }
    // Where nothing fits, as the statistics would not, either, it is left to who makes the buffer.
    let small = Profile { max_binding_size: 1 << 19, ..Profile::GPU };
    assert_eq!(traffic(&backward(&layer(768), &[1 << 15, 768], ALL, &small)), (4, 1));
}

/// Of long rows, which a workgroup has few of at a time, more are taken one after the other, if there are enough.
#[test]
fn sums_of_columns_are_few() {
    let rounds = |rows: usize, len: usize| {
        let plan = plan(&layer(len), &TensorDescriptor::new(&[rows, len]), PLAIN, Op::Backward(ALL));
        let pass = plan.passes.iter().find(|p| p.sums_columns()).unwrap();
        (pass.geometry.rounds, pass.geometry.targets)
    };
    assert_eq!([8192, 1 << 15, 1 << 16].map(|rows| rounds(rows, 768)), [(8, 32), (16, 64), (32, 128)]);
    assert_eq!([1 << 17, 1 << 20].map(|rows| rounds(rows, 768)), [(64, 256); 2], "more would round more");
    assert_eq!([2048, 8191, 8192, 16384, 1 << 16].map(|rows| rounds(rows, 4096).1), [8, 8, 16, 32, 64]);
    // Of rows that are not on chip so many are side by side that there is room for the sums.
    assert_eq!([2048, 1 << 20].map(|rows| rounds(rows, 5000)), [(8, 32), (8, 1024)]);
    assert_eq!([1, 2, 5].map(|rows| rounds(rows, 768).0), [2, 2, 5]);
    // Few rows are cut into short pieces, for more workgroups.
    let workgroups = |rows: usize, len: usize| {
        let plan = plan(&layer(len), &TensorDescriptor::new(&[rows, len]), PLAIN, Op::Backward(ALL));
        let Geometry { tree, tiles, .. } = plan.passes.iter().find(|p| p.sums_columns()).unwrap().geometry;
        (tree.units, tiles)
    };
    assert_eq!([128, 2048, 1 << 14].map(|rows| workgroups(rows, 8192)), [(1, 32), (4, 8), (4, 8)]);
}

#[test]
fn a_shard_without_samples_loads_what_nobody_writes() {
    for direction in [Direction::Forward, Direction::Backward] {
        let plan = plan(&batch(6), &TensorDescriptor::new(&[0, 6, 5, 5]), PLAIN, Op::LocalSums(direction));
        assert_eq!((kernels(&plan), plan.passes[0].partials_in), (vec![Kernel::Merge], 0));
        check_partials(&plan, "no samples");
    }
}

/// Where there is no room for sums of columns behind those of rows, they come after them; and rows may be far apart.
#[test]
fn sums_of_columns_find_room() {
    let backward = |tensor: &TensorDescriptor, row, wanted, profile: &Profile| {
        let norm = layer(tensor.shape[1]);
        let problem = Problem::new(&norm, tensor, Statistics::Batch, PLAIN, Op::Backward(wanted)).unwrap();
        let pitch = Pitch { row, sample: None };
        let pitches = BackwardPitches { x: pitch, dy: pitch, dx: pitch, ..Default::default() };
        Plan::new(problem.with_backward_pitches(&pitches).unwrap(), profile).unwrap()
    };
    let limit = Profile::GPU.max_binding_size;
    for (shape, expected) in [
        ([1 << 17, 4096], (2, 1)),
        ([(1 << 17) + 64, 4096], (4, 1)),
        ([21600, 12288], (4, 1)),
        ([21728, 12288], (4, 1)),
        ([256, 1 << 20], (6, 1)),
        ([64, 1 << 21], (6, 1)),
    ] {
        let plan = backward(&TensorDescriptor::new(&shape), None, ALL, &Profile::GPU);
        assert_eq!(traffic(&plan), expected, "{shape:?}");
        assert!(plan.scratch() <= limit, "{shape:?}: {}", plan.scratch());
        check_partials(&plan, &format!("{shape:?}"));
    }
    // A slice of each sample: a leaf's rows are all that a binding has to hold.
    for (shape, row, least) in [
        ([24, 768], 2048 * 768, Profile::GPU),
        ([64, 768], 1_105_920, Profile::GPU),
        ([8, 1_241_286], 8_233_697, Profile::GPU),
        ([96, 1_040_000], 1_082_300, Profile::GPU),
        ([1024, 8], 32_800, Profile::SOFTWARE_GPU),
        ([2048, 3], 16_500, Profile::SOFTWARE_GPU),
        ([72, 768], 602_112, Profile::SOFTWARE_GPU),
    ] {
        for profile in [Profile::GPU, least] {
            for wanted in [ALL, Gradients { dx: false, ..ALL }] {
                let plan = backward(&TensorDescriptor::new(&shape), Some(row), wanted, &profile);
                let passes = plan.passes.len();
                assert!(plan.scratch() <= limit, "{shape:?}");
                assert!(plan.dispatches() <= 8 * passes, "{shape:?}: {} of {passes}", plan.dispatches());
                if shape[0] * shape[1] < 1 << 20 {
                    check_windows(&plan, &profile, &format!("{shape:?} {row} apart"));
                }
            }
        }
    }
}

/// Group norm of channels-last tensors, where a group is split: sums of each sample's channels, which are neighbours, are
/// merged to those of its group, and elements are written by channels.
#[test]
fn channels_side_by_side_are_summed_before_their_groups() {
    use Kernel::{Apply, Merge, Reduce, Rows};
    use Over::{Instances, Stats};
    let plan = |groups, shape: &[usize], op, profile: &Profile| {
        let norm = GroupNormDescriptor::new(groups, shape[1]).into();
        plan_for(&norm, &last(shape), Statistics::Batch, PLAIN, op, profile).unwrap()
    };
    type Passes = &'static [(Kernel, Over)];
    const REDUCE: (Kernel, Over) = (Reduce, Instances);
    const MERGE: (Kernel, Over) = (Merge, Stats);
    const APPLY: (Kernel, Over) = (Apply, Instances);
    let cases: [(usize, &[usize], Passes); 5] = [
        (32, &[2, 256, 100, 152], &[REDUCE, MERGE, APPLY]),
        // 1024 elements of a group are held on chip, 1032 are not.
        (32, &[2, 256, 8, 16], &[(Rows, Stats)]),
        (32, &[2, 256, 3, 43], &[REDUCE, MERGE, APPLY]),
        // Channels of less than 32 elements; groups of more channels than a merge takes at once.
        (1, &[2, 4096, 31, 1], &[(Reduce, Stats), (Apply, Stats)]),
        (1, &[2, 4096, 8, 8], &[REDUCE, MERGE, MERGE, APPLY]),
    ];
    for (groups, shape, expected) in cases {
        let forward = plan(groups, shape, Op::Forward, &Profile::GPU);
        let passes: Vec<_> = forward.passes.iter().map(|p| (p.kernel, p.over)).collect();
        assert_eq!(passes, expected, "{shape:?}");
        check_partials(&forward, &format!("{shape:?}"));
        if expected.last() == Some(&APPLY) {
            let [.., merge, apply] = &forward.passes[..] else { unreachable!() };
            assert!(merge.finishes && merge.partials_out == 0 && !apply.reduces && !apply.finishes);
            assert_eq!((apply.geometry.abreast, traffic(&forward)), (4, (2, 1)));
            let backward = plan(groups, shape, Op::Backward(ALL), &Profile::GPU);
            let apply = backward.passes.iter().find(|p| p.kernel == Apply).unwrap();
            assert_eq!((apply.over, apply.partials_in, apply.finishes), (Instances, 1, false));
            assert_eq!(traffic(&backward), (4, 1));
            assert_eq!(backward.passes.iter().filter(|p| p.weighs).count(), 1, "once, whatever the number of merges");
            // Limits do not change what is summed.
            let small = Profile { max_binding_size: 1 << 20, ..Profile::GPU };
            for (op, plans) in [(Op::Forward, &forward), (Op::Backward(ALL), &backward)] {
                let tree = |plan: &Plan| (plan.passes[0].over, plan.passes[0].geometry.tree);
                assert_eq!(tree(&plan(groups, shape, op, &small)), tree(plans), "{shape:?}");
            }
        }
    }
}

/// The smallest tiles of these tensors would leave more partial results than a binding holds.
#[test]
fn partial_results_fit_a_binding() {
    let backward = Op::Backward(Gradients { dx: false, ..ALL });
    let group = |groups, channels| GroupNormDescriptor::new(groups, channels).into();
    let cases: [(NormDescriptor, &[usize], Op); 11] = [
        (batch(256), &[512, 256, 56, 56], Op::Forward),
        (batch(256), &[1 << 18, 256], Op::Forward),
        (batch(4), &[1 << 24, 4], Op::LocalSums(Direction::Forward)),
        (batch(1024), &[1 << 17, 1024], Op::Backward(ALL)),
        (layer(4096), &[1 << 17, 4096], backward),
        (layer(8), &[1 << 23, 8], backward),
        // Behind the sums of channels lie those of their groups.
        (group(32, 256), &[3600, 256, 20, 20], Op::Forward),
        (group(32, 256), &[3300, 256, 20, 20], Op::Backward(ALL)),
        (group(32, 256), &[3600, 256, 20, 20], Op::Backward(ALL)),
        (group(1, 4096), &[1024, 4096, 8, 8], Op::Forward),
        (group(1, 4096), &[1024, 4096, 8, 8], Op::Backward(ALL)),
    ];
    for profile in [Profile::GPU, Profile::SOFTWARE_GPU] {
        for (norm, shape, op) in &cases {
            for dtype in [DType::F32, DType::F16] {
                let rows = matches!(norm, NormDescriptor::Layer(_));
                let format = if rows { Format::ChannelsFirst } else { Format::ChannelsLast };
                let tensor = TensorDescriptor { dtype, format, ..TensorDescriptor::new(shape) };
                let plan = plan_for(norm, &tensor, Statistics::Batch, PLAIN, *op, &profile).unwrap();
                let (scratch, elements) = (plan.scratch(), tensor.len().unwrap());
                assert!(scratch > 0 && scratch <= profile.max_binding_size, "{shape:?}: {scratch} bytes");
                // One of 16 bytes for 32 elements, and one for 32 of those, at most.
                assert!(scratch <= elements * 33 / 64, "{shape:?} {dtype:?}: {scratch} bytes for {elements}");
                check_partials(&plan, &format!("{shape:?}"));
            }
        }
    }
}
