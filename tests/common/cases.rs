//! The one table of cases, and what an implementation must do with one.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Element, Error, Format, Fusion, Gradients, GroupNormDescriptor,
    InstanceNormDescriptor, LayerNormDescriptor, NormDescriptor, Residual, RmsNormDescriptor, Running, State,
    Statistics, TensorDescriptor, host, reference,
};

/// One call on one layer.
#[derive(Clone, Debug)]
pub struct Case {
    pub descriptor: NormDescriptor,
    pub shape: Vec<usize>,
    pub input: DType,
    pub output: DType,
    pub format: Format,
    pub fusion: Fusion,
    pub statistics: Statistics,
    /// Mean and standard deviation of x.
    pub mean: f64,
    pub std: f64,
}

impl Case {
    pub fn new(descriptor: impl Into<NormDescriptor>, shape: &[usize]) -> Case {
        Case {
            descriptor: descriptor.into(),
            shape: shape.to_vec(),
            input: DType::F32,
            output: DType::F32,
            format: Format::ChannelsFirst,
            fusion: Fusion::default(),
            statistics: Statistics::Batch,
            mean: 0.5,
            std: 2.0,
        }
    }

    pub fn tensor(&self) -> TensorDescriptor<'_> {
        TensorDescriptor { shape: &self.shape, dtype: self.input, format: self.format }
    }

    pub fn has_residual(&self) -> bool {
        self.fusion.residual != Residual::None
    }

    pub fn has_sum(&self) -> bool {
        self.fusion.residual == Residual::Before
    }

    pub fn name(&self) -> String {
        let Case { shape, input, output, format, fusion, statistics, mean, .. } = self;
        let d = self.descriptor.name();
        format!("{d} {shape:?} {input:?}->{output:?} {format:?} {fusion:?} {statistics:?} mean {mean}")
    }
}

/// Tensors of a case, rounded to their element types, and everything the reference says of them.
pub struct Data {
    pub x: Vec<f64>,
    pub residual: Option<Vec<f64>>,
    pub dy: Vec<f64>,
    pub dsum: Option<Vec<f64>>,
    pub state: State,
    pub forward: reference::Forward,
    pub backward: reference::Backward,
    pub state_after: State,
}

/// Uniform numbers with the given mean and standard deviation: the same on every machine.
pub fn noise(seed: u64, len: usize, mean: f64, std: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let unit = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64;
            mean + std * 12f64.sqrt() * (unit - 0.5)
        })
        .collect()
}

pub fn round(dtype: DType, values: Vec<f64>) -> Vec<f64> {
    fn to<T: Element>(values: Vec<f64>) -> Vec<f64> {
        values.into_iter().map(|v| f64::from(T::from_f32(v as f32).to_f32())).collect()
    }
    match dtype {
        DType::F32 => to::<f32>(values),
        DType::F16 => to::<half::f16>(values),
        DType::BF16 => to::<half::bf16>(values),
    }
}

pub fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|v| v as f32).collect()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// What a case is given, rounded to its element types.
pub struct Inputs {
    pub x: Vec<f64>,
    pub residual: Option<Vec<f64>>,
    pub dy: Vec<f64>,
    pub dsum: Option<Vec<f64>>,
    pub state: State,
}

impl Inputs {
    /// Noise.
    pub fn new(case: &Case) -> Inputs {
        let len = case.shape.iter().product();
        let features = case.descriptor.affine_len() as usize;
        let affine = case.descriptor.affine();
        let state = State {
            weight: affine.weight.then(|| narrow(noise(2, features, 1.0, 0.3))),
            bias: affine.bias.then(|| narrow(noise(3, features, 0.0, 0.3))),
            running: case.descriptor.running_stats().map(|_| Running {
                running_mean: narrow(noise(4, features, case.mean, 0.2)),
                running_var: narrow(noise(5, features, 1.5, 0.2)),
                tracked: vec![2; features],
                skipped: vec![0; features],
            }),
        };
        Inputs {
            x: round(case.input, noise(1, len, case.mean, case.std)),
            residual: case.has_residual().then(|| round(case.input, noise(6, len, 0.0, 1.0))),
            dy: round(case.output, noise(7, len, 0.1, 1.0)),
            dsum: case.has_sum().then(|| round(case.input, noise(8, len, 0.0, 1.0))),
            state,
        }
    }
}

impl Data {
    pub fn new(case: &Case) -> Data {
        Data::of(case, Inputs::new(case))
    }

    pub fn of(case: &Case, inputs: Inputs) -> Data {
        let Inputs { x, residual, dy, dsum, state } = inputs;
        let before = case.has_sum();
        let (weight, bias) = (state.weight.as_deref().map(wide), state.bias.as_deref().map(wide));
        let running = state.running.as_ref().map(|r| (wide(&r.running_mean), wide(&r.running_var)));
        // What is normalised is the sum as it is stored, so the reference is given that as its x.
        let stored = residual
            .as_ref()
            .filter(|_| before)
            .map(|r| round(case.input, x.iter().zip(r).map(|(a, b)| f64::from(*a as f32 + *b as f32)).collect()));
        let zeros = vec![0.0; if before { x.len() } else { 0 }];
        let inputs = reference::Inputs {
            x: stored.as_ref().unwrap_or(&x),
            residual: if before { Some(&zeros) } else { residual.as_deref() },
            weight: weight.as_deref(),
            bias: bias.as_deref(),
            running: running
                .as_ref()
                .filter(|_| case.statistics == Statistics::Running)
                .map(|(m, v)| (m.as_slice(), v.as_slice())),
            fusion: case.fusion,
        };
        let tensor = case.tensor();
        let forward = reference::forward(&case.descriptor, &tensor, &inputs).expect("the table has valid cases");
        let backward = reference::backward(&case.descriptor, &tensor, &inputs, &dy, dsum.as_deref())
            .expect("the table has valid cases");
        let mut state_after = state.clone();
        if let (Some(after), Statistics::Batch) = (&mut state_after.running, case.statistics) {
            let (mut mean, mut var) = (wide(&after.running_mean), wide(&after.running_var));
            let (tracked, skipped) = (&mut after.tracked, &mut after.skipped);
            reference::update_running(&case.descriptor, &mut mean, &mut var, tracked, skipped, &forward)
                .expect("the layer tracks");
            (after.running_mean, after.running_var) = (narrow(mean), narrow(var));
        }
        Data { x, residual, dy, dsum, state, forward, backward, state_after }
    }
}

/// A result that was compared.
#[derive(Clone, Debug)]
pub struct Check {
    pub what: String,
    pub error: f64,
    pub tolerance: f64,
}

impl Check {
    pub fn new(what: impl Into<String>, actual: &[f64], expected: &[f64], tolerance: f64) -> Check {
        Check { what: what.into(), error: super::golden::error(actual, expected), tolerance }
    }

    /// Never for a NaN, on either side.
    pub fn passes(&self) -> bool {
        self.error <= self.tolerance
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: error {:.2e}, tolerance {:.2e}", self.what, self.error, self.tolerance)
    }
}

/// Everything that an implementation computed for a case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    pub y: Vec<f64>,
    pub sum: Option<Vec<f64>>,
    pub statistics: Vec<host::Statistic>,
    pub dx: Vec<f64>,
    pub dresidual: Option<Vec<f64>>,
    pub dweight: Option<Vec<f64>>,
    pub dbias: Option<Vec<f64>>,
    pub state: State,
}

/// A generic function with the element types of a case's input and output.
macro_rules! with_types {
    ($case:expr, $function:ident($($argument:expr),*)) => {{
        use half::{bf16, f16};
        use wgpu_norm::DType::{BF16, F16, F32};
        match ($case.input, $case.output) {
            (F32, F32) => $function::<f32, f32>($($argument),*),
            (F32, F16) => $function::<f32, f16>($($argument),*),
            (F32, BF16) => $function::<f32, bf16>($($argument),*),
            (F16, F32) => $function::<f16, f32>($($argument),*),
            (F16, F16) => $function::<f16, f16>($($argument),*),
            (F16, BF16) => $function::<f16, bf16>($($argument),*),
            (BF16, F32) => $function::<bf16, f32>($($argument),*),
            (BF16, F16) => $function::<bf16, f16>($($argument),*),
            (BF16, BF16) => $function::<bf16, bf16>($($argument),*),
        }
    }};
}
#[allow(unused_imports, reason = "each of the programs that share this file uses a part of it")]
pub(crate) use with_types;

/// Runs forward and backward on a backend.
pub fn run(backend: &host::Backend, case: &Case, data: &Data) -> Result<Results, Error> {
    with_types!(case, run_typed(backend, case, data))
}

pub fn typed<T: Element>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| T::from_f32(v as f32)).collect()
}

pub fn untyped<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| f64::from(v.to_f32())).collect()
}

fn run_typed<I: Element, O: Element>(backend: &host::Backend, case: &Case, data: &Data) -> Result<Results, Error> {
    pollster::block_on(run_async::<I, O>(backend, case, data))
}

async fn run_async<I: Element, O: Element>(
    backend: &host::Backend,
    case: &Case,
    data: &Data,
) -> Result<Results, Error> {
    let (tensor, fusion) = (case.tensor(), case.fusion);
    let mut norm = host::Norm::with_state(backend, case.descriptor.clone(), data.state.clone())?;
    let x: Vec<I> = typed(&data.x);
    let residual: Option<Vec<I>> = data.residual.as_deref().map(typed);
    let (output, saved) = match case.statistics {
        Statistics::Batch => {
            norm.forward_train::<I, O>(&tensor, fusion, &x, residual.as_deref(), Commit::Update).await?
        }
        Statistics::Running => norm.forward_frozen::<I, O>(&tensor, fusion, &x, residual.as_deref()).await?,
    };
    let statistics = match case.statistics {
        Statistics::Batch => norm.statistics(&saved).await?,
        Statistics::Running => Vec::new(),
    };
    if case.statistics == Statistics::Running {
        let evaluated = norm.forward_eval::<I, O>(&tensor, fusion, &x, residual.as_deref()).await?;
        assert_eq!(untyped(&evaluated.y), untyped(&output.y), "evaluation and frozen training differ");
    }
    let state = norm.state().await?;
    let dy: Vec<O> = typed(&data.dy);
    let dsum: Option<Vec<I>> = data.dsum.as_deref().map(typed);
    let after = fusion.residual == Residual::After;
    let io = host::Backward {
        x: output.sum.as_ref().unwrap_or(&x),
        residual: residual.as_deref().filter(|_| after),
        dy: &dy,
        dsum: dsum.as_deref(),
    };
    let wanted = Gradients { dx: true, dresidual: after, affine: true };
    let gradients = norm.backward(saved, io, wanted).await?;
    Ok(Results {
        y: untyped(&output.y),
        sum: output.sum.as_deref().map(untyped),
        statistics,
        dx: untyped(&gradients.dx.unwrap_or_default()),
        dresidual: gradients.dresidual.as_deref().map(untyped),
        dweight: gradients.dweight.as_deref().map(untyped),
        dbias: gradients.dbias.as_deref().map(untyped),
        state,
    })
}

/// Tolerance of elements: relative to `max(1, largest |expected|)`. Of a base of 0 nothing is left to round.
pub fn tolerance(base: f64, dtype: DType) -> f64 {
    base + if dtype == DType::F32 || base == 0.0 { 0.0 } else { dtype.epsilon() / 2.0 }
}

/// What [`compare`] allows a backend.
pub fn base(backend: &host::Backend) -> f64 {
    if matches!(backend, host::Backend::Cpu) { 5e-7 } else { 1e-6 }
}

/// Compares with the reference and returns what is too far off.
pub fn compare(case: &Case, data: &Data, results: &Results, base: f64) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what, actual: &[f64], expected: &[f64], tolerance: f64| {
        checks.push(Check::new(what, actual, expected, tolerance));
    };
    let (input, output) = (tolerance(base, case.input), tolerance(base, case.output));
    check("y", &results.y, &data.forward.y, output);
    if let Some(sum) = &data.forward.sum {
        check("sum", results.sum.as_deref().unwrap_or_default(), sum, 0.0);
    }
    if case.statistics == Statistics::Batch {
        let all = |of: fn(&host::Statistic) -> f64| results.statistics.iter().map(of).collect::<Vec<_>>();
        // By their own size, and the mean, which is a pair, by the deviation: what is lost of either is lost to all else.
        let reference::Forward { mean, var, rstd, .. } = &data.forward;
        let largest = |values: &[f64]| values.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
        let relative = |scale: f64, expected: &[f64]| base * scale / largest(expected).max(1.0);
        check("mean", &all(|s| s.mean), mean, relative(largest(var).sqrt(), mean));
        check("var", &all(|s| s.var), var, relative(largest(var), var));
        check("rstd", &all(|s| s.rstd), rstd, relative(largest(rstd), rstd));
    }
    check("dx", &results.dx, &data.backward.dx, input);
    if let Some(dresidual) = &data.backward.dresidual {
        check("dresidual", results.dresidual.as_deref().unwrap_or_default(), dresidual, input);
    }
    let affine = case.descriptor.affine();
    for (what, has, actual, expected) in [
        ("dweight", affine.weight, &results.dweight, &data.backward.dweight),
        ("dbias", affine.bias, &results.dbias, &data.backward.dbias),
    ] {
        check(what, actual.as_deref().unwrap_or_default(), if has { expected } else { &[] }, 4.0 * base);
    }
    // Empty where there are none, which is no match for any.
    let running = |state: &State| state.running.clone().unwrap_or_default();
    let (actual, expected) = (running(&results.state), running(&data.state_after));
    check("running_mean", &wide(&actual.running_mean), &wide(&expected.running_mean), base);
    check("running_var", &wide(&actual.running_var), &wide(&expected.running_var), base);
    let counts = |v: &[u32]| v.iter().map(|&n| f64::from(n)).collect::<Vec<_>>();
    check("tracked", &counts(&actual.tracked), &counts(&expected.tracked), 0.0);
    check("skipped", &counts(&actual.skipped), &counts(&expected.skipped), 0.0);
    checks.retain(|check| !check.passes());
    checks
}

/// The same channels-last.
pub fn last(case: Case) -> Case {
    Case { format: Format::ChannelsLast, ..case }
}

/// The same in halves.
pub fn half(dtype: DType, case: Case) -> Case {
    Case { input: dtype, output: dtype, ..case }
}

/// Shapes (N, C, S) either side of every boundary: vec4 tails, units, lanes, tiles, workgroups, primes, 1.
pub const CHANNEL_SHAPES: [(usize, usize, usize); 24] = [
    (2, 1, 1),
    (2, 3, 1),
    (32, 16, 1),
    (33, 17, 1),
    (300, 5, 1),
    (1, 2, 2),
    (3, 2, 3),
    (2, 3, 4),
    (2, 3, 5),
    (5, 7, 11),
    (2, 2, 65),
    (40, 3, 68),
    (6, 33, 49),
    (4, 8, 31),
    (2, 5, 64),
    (2, 3, 127),
    (2, 3, 128),
    (3, 2, 129),
    (1, 3, 1023),
    (2, 2, 1025),
    (9, 2, 784),
    (2, 2, 4100),
    (2, 1, 8192),
    (3, 1, 20011),
];

/// Rows and row lengths, chosen as the channel shapes.
pub const ROW_SHAPES: [(usize, usize); 19] = [
    (1, 1),
    (17, 1),
    (300, 1),
    (3, 2),
    (7, 5),
    (17, 64),
    (40, 65),
    (9, 128),
    (130, 33),
    (5, 1023),
    (4, 1024),
    (3, 4099),
    (70, 2100),
    (130, 2051),
    (2, 8196),
    (300, 8),
    (530, 130),
    (37, 1500),
    (2, 33000),
];

/// Every norm on every shape that it takes.
pub fn norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, c, s) in CHANNEL_SHAPES {
        let shape: &[usize] = if s == 1 { &[n, c] } else { &[n, c, s] };
        if n * s > 1 {
            cases.push(Case::new(BatchNormDescriptor::new(c), shape));
        }
        if s > 1 {
            let plain = InstanceNormDescriptor::new(c);
            let full = InstanceNormDescriptor { affine: true, track_running_stats: true, ..plain.clone() };
            cases.push(Case::new(if n % 2 == 0 { plain } else { full }, shape));
        }
        for groups in [1, c] {
            cases.push(Case::new(GroupNormDescriptor::new(groups, c), shape));
        }
    }
    cases.push(Case::new(GroupNormDescriptor::new(4, 12), &[3, 12, 5, 7]));
    cases.push(Case::new(GroupNormDescriptor::new(32, 64), &[2, 64, 8, 8]));
    // Groups that are split over workgroups: of few channels, of more than a workgroup has lanes, of small ones.
    for (groups, shape) in [(2, [3, 6, 3001]), (1, [2, 70, 41]), (1, [2, 300, 9])] {
        cases.push(Case::new(GroupNormDescriptor::new(groups, shape[1]), &shape));
    }
    cases.push(Case::new(BatchNormDescriptor::new(5), &[2, 5, 3, 4, 6]));
    // More than the longest leaves of all lanes of a workgroup.
    cases.push(Case::new(InstanceNormDescriptor::new(1), &[1, 1, 140_001]));
    let tracking = InstanceNormDescriptor { affine: true, track_running_stats: true, ..InstanceNormDescriptor::new(1) };
    cases.push(Case::new(tracking, &[5, 1, 37]));
    for (m, d) in ROW_SHAPES {
        cases.push(Case::new(LayerNormDescriptor::new(&[d]), &[m, d]));
        // Of rows of one element dx is what two equal numbers differ by; see `rows_of_one_element` in src/cpu.
        if (m, d) == (1, 1) || d > 1 {
            cases.push(Case::new(RmsNormDescriptor::new(&[d]), &[m, d]));
        }
    }
    cases.push(Case::new(LayerNormDescriptor::new(&[6, 7, 5]), &[2, 2, 6, 7, 5]));
    cases
}
