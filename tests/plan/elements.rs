//! What passes that write elements go over, without a device.

use super::plans::{ALL, PLAIN, batch, kernels, last, plan, plan_for, traffic};
use wgpu_norm::plan::{Geometry, Kernel, Over, Plan, Problem};
use wgpu_norm::{DType, Format, ForwardPitches, Op, Pitch, Profile, Statistics, TensorDescriptor};

/// Evaluation of halves of few samples goes over these where channels share words and samples do not, and a unit is of two
/// channels at most.
#[test]
fn halves_are_stored_by_words_of_samples() {
    let over = |shape: &[usize], [input, output]: [DType; 2], format, pitch: Option<u64>| {
        let tensor = TensorDescriptor { dtype: input, format, ..TensorDescriptor::new(shape) };
        let norm = batch(shape[1]);
        let mut problem = Problem::new(&norm, &tensor, Statistics::Running, PLAIN, Op::Forward).unwrap();
        problem.output = output;
        let y = Pitch { sample: pitch, row: None };
        let problem = problem.with_forward_pitches(&ForwardPitches { y, ..Default::default() }).unwrap();
        let plan = Plan::new(problem, &Profile::GPU).unwrap();
        assert_eq!((kernels(&plan), traffic(&plan)), (vec![Kernel::Apply], (1, 1)), "{shape:?}");
        plan.passes[0].over
    };
    use DType::{F16, F32};
    use Format::{ChannelsFirst, ChannelsLast};
    use Over::{Samples, Stats};
    for (types, expected) in [([F16, F16], Samples), ([F32, F16], Samples), ([F16, F32], Samples), ([F32, F32], Stats)]
    {
        assert_eq!(over(&[3, 64, 7, 7], types, ChannelsFirst, None), expected, "{types:?}");
    }
    // Rows of whole units; samples of odd words; more than two channels a unit; columns.
    for shape in [[3, 64, 6, 6], [3, 63, 7, 7], [3, 64, 1, 3], [3, 66, 1, 1]] {
        assert_eq!(over(&shape, [F16, F16], ChannelsFirst, None), Stats, "{shape:?}");
    }
    assert_eq!(over(&[3, 64, 1, 5], [F16, F16], ChannelsFirst, None), Samples);
    assert_eq!(over(&[3, 64, 7, 7], [F16, F16], ChannelsLast, None), Stats);
    assert_eq!(over(&[4, 64, 7, 7], [F16, F16], ChannelsFirst, None), Over::WideRows);
    // Positions of a sample that 32 bits count, and those of one channel more.
    for (channels, expected) in [(65532, Samples), (65536, Stats)] {
        assert_eq!(over(&[1, channels, 1, 65537], [F16, F16], ChannelsFirst, None), expected, "{channels}");
    }
    for (pitch, expected) in [(64 * 49 + 4, Samples), (64 * 49 + 2, Stats)] {
        assert_eq!(over(&[3, 64, 7, 7], [F16, F16], ChannelsFirst, Some(pitch)), expected, "{pitch}");
    }
}

/// Channels that are not loaded by fours where they lie are where several rows of them are taken as one: positions of
/// channels-last tensors, or samples.
#[test]
fn elements_of_several_rows_are_stored_by_fours() {
    use Format::{ChannelsFirst, ChannelsLast};
    use Kernel::{Apply, Merge, Reduce, Rows};
    use Over::{Stats, WideRows};
    let last_of = |plan: &Plan| plan.passes.last().map(|p| (p.kernel, p.over, p.geometry.abreast)).unwrap();
    let plan_of = |shape: &[usize], format, dtype, statistics, op, profile| {
        let tensor = TensorDescriptor { format, dtype, ..TensorDescriptor::new(shape) };
        plan_for(&batch(shape[1]), &tensor, statistics, PLAIN, op, profile).unwrap()
    };
    // With columns of such a row: channels-last up to 1024, as divide the rows and leave four of them; or a multiple of four.
    let cases: [(&[usize], Format, Option<u64>); 18] = [
        (&[8, 3, 64, 64], ChannelsLast, Some(768)),
        (&[5, 3, 20, 30], ChannelsLast, Some(24)),
        (&[1, 18, 2, 901], ChannelsLast, Some(36)),
        (&[4, 254, 20, 21], ChannelsLast, Some(1016)),
        (&[4, 1001], ChannelsFirst, None),
        (&[512, 1001], ChannelsFirst, Some(4004)),
        (&[4096, 10], ChannelsFirst, Some(640)),
        (&[2, 33, 45, 23], ChannelsLast, None),
        (&[2, 34, 45, 23], ChannelsLast, Some(68)),
        (&[1, 34, 45, 23], ChannelsLast, None),
        (&[8, 36, 20, 20], ChannelsLast, None),
        (&[4096, 1], ChannelsFirst, None),
        (&[33, 64, 35, 35], ChannelsFirst, Some(64 * 35 * 35)),
        (&[34, 2, 71, 71], ChannelsFirst, Some(4 * 71 * 71)),
        (&[33, 2, 71, 71], ChannelsFirst, None),
        (&[3, 64, 35, 35], ChannelsFirst, None),
        (&[8, 64, 129, 131], ChannelsFirst, Some(64 * 129 * 131)),
        // A binding does not hold four of these samples.
        (&[8, 64, 601, 601], ChannelsFirst, None),
    ];
    for (shape, format, width) in cases {
        let plan = |statistics, op| plan_of(shape, format, DType::F16, statistics, op, &Profile::GPU);
        let evaluation = plan(Statistics::Running, Op::Forward);
        let [forward, backward] = [Op::Forward, Op::Backward(ALL)].map(|op| plan(Statistics::Batch, op));
        for plan in [&evaluation, &forward, &backward] {
            let (kernel, over, abreast) = last_of(plan);
            assert_eq!(over == WideRows, width.is_some(), "{shape:?}");
            if let Some(width) = width {
                let walk = plan.walk(over);
                assert_eq!((kernel, abreast, walk.inner, walk.stride), (Apply, 4, width, width), "{shape:?}");
                assert_eq!(walk.inner * walk.len, plan.problem.layout.elements, "{shape:?}");
            }
        }
        if width.is_some() {
            // A channel, which several targets of the last pass are, has its results written once.
            for plan in [&forward, &backward] {
                let [.., merge, apply] = &plan.passes[..] else { unreachable!() };
                assert_eq!((plan.passes[0].kernel, plan.passes[0].over), (Reduce, Stats), "{shape:?}");
                assert_eq!((merge.kernel, merge.finishes, apply.finishes), (Merge, true, false), "{shape:?}");
            }
            assert_eq!((traffic(&forward), traffic(&backward)), ((2, 1), (4, 1)), "{shape:?}");
        }
    }

    // On chip all the same, but for halves where another reading comes from a near cache; no dispatch more for words.
    let training = |shape, dtype, profile| {
        let plan = plan_of(shape, ChannelsFirst, dtype, Statistics::Batch, Op::Forward, profile);
        (kernels(&plan), last_of(&plan).1)
    };
    let (gpu, software) = (&Profile::GPU, &Profile::SOFTWARE_GPU);
    assert_eq!(training(&[32, 64, 7, 7], DType::F16, gpu), (vec![Rows], Stats));
    assert_eq!(training(&[32, 64, 7, 7], DType::F32, software), (vec![Rows], Stats));
    assert_eq!(training(&[32, 64, 7, 7], DType::F16, software), (vec![Reduce, Apply], WideRows));
    assert_eq!(training(&[33, 64, 35, 35], DType::F32, gpu), (vec![Reduce, Apply], Stats));
    assert_eq!(training(&[33, 64, 35, 35], DType::F16, gpu), (vec![Reduce, Merge, Apply], WideRows));
    assert_eq!(training(&[2048, 64, 35, 35], DType::F32, gpu), (vec![Reduce, Merge, Apply], WideRows));

    // Rows of 32 lanes, whatever the number of samples.
    for samples in [32, 36, 64, 256, 512] {
        let plan = plan_of(&[samples, 64, 7, 7], ChannelsFirst, DType::F16, Statistics::Running, Op::Forward, gpu);
        let Geometry { targets, leaves, .. } = plan.passes[0].geometry;
        assert_eq!((targets, leaves), (128, 8), "{samples}");
    }

    // In the second half of a synchronised step, too.
    for (op, expected) in
        [(Op::ApplyMoments, &[(Merge, true), (Apply, false)] as &[_]), (Op::ApplyGradientSums(ALL), &[(Apply, false)])]
    {
        let plan = plan(&batch(3), &last(&[8, 3, 64, 64]), PLAIN, op);
        assert_eq!(plan.passes.iter().map(|p| (p.kernel, p.finishes)).collect::<Vec<_>>(), expected);
        assert!(last_of(&plan).1 == WideRows && plan.passes.last().is_some_and(|apply| apply.reversed));
    }

    // Gaps between samples, not within them; and not where no four targets are abreast.
    let evaluation = |norm: usize, tensor: &TensorDescriptor, y: Pitch, profile| {
        let problem = Problem::new(&batch(norm), tensor, Statistics::Running, PLAIN, Op::Forward).unwrap();
        let problem = problem.with_forward_pitches(&ForwardPitches { y, ..Default::default() }).unwrap();
        last_of(&Plan::new(problem, profile).unwrap()).1
    };
    let (pixels, images) = (last(&[8, 3, 64, 64]), TensorDescriptor::new(&[8, 64, 7, 7]));
    let sample = |pitch| Pitch { sample: Some(pitch), row: None };
    assert_eq!(evaluation(3, &pixels, Pitch { row: Some(4), sample: None }, gpu), Stats);
    assert_eq!(evaluation(3, &pixels, sample(3 * 64 * 64 + 4), gpu), Stats);
    for (pitch, expected) in [(64 * 49 + 4, WideRows), (64 * 49 + 2, Stats)] {
        assert_eq!(evaluation(64, &images, sample(pitch), gpu), expected, "{pitch}");
    }
    for tensor in [&pixels, &images] {
        let norm = tensor.shape[1];
        assert_eq!(evaluation(norm, tensor, Pitch::default(), gpu), WideRows);
        assert_eq!(evaluation(norm, tensor, Pitch::default(), &Profile { abreast: 1, ..Profile::GPU }), Stats);
    }
}
