//! The same bits: run to run, for any number of threads, for any split, and wherever tensors lie.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/placed_on_gpu.rs"]
mod placed_on_gpu;
#[path = "common/placement.rs"]
mod placement;
#[path = "common/transfer.rs"]
mod transfer;

use adapters::Gpu;
use cases::{Case, Data, Results, half, last, norms, run};
use placement::{Gaps, Over, Placed, Placement, Read};
use wgpu_norm::plan::{Kernel, Pass, Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Format, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor,
    LayerNormDescriptor, Moments, Momentum, NonFinite, Op, Profile, Residual, RmsNormDescriptor, Statistics,
    TensorDescriptor, gpu, host, host::Backend, plan,
};

fn fused(residual: Residual, relu: bool, case: Case) -> Case {
    Case { fusion: Fusion { residual, relu }, ..case }
}

/// Images of four channels that share words with each other and not with the next image.
fn four_channels(samples: usize, positions: usize) -> Case {
    let statistics = Statistics::Running;
    Case { statistics, ..Case::new(BatchNormDescriptor::new(4), &[samples, 4, positions]) }
}

#[test]
fn images_go_by_samples() {
    for case in [four_channels(3, 35), four_channels(2, 7), four_channels(3, 2621)] {
        let problem =
            Problem::new(&case.descriptor, &case.tensor(), case.statistics, case.fusion, Op::Forward).unwrap();
        let plan = Plan::new(Problem { output: DType::F16, ..problem }, &Profile::SOFTWARE_GPU).unwrap();
        assert_eq!(plan.passes[0].over, wgpu_norm::plan::Over::Samples, "{}", case.name());
    }
}

/// What every kind of loop and kernel takes part in; large enough to be split, small enough for software drivers.
fn table() -> Vec<Case> {
    // More than a workgroup takes of a software driver's long leaves.
    let images = || Case::new(BatchNormDescriptor::new(3), &[40, 3, 11, 13]);
    let tracking = InstanceNormDescriptor { affine: true, track_running_stats: true, ..InstanceNormDescriptor::new(3) };
    vec![
        images(),
        Case::new(BatchNormDescriptor::new(2), &[20, 2, 4100]),
        Case::new(BatchNormDescriptor::new(24), &[700, 24]),
        last(Case::new(BatchNormDescriptor::new(33), &[7, 33, 9, 5])),
        Case::new(GroupNormDescriptor::new(2, 6), &[88, 6, 7, 9]),
        Case::new(GroupNormDescriptor::new(2, 6), &[28, 6, 1701]),
        last(Case::new(BatchNormDescriptor::new(36), &[5, 36, 7, 9])),
        half(DType::F16, last(Case::new(BatchNormDescriptor::new(40), &[6, 40, 53]))),
        // Rows that are taken four at once.
        half(DType::F16, last(Case::new(BatchNormDescriptor::new(33), &[7, 33, 12, 5]))),
        last(Case::new(GroupNormDescriptor::new(2, 8), &[6, 8, 5, 5])),
        last(Case::new(GroupNormDescriptor::new(4, 12), &[6, 12, 7, 11])),
        Case::new(tracking, &[22, 3, 131]),
        Case::new(LayerNormDescriptor::new(&[701]), &[400, 701]),
        fused(Residual::None, true, Case::new(RmsNormDescriptor::new(&[704]), &[400, 704])),
        // Rows that are not on chip with the sums of their columns.
        Case::new(LayerNormDescriptor::new(&[2200]), &[130, 2200]),
        half(DType::F16, images()),
        half(DType::F16, four_channels(60, 263)),
        fused(Residual::After, true, images()),
        fused(Residual::Before, false, half(DType::BF16, Case::new(LayerNormDescriptor::new(&[701]), &[400, 701]))),
    ]
}

/// Every number of a result as bits, so that NaN is NaN and -0 is not 0.
fn bits(results: &Results) -> Vec<u64> {
    let Results { y, sum, statistics, dx, dresidual, dweight, dbias, state } = results;
    let vectors = [Some(y), sum.as_ref(), Some(dx), dresidual.as_ref(), dweight.as_ref(), dbias.as_ref()];
    let mut bits: Vec<u64> = vectors.into_iter().flatten().flatten().map(|v| v.to_bits()).collect();
    bits.extend(statistics.iter().flat_map(|s| [s.mean, s.var, s.rstd]).map(f64::to_bits));
    if let Some(running) = &state.running {
        let floats = running.running_mean.iter().chain(&running.running_var);
        bits.extend(floats.map(|v| u64::from(v.to_bits())));
        bits.extend(running.tracked.iter().chain(&running.skipped).map(|&n| u64::from(n)));
    }
    bits
}

fn bits_on(backend: &Backend, case: &Case, data: &Data) -> Vec<u64> {
    bits(&run(backend, case, data).unwrap_or_else(|error| panic!("{}: {error}", case.name())))
}

/// Of two runs, how many numbers differ.
fn differing<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

#[test]
fn run_to_run() {
    backends::everywhere(|name, backend| {
        for case in table() {
            let data = Data::new(&case);
            let first = bits_on(backend, &case, &data);
            assert!(!first.is_empty());
            for _ in 0..2 {
                let again = bits_on(backend, &case, &data);
                assert_eq!(differing(&first, &again), 0, "{name}: {}", case.name());
            }
        }
    });
}

#[test]
fn any_number_of_threads() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pools = [1, 2, 3].map(pool);
    let larger = [
        Case::new(BatchNormDescriptor::new(5), &[4, 5, 85, 86]),
        last(Case::new(BatchNormDescriptor::new(40), &[4, 40, 31, 33])),
        Case::new(LayerNormDescriptor::new(&[1030]), &[130, 1030]),
        Case::new(GroupNormDescriptor::new(2, 4), &[3, 4, 105, 107]),
    ];
    for case in table().into_iter().chain(norms().into_iter().step_by(5)).chain(larger) {
        let data = Data::new(&case);
        let [one, two, three] = pools.each_ref().map(|pool| pool.install(|| bits_on(&Backend::Cpu, &case, &data)));
        assert_eq!((differing(&one, &two), differing(&one, &three)), (0, 0), "{}", case.name());
    }
}

/// The plans of both directions; `None` where the profile has no way to compute the case.
fn plans(case: &Case, profile: &Profile) -> Option<[Plan; 2]> {
    let after = case.fusion.residual == Residual::After;
    let gradients = Gradients { dx: true, dresidual: after, affine: true };
    let plan = |op| {
        let mut problem = Problem::new(&case.descriptor, &case.tensor(), case.statistics, case.fusion, op).unwrap();
        problem.output = case.output;
        Plan::new(problem, profile).ok()
    };
    Some([plan(Op::Forward)?, plan(Op::Backward(gradients))?])
}

/// Runs cases with every profile that `splits` makes of the device's own, and compares with that one's bits.
/// A split that no plan reaches would prove nothing, so both directions of every case must be `reached` by one.
fn any_split(
    cases: Vec<Case>,
    splits: impl Fn(&Case, &Profile) -> Vec<Profile>,
    reached: impl Fn(&Plan, &Plan) -> bool,
) {
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let own = gpu::Context::new(&gpu.device).unwrap();
        for case in &cases {
            let data = Data::new(case);
            let whole = bits_on(backend, case, &data);
            let whole_plans = plans(case, own.profile()).unwrap();
            let (mut directions, mut runs) = ([false; 2], 0);
            for profile in splits(case, own.profile()) {
                let Some(split_plans) = plans(case, &profile) else { continue };
                let now: Vec<bool> = split_plans.iter().zip(&whole_plans).map(|(a, b)| reached(a, b)).collect();
                let reaches_more = now.iter().zip(directions).any(|(&now, before)| now && !before);
                if !now.contains(&true) || (runs >= 2 && !reaches_more) {
                    continue;
                }
                let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
                let split = Backend::Gpu { context, queue: gpu.queue.clone() };
                match run(&split, case, &data) {
                    // The vectors of the state and partial results need their bytes in one binding too.
                    Err(wgpu_norm::Error::TooLarge { .. }) => continue,
                    Err(error) => panic!("{}: {}: {error}", gpu.name, case.name()),
                    Ok(results) => {
                        let differing = differing(&bits(&results), &whole);
                        assert_eq!(differing, 0, "{}: {} {profile:?}", gpu.name, case.name());
                    }
                }
                directions.iter_mut().zip(now).for_each(|(reached, now)| *reached |= now);
                runs += 1;
            }
            // The shapes are chosen for small workgroups.
            if gpu.info.device_type == wgpu::DeviceType::Cpu {
                assert_eq!(directions, [true; 2], "{}: no profile splits {}", gpu.name, case.name());
            }
        }
    }
}

#[test]
fn any_window() {
    // And a group that is on chip, of which a small binding does not hold all channels.
    let group = Case::new(GroupNormDescriptor::new(2, 6), &[3, 6, 1701]);
    any_split(
        [table(), vec![group, half(DType::F16, four_channels(3, 2621))]].concat(),
        |case, &own| {
            let bytes: u64 = case.tensor().size().unwrap();
            let sizes = [16, 4, 1, 2, 3, 6, 8, 12, 20, 24, 28].map(|part| bytes * part / 32 + own.offset_alignment);
            sizes.map(|size| Profile { max_binding_size: size / 4 * 4, ..own }).to_vec()
        },
        |split, whole| split.dispatches() > whole.dispatches() && windows(split) > 1,
    );
}

/// Windows of the tensors, in the pass that has most.
fn windows(plan: &Plan) -> usize {
    plan.passes.iter().map(|pass| pass.dispatches.len()).max().unwrap_or(0)
}

#[test]
fn any_grid() {
    any_split(
        table(),
        |_, &own| (1..40).map(|limit| Profile { max_workgroups: limit, ..own }).collect(),
        |split, _| split.passes.iter().flat_map(|pass| &pass.dispatches).any(|dispatch| dispatch.folded),
    );
}

/// Whether an invocation takes one target of a channels-last tensor or four, whatever the number of channels.
#[test]
fn any_number_abreast() {
    any_split(
        table(),
        |_, &own| [1, 4].map(|abreast| Profile { abreast, ..own }).into_iter().filter(|p| *p != own).collect(),
        |_, _| true,
    );
}

/// Running statistics of four channels at once are those of each: batches that are not finite, and channels of which other
/// devices have found nothing, or a single element.
#[test]
fn any_number_abreast_of_running_statistics() {
    const CHANNELS: usize = 8;
    let shape = [3, CHANNELS, 25, 40];
    let tensor = TensorDescriptor { format: Format::ChannelsLast, ..TensorDescriptor::new(&shape) };
    let clean: Vec<f32> = (0..shape.iter().product()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect();
    let mut broken = clean.clone();
    (broken[CHANNELS + 1], broken[7 * CHANNELS + 6]) = (f32::NAN, f32::INFINITY);
    let moments = |count: u32| Moments { count, mean_hi: 2.0, mean_lo: 0.0, m2: if count > 1 { 3.0 } else { 0.0 } };
    let found = [0, 3000, 1, 0, 3000, 3000, 3000, 1].map(moments);

    let after = |backend: &Backend, norm: BatchNormDescriptor| {
        let mut norm = host::Norm::new(backend, norm).unwrap();
        pollster::block_on(async {
            for x in [&clean, &broken, &clean] {
                let step = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), x, None, Commit::Update);
                let _ = step.await.unwrap();
            }
            let (fusion, commit) = (Fusion::default(), Commit::Update);
            let _ = norm.forward_train_with::<f32, f32>(&tensor, fusion, &clean, None, &found, commit).await.unwrap();
            norm.state().await.unwrap().running.unwrap()
        })
    };
    let bits = |v: &[f32]| v.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect::<Vec<_>>();
    let norms = [NonFinite::Skip, NonFinite::Poison].into_iter().flat_map(|non_finite| {
        [Momentum::Exponential(0.1), Momentum::Cumulative].map(|momentum| BatchNormDescriptor {
            non_finite,
            momentum,
            ..BatchNormDescriptor::new(CHANNELS)
        })
    });
    let profile = |abreast| Profile { abreast, ..Profile::GPU };
    let problem = |norm: &BatchNormDescriptor| {
        let norm = norm.clone().into();
        Problem::new(&norm, &tensor, Statistics::Batch, Fusion::default(), Op::Forward).unwrap()
    };
    for norm in norms {
        let plan = Plan::new(problem(&norm), &profile(4)).unwrap();
        assert!(plan.passes.last().is_some_and(|pass| pass.geometry.abreast == 4 && pass.finishes));
        let cpu = after(&Backend::Cpu, norm.clone());
        let skipped = u32::from(norm.non_finite == NonFinite::Skip);
        assert_eq!(cpu.skipped, [0, skipped, 0, 0, 0, 0, skipped, 0]);
        assert_eq!(cpu.tracked, [3, 4 - skipped, 4, 3, 4, 4, 4 - skipped, 4]);
        for (gpu, _) in backends::gpus() {
            let _turn = gpu.turn();
            let [one, four] = [1, 4].map(|abreast| {
                let context = gpu::Context::with_profile(&gpu.device, profile(abreast), None).unwrap();
                after(&Backend::Gpu { context, queue: gpu.queue.clone() }, norm.clone())
            });
            assert_eq!(bits(&one.running_mean), bits(&four.running_mean), "{}: {norm:?}", gpu.name);
            assert_eq!(bits(&one.running_var), bits(&four.running_var), "{}: {norm:?}", gpu.name);
            for running in [one, four] {
                assert_eq!(
                    (&running.tracked, &running.skipped),
                    (&cpu.tracked, &cpu.skipped),
                    "{}: {norm:?}",
                    gpu.name
                );
                let pairs = running.running_mean.iter().chain(&running.running_var);
                for (gpu_value, cpu_value) in pairs.zip(cpu.running_mean.iter().chain(&cpu.running_var)) {
                    let same = (gpu_value - cpu_value).abs() <= 1e-5 * cpu_value.abs().max(1.0);
                    assert!(
                        same || !cpu_value.is_finite() && !gpu_value.is_finite(),
                        "{gpu_value}, {cpu_value}: {norm:?}"
                    );
                }
            }
        }
    }
}

/// Each gradient is the same whichever others are wanted, though other kernels make it.
#[test]
fn any_gradients() {
    backends::everywhere(|name, backend| {
        let plain = |case: &Case| case.fusion.residual == Residual::None && case.output == DType::F32;
        for case in table().into_iter().filter(|case| plain(case) && case.input == DType::F32) {
            let data = Data::new(&case);
            let [x, dy] = [&data.x, &data.dy].map(|values| cases::typed::<f32>(values));
            let gradients = |dx, affine| {
                let mut norm = host::Norm::new(backend, case.descriptor.clone()).unwrap();
                let (tensor, fusion) = (case.tensor(), case.fusion);
                pollster::block_on(async {
                    let training = norm.forward_train::<f32, f32>(&tensor, fusion, &x, None, Commit::Skip);
                    let (_, saved) = training.await.unwrap();
                    let io = host::Backward { x: &x, residual: None, dy: &dy, dsum: None };
                    norm.backward(saved, io, Gradients { dx, dresidual: false, affine }).await.unwrap()
                })
            };
            let (all, dx, affine) = (gradients(true, true), gradients(true, false), gradients(false, true));
            assert_eq!(all.dx, dx.dx, "{name}: {}", case.name());
            assert_eq!((all.dweight, all.dbias), (affine.dweight, affine.dbias), "{name}: {}", case.name());
        }
    });
}

/// Cases for tensors that lie where they like.
fn placed() -> Vec<Case> {
    let rows = Case::new(LayerNormDescriptor::new(&[64]), &[5, 64]);
    let images = Case::new(BatchNormDescriptor::new(3), &[2, 3, 35]);
    let odd = last(Case::new(BatchNormDescriptor::new(5), &[3, 5, 4, 4]));
    let mixed = Case { input: DType::F16, output: DType::F32, ..rows.clone() };
    let mixed_odd = Case { input: DType::F32, output: DType::F16, ..images.clone() };
    let single = |c| Case::new(BatchNormDescriptor::new(c), &[5, c]);
    let frozen = |case| Case { statistics: Statistics::Running, ..fused(Residual::After, false, case) };
    let heads = Case::new(RmsNormDescriptor::new(&[16]), &[5, 3, 16]);
    let odd_heads = Case::new(LayerNormDescriptor::new(&[7]), &[5, 3, 7]);
    // Software drivers take these in parts.
    let parts = Case::new(LayerNormDescriptor::new(&[67]), &[5, 67]);
    let group = Case::new(GroupNormDescriptor::new(2, 6), &[3, 6, 35]);
    let fours = fused(Residual::Before, true, last(Case::new(BatchNormDescriptor::new(8), &[3, 8, 3, 5])));
    vec![
        rows.clone(),
        fused(Residual::Before, false, rows.clone()),
        images.clone(),
        fused(Residual::After, true, odd.clone()),
        half(DType::F16, rows),
        fused(Residual::Before, false, heads.clone()),
        half(DType::BF16, heads),
        odd_heads.clone(),
        half(DType::F16, fused(Residual::After, true, odd_heads)),
        half(DType::F16, fused(Residual::After, true, images.clone())),
        half(DType::BF16, odd.clone()),
        half(DType::F16, fours.clone()),
        fours,
        mixed,
        mixed_odd,
        single(8),
        half(DType::F16, single(5)),
        half(DType::F16, parts.clone()),
        half(DType::BF16, fused(Residual::Before, false, parts)),
        group.clone(),
        half(DType::F16, group),
        // And what a frozen layer writes over its residual.
        frozen(images),
        half(DType::F16, frozen(odd)),
        // By samples; see `images_go_by_samples`.
        half(DType::F16, frozen(four_channels(3, 35))),
        fused(Residual::Before, true, half(DType::BF16, frozen(four_channels(3, 35)))),
        Case { input: DType::F32, output: DType::F16, ..frozen(four_channels(2, 7)) },
        // By columns of samples, which may be apart.
        half(DType::F16, fused(Residual::After, true, four_channels(5, 35))),
        frozen(four_channels(5, 35)),
    ]
}

fn everywhere(check: impl Fn(&Gpu, &gpu::Context, &Case, &Data)) {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let own = *gpu::Context::new(&gpu.device).unwrap().profile();
        type Serves = fn(&Pass) -> bool;
        let profiles: [(Profile, Serves); 3] = [
            (Profile { abreast: 1, ..own }, |pass| pass.geometry.abreast == 1),
            (Profile { abreast: 4, ..own }, |pass| pass.geometry.abreast == 4),
            // On a software driver one lane has a row; on a GPU lanes that are neighbours share its words.
            (backends::of_a_gpu(own), |pass| pass.geometry.tree.lanes > 1),
        ];
        for (profile, serves) in profiles {
            let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
            let takes = |case: &Case| plans(case, &profile).unwrap().iter().flat_map(|p| &p.passes).any(serves);
            for case in placed().into_iter().filter(takes) {
                check(gpu, &context, &case, &Data::new(&case));
            }
        }
    }
}

fn placed_at(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Placed {
    placed_on_gpu::run(gpu, context, case, data, place).unwrap_or_else(|error| panic!("{}: {error}", case.name()))
}

#[test]
fn any_offset() {
    everywhere(|gpu, context, case, data| {
        let aligned = placed_at(gpu, context, case, data, Placement::PLAIN);
        for shift in [1, 64] {
            for shared in [false, true] {
                let moved = placed_at(gpu, context, case, data, Placement { shift, shared, ..Placement::PLAIN });
                assert_eq!(moved, aligned, "{}: {} {shift} elements on, shared: {shared}", gpu.name, case.name());
            }
        }
    });
}

#[test]
fn in_place() {
    everywhere(|gpu, context, case, data| {
        if case.input != case.output {
            return;
        }
        let apart = placed_at(gpu, context, case, data, Placement::PLAIN);
        for over in [Over::X, Over::Residual] {
            if over == Over::Residual && !case.has_residual() {
                continue;
            }
            for shift in [0, 1] {
                let place = Placement { shift, shared: shift == 1, over: Some(over), ..Placement::PLAIN };
                let on_top = placed_at(gpu, context, case, data, place);
                assert_eq!(on_top.evaluated, apart.evaluated, "{}: {} {place:?}", gpu.name, case.name());
                assert_eq!(on_top.trained, apart.trained, "{}: {} {place:?}", gpu.name, case.name());
            }
        }
        if !case.has_sum() {
            return;
        }
        for (over, sum_over) in
            [(Some(Over::X), Over::Residual), (Some(Over::Residual), Over::X), (None, Over::Residual), (None, Over::X)]
        {
            let shift = usize::from(over.is_some());
            let place = Placement { shift, over, sum_over: Some(sum_over), ..Placement::PLAIN };
            let on_top = placed_at(gpu, context, case, data, place);
            assert_eq!(on_top, apart, "{}: {} {place:?}", gpu.name, case.name());
        }
    });
}

/// Gradients over what the pass reads, whatever its passes are.
#[test]
fn gradients_in_place() {
    /// What passes may be like: one that holds what it writes, or not, windows, and weights' sums by themselves.
    fn kinds(plan: &Plan) -> [bool; 4] {
        let any = |of: fn(&Pass) -> bool| plan.passes.iter().any(of);
        [
            any(|pass| pass.kernel == Kernel::Rows),
            any(|pass| pass.kernel == Kernel::Apply && !pass.writes.is_empty()),
            any(|pass| pass.dispatches.len() > 1 && !pass.writes.is_empty()),
            any(|pass| pass.over == plan::Over::Affine && !pass.reads.is_empty()),
        ]
    }
    // Channels of a group that are too small for sums of their own.
    let small = Case::new(GroupNormDescriptor::new(2, 6), &[40, 6, 3]);
    let cases: Vec<Case> = [table(), placed(), vec![small]].concat();
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let own = *gpu::Context::new(&gpu.device).unwrap().profile();
        let mut reached = [false; 4];
        // Each case with one of these, as new bindings are new pipelines.
        let kinds_of_profiles = [(own, 1), (backends::of_a_gpu(own), 1), (own, 3)].into_iter().cycle();
        for (i, (case, (sizes, parts))) in cases.iter().zip(kinds_of_profiles).enumerate() {
            let bytes = case.tensor().size().unwrap() / parts + own.offset_alignment;
            let max_binding_size = if parts == 1 { own.max_binding_size } else { bytes / 4 * 4 };
            let profile = Profile { max_binding_size, ..sizes };
            let Some([_, backward]) = plans(case, &profile) else { continue };
            let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
            let data = Data::new(case);
            let placed = |place| placed_on_gpu::run(gpu, &context, case, &data, place);
            // The vectors of the state need their bytes in one binding, too.
            let Ok(apart) = placed(Placement::PLAIN) else { continue };
            let of = |read: &Read| match read {
                Read::X => true,
                Read::Dy => case.input == case.output,
                Read::Residual => case.fusion == Fusion { residual: Residual::After, relu: true },
                Read::Dsum => case.has_sum(),
            };
            let has_second = case.fusion.residual == Residual::After;
            let usual = if i % 2 == 0 { Read::X } else { Read::Dy };
            for dx in [usual, Read::Residual, Read::Dsum].into_iter().filter(of) {
                let second = if dx == Read::Dy { Read::X } else { Read::Dy };
                let second = Some(second).filter(|second| has_second && of(second));
                let gradients_over = [Some(dx), second];
                let place = Placement { gradients_over, shared: parts > 1, ..Placement::PLAIN };
                let on_top = placed(place).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
                // y, and the sum, which may be gone.
                let before = if case.has_sum() { 2 } else { 1 };
                let is_same = on_top.trained[before..] == apart.trained[before..];
                assert!(is_same, "{}: {} {place:?} {profile:?}", gpu.name, case.name());
            }
            reached.iter_mut().zip(kinds(&backward)).for_each(|(reached, now)| *reached |= now);
        }
        assert_eq!(reached, [true; 4], "{}", gpu.name);
    }
}

/// Slices of larger tensors, and of one: what lies in the gaps is not touched.
#[test]
fn any_pitch() {
    everywhere(|gpu, context, case, data| {
        let dense = placed_at(gpu, context, case, data, Placement::PLAIN);
        // Of samples that are one row the last two are the same.
        let has_rows = case.descriptor.layout(&case.tensor()).unwrap().memory.rows > 1;
        let growing = [(Gaps::Growing(3), 1), (Gaps::Growing(4), 0), (Gaps::Concatenated, 0)];
        for (gaps, shift) in growing.into_iter().chain(has_rows.then_some((Gaps::Fused, 0))) {
            let place = Placement { gaps, shift, ..Placement::PLAIN };
            let strided = placed_at(gpu, context, case, data, place);
            assert_eq!(strided, dense, "{}: {} {place:?}", gpu.name, case.name());
        }
        let place = Placement { gaps: Gaps::Growing(4), over: Some(Over::X), ..Placement::PLAIN };
        if case.input == case.output {
            let on_top = placed_at(gpu, context, case, data, place);
            assert_eq!(on_top.evaluated, dense.evaluated, "{}: {} {place:?}", gpu.name, case.name());
        }
    });
}
