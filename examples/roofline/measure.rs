//! How something is timed: op and copy in turns, so that both see the same machine.

use super::cases::Case;
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
    /// Of each run over the copy before it.
    pub ratio: f64,
    /// The way to copy that was the fastest.
    pub copy: String,
}

/// Runs and copies for about so long.
pub fn measure(runner: &mut dyn Runner, budget: Duration) -> Result<Measured, Error> {
    let way = fastest_copy(runner)?;
    runner.run()?;
    let (mut runs, mut copies, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while runs.len() < 5 || (start.elapsed() < budget && runs.len() < 1001) {
        let copy = runner.copy(way)?;
        let run = runner.run()?;
        copies.push(copy);
        runs.push(run);
        ratios.push(run / copy);
    }
    Ok(Measured {
        seconds: median(&mut runs),
        copy_seconds: median(&mut copies),
        ratio: median(&mut ratios),
        copy: runner.copies().swap_remove(way),
    })
}

/// A call is compared with the best that this device is seen to do.
fn fastest_copy(runner: &mut dyn Runner) -> Result<usize, Error> {
    let mut best = (f64::INFINITY, 0);
    for way in 0..runner.copies().len() {
        runner.copy(way)?;
        let mut times = [runner.copy(way)?, runner.copy(way)?, runner.copy(way)?];
        let time = median(&mut times);
        if time < best.0 {
            best = (time, way);
        }
    }
    Ok(best.1)
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The largest error of a case's result, in units of its tolerance. Above 1 is wrong.
pub fn check(runner: &mut dyn Runner, case: &Case, data: &Data) -> Result<f64, Error> {
    runner.run()?;
    let (output, expected) = (runner.output()?, data.expected(case)?);
    let scale = expected.iter().fold(1.0, |scale: f64, e| scale.max(e.abs()));
    let half_ulp = if case.dtype == DType::F32 { 0.0 } else { case.dtype.epsilon() / 2.0 };
    let tolerance = (runner.tolerance() + half_ulp) * scale;
    // The batch repeats itself, and so must the result.
    let errors = output.iter().zip(expected.iter().cycle()).map(|(&a, e)| (f64::from(a) - e).abs() / tolerance);
    // NaN is an error, too.
    Ok(errors.fold(0.0, |worst: f64, error| if error <= worst { worst } else { error }))
}
