//! Calls drawn at random against the reference, and the same bits wherever their tensors lie. What fails names its call's
//! number; the same number draws the same call again. `WGPU_NORM_CALLS=first..last` draws others than the usual ones.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/placed_on_cpu.rs"]
mod placed_on_cpu;
#[path = "common/placed_on_gpu.rs"]
mod placed_on_gpu;
#[path = "common/placement.rs"]
mod placement;
#[path = "common/random.rs"]
mod random;
#[path = "common/shards.rs"]
mod shards;
#[path = "common/transfer.rs"]
mod transfer;

use cases::{Case, Data, Inputs, Results, compare, run, typed, with_types};
use placement::{Gaps, Over, Placed, Placement, Read};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus as Rng};
use random::one_of;
use shards::{Drive, Shards, run_sharded};
use wgpu_norm::{DType, Element, Error, Fusion, NormDescriptor, Profile, Statistics, gpu, host::Backend};

/// A call that has an answer to compare with.
fn case(rng: &mut Rng) -> Case {
    loop {
        let most = one_of(rng, &[3_000, 20_000, 20_000, 20_000, 200_000]);
        let (mut descriptor, shape) = random::norm(rng, most);
        random::vary(rng, &mut descriptor);
        let format = random::format(rng, &descriptor);
        let [input, output] = if rng.random_bool(0.5) { [DType::F32; 2] } else { [(); 2].map(|()| random::dtype(rng)) };
        let tracks = descriptor.running_stats().is_some();
        let statistics = if tracks && rng.random_bool(0.3) { Statistics::Running } else { Statistics::Batch };
        // Far from zero halves are too few different values.
        let offsets: &[_] =
            if input == DType::F32 { &[(0.5, 2.0), (0.5, 2.0), (1e4, 1.0), (-3.0, 0.01)] } else { &[(0.5, 2.0)] };
        let (mean, std) = one_of(rng, offsets);
        let fusion = random::fusion(rng);
        let case = Case { input, output, format, fusion, statistics, mean, std, ..Case::new(descriptor, &shape) };
        // Of values that happen to be close dx is a small difference of large numbers.
        let Ok(layout) = case.descriptor.layout(&case.tensor()) else { continue };
        if statistics == Statistics::Running || layout.stats.count() > 4 {
            return case;
        }
    }
}

/// Noise, with gradients that lean on x: sums of their products are large, so that what is wrong is not what has cancelled.
fn inputs(case: &Case) -> Inputs {
    let mut inputs = Inputs::new(case);
    let leaning = inputs.dy.iter().zip(&inputs.x).map(|(dy, x)| dy + 0.5 * (x - case.mean) / case.std);
    inputs.dy = cases::round(case.output, leaning.collect());
    inputs
}

fn place(rng: &mut Rng, case: &Case) -> Placement {
    let overs: &[_] = match (case.input == case.output, case.has_residual()) {
        (true, true) => &[None, Some(Over::X), Some(Over::Residual)],
        (true, false) => &[None, Some(Over::X)],
        (false, _) => &[None],
    };
    let over = one_of(rng, overs);
    let sum_overs = [None, Some(Over::X), Some(Over::Residual)].map(|sum| if sum == over { None } else { sum });
    let growing = Gaps::Growing(rng.random_range(1..20));
    Placement {
        shift: one_of(rng, &[0, 0, 1, 2, 3, 7, 64]),
        shared: rng.random(),
        over,
        sum_over: if case.has_sum() { one_of(rng, &sum_overs) } else { None },
        gradients_over: [None; 2],
        gaps: one_of(rng, &[Gaps::None, Gaps::Fused, growing, Gaps::Concatenated]),
    }
}

/// What gradients lie over on a GPU: not over a sum, which is compared, too.
fn gradients_over(rng: &mut Rng, case: &Case) -> [Option<Read>; 2] {
    let reads = [None, Some(Read::X), Some(Read::Residual), Some(Read::Dy), Some(Read::Dsum)];
    let [dx, dresidual] = [(); 2].map(|()| one_of(rng, &reads).filter(|&read| read != Read::X || !case.has_sum()));
    [dx, dresidual.filter(|_| dresidual != dx)]
}

/// As [`placement`] tells of outputs.
fn placed(case: &Case, results: &Results) -> Placed {
    fn bytes<T: Element>(values: &[f64]) -> Vec<u8> {
        bytemuck::cast_slice(&typed::<T>(values)).to_vec()
    }
    fn of_types<I: Element, O: Element>(case: &Case, results: &Results) -> Placed {
        let Results { y, sum, dx, dresidual, dweight, dbias, .. } = results;
        let evaluated: Vec<_> = [Some(bytes::<O>(y)), sum.as_deref().map(bytes::<I>)].into_iter().flatten().collect();
        let gradients = [Some(bytes::<I>(dx)), dresidual.as_deref().map(bytes::<I>)];
        let affine = [dweight, dbias].map(|gradient| gradient.as_deref().map(bytes::<f32>));
        let trained = evaluated.iter().cloned().chain(gradients.into_iter().chain(affine).flatten()).collect();
        // Training normalises by other statistics than evaluation then.
        let differs = case.statistics == Statistics::Batch && case.descriptor.running_stats().is_some();
        Placed { trained, evaluated: if differs { Vec::new() } else { evaluated } }
    }
    with_types!(case, of_types(case, results))
}

/// Whether rounding cannot decide which way the ReLU goes, and with it all of an element's gradients.
fn is_decided(case: &Case) -> bool {
    let open = Case { fusion: Fusion { relu: false, ..case.fusion }, ..case.clone() };
    !case.fusion.relu || Data::of(&open, inputs(&open)).forward.y.iter().all(|y| y.abs() > 1e-6)
}

/// What is wrong with a call.
fn wrong(
    case: &Case,
    place: Placement,
    backend: &Backend,
    run_placed: impl FnOnce(&Data) -> Result<Placed, Error>,
) -> Result<Vec<String>, Error> {
    let data = Data::of(case, inputs(case));
    let results = run(backend, case, &data)?;
    let mut wrong = Vec::new();
    if is_decided(case) {
        let checks = compare(case, &data, &results, cases::base(backend));
        wrong.extend(checks.iter().map(|check| check.to_string()));
    }
    let (expected, actual) = (placed(case, &results), run_placed(&data)?);
    if actual.trained != expected.trained {
        wrong.push(format!("training gives other bits at {place:?}"));
    }
    if !expected.evaluated.is_empty() && actual.evaluated != expected.evaluated {
        wrong.push(format!("evaluation gives other bits at {place:?}"));
    }
    Ok(wrong)
}

/// Tells at once what is wrong, as there may be many calls to come.
fn tell(name: &str, number: u64, case: &Case, wrong: Result<Vec<String>, Error>) -> usize {
    let wrong = wrong.unwrap_or_else(|error| vec![error.to_string()]);
    wrong.iter().for_each(|wrong| println!("{name}, call {number}, {}: {wrong}", case.name()));
    wrong.len()
}

#[test]
fn on_the_cpu() {
    let mut failures = 0;
    for number in random::asked().unwrap_or(0..400) {
        let mut rng = Rng::seed_from_u64(number);
        let case = case(&mut rng);
        let place = place(&mut rng, &case);
        let is_one = matches!(place.gaps, Gaps::Concatenated | Gaps::Fused);
        let gaps = if is_one { Gaps::Growing(5) } else { place.gaps };
        let place = Placement { shared: false, gaps, ..place };
        let wrong = wrong(&case, place, &Backend::Cpu, |data| Ok(placed_on_cpu::run(&case, data, place)));
        failures += tell("cpu", number, &case, wrong);
    }
    assert_eq!(failures, 0, "results are off");
}

/// The device's own profile, that of a real GPU, or few lanes; with limits that cut tensors, or without.
fn profile(rng: &mut Rng, own: Profile) -> Profile {
    let Profile { max_binding_size, max_workgroups, .. } = own;
    let [of_a_gpu, few_lanes] = [Profile::GPU, random::FEW_LANES].map(|sizes| backends::with_limits_of(own, sizes));
    let kind = one_of(rng, &[own, own, of_a_gpu, few_lanes]);
    Profile {
        abreast: one_of(rng, &[1, 4, 4]),
        max_workgroups: one_of(rng, &[max_workgroups, 300]),
        max_binding_size: one_of(rng, &[max_binding_size, max_binding_size, 1 << 16, 20_000]),
        ..kind
    }
}

#[test]
fn on_gpus() {
    let mut failures = 0;
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let own = *gpu::Context::new(&gpu.device).unwrap().profile();
        let (mut compared, mut refused) = (0, 0);
        for number in random::asked().unwrap_or(0..16) {
            let mut rng = Rng::seed_from_u64(number);
            let case = case(&mut rng);
            let place = place(&mut rng, &case);
            let profile = profile(&mut rng, own);
            let place = Placement { gradients_over: gradients_over(&mut rng, &case), ..place };
            let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
            let backend = Backend::Gpu { context: context.clone(), queue: gpu.queue.clone() };
            match wrong(&case, place, &backend, |data| placed_on_gpu::run(gpu, &context, &case, data, place)) {
                Err(Error::TooLarge { .. }) if profile.max_binding_size < own.max_binding_size => refused += 1,
                wrong => {
                    compared += 1;
                    failures += tell(&format!("{} with {profile:?}", gpu.name), number, &case, wrong);
                }
            }
        }
        println!("{}: {compared} calls compared, {refused} are too large for a binding", gpu.name);
        assert!(
            random::asked().is_some() || compared > refused,
            "{}: most calls are too large for a binding",
            gpu.name
        );
    }
    assert_eq!(failures, 0, "results are off");
}

/// How many samples each of up to four members has, which may be none.
fn shares(rng: &mut Rng, samples: usize) -> Vec<usize> {
    let mut cuts: Vec<_> = (0..rng.random_range(0..4)).map(|_| rng.random_range(0..=samples)).collect();
    cuts.sort_unstable();
    let starts = [0].into_iter().chain(cuts.clone());
    starts.zip(cuts.iter().copied().chain([samples])).map(|(start, end)| end - start).collect()
}

/// Whether a backend was given smaller bindings than its device has.
fn is_limited(backend: &Backend) -> bool {
    let Backend::Gpu { context, .. } = backend else { return false };
    context.profile().max_binding_size < context.device().limits().max_storage_buffer_binding_size
}

/// Members of a group on the CPU and on adapters, against the reference of the whole batch.
#[test]
fn in_groups() {
    let gpus: Vec<_> = backends::gpus().collect();
    let _turns: Vec<_> = gpus.iter().map(|(gpu, _)| gpu.turn()).collect();
    let (mut compared, mut refused, mut failures) = (0, 0, 0);
    for number in random::asked().unwrap_or(0..24) {
        let mut rng = Rng::seed_from_u64(number);
        let case = loop {
            let case = case(&mut rng);
            if matches!(case.descriptor, NormDescriptor::Batch(_)) && case.statistics == Statistics::Batch {
                break case;
            }
        };
        let sizes = shares(&mut rng, case.shape[0]);
        let member = |rng: &mut Rng| {
            if gpus.is_empty() || rng.random_bool(0.4) {
                return Backend::Cpu;
            }
            let (gpu, _) = gpus[rng.random_range(0..gpus.len())];
            let own = *gpu::Context::new(&gpu.device).unwrap().profile();
            let context = gpu::Context::with_profile(&gpu.device, profile(rng, own), None).unwrap();
            Backend::Gpu { context, queue: gpu.queue.clone() }
        };
        let members: Vec<_> = sizes.iter().map(|_| member(&mut rng)).collect();
        let data = Data::of(&case, inputs(&case));
        let result = run_sharded(Drive::OneThread, &members, &case, &data, &Shards::new(&case, &sizes));
        let wrong = match result {
            Err(Error::TooLarge { .. }) if members.iter().any(is_limited) => {
                refused += 1;
                continue;
            }
            Err(error) => Err(error),
            Ok(result) => {
                let mut wrong = Vec::new();
                if is_decided(&case) {
                    let base = members.iter().map(cases::base).fold(0.0, f64::max);
                    wrong.extend(compare(&case, &data, &result.whole, base).iter().map(|check| check.to_string()));
                }
                if result.states.windows(2).any(|s| s[0] != s[1]) {
                    wrong.push("members' states differ".to_string());
                }
                Ok(wrong)
            }
        };
        compared += 1;
        let names: Vec<_> = members.iter().map(|member| member.name()).collect();
        failures += tell(&format!("{sizes:?} on {names:?}"), number, &case, wrong);
    }
    println!("groups: {compared} calls compared, {refused} are too large for a binding");
    assert!(random::asked().is_some() || compared > refused, "most calls are too large for a binding");
    assert_eq!(failures, 0, "results are off");
}
