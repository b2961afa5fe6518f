//! Inputs for which every number on the way is exact in `f32`, so that results must match to the bit: a wrong
//! index, a wrong count or a lost term cannot hide in a tolerance. After oneDNN's benchdnn.
//!
//! The elements of a statistic are m - 3, m - 1, m + 1 and m + 3 in equal numbers, with m an integer: the mean is
//! m, the variance 5. With eps = 11 the root is that of 16, and xhat is a multiple of 1/4. Neighbours lie at equal
//! distances on both sides of m, so that any even part of the elements has the same mean. Weights and biases are
//! multiples of 1/2, gradients integers.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;

use cases::{Case, Data, Inputs, compare, last, narrow, noise, round, run, wide};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Element, Format, Fusion, Gradients, GroupNormDescriptor,
    InstanceNormDescriptor, LayerNormDescriptor, Momentum, NormDescriptor, Residual, RmsNormDescriptor, Running, State,
    Statistics, TensorDescriptor, host, layout::Layout,
};

const EPS: f32 = 11.0;

/// Integers from -3 to 3.
fn integers(seed: u64, len: usize) -> Vec<f64> {
    noise(seed, len, 0.0, 2.0).into_iter().map(f64::round).collect()
}

/// Means that every element type has, and three beside them on either side.
fn mean(case: &Case, i: u64) -> f64 {
    if !case.descriptor.is_centred() {
        return 0.0;
    }
    let far = match case.input {
        DType::F32 => 1e6,
        DType::F16 => 1000.0,
        DType::BF16 => 100.0,
    };
    [0.0, far, 7.0, -far / 2.0][i as usize % 4]
}

/// Whether dx is exact for any dy: the projection divides by the count.
fn exact_projection(case: &Case, layout: &Layout) -> bool {
    case.statistics == Statistics::Running || (layout.stats.count().is_power_of_two() && case.input == DType::F32)
}

fn inputs(case: &Case) -> Inputs {
    let layout = case.descriptor.layout(&case.tensor()).unwrap();
    let len = layout.elements as usize;
    let features = case.descriptor.affine_len() as usize;
    let walk = layout.stats;
    let (mut x, mut dy) = (vec![f64::NAN; len], integers(7, len));
    let (signs, factors) = (noise(1, len, 0.0, 1.0), integers(2, len));
    assert_eq!(walk.count() % 4, 0, "{}", case.name());
    let mut quads = 0..;
    for target in 0..walk.targets() {
        // Given statistics belong to channels, so their means have to.
        let mean = mean(case, target % walk.inner);
        let mut quad = 0;
        for q in 0..walk.count() {
            if q % 4 == 0 {
                quad = quads.next().unwrap();
            }
            let at = walk.offset(target, q / walk.len, q % walk.len) as usize;
            let distance = [1.0, -1.0, 3.0, -3.0][q as usize % 4] * signs[quad].signum();
            x[at] = mean + distance;
            if !exact_projection(case, &layout) {
                // Orthogonal to 1 and to xhat: nothing to divide.
                dy[at] = [1.0, 1.0, -1.0, -1.0][q as usize % 4] * factors[quad];
            }
        }
    }
    let residual = case.has_residual().then(|| integers(3, len));
    if let Some(residual) = residual.as_ref().filter(|_| case.has_sum()) {
        // The sum is what is normalised.
        x.iter_mut().zip(residual).for_each(|(x, residual)| *x -= residual);
    }
    let affine = case.descriptor.affine();
    let means = (0..features).map(|i| mean(case, i as u64)).collect();
    // Four neighbours share a weight, so that dy * weight is as orthogonal as dy.
    let weights = (0..features).map(|i| [1.0, -2.0, 0.5, 3.0, 1.5][i / 4 % 5]).collect();
    let given = case.statistics == Statistics::Running;
    Inputs {
        x,
        residual,
        dy,
        dsum: case.has_sum().then(|| integers(4, len)),
        state: State {
            weight: affine.weight.then(|| narrow(weights)),
            bias: affine.bias.then(|| narrow(integers(5, features).into_iter().map(|b| b / 2.0).collect())),
            running: case.descriptor.running_stats().map(|_| Running {
                running_mean: narrow(if given { means } else { integers(6, features) }),
                running_var: vec![if given { 5.0 } else { 2.0 }; features],
                tracked: vec![0; features],
                skipped: vec![0; features],
            }),
        },
    }
}

/// The momentum is 1, as n / (n - 1) is not exact and must not be rounded twice.
fn batch(shape: &[usize]) -> Case {
    let d = BatchNormDescriptor::new(shape[1]);
    Case::new(BatchNormDescriptor { eps: EPS, momentum: Momentum::Exponential(1.0), ..d }, shape)
}

fn group(groups: usize, shape: &[usize]) -> Case {
    Case::new(GroupNormDescriptor { eps: EPS, ..GroupNormDescriptor::new(groups, shape[1]) }, shape)
}

fn instance(shape: &[usize]) -> Case {
    let d = InstanceNormDescriptor { affine: true, ..InstanceNormDescriptor::new(shape[1]) };
    Case::new(InstanceNormDescriptor { eps: EPS, ..d }, shape)
}

fn layer(shape: &[usize]) -> Case {
    Case::new(LayerNormDescriptor { eps: EPS, ..LayerNormDescriptor::new(&shape[1..]) }, shape)
}

fn rms(shape: &[usize]) -> Case {
    Case::new(RmsNormDescriptor { eps: EPS, ..RmsNormDescriptor::new(&shape[1..]) }, shape)
}

fn norms() -> Vec<Case> {
    vec![
        batch(&[32, 16]),
        batch(&[44, 5]),
        batch(&[4, 3, 64]),
        batch(&[2, 3, 98]),
        batch(&[4, 3, 10, 10]),
        batch(&[8, 2, 32, 32]),
        batch(&[2, 2, 4100]),
        last(batch(&[8, 8, 4, 4])),
        last(batch(&[4, 5, 6, 2])),
        last(batch(&[2, 33, 16, 16])),
        group(4, &[2, 16, 8]),
        group(3, &[2, 6, 10, 4]),
        group(1, &[3, 4, 1024]),
        group(2, &[2, 8, 1024]),
        last(group(4, &[2, 16, 4, 4])),
        instance(&[2, 3, 64]),
        instance(&[3, 5, 100]),
        instance(&[2, 2, 8192]),
        last(instance(&[2, 7, 8, 8])),
        layer(&[4, 64]),
        layer(&[3, 100]),
        layer(&[2, 4, 1024]),
        layer(&[5, 4100]),
        layer(&[130, 64]),
        layer(&[300, 512]),
        layer(&[130, 2052]),
        rms(&[4, 64]),
        rms(&[3, 100]),
        rms(&[2, 8192]),
        rms(&[70, 4100]),
    ]
}

fn fusions() -> Vec<Case> {
    let mut cases = Vec::new();
    for case in [batch(&[2, 2, 4096]), last(batch(&[8, 8, 4, 4])), layer(&[4, 64])] {
        for residual in [Residual::None, Residual::After, Residual::Before] {
            for relu in [false, true] {
                cases.push(Case { fusion: Fusion { residual, relu }, ..case.clone() });
            }
        }
    }
    cases
}

fn running_statistics() -> Vec<Case> {
    let fusion = Fusion { residual: Residual::After, relu: true };
    [batch(&[3, 5, 12]), batch(&[4, 33]), last(batch(&[2, 8, 4, 4])), batch(&[2, 2, 4100])]
        .into_iter()
        .map(|case| Case { statistics: Statistics::Running, fusion, ..case })
        .collect()
}

fn element_types() -> Vec<Case> {
    let pairs =
        [(DType::F16, DType::F16), (DType::BF16, DType::BF16), (DType::F16, DType::F32), (DType::BF16, DType::F16)];
    let norms = [batch(&[4, 3, 10, 10]), last(batch(&[4, 5, 6, 2])), group(3, &[2, 6, 10, 4]), layer(&[3, 100])];
    pairs
        .into_iter()
        .flat_map(|(input, output)| norms.iter().map(move |case| Case { input, output, ..case.clone() }))
        .collect()
}

fn check(name: &str, backend: &host::Backend, cases: &[Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        let data = Data::of(case, inputs(case));
        let exact = |what, dtype, values: &[f64]| {
            assert_eq!(round(dtype, values.to_vec()), values, "{}: {what} is not exact", case.name());
        };
        exact("y", case.output, &data.forward.y);
        exact("dx", case.input, &data.backward.dx);
        exact("dweight", DType::F32, &data.backward.dweight);
        exact("dbias", DType::F32, &data.backward.dbias);
        assert!(data.forward.rstd.iter().all(|&rstd| rstd == 0.25), "{}: {:?}", case.name(), data.forward.rstd);
        match run(backend, case, &data) {
            Err(error) => wrong.push(format!("{}: {error}", case.name())),
            Ok(results) => {
                wrong.extend(compare(case, &data, &results, 0.0).iter().map(|f| format!("{}: {f}", case.name())));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}: {} results are off:\n{}", wrong.len(), wrong.join("\n"));
}

backends::implementations!(norms, fusions, running_statistics, element_types);

/// A number that is not finite, in a frozen layer: dx has it where dy has it, and nowhere else, whatever else is wanted.
fn frozen(name: &str, backend: &host::Backend) {
    let shape = [3, 2, 5000];
    let tensor = TensorDescriptor::new(&shape);
    let x = vec![1.0f32; 3 * 2 * 5000];
    let mut dy = x.clone();
    dy[123] = f32::INFINITY;
    let norm = host::Norm::new(backend, BatchNormDescriptor { eps: 3.0, ..BatchNormDescriptor::new(2) }).unwrap();
    for affine in [false, true] {
        let wanted = Gradients { dx: true, dresidual: false, affine };
        let dx = pollster::block_on(async {
            let frozen = norm.forward_frozen::<f32, f32>(&tensor, Fusion::default(), &x, None);
            let (_, saved) = frozen.await.unwrap();
            norm.backward(saved, host::Backward::new(&x, &dy), wanted).await.unwrap().dx.unwrap()
        });
        // running_var is 1.
        assert!(dx.iter().zip(&dy).all(|(dx, dy)| *dx == dy * 0.5), "{name}, dweight {affine}: {:?}", &dx[120..126]);
    }
}

#[test]
fn frozen_layers_project_nothing() {
    backends::everywhere(frozen);
}

/// A ReLU lets NaN through, forward and back, as PyTorch's does; it is closed at 0.
fn nan_through_relu(name: &str, backend: &host::Backend) {
    let (first, last) = (Format::ChannelsFirst, Format::ChannelsLast);
    for (shape, format) in [([3, 2, 5000], first), ([3, 6, 5], first), ([5, 36, 7], last), ([5, 3, 40], last)] {
        let (len, tensor) = (shape.iter().product(), TensorDescriptor { format, ..TensorDescriptor::new(&shape) });
        let x: Vec<f32> = (0..len).map(|i| [2.0, f32::NAN, 0.0, -2.0, -0.0][i % 5]).collect();
        let dy: Vec<f32> = (0..len).map(|i| (i % 7) as f32).collect();
        let descriptor = BatchNormDescriptor { eps: 3.0, ..BatchNormDescriptor::new(shape[1]) };
        let norm = host::Norm::new(backend, descriptor).unwrap();
        let wanted = Gradients { dx: true, dresidual: false, affine: true };
        let (y, gradients) = pollster::block_on(async {
            let fusion = Fusion { relu: true, ..Fusion::default() };
            let frozen = norm.forward_frozen::<f32, f32>(&tensor, fusion, &x, None);
            let (output, saved) = frozen.await.unwrap();
            let gradients = norm.backward(saved, host::Backward::new(&x, &dy), wanted).await.unwrap();
            (output.y, gradients)
        });
        let (dx, dbias) = (gradients.dx.unwrap(), gradients.dbias.unwrap());
        let mut expected_dbias = vec![0.0; shape[1]];
        for i in 0..len {
            let is_open = x[i].is_nan() || x[i] > 0.0;
            // running_var is 1.
            let (expected_y, expected_dx) = if is_open { (x[i] / 2.0, dy[i] / 2.0) } else { (0.0, 0.0) };
            assert!(y[i] == expected_y || (y[i].is_nan() && expected_y.is_nan()), "{name}: y of {} is {}", x[i], y[i]);
            assert!(dx[i] == expected_dx, "{name} {format:?}: dx of {} is {}, dy {}", x[i], dx[i], dy[i]);
            let channel = if format == Format::ChannelsLast { i % shape[1] } else { i / shape[2] % shape[1] };
            expected_dbias[channel] += if is_open { dy[i] } else { 0.0 };
        }
        assert_eq!(dbias, expected_dbias, "{name} {format:?}");
    }
}

#[test]
fn relu_lets_nan_through() {
    backends::everywhere(nan_through_relu);
}

/// The same of a NaN in the residual, which statistics do not depend on.
fn nan_of_residual<T: Element>(name: &str, backend: &host::Backend) {
    let (first, last) = (Format::ChannelsFirst, Format::ChannelsLast);
    let numbers = |len: usize, f: &dyn Fn(usize) -> f32| (0..len).map(|i| T::from_f32(f(i))).collect::<Vec<T>>();
    for (shape, format) in [([4, 2, 5000], first), ([4, 6, 5], first), ([4, 36, 7], last), ([4, 3, 40], last)] {
        let len: usize = shape.iter().product();
        let tensor = TensorDescriptor { dtype: T::DTYPE, format, ..TensorDescriptor::new(&shape) };
        // Of samples in turn: the mean is 0, the variance 1, and 1/std a half.
        let x = numbers(len, &|i| [1.0, -1.0][i / (len / 4) % 2]);
        let residual = numbers(len, &|i| [2.0, f32::NAN, 0.5, -2.0, 0.0][i % 5]);
        let dy = numbers(len, &|i| (i % 7) as f32);
        let fusion = Fusion { residual: Residual::After, relu: true };
        let descriptor = BatchNormDescriptor { eps: 3.0, ..BatchNormDescriptor::new(shape[1]) };
        let mut norm = host::Norm::new(backend, descriptor).unwrap();
        for trains in [false, true] {
            let (y, dresidual) = pollster::block_on(async {
                let (output, saved) = if trains {
                    norm.forward_train::<T, T>(&tensor, fusion, &x, Some(&residual), Commit::Skip).await.unwrap()
                } else {
                    norm.forward_frozen::<T, T>(&tensor, fusion, &x, Some(&residual)).await.unwrap()
                };
                let io = host::Backward { residual: Some(&residual), ..host::Backward::new(&x, &dy) };
                let wanted = Gradients { dx: true, dresidual: true, affine: true };
                (output.y, norm.backward(saved, io, wanted).await.unwrap().dresidual.unwrap())
            });
            for i in 0..len {
                let [x, residual, dy] = [x[i], residual[i], dy[i]].map(T::to_f32);
                let sum = 0.5 * x + residual;
                let (expected_y, expected) = if sum <= 0.0 { (0.0, 0.0) } else { (sum, dy) };
                let (y, dresidual) = (y[i].to_f32(), dresidual[i].to_f32());
                let case = format!("{name} {shape:?} {format:?} {:?}, training {trains}: x {x} + {residual}", T::DTYPE);
                assert!(y == expected_y || (y.is_nan() && sum.is_nan()), "{case}: y is {y}");
                assert!(dresidual == expected, "{case}: dresidual is {dresidual}, dy {dy}");
            }
        }
    }
}

#[test]
fn relu_lets_nan_of_a_residual_through() {
    backends::everywhere(|name, backend| {
        nan_of_residual::<f32>(name, backend);
        nan_of_residual::<half::f16>(name, backend);
        nan_of_residual::<half::bf16>(name, backend);
    });
}

/// The running mean of one channel of instance norm after one batch, whose average it takes over.
fn running_mean(backend: &host::Backend, shape: [usize; 3], x: &[f32]) -> f32 {
    let momentum = Momentum::Exponential(1.0);
    let descriptor = InstanceNormDescriptor { track_running_stats: true, momentum, ..InstanceNormDescriptor::new(1) };
    let mut norm = host::Norm::new(backend, descriptor).unwrap();
    let tensor = TensorDescriptor::new(&shape);
    let state = pollster::block_on(async {
        let pass = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), x, None, Commit::Update);
        let _ = pass.await.unwrap();
        norm.state().await.unwrap()
    });
    state.running.unwrap().running_mean[0]
}

/// Many samples of one mean: no sum grows with the batch.
fn many_samples(name: &str, backend: &host::Backend) {
    let x: Vec<f32> = (0..4096).flat_map(|_| [-1.9, 0.1, 0.1, 2.1]).collect();
    let mean = running_mean(backend, [4096, 1, 4], &x);
    assert!((mean - 0.1).abs() < 5e-8, "{name}: {mean}");
}

/// And of means that differ: what is rounded off an average is not lost, sample for sample.
fn many_means(name: &str, backend: &host::Backend) {
    let means = integers(8, 5000).into_iter().map(|i| 3.0 + i / 7.0);
    let x: Vec<f32> = means.flat_map(|mean| [mean - 1.0, mean + 1.0]).map(|x| x as f32).collect();
    let expected = wide(&x).iter().sum::<f64>() / x.len() as f64;
    let mean = running_mean(backend, [5000, 1, 2], &x);
    let error = (f64::from(mean) - expected).abs();
    assert!(error <= f64::from(f32::EPSILON) * expected, "{name}: {mean}, not {expected}");
}

#[test]
fn running_statistics_of_many_samples() {
    backends::everywhere(many_samples);
    backends::everywhere(many_means);
}

/// A NaN in training: all of its statistic's results, and nobody else's, whoever shares a load, a workgroup or a merge.
fn nan_in_one_statistic(name: &str, backend: &host::Backend) {
    let (first, last) = (Format::ChannelsFirst, Format::ChannelsLast);
    let channel = |shape: [usize; 3], format, i: usize| match format {
        Format::ChannelsFirst => i / shape[2] % shape[1],
        Format::ChannelsLast => i % shape[1],
    };
    let batch = |c| NormDescriptor::from(BatchNormDescriptor::new(c));
    let group = |c| NormDescriptor::from(GroupNormDescriptor::new(2, c));
    let cases = [
        (batch(6), [3, 6, 5], first),
        (batch(2), [3, 2, 5000], first),
        (batch(36), [5, 36, 7], last),
        (batch(5), [5, 5, 70], last),
        (batch(70), [40, 70, 1], first),
        (group(6), [3, 6, 35], first),
        (group(12), [2, 12, 700], last),
        (LayerNormDescriptor::new(&[70]).into(), [40, 1, 70], first),
        (LayerNormDescriptor::new(&[5000]).into(), [3, 1, 5000], first),
    ];
    for (descriptor, shape, format) in cases {
        let len: usize = shape.iter().product();
        let statistic = |i: usize| match &descriptor {
            NormDescriptor::Batch(_) => channel(shape, format, i),
            NormDescriptor::Group(_) => i / (shape[1] * shape[2]) * 2 + channel(shape, format, i) / (shape[1] / 2),
            _ => i / shape[2],
        };
        let tensor = TensorDescriptor { format, ..TensorDescriptor::new(&shape) };
        let mut x: Vec<f32> = (0..len).map(|i| (i * 37 % 101) as f32 / 50.0).collect();
        let dy: Vec<f32> = (0..len).map(|i| (i % 7) as f32).collect();
        let train = |x: &[f32]| {
            let mut norm = host::Norm::new(backend, descriptor.clone()).unwrap();
            let wanted = Gradients { dx: true, dresidual: false, affine: false };
            pollster::block_on(async {
                let pass = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), x, None, Commit::Skip);
                let (output, saved) = pass.await.unwrap();
                [output.y, norm.backward(saved, host::Backward::new(x, &dy), wanted).await.unwrap().dx.unwrap()]
            })
        };
        let clean = train(&x);
        let at = len / 2;
        x[at] = f32::NAN;
        for (what, (spoiled, clean)) in ["y", "dx"].into_iter().zip(train(&x).iter().zip(&clean)) {
            for (i, (spoiled, clean)) in spoiled.iter().zip(clean).enumerate() {
                let is_right = if statistic(i) == statistic(at) { spoiled.is_nan() } else { spoiled == clean };
                assert!(is_right, "{name}: {descriptor:?} {shape:?} {format:?}: {what}[{i}] is {spoiled}, was {clean}");
            }
        }
    }
}

#[test]
fn a_nan_stays_in_its_statistic() {
    backends::everywhere(nan_in_one_statistic);
}

/// 1/std is the nearest float or its neighbour.
fn inverse_std(name: &str, backend: &host::Backend) {
    const ROWS: usize = 2000;
    let descriptor = LayerNormDescriptor { eps: 1e-3, ..LayerNormDescriptor::new(&[8]) };
    let noise = narrow(noise(9, ROWS * 8, 0.0, 1.0));
    // Standard deviations from 2e-3 to 2e4.
    let x: Vec<f32> = noise.iter().enumerate().map(|(i, v)| v * ((i / 8) as f32 / 125.0 - 6.0).exp()).collect();
    let mut norm = host::Norm::new(backend, descriptor).unwrap();
    let tensor = TensorDescriptor::new(&[ROWS, 8]);
    let statistics = pollster::block_on(async {
        let pass = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Skip);
        let (_, saved) = pass.await.unwrap();
        norm.statistics(&saved).await.unwrap()
    });
    assert_eq!(statistics.len(), ROWS);
    for host::Statistic { var, rstd, .. } in statistics {
        let nearest = (1.0 / f64::from(var as f32 + 1e-3).sqrt()) as f32;
        let off = (rstd as f32).to_bits().abs_diff(nearest.to_bits());
        assert!(off <= 1, "{name}: {rstd} of variance {var} is {off} units off");
    }
}

#[test]
fn inverse_standard_deviations() {
    backends::everywhere(inverse_std);
}
