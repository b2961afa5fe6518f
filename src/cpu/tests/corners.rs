//! Numbers that are in nobody's noise: NaN, outliers, counts and pitches that differ.

use super::{Case, Kind, cases, elements, large, noise, run};
use crate::cpu::*;
use crate::*;
use fearless_simd::Level;

/// Whatever shares a vector, a strip or a task with it: other statistics' results have the bits they have without it.
#[test]
fn a_nan_stays_in_its_statistic() {
    for case in cases().into_iter().chain(large()).filter(|case| !case.running) {
        let tensor = TensorDescriptor { format: case.format, ..TensorDescriptor::new(&case.shape) };
        let stats = reference::statistics(&case.descriptor(), &tensor);
        let at = stats.len() / 2;
        let (clean, spoiled) = (
            run::<f32, f32>(&case, Level::new(), false),
            run::<f32, f32>(&Case { nan: Some(at), ..case }, Level::new(), false),
        );
        let check = |clean: &[f64], spoiled: &[f64], stat_of: &dyn Fn(usize) -> usize| {
            assert_eq!(clean.len(), spoiled.len());
            for (i, (clean, spoiled)) in clean.iter().zip(spoiled).enumerate() {
                let is_right = if stat_of(i) == stats[at] { spoiled.is_nan() } else { spoiled == clean };
                assert!(is_right, "{i}: {spoiled}, without {at} {clean}: {case:?}");
            }
        };
        check(&clean.y, &spoiled.y, &|i| stats[i]);
        if !case.fusion.relu {
            check(&clean.dx, &spoiled.dx, &|i| stats[i]);
        }
        if case.kind == Kind::Batch {
            check(&clean.dweight, &spoiled.dweight, &|i| i);
        }
    }
}

/// Moments are summed up about the mean of four spans of a row, and again about the mean where that was far away: here 64
/// elements, which are all that it sees, are 1e6 off. Of 192, 256 and 512 they move it by the root of 3, 4 and 8 deviations.
#[test]
fn a_pivot_may_be_an_outlier() {
    for len in [192, 256, 512] {
        let rows = 5;
        let mut x: Vec<f32> = elements(noise(9, rows * len));
        for span in x.chunks_exact_mut(16).step_by(len / 64) {
            span.iter_mut().for_each(|v| *v += 1e6);
        }
        let layer = LayerNormDescriptor { weight: false, bias: false, ..LayerNormDescriptor::new(&[len]) };
        let mut layer = Norm::new(layer).unwrap();
        let (mut y, shape) = (vec![f32::NAN; x.len()], [rows, len]);
        let io = Forward::new(&x, &mut y);
        let saved = layer.forward_train(&TensorDescriptor::new(&shape), Fusion::default(), io, Commit::Skip).unwrap();
        for ((row, mean), var) in x.chunks(len).zip(saved.mean()).zip(saved.var()) {
            let n = len as f64;
            let expected = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let expected_var = row.iter().map(|&v| (f64::from(v) - expected).powi(2)).sum::<f64>() / n;
            assert!((mean - expected).abs() <= 2e-7 * expected_var.sqrt(), "{len}: {mean}, not {expected}");
            assert!((f64::from(var) - expected_var).abs() <= 5e-7 * expected_var, "{len}: {var}, not {expected_var}");
        }
    }
}

/// What a group's members count may differ from channel to channel.
#[test]
fn each_channel_has_a_count_of_its_own() {
    let moments = [Moments::of(4, [0.5, 0.0, 6.0]), Moments::of(9, [-1.0, 0.0, 2.0])];
    let sums = [(4, 3.0, 1.0), (9, 0.5, -2.0)];
    let sums = sums.map(|(count, sum_dy, sum_dy_xhat)| GradientSums::new(count, sum_dy, sum_dy_xhat));
    let run = |channels: std::ops::Range<usize>, x: &[f32]| {
        let mut layer = Norm::new(BatchNormDescriptor::new(channels.len())).unwrap();
        let shape = [2, channels.len()];
        let (tensor, mut y, mut dx) = (TensorDescriptor::new(&shape), vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
        let (io, moments) = (Forward::new(x, &mut y), &moments[channels.clone()]);
        let saved = layer.forward_train_with(&tensor, Fusion::default(), io, moments, Commit::Skip).unwrap();
        let wanted = Backward { dx: Some(&mut dx), ..Backward::new(x, x) };
        layer.backward_with(saved, wanted, &sums[channels]).unwrap();
        [y, dx]
    };
    let both = run(0..2, &[1.0, -2.0, 3.0, 0.5]);
    for (channel, x) in [[1.0, 3.0], [-2.0, 0.5]].into_iter().enumerate() {
        let alone = run(channel..channel + 1, &x);
        for (both, alone) in both.iter().zip(&alone) {
            assert_eq!([both[channel], both[2 + channel]], alone[..], "channel {channel}");
        }
    }
}

/// Squares about a pivot that is far from the mean may be infinite where those about the mean are not.
#[test]
fn a_far_pivot_loses_no_finite_variance() {
    let largest = |k: usize| (k / 16).is_multiple_of(3);
    let x: Vec<f32> = (0..192).map(|k| if largest(k) { 1.9e18 } else { 0.0 }).collect();
    let mut y = vec![f32::NAN; 192];
    let mut layer = Norm::new(LayerNormDescriptor::new(&[192])).unwrap();
    let (tensor, io) = (TensorDescriptor::new(&[1, 192]), Forward::new(&x, &mut y));
    let _ = layer.forward_train(&tensor, Fusion::default(), io, Commit::Skip).unwrap();
    for (k, y) in y.iter().enumerate() {
        let expected = if largest(k) { 2f32.sqrt() } else { -0.5f32.sqrt() };
        assert!((y - expected).abs() < 1e-6, "{k}: {y}");
    }
}

/// Of a single sample there is no next.
#[test]
fn a_single_sample_has_any_pitch() {
    let layer = Norm::new(InstanceNormDescriptor::new(1)).unwrap();
    let x = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let run = |sample| {
        let mut y = [f32::NAN; 8];
        let pitches = ForwardPitches { x: Pitch { row: None, sample }, ..Default::default() };
        let io = Forward { pitches, ..Forward::new(&x, &mut y) };
        layer.forward_eval(&TensorDescriptor::new(&[1, 1, 8]), Fusion::default(), io).unwrap();
        y
    };
    let dense = run(None);
    assert_eq!([run(Some(8)), run(Some(1 << 40)), run(Some(u64::MAX))], [dense; 3]);
    // And the slice may go on, as that of more samples may.
    let (longer, mut y) = ([1.0f32; 40], [f32::NAN; 8]);
    let pitches = ForwardPitches { x: Pitch { row: None, sample: Some(12) }, ..Default::default() };
    let io = Forward { pitches, ..Forward::new(&longer, &mut y) };
    layer.forward_eval(&TensorDescriptor::new(&[1, 1, 8]), Fusion::default(), io).unwrap();
    assert_eq!(y, [0.0; 8]);
}
