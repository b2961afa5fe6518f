use super::*;
use crate::{
    BatchNormDescriptor, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor, Momentum, NonFinite,
    RmsNormDescriptor, Statistics,
};

fn batch(channels: usize) -> BatchNormDescriptor {
    BatchNormDescriptor { affine: false, ..BatchNormDescriptor::new(channels) }
}

fn instance(channels: usize) -> InstanceNormDescriptor {
    InstanceNormDescriptor { track_running_stats: true, ..InstanceNormDescriptor::new(channels) }
}

fn channels_last(shape: &[usize]) -> TensorDescriptor<'_> {
    TensorDescriptor { format: Format::ChannelsLast, ..TensorDescriptor::new(shape) }
}

#[track_caller]
fn assert_close(actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance, "[{i}]: {a} is not {e}\n{actual:?}\n{expected:?}");
    }
}

/// Who shares a statistic, by hand: x, then mean, then var.
#[test]
fn statistics_worked_by_hand() {
    let first = TensorDescriptor::new;
    let group = || GroupNormDescriptor { affine: false, ..GroupNormDescriptor::new(2, 4) };
    let layer = |shape: &[usize]| LayerNormDescriptor { weight: false, bias: false, ..LayerNormDescriptor::new(shape) };
    let rms = || RmsNormDescriptor { weight: false, ..RmsNormDescriptor::new(&[2]) };
    let x = [1.0, 3.0, 10.0, 30.0, 2.0, 6.0, 50.0, 90.0];
    type Row<'a> = (NormDescriptor, TensorDescriptor<'a>, &'a [f64], &'a [f64]);
    let table: &[Row] = &[
        // (N, C, L) = (2, 2, 2): channel 0 is 1 3 2 6, channel 1 is 10 30 50 90.
        (batch(2).into(), first(&[2, 2, 2]), &[3.0, 45.0], &[3.5, 875.0]),
        // (N, L, C) in memory: channel 0 is 1 10 2 50, channel 1 is 3 30 6 90.
        (batch(2).into(), channels_last(&[2, 2, 2]), &[15.75, 32.25], &[403.1875, 1221.1875]),
        (instance(2).into(), first(&[2, 2, 2]), &[2.0, 20.0, 4.0, 70.0], &[1.0, 100.0, 4.0, 400.0]),
        (instance(2).into(), channels_last(&[2, 2, 2]), &[5.5, 16.5, 26.0, 48.0], &[20.25, 182.25, 576.0, 1764.0]),
        // (1, 4, 2): groups are the halves.
        (group().into(), first(&[1, 4, 2]), &[11.0, 37.0], &[131.5, 1291.0]),
        // (1, 2, 4) in memory: groups are 1 3 2 6 and 10 30 50 90.
        (group().into(), channels_last(&[1, 4, 2]), &[3.0, 45.0], &[3.5, 875.0]),
        (layer(&[2]).into(), first(&[2, 2, 2]), &[2.0, 20.0, 4.0, 70.0], &[1.0, 100.0, 4.0, 400.0]),
        (layer(&[2, 2]).into(), first(&[2, 2, 2]), &[11.0, 37.0], &[131.5, 1291.0]),
        (rms().into(), first(&[2, 2, 2]), &[0.0; 4], &[5.0, 500.0, 20.0, 5300.0]),
    ];
    for (descriptor, tensor, mean, var) in table {
        let forward = forward(descriptor, tensor, &Inputs { x: &x, ..Default::default() }).unwrap();
        assert_close(&forward.mean, mean, 1e-12);
        assert_close(&forward.var, var, 1e-12);
        assert_eq!(forward.count as usize * mean.len(), x.len());
    }
}

#[test]
fn affine_residual_and_relu_worked_by_hand() {
    let descriptor = NormDescriptor::from(BatchNormDescriptor::new(1));
    let tensor = TensorDescriptor::new(&[2, 1]);
    let mut inputs = Inputs {
        x: &[4.0, 6.0],
        residual: Some(&[-1.0, 3.0]),
        weight: Some(&[2.0]),
        bias: Some(&[0.5]),
        running: None,
        fusion: Fusion { residual: Residual::After, relu: true },
    };
    // xhat is -1 and 1, but for eps.
    let y = |inputs: &Inputs| forward(&descriptor, &tensor, inputs).unwrap();
    assert_close(&y(&inputs).y, &[0.0, 5.5], 2e-5);
    inputs.fusion.relu = false;
    assert_close(&y(&inputs).y, &[-2.5, 5.5], 2e-5);
    assert_eq!(y(&inputs).sum, None);
    inputs.fusion.residual = Residual::Before; // 3 and 9: mean 6, variance 9
    assert_close(&y(&inputs).y, &[-1.5, 2.5], 2e-5);
    assert_eq!(y(&inputs).sum.unwrap(), [3.0, 9.0]);
    inputs.running = Some((&[1.0], &[4.0]));
    assert_close(&y(&inputs).y, &[2.5, 8.5], 2e-5);
    assert_eq!((y(&inputs).statistics, y(&inputs).count), (Statistics::Running, 2));
}

#[test]
fn relu_lets_nan_through_and_is_closed_at_zero() {
    let descriptor = NormDescriptor::from(batch(2));
    let tensor = TensorDescriptor::new(&[2, 2]);
    let fusion = Fusion { relu: true, ..Default::default() };
    let running: (&[f64], &[f64]) = (&[0.0, 0.0], &[1.0, 1.0]);
    let inputs = Inputs { x: &[0.0, f64::NAN, 1.0, -1.0], running: Some(running), fusion, ..Default::default() };
    let y = forward(&descriptor, &tensor, &inputs).unwrap().y;
    assert!(y[0] == 0.0 && y[1].is_nan() && y[2] > 0.9 && y[3] == 0.0, "{y:?}");
    let gradients = backward(&descriptor, &tensor, &inputs, &[1.0; 4], None).unwrap();
    assert_close(&gradients.dx, &[0.0, 1.0, 1.0, 0.0], 1e-5);
    assert_eq!(gradients.dbias, [1.0, 1.0]);
}

/// Splitmix64 to -1..1.
struct Random(u64);
impl Random {
    fn values(&mut self, n: usize) -> Vec<f64> {
        let next = || {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        std::iter::repeat_with(next).take(n).collect()
    }
}

/// The tensors of a gradient check, owned, so that one value can be moved.
#[derive(Clone)]
struct Owned {
    values: [Vec<f64>; 4],
    running: Option<(Vec<f64>, Vec<f64>)>,
    fusion: Fusion,
    affine: crate::Affine,
}

const X: usize = 0;
const RESIDUAL: usize = 1;
const WEIGHT: usize = 2;
const BIAS: usize = 3;

impl Owned {
    fn inputs(&self) -> Inputs<'_> {
        let [x, residual, weight, bias] = &self.values;
        Inputs {
            x,
            residual: (self.fusion.residual != Residual::None).then_some(residual),
            weight: self.affine.weight.then_some(weight),
            bias: self.affine.bias.then_some(bias),
            running: self.running.as_ref().map(|(mean, var)| (&mean[..], &var[..])),
            fusion: self.fusion,
        }
    }
}

#[test]
fn gradients_agree_with_central_differences() {
    let first = TensorDescriptor::new;
    let affine_instance = || InstanceNormDescriptor { affine: true, ..instance(4) };
    let group = || GroupNormDescriptor::new(2, 4);
    let table: &[(NormDescriptor, TensorDescriptor)] = &[
        (BatchNormDescriptor::new(4).into(), first(&[3, 4, 2])),
        (BatchNormDescriptor::new(4).into(), channels_last(&[3, 4, 2])),
        (batch(4).into(), first(&[3, 4])),
        (affine_instance().into(), first(&[2, 4, 3])),
        (affine_instance().into(), channels_last(&[2, 4, 3])),
        (instance(4).into(), first(&[2, 4, 3])),
        (group().into(), first(&[2, 4, 3])),
        (group().into(), channels_last(&[2, 4, 3])),
        (LayerNormDescriptor::new(&[4, 3]).into(), first(&[2, 4, 3])),
        (LayerNormDescriptor { bias: false, ..LayerNormDescriptor::new(&[3]) }.into(), first(&[2, 4, 3])),
        (RmsNormDescriptor::new(&[4, 3]).into(), first(&[2, 4, 3])),
        (RmsNormDescriptor { weight: false, ..RmsNormDescriptor::new(&[3]) }.into(), first(&[2, 4, 3])),
    ];
    let mut checks = 0;
    for (descriptor, tensor) in table {
        for residual in [Residual::None, Residual::After, Residual::Before] {
            for relu in [false, true] {
                check_gradients(descriptor, tensor, Fusion { residual, relu }, false);
                checks += 1;
                if descriptor.running_stats().is_some() {
                    check_gradients(descriptor, tensor, Fusion { residual, relu }, true);
                    checks += 1;
                }
            }
        }
    }
    assert_eq!(checks, 6 * (12 + 6));
}

fn check_gradients(descriptor: &NormDescriptor, tensor: &TensorDescriptor, fusion: Fusion, running: bool) {
    const STEP: f64 = 1e-5;
    let case = format!("{descriptor:?} {tensor:?} {fusion:?} running: {running}");
    let (n, affine_len) = (tensor.len().unwrap() as usize, descriptor.affine_len() as usize);
    let mut random = Random(7);
    let mut owned = Owned {
        values: [random.values(n), random.values(n), random.values(affine_len), random.values(affine_len)],
        running: running
            .then(|| (random.values(affine_len), random.values(affine_len).iter().map(|v| v * v + 0.5).collect())),
        fusion,
        affine: descriptor.affine(),
    };
    let (dy, dsum) = (random.values(n), random.values(n));
    let dsum = (fusion.residual == Residual::Before).then_some(&dsum[..]);
    let loss = |owned: &Owned| {
        let forward = forward(descriptor, tensor, &owned.inputs()).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(&forward.y, &dy) + dsum.map_or(0.0, |dsum| dot(&forward.sum.unwrap(), dsum))
    };

    // A step must not cross the ReLU's kink.
    let open = Owned { fusion: Fusion { relu: false, ..fusion }, ..owned.clone() };
    let pre_activation = forward(descriptor, tensor, &open.inputs()).unwrap().y;
    assert!(pre_activation.iter().all(|y| y.abs() > 10.0 * STEP), "{case}: change the seed");
    assert!(pre_activation.iter().any(|&y| y < 0.0) && pre_activation.iter().any(|&y| y > 0.0), "{case}");

    let gradients = backward(descriptor, tensor, &owned.inputs(), &dy, dsum).unwrap();
    let mut wanted = vec![(X, &gradients.dx)];
    match fusion.residual {
        Residual::None => {}
        Residual::After => wanted.push((RESIDUAL, gradients.dresidual.as_ref().unwrap())),
        Residual::Before => wanted.push((RESIDUAL, &gradients.dx)),
    }
    if owned.affine.weight {
        wanted.push((WEIGHT, &gradients.dweight));
    }
    if owned.affine.bias {
        wanted.push((BIAS, &gradients.dbias));
    }
    for (which, gradient) in wanted {
        assert_eq!(gradient.len(), owned.values[which].len(), "{case}");
        for (i, &analytic) in gradient.iter().enumerate() {
            let value = owned.values[which][i];
            owned.values[which][i] = value + STEP;
            let above = loss(&owned);
            owned.values[which][i] = value - STEP;
            let below = loss(&owned);
            owned.values[which][i] = value;
            let numeric = (above - below) / (2.0 * STEP);
            // The differences are coarse where rstd, and with it the third derivative, is large.
            let tolerance = 1e-6 * numeric.abs().max(1.0);
            assert!((analytic - numeric).abs() <= tolerance, "{case}\ntensor {which} [{i}]: {analytic} {numeric}");
        }
    }
    assert_eq!(gradients.dresidual.is_some(), fusion.residual == Residual::After);
}

#[test]
fn sums_of_dy_are_per_statistic() {
    let tensor = TensorDescriptor::new(&[2, 2, 2]);
    let x = [1.0, 3.0, 10.0, 30.0, 2.0, 6.0, 50.0, 90.0];
    let dy = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let inputs = Inputs { x: &x, ..Default::default() };
    let batch = backward(&batch(2).into(), &tensor, &inputs, &dy, None).unwrap();
    assert_eq!(batch.sum_dy, [14.0, 22.0]);
    assert_eq!((&batch.sum_dy, &batch.sum_dy_xhat), (&batch.dbias, &batch.dweight));
    let instance = backward(&instance(2).into(), &tensor, &inputs, &dy, None).unwrap();
    assert_eq!(instance.sum_dy, [3.0, 7.0, 11.0, 15.0]);
    assert_close(&instance.sum_dy_xhat, &[1.0; 4], 1e-5);
    assert_eq!(instance.dbias, [14.0, 22.0]);
}

/// One channel's history: descriptor, x of each step (two values an instance), then running mean and variance
/// from (1, 2), batches tracked and skipped.
#[test]
fn running_statistics_worked_by_hand() {
    let nan = f64::NAN;
    let exponential = |m| BatchNormDescriptor { momentum: Momentum::Exponential(m), ..batch(1) };
    let cumulative = || BatchNormDescriptor { momentum: Momentum::Cumulative, ..batch(1) };
    let poison = || BatchNormDescriptor { non_finite: NonFinite::Poison, ..exponential(0.5) };
    let instances = || InstanceNormDescriptor { momentum: Momentum::Exponential(0.5), ..instance(1) };
    type Row<'a> = (NormDescriptor, &'a [&'a [f64]], (f64, f64), (u32, u32));
    let table: &[Row] = &[
        // 1 3 has mean 2 and unbiased variance 2, 2 6 has 4 and 8.
        (exponential(0.5).into(), &[&[1.0, 3.0], &[2.0, 6.0]], (2.75, 5.0), (2, 0)),
        (exponential(0.0).into(), &[&[2.0, 6.0]], (1.0, 2.0), (1, 0)),
        (exponential(1.0).into(), &[&[2.0, 6.0]], (4.0, 8.0), (1, 0)),
        (cumulative().into(), &[&[1.0, 3.0], &[2.0, 6.0]], (3.0, 5.0), (2, 0)),
        // A skipped batch has no part in the average.
        (cumulative().into(), &[&[1.0, 3.0], &[nan, 6.0], &[2.0, 6.0]], (3.0, 5.0), (2, 1)),
        (exponential(0.5).into(), &[&[f64::INFINITY, 6.0]], (1.0, 2.0), (0, 1)),
        (poison().into(), &[&[1.0, 3.0], &[nan, 6.0]], (nan, nan), (2, 0)),
        // Two instances, averaged: mean 3, variance 5. As one batch of four it would be 3 and 14 / 3.
        (instances().into(), &[&[1.0, 3.0, 2.0, 6.0]], (2.0, 3.5), (1, 0)),
        (batch(1).into(), &[], (1.0, 2.0), (0, 0)),
    ];
    for (descriptor, steps, (mean, var), counts) in table {
        let (mut running_mean, mut running_var, mut tracked, mut skipped) = ([1.0], [2.0], [0], [0]);
        for x in *steps {
            let shape = [x.len() / 2, 1, 2];
            let inputs = Inputs { x, ..Default::default() };
            let pass = forward(descriptor, &TensorDescriptor::new(&shape), &inputs).unwrap();
            update_running(descriptor, &mut running_mean, &mut running_var, &mut tracked, &mut skipped, &pass).unwrap();
        }
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
        assert!(same(running_mean[0], *mean), "{descriptor:?} {steps:?}: {running_mean:?}");
        assert!(same(running_var[0], *var), "{descriptor:?} {steps:?}: {running_var:?}");
        assert_eq!((tracked[0], skipped[0]), *counts, "{descriptor:?} {steps:?}");
    }
}

#[test]
fn counters_stay_at_their_end() {
    let descriptor = BatchNormDescriptor { momentum: Momentum::Cumulative, ..batch(1) }.into();
    let mut all = Vec::new();
    for x in [[1.0, 3.0], [f64::NAN, 3.0]] {
        let inputs = Inputs { x: &x, ..Default::default() };
        let pass = forward(&descriptor, &TensorDescriptor::new(&[2, 1]), &inputs).unwrap();
        let (mut mean, mut var, mut tracked, mut skipped) = ([0.5], [1.0], [u32::MAX], [u32::MAX]);
        update_running(&descriptor, &mut mean, &mut var, &mut tracked, &mut skipped, &pass).unwrap();
        all.push((tracked[0], skipped[0], (mean[0] - 0.5).abs() < 1e-8));
    }
    assert_eq!(all, [(u32::MAX, u32::MAX, true); 2]);
}

#[test]
fn only_the_channel_that_is_not_finite_is_skipped() {
    let descriptor = NormDescriptor::from(BatchNormDescriptor { momentum: Momentum::Exponential(1.0), ..batch(2) });
    let x = [1.0, f64::NAN, 3.0, 5.0];
    let pass = forward(&descriptor, &TensorDescriptor::new(&[2, 2]), &Inputs { x: &x, ..Default::default() }).unwrap();
    let (mut mean, mut var, mut tracked, mut skipped) = ([0.0; 2], [1.0; 2], [0; 2], [0; 2]);
    update_running(&descriptor, &mut mean, &mut var, &mut tracked, &mut skipped, &pass).unwrap();
    assert_eq!((mean, var, tracked, skipped), ([2.0, 0.0], [2.0, 1.0], [1, 0], [0, 1]));
}

#[test]
fn bad_input_is_a_typed_error() {
    let tensor = TensorDescriptor::new(&[2, 2]);
    let plain = NormDescriptor::from(batch(2));
    let affine = NormDescriptor::from(BatchNormDescriptor::new(2));
    let layer =
        NormDescriptor::from(LayerNormDescriptor { weight: false, bias: false, ..LayerNormDescriptor::new(&[2]) });
    let two: &[f64] = &[1.0, 2.0];
    let good = Inputs { x: &[1.0, 2.0, 3.0, 4.0], ..Default::default() };
    let after = Fusion { residual: Residual::After, relu: false };
    let unit = NormDescriptor::from(batch(1));
    type Row<'a> = (&'a NormDescriptor, &'a [usize], Inputs<'a>, fn(&Error) -> bool);
    let table: &[Row] = &[
        (&plain, &[2, 2], Inputs { x: two, ..good }, |e| matches!(e, Error::Length { name: "x", actual: 2, .. })),
        (&plain, &[2, 3], good, |e| matches!(e, Error::Axis { .. })),
        (&plain, &[4], good, |e| matches!(e, Error::Rank { .. })),
        (&plain, &[0, 2], Inputs { x: &[], ..good }, |e| matches!(e, Error::Empty { .. })),
        (&plain, &[1, 2], Inputs { x: two, ..good }, |e| matches!(e, Error::TooFewValues { count: 1, .. })),
        (&unit, &[1, 1], Inputs { x: &[1.0], ..good }, |e| matches!(e, Error::TooFewValues { count: 1, .. })),
        (&plain, &[2, 2], Inputs { weight: Some(two), ..good }, |e| {
            matches!(e, Error::Unexpected { name: "weight", .. })
        }),
        (&plain, &[2, 2], Inputs { bias: Some(two), ..good }, |e| matches!(e, Error::Unexpected { name: "bias", .. })),
        (&affine, &[2, 2], Inputs { bias: Some(two), ..good }, |e| matches!(e, Error::Missing { name: "weight", .. })),
        (&affine, &[2, 2], Inputs { weight: Some(two), ..good }, |e| matches!(e, Error::Missing { name: "bias", .. })),
        (&plain, &[2, 2], Inputs { residual: Some(two), ..good }, |e| {
            matches!(e, Error::Unexpected { name: "residual", .. })
        }),
        (&plain, &[2, 2], Inputs { fusion: after, ..good }, |e| matches!(e, Error::Missing { name: "residual", .. })),
        (&plain, &[2, 2], Inputs { fusion: after, residual: Some(two), ..good }, |e| {
            matches!(e, Error::Length { name: "residual", .. })
        }),
        (&layer, &[2, 2], Inputs { running: Some((two, two)), ..good }, |e| {
            matches!(e, Error::Unexpected { name: "running", .. })
        }),
        (&plain, &[2, 2], Inputs { running: Some((two, &two[..1])), ..good }, |e| {
            matches!(e, Error::Length { name: "running variance", .. })
        }),
    ];
    for (descriptor, shape, inputs, expected) in table {
        let tensor = TensorDescriptor::new(shape);
        let error = forward(descriptor, &tensor, inputs).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert_eq!(backward(descriptor, &tensor, inputs, inputs.x, None).unwrap_err(), error);
    }
    // One value an instance, but more than one a channel.
    let instances = NormDescriptor::from(instance(2));
    assert!(matches!(forward(&instances, &tensor, &good), Err(Error::TooFewValues { count: 1, .. })));
    assert!(matches!(backward(&plain, &tensor, &good, two, None), Err(Error::Length { name: "dy", .. })));
    assert!(matches!(
        backward(&plain, &tensor, &good, good.x, Some(good.x)),
        Err(Error::Unexpected { name: "dsum", .. })
    ));
}

#[test]
fn running_statistics_are_left_alone_by_what_does_not_fit() {
    let tensor = TensorDescriptor::new(&[2, 2]);
    let inputs = Inputs { x: &[1.0, 2.0, 3.0, 4.0], ..Default::default() };
    let tracked = NormDescriptor::from(batch(2));
    let untracked = NormDescriptor::from(BatchNormDescriptor { track_running_stats: false, ..batch(2) });
    let pass = forward(&tracked, &tensor, &inputs).unwrap();
    let running: (&[f64], &[f64]) = (&[0.0; 2], &[1.0; 2]);
    let evaluation = forward(&tracked, &tensor, &Inputs { running: Some(running), ..inputs }).unwrap();
    let update = |descriptor: &NormDescriptor, channels: usize, pass: &Forward| {
        let (mut mean, mut var) = (vec![0.0; channels], vec![1.0; channels]);
        let (mut tracked, mut skipped) = (vec![0; channels], vec![0; channels]);
        let result = update_running(descriptor, &mut mean, &mut var, &mut tracked, &mut skipped, pass);
        assert!(result.is_ok() || (mean.iter().all(|&m| m == 0.0) && tracked.iter().all(|&t| t == 0)));
        result
    };
    assert_eq!(update(&tracked, 2, &pass), Ok(()));
    assert!(matches!(update(&untracked, 2, &pass), Err(Error::Unexpected { name: "running", .. })));
    assert!(matches!(update(&tracked, 2, &evaluation), Err(Error::Unexpected { name: "forward", .. })));
    assert!(matches!(update(&tracked, 3, &pass), Err(Error::Length { name: "running mean", .. })));
    let wider = NormDescriptor::from(batch(3));
    assert!(matches!(update(&wider, 3, &pass), Err(Error::Length { name: "the mean of the pass", .. })));
}
