//! How something is timed: op and copy in turns, so that both see the same machine.

use super::cases::{Call, Case};
use super::data::Data;
use std::time::{Duration, Instant};
use wgpu_norm::{DType, Error};

/// A case that is ready to run on a device.
pub trait Runner {
    /// Ways to copy one of the case's tensors, by what they are called.
    fn copies(&self) -> Vec<String>;
    /// Seconds of a copy in one of these ways.
    fn copy(&mut self, way: usize) -> Result<f64, Error>;
    /// Seconds of the call.
    fn run(&mut self) -> Result<f64, Error>;
    /// What the call wrote.
    fn output(&mut self) -> Result<Vec<f32>, Error>;
    /// Gradients of weight and bias that a backward pass wrote.
    fn affine_gradients(&mut self) -> Result<[Vec<f32>; 2], Error>;
    /// What seconds are measured with.
    fn clock(&self) -> &'static str;
    /// The documented bound of errors, for `f32`.
    fn tolerance(&self) -> f64;
}

/// Medians.
#[derive(Clone, Debug)]
pub struct Measured {
    pub seconds: f64,
    pub copy_seconds: f64,
    /// Of each run over the copy of its round.
    pub ratio: f64,
    /// The way to copy that was the fastest.
    pub copy: String,
    /// The run's time over that of every way to copy.
    pub ratios: Vec<(String, f64)>,
}

/// Runs and copies for about so long. A call is compared with the best that this device is seen to do, so every round
/// has a copy of each kind.
pub fn measure(runner: &mut dyn Runner, budget: Duration) -> Result<Measured, Error> {
    let ways = runner.copies();
    let mut runs = Vec::new();
    let mut copies = vec![Vec::new(); ways.len()];
    // Each after one of its kind (a backward pass after its forward pass): what the caches hold of the output makes a
    // difference of a third.
    let round = |runner: &mut dyn Runner| -> Result<(Vec<f64>, f64), Error> {
        let copies = (0..ways.len()).map(|way| runner.copy(way).and(runner.copy(way))).collect::<Result<_, _>>()?;
        Ok((copies, runner.run().and(runner.run())?))
    };
    round(runner)?;
    let start = Instant::now();
    while runs.len() < 5 || (start.elapsed() < budget && runs.len() < 1001) {
        let (of_round, run) = round(runner)?;
        copies.iter_mut().zip(of_round).for_each(|(copies, seconds)| copies.push(seconds));
        runs.push(run);
    }
    let over = |copies: &[f64]| median(&mut runs.iter().zip(copies).map(|(run, copy)| run / copy).collect::<Vec<_>>());
    let ratios: Vec<f64> = copies.iter().map(|copies| over(copies)).collect();
    let seconds: Vec<f64> = copies.iter_mut().map(|copies| median(copies)).collect();
    let best = (0..ways.len()).min_by(|&a, &b| seconds[a].total_cmp(&seconds[b])).unwrap_or(0);
    Ok(Measured {
        seconds: median(&mut runs),
        copy_seconds: seconds[best],
        ratio: ratios[best],
        copy: ways[best].clone(),
        ratios: ways.into_iter().zip(ratios).collect(),
    })
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The largest error of a case's result, in units of its tolerance. Above 1 is wrong.
pub fn check(runner: &mut dyn Runner, case: &Case, data: &Data) -> Result<f64, Error> {
    runner.run()?;
    let expected = data.expected(case)?;
    let half_ulp = if case.dtype == DType::F32 { 0.0 } else { case.dtype.epsilon() / 2.0 };
    let base = runner.tolerance();
    let mut results = vec![(runner.output()?, &expected.output, base + half_ulp)];
    if case.call == Call::Backward {
        let affine = case.norm.affine();
        let gradients = runner.affine_gradients()?.into_iter().zip([&expected.dweight, &expected.dbias]);
        let wanted = gradients.zip([affine.weight, affine.bias]).filter(|(_, wanted)| *wanted);
        results.extend(wanted.map(|((actual, expected), _)| (actual, expected, 4.0 * base)));
    }
    let of_each = results.iter().map(|(actual, expected, tolerance)| error(actual, expected) / tolerance);
    Ok(largest(of_each))
}

/// The largest error, relative to the largest number. A batch that repeats itself has a result that does.
fn error(actual: &[f32], expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(1.0, |scale: f64, e| scale.max(e.abs()));
    largest(actual.iter().zip(expected.iter().cycle()).map(|(&a, e)| (f64::from(a) - e).abs() / scale))
}

/// Of absolute numbers. In their total order NaN, which is an error, too, is the largest.
fn largest(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.max_by(f64::total_cmp).unwrap_or(0.0)
}
