//! Run to run, for any number of threads, for any split, and whichever gradients are wanted.

use super::backends;
use super::cases::{self, Case, Data, Results, half, last, norms, run};
use super::table::{four_channels, plans, table};
use wgpu_norm::plan::{Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Format, Fusion, Gradients, GroupNormDescriptor, LayerNormDescriptor, Moments,
    Momentum, NonFinite, Op, Profile, Residual, Statistics, TensorDescriptor, gpu, host, host::Backend,
};

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
