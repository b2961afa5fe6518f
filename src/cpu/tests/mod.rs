//! The CPU path against the reference, and against itself on fewer threads and older instruction sets.

mod alike;
mod corners;
mod gaps;

use self::gaps::Gaps;
use super::*;
use crate::*;
use ::half::{bf16, f16};
use fearless_simd::Level;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Batch,
    Instance,
    Group(usize),
    Layer,
    Rms,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    shape: [usize; 3],
    format: Format,
    fusion: Fusion,
    running: bool,
    offset: f64,
    /// Inputs are numbers of this type, whatever they are stored as.
    numbers: DType,
    /// An element of x that is NaN.
    nan: Option<usize>,
}

impl Case {
    fn noise(&self, seed: u64, offset: f64) -> Vec<f64> {
        let numbers = noise(seed, self.shape.iter().product()).into_iter().map(|v| v + offset);
        match self.numbers {
            DType::F32 => numbers.collect(),
            DType::F16 => floats(&elements::<f16>(numbers)),
            DType::BF16 => floats(&elements::<bf16>(numbers)),
        }
    }

    fn descriptor(&self) -> NormDescriptor {
        let [_, c, s] = self.shape;
        match self.kind {
            Kind::Batch => BatchNormDescriptor::new(c).into(),
            Kind::Instance => {
                InstanceNormDescriptor { affine: true, track_running_stats: true, ..InstanceNormDescriptor::new(c) }
                    .into()
            }
            Kind::Group(groups) => GroupNormDescriptor::new(groups, c).into(),
            Kind::Layer => LayerNormDescriptor::new(&[c, s]).into(),
            Kind::Rms => RmsNormDescriptor::new(&[c, s]).into(),
        }
    }
}

/// Numbers that are the same on every machine: about normal, mean 0 and deviation 1.
pub(super) fn noise(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64
    };
    (0..len).map(|_| (next() + next() + next() + next() - 2.0) * 3f64.sqrt()).collect()
}

pub(super) fn elements<T: Element>(values: impl IntoIterator<Item = f64>) -> Vec<T> {
    values.into_iter().map(|v| T::from_f32(v as f32)).collect()
}

/// What a training step reads.
pub(super) struct Inputs<'a, I, O> {
    pub x: &'a [I],
    pub residual: Option<&'a [I]>,
    pub dy: &'a [O],
}

/// One training step, with weights that do not depend on how many there are; all results: y, dx, dweight, dbias.
pub(super) fn step<I: Element, O: Element>(
    norm: NormDescriptor,
    tensor: TensorDescriptor,
    fusion: Fusion,
    Inputs { x, residual, dy }: Inputs<I, O>,
) -> [Vec<f32>; 4] {
    let (rms, len) = (matches!(norm, NormDescriptor::Rms(_)), norm.affine_len() as usize);
    let state = State {
        weight: Some(elements(noise(1, len))),
        bias: (!rms).then(|| elements(noise(2, len))),
        ..State::new(&norm).unwrap()
    };
    let mut norm = Norm::with_state(norm, state).unwrap();
    let (mut y, mut dx) = (vec![O::from_f32(f32::NAN); x.len()], vec![I::from_f32(f32::NAN); x.len()]);
    let (mut dweight, mut dbias) = (vec![f32::NAN; len], vec![if rms { 0.0 } else { f32::NAN }; len]);
    let io = Forward { residual: residual.map(Source::From), ..Forward::new(x, &mut y) };
    let saved = norm.forward_train::<I, O>(&tensor, fusion, io, Commit::Skip).unwrap();
    let wanted = Backward {
        // A mask needs it again.
        residual: residual.filter(|_| fusion.relu),
        dx: Some(&mut dx),
        dweight: Some(&mut dweight),
        dbias: (!rms).then_some(&mut dbias[..]),
        ..Backward::new(x, dy)
    };
    norm.backward::<I, O>(saved, wanted).unwrap();
    let wide = |v: Vec<I>| v.into_iter().map(Element::to_f32).collect();
    [y.into_iter().map(Element::to_f32).collect(), wide(dx), dweight, dbias]
}

fn floats<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f32().into()).collect()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(1f64, |m, v| m.max(v.abs()))
}

fn close(what: &str, case: &dyn std::fmt::Debug, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what} {case:?}");
    let scale = largest(expected);
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance * scale, "{what}[{i}] is {a}, not {e} (scale {scale}): {case:?}");
    }
}

/// Everything that a pass forward and back writes.
#[derive(Debug, PartialEq)]
struct Results {
    y: Vec<f64>,
    sum: Option<Vec<f64>>,
    dx: Vec<f64>,
    dresidual: Option<Vec<f64>>,
    dweight: Vec<f64>,
    dbias: Vec<f64>,
    state: State,
    mean: Vec<f64>,
    var: Vec<f32>,
}

fn run<I: Element, O: Element>(case: &Case, level: Level, check: bool) -> Results {
    run_with_gaps::<I, O>(case, level, check, 0)
}

fn run_with_gaps<I: Element, O: Element>(case: &Case, level: Level, check: bool, by: u64) -> Results {
    let Case { shape, format, fusion, .. } = *case;
    let len = shape.iter().product();
    let tensor = TensorDescriptor { dtype: I::DTYPE, format, ..TensorDescriptor::new(&shape) };
    let mut layer = Norm::new(case.descriptor()).unwrap();
    layer.level = level;
    let weights = layer.descriptor.affine_len() as usize;
    let vector = |seed, scale, offset: f32| noise(seed, weights).iter().map(|&v| v as f32 * scale + offset).collect();
    layer.state_mut().weight = Some(vector(1, 0.5, 1.0));
    if layer.state().bias.is_some() {
        layer.state_mut().bias = Some(vector(2, 0.5, 0.1));
    }
    if let Some(running) = &mut layer.state_mut().running {
        running.running_mean = vector(3, 0.5, case.offset as f32);
        running.running_var = vector(4, 0.1, 1.5);
    }
    let mut x: Vec<I> = elements(case.noise(5, case.offset));
    if let Some(at) = case.nan {
        x[at] = I::from_f32(f32::NAN);
    }
    let residual: Vec<I> = elements(case.noise(6, 0.0));
    let (before, after) = (fusion.residual == Residual::Before, fusion.residual == Residual::After);
    let mut sum: Option<Vec<I>> = before.then(|| vec![I::from_f32(f32::NAN); len]);
    let expected_sum: Vec<I> = elements(x.iter().zip(&residual).map(|(x, r)| (x.to_f32() + r.to_f32()).into()));
    let input = floats(if before { &expected_sum } else { &x });

    // The reference does not round a sum, so it is given that.
    let old = layer.state().clone();
    let [weight, bias] = [&old.weight, &old.bias].map(|vector| vector.as_deref().map(floats));
    let running = old.running.as_ref().map(|r| [floats(&r.running_mean), floats(&r.running_var)]);
    let after_norm = after.then(|| floats(&residual));
    let inputs = reference::Inputs {
        x: &input,
        residual: after_norm.as_deref(),
        weight: weight.as_deref(),
        bias: bias.as_deref(),
        running: running.as_ref().filter(|_| case.running).map(|[mean, var]| (&mean[..], &var[..])),
        fusion: Fusion { residual: if before { Residual::None } else { fusion.residual }, ..fusion },
    };
    let open = reference::Inputs { fusion: Fusion { relu: false, ..inputs.fusion }, ..inputs };
    let before_relu = reference::forward(&layer.descriptor, &tensor, &open).unwrap().y;
    // Where a rounding error decides whether the ReLU lets something through, nothing comes back.
    let mut dy: Vec<O> = elements(case.noise(7, 0.0));
    let edge = |y: &f64| fusion.relu && y.abs() < 1e-5;
    dy.iter_mut().zip(&before_relu).filter(|(_, y)| edge(y)).for_each(|(d, _)| *d = O::from_f32(0.0));

    // Each tensor with gaps of its own.
    let memory = case.descriptor().layout(&tensor).unwrap().memory;
    let [of_x, of_residual, of_y, of_sum, of_dy, of_dsum, of_dx, of_dresidual] =
        [1, 2, 3, 4, 5, 6, 7, 8].map(|k| Gaps { memory, by: k * by });
    let poison = vec![f32::NAN; len];
    let mut y = of_y.put(&elements::<O>(floats(&poison)));
    let (x_at, residual_at) = (of_x.put(&x), of_residual.put(&residual));
    let mut sum_at = sum.as_deref().map(|sum| of_sum.put(sum));
    let io = Forward {
        x: Source::From(&x_at),
        residual: (before || after).then_some(Source::From(&residual_at)),
        y: &mut y,
        sum: sum_at.as_deref_mut(),
        pitches: ForwardPitches {
            x: of_x.pitch(),
            residual: of_residual.pitch(),
            y: of_y.pitch(),
            sum: of_sum.pitch(),
        },
    };
    let saved = match case.running {
        true => layer.forward_frozen(&tensor, fusion, io).unwrap(),
        false => layer.forward_train(&tensor, fusion, io, Commit::Update).unwrap(),
    };
    let y = of_y.take(y);
    sum = sum_at.clone().map(|sum| of_sum.take(sum));
    let (mean, var, rstd) = (saved.mean(), saved.var(), saved.rstd());

    let dsum: Vec<I> = elements(case.noise(8, 0.0));
    let poison: Vec<I> = elements(floats(&poison));
    let (mut dx, mut dresidual) = (of_dx.put(&poison), of_dresidual.put(&poison));
    let (dy_at, dsum_at) = (of_dy.put(&dy), of_dsum.put(&dsum));
    let has_bias = layer.state().bias.is_some();
    let (mut dweight, mut dbias) = (vec![f32::NAN; weights], vec![if has_bias { f32::NAN } else { 0.0 }; weights]);
    let io = Backward {
        x: sum_at.as_deref().unwrap_or(&x_at),
        residual: after.then_some(&residual_at[..]),
        dy: &dy_at,
        dsum: before.then_some(&dsum_at[..]),
        dx: Some(&mut dx),
        dresidual: after.then_some(&mut dresidual[..]),
        dweight: Some(&mut dweight),
        dbias: has_bias.then_some(&mut dbias[..]),
        pitches: BackwardPitches {
            x: if before { of_sum.pitch() } else { of_x.pitch() },
            residual: of_residual.pitch(),
            dy: of_dy.pitch(),
            dsum: of_dsum.pitch(),
            dx: of_dx.pitch(),
            dresidual: of_dresidual.pitch(),
        },
    };
    layer.backward(saved, io).unwrap();
    let (dx, dresidual) = (of_dx.take(dx), of_dresidual.take(dresidual));

    if check {
        let expected = reference::forward(&layer.descriptor, &tensor, &inputs).unwrap();
        let gradients = reference::backward(&layer.descriptor, &tensor, &inputs, &floats(&dy), None).unwrap();
        let mut expected_dx = gradients.dx;
        if before {
            expected_dx.iter_mut().zip(&dsum).for_each(|(dx, d)| *dx += f64::from(d.to_f32()));
        }
        let half = |d: DType| if d == DType::F32 { 0.0 } else { d.epsilon() / 2.0 };
        let (for_i, for_o) = (5e-7 + half(I::DTYPE), 5e-7 + half(O::DTYPE));
        close("y", case, &floats(&y), &expected.y, for_o);
        // Over few elements nearly all of the gradient may cancel.
        let passed = |(d, y): (f64, &f64)| if fusion.relu && *y <= 0.0 { 0.0 } else { d };
        let g: Vec<f64> = floats(&dy).into_iter().zip(&before_relu).map(passed).collect();
        let before_projection = largest(&g) * largest(weight.as_deref().unwrap()) * largest(&floats(&rstd));
        let cancels = before_projection / largest(&expected_dx);
        close("dx", case, &floats(&dx), &expected_dx, 5e-7 * cancels.max(1.0) + half(I::DTYPE));
        close("dweight", case, &floats(&dweight), &gradients.dweight, 2e-6);
        if has_bias {
            close("dbias", case, &floats(&dbias), &gradients.dbias, 2e-6);
        }
        if let Some(expected) = &gradients.dresidual {
            close("dresidual", case, &floats(&dresidual), expected, for_i);
        }
        assert!(!before || sum.as_deref().map(floats) == Some(floats(&expected_sum)), "sum {case:?}");
        close("mean", case, &mean, &expected.mean, 5e-7);
        close("var", case, &floats(&var), &expected.var, 5e-7);
        if let (Some([mut mean, mut var]), Some(new), false) = (running, &layer.state().running, case.running) {
            let [mut tracked, mut skipped] = [vec![0; mean.len()], vec![0; mean.len()]];
            let norm = &layer.descriptor;
            reference::update_running(norm, &mut mean, &mut var, &mut tracked, &mut skipped, &expected).unwrap();
            close("running_mean", case, &floats(&new.running_mean), &mean, 5e-7);
            close("running_var", case, &floats(&new.running_var), &var, 5e-7);
            assert_eq!((&new.tracked, &new.skipped), (&tracked, &skipped), "{case:?}");
        }
    }
    Results {
        y: floats(&y),
        sum: sum.as_deref().map(floats),
        dx: floats(&dx),
        dresidual: after.then(|| floats(&dresidual)),
        dweight: floats(&dweight),
        dbias: floats(&dbias),
        state: layer.state().clone(),
        mean,
        var,
    }
}

const FUSIONS: [Fusion; 6] = {
    const fn fusion(residual: Residual, relu: bool) -> Fusion {
        Fusion { residual, relu }
    }
    [
        fusion(Residual::None, false),
        fusion(Residual::None, true),
        fusion(Residual::After, false),
        fusion(Residual::After, true),
        fusion(Residual::Before, false),
        fusion(Residual::Before, true),
    ]
};

/// Norms by formats by modes by fusions over shapes either side of every boundary.
fn cases() -> Vec<Case> {
    let shapes = [
        [2, 1, 1],
        [3, 4, 5],
        [1, 6, 2],
        [2, 16, 16],
        [5, 34, 17],
        [64, 32, 1],
        [1, 2, 1023],
        [2, 2, 1025],
        [3, 32, 49],
        [2, 40, 128],
        [300, 4, 7],
        [33, 18, 3],
        [1, 4, 5000],
        [9, 2, 2052],
    ];
    let mut cases = vec![];
    for shape in shapes {
        let [n, c, s] = shape;
        for kind in
            [Kind::Batch, Kind::Instance, Kind::Group(1), Kind::Group(2), Kind::Group(c), Kind::Layer, Kind::Rms]
        {
            let rows = matches!(kind, Kind::Layer | Kind::Rms);
            let tracks = matches!(kind, Kind::Batch | Kind::Instance);
            for format in [Format::ChannelsFirst, Format::ChannelsLast] {
                for running in [false, true] {
                    let count = if kind == Kind::Batch { n * s } else { s };
                    let divides = !matches!(kind, Kind::Group(g) if c % g != 0);
                    let fits = !(rows && format == Format::ChannelsLast) && divides && (tracks || !running);
                    if fits && (count > 1 || !tracks || running) {
                        // In pairs, each with the next of the fusions.
                        let of_kind = cases.iter().filter(|case: &&Case| case.kind == kind).count() / 2;
                        let [fusion, other] = [0, 3].map(|k| FUSIONS[(of_kind + k) % FUSIONS.len()]);
                        let case =
                            Case { kind, shape, format, fusion, running, offset: 0.0, numbers: DType::F32, nan: None };
                        cases.push(case);
                        let offset = if kind == Kind::Rms { 3.0 } else { 1e6 };
                        cases.push(Case { offset, fusion: other, ..case });
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn every_kind_and_offset_meets_every_fusion() {
    for fusion in FUSIONS {
        for far in [false, true] {
            let of = |case: &&Case| case.fusion == fusion && (case.offset > 10.0) == far;
            let all = cases();
            let kinds: Vec<Kind> = all.iter().filter(of).map(|case| case.kind).collect();
            for kind in [Kind::Batch, Kind::Instance, Kind::Group(1), Kind::Group(2), Kind::Layer] {
                assert!(kinds.contains(&kind), "{kind:?} {fusion:?}, offset: {far}");
            }
        }
    }
}

#[test]
fn agrees_with_the_reference() {
    for case in &cases() {
        run::<f32, f32>(case, Level::new(), true);
        if case.offset < 10.0 {
            run::<f16, f16>(case, Level::new(), true);
            run::<bf16, f32>(case, Level::new(), true);
        }
    }
}

pub(super) fn levels() -> Vec<Level> {
    let best = Level::new();
    let mut levels = vec![best];
    #[cfg(target_arch = "x86_64")]
    {
        levels.extend(best.as_avx2().map(Level::Avx2));
        levels.extend(best.as_sse2().map(Level::Sse2));
    }
    levels
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    // Not a divisor of the number of fusions, so that all of them come.
    for case in cases().iter().step_by(5) {
        let expected = run::<f32, f32>(case, Level::new(), false);
        for level in levels() {
            assert_eq!(run::<f32, f32>(case, level, false), expected, "{level:?} {case:?}");
        }
    }
}

#[test]
fn halves_give_the_bits_of_f32() {
    fn check<T: Element>() {
        let cases = cases().into_iter().filter(|case| case.offset < 10.0).enumerate();
        // Not residuals before the norm: a sum that is written is rounded, and goes on so.
        for case in cases.map(|(i, case)| Case { numbers: T::DTYPE, fusion: FUSIONS[i % 4], ..case }) {
            for level in levels() {
                let (halves, wide) = (run::<T, T>(&case, level, false), run::<f32, f32>(&case, level, false));
                let rounded = |values: Vec<f64>| floats(&elements::<T>(values));
                let (y, dx, dresidual) = (rounded(wide.y), rounded(wide.dx), wide.dresidual.map(rounded));
                assert_eq!(halves, Results { y, dx, dresidual, ..wide }, "{level:?} {case:?}");
            }
        }
    }
    check::<f16>();
    check::<bf16>();
}

#[test]
fn any_pitch_gives_the_same_bits() {
    for case in &cases() {
        let (dense, level) = (run::<f32, f32>(case, Level::new(), false), Level::new());
        assert_eq!(run_with_gaps::<f32, f32>(case, level, false, 3), dense, "{case:?}");
        if case.offset < 10.0 {
            let dense = run::<f16, bf16>(case, level, false);
            assert_eq!(run_with_gaps::<f16, bf16>(case, level, false, 1), dense, "{case:?}");
            let dense = run::<f16, f16>(case, level, false);
            assert_eq!(run_with_gaps::<f16, f16>(case, level, false, 8), dense, "{case:?}");
        }
    }
}

/// Large enough for several threads.
fn large() -> Vec<Case> {
    let shapes = [
        [64, 6, 700],
        [6, 64, 999],
        [4200, 64, 1],
        [50_000, 3, 1],
        [6, 110, 401],
        [96, 90, 49],
        [170, 40, 20],
        [50, 101, 241],
        [2, 259, 400],
    ];
    let mut cases = vec![];
    for (i, shape) in shapes.into_iter().enumerate() {
        for kind in [Kind::Batch, Kind::Instance, Kind::Group(1), Kind::Layer] {
            for format in [Format::ChannelsFirst, Format::ChannelsLast] {
                let has_format = kind != Kind::Layer || format == Format::ChannelsFirst;
                if has_format && (kind != Kind::Instance || shape[2] > 1) {
                    let (fusion, numbers) = (FUSIONS[i % FUSIONS.len()], DType::F32);
                    cases.push(Case { kind, shape, format, fusion, running: false, offset: 1.0, numbers, nan: None });
                }
            }
        }
    }
    cases
}

#[test]
fn any_number_of_threads_and_instruction_set_gives_the_same_bits() {
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let pools = [pool(1), pool(2), pool(3)];
    for case in large() {
        let expected = pools[0].install(|| run::<f32, f32>(&case, Level::new(), true));
        for pool in &pools[1..] {
            assert_eq!(pool.install(|| run::<f32, f32>(&case, Level::new(), false)), expected, "{case:?}");
        }
        for level in levels().into_iter().skip(1) {
            assert_eq!(pools[1].install(|| run::<f32, f32>(&case, level, false)), expected, "{level:?} {case:?}");
        }
    }
}
