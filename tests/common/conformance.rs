//! A golden case on an implementation: everything that it computes, against what PyTorch computed.
//!
//! Tests and the conformance example share this file through `#[path]`.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use super::cases::{self, Check, tolerance, typed, untyped, wide};
use super::golden::Case;
use super::member::{Layer, join};
use std::ops::Range;
use std::time::Duration;
use wgpu_norm::sync::{LocalGroup, join_all};
use wgpu_norm::{
    Commit, DType, Element, Error, Gradients, Momentum, Running, State, Statistics, TensorDescriptor, host, reference,
};

/// Who computes.
#[derive(Clone, Copy, Debug)]
pub enum Implementation<'a> {
    Reference,
    /// The first, or all of them for a case with `shard_sizes`: a shard on each, in turn, as one group.
    Backends(&'a [host::Backend]),
}

impl Implementation<'_> {
    fn base(self) -> f64 {
        match self {
            Implementation::Reference => 1e-9,
            Implementation::Backends(all) => all.iter().map(cases::base).fold(0.0, f64::max),
        }
    }
}

/// What an implementation computed of one batch.
#[derive(Default)]
pub struct Step {
    pub y: Vec<f64>,
    /// y once more: from the call that keeps statistics for backward, where y is from the one that does not.
    pub y_kept: Option<Vec<f64>>,
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
    pub dx: Option<Vec<f64>>,
    pub dresidual: Option<Vec<f64>>,
    pub dweight: Option<Vec<f64>>,
    pub dbias: Option<Vec<f64>>,
    /// What the descriptor's rounding of eps to `f32` may change.
    slack: f64,
}

/// What an implementation computed of a case.
pub struct Computed {
    pub steps: Vec<Step>,
    pub running: Option<AfterTraining>,
}

#[derive(PartialEq)]
pub struct AfterTraining {
    mean: Vec<f64>,
    var: Vec<f64>,
    tracked: Vec<u32>,
    skipped: Vec<u32>,
    /// What the descriptor's rounding of the momentum to `f32` may change, in absolute terms.
    drift: f64,
}

/// A member that does not come in time is an error.
const WAIT: Duration = Duration::from_secs(120);

/// Runs all steps of a case, forward and backward, and compares every tensor. They are named as in the file.
pub fn run(implementation: Implementation, case: &Case) -> Result<Vec<Check>, Error> {
    let computed = match implementation {
        Implementation::Reference => on_reference(case)?,
        Implementation::Backends(backends) => pollster::block_on(async {
            match case.dtype {
                DType::F32 => on_backends::<f32>(backends, case).await,
                DType::F16 => on_backends::<half::f16>(backends, case).await,
                DType::BF16 => on_backends::<half::bf16>(backends, case).await,
            }
        })?,
    };
    Ok(compare(implementation, case, &computed))
}

fn on_reference(case: &Case) -> Result<Computed, Error> {
    let channels = case.descriptor.affine_len() as usize;
    let (mut tracked, mut skipped) = (vec![0; channels], vec![0; channels]);
    let mut running = case.running.clone();
    let mut drift = 0.0;
    let mut steps = Vec::new();
    let largest = |values: &[f64]| values.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
    for step in &case.steps {
        let tensor = case.tensor(step);
        let evaluation = if case.statistics() == Statistics::Running { case.running.as_ref() } else { None };
        let inputs = reference::Inputs {
            x: &step.x,
            residual: step.residual.as_deref(),
            weight: case.weight.as_deref(),
            bias: case.bias.as_deref(),
            running: evaluation.map(|(mean, var)| (&mean[..], &var[..])),
            fusion: case.fusion,
        };
        let forward = reference::forward(&case.descriptor, &tensor, &inputs)?;
        let backward = match &step.dy {
            Some(dy) => Some(reference::backward(&case.descriptor, &tensor, &inputs, dy, None)?),
            None => None,
        };
        if let (true, Some((mean, var))) = (case.training, &mut running) {
            if let (Some(Momentum::Exponential(rounded)), Some(exact)) =
                (case.descriptor.running_stats().map(|running| running.momentum), case.momentum)
            {
                let rounding = (f64::from(rounded) - exact).abs();
                drift += rounding * [&forward.mean[..], &forward.var, mean, var].map(largest).iter().sum::<f64>();
            }
            reference::update_running(&case.descriptor, mean, var, &mut tracked, &mut skipped, &forward)?;
        }
        // PyTorch's eps is f64, the descriptor's is that rounded to f32. It moves rstd by half of the relative
        // change of var + eps, and dx, which has three factors of rstd, by three times as much.
        let eps_rounding = (f64::from(case.descriptor.eps()) - case.eps).abs();
        let slack = 1.5 * eps_rounding * largest(&forward.rstd).powi(2);
        let mut computed = Step { y: forward.y, mean: forward.mean, var: forward.var, slack, ..Step::default() };
        if let Some(backward) = backward {
            computed.dx = Some(backward.dx);
            computed.dresidual = backward.dresidual;
            computed.dweight = Some(backward.dweight);
            computed.dbias = Some(backward.dbias);
        }
        steps.push(computed);
    }
    Ok(Computed { steps, running: running.map(|(mean, var)| AfterTraining { mean, var, tracked, skipped, drift }) })
}

/// A case with `shard_sizes` as a group, all of whose members this thread drives; any other on the first backend.
async fn on_backends<T: Element>(backends: &[host::Backend], case: &Case) -> Result<Computed, Error> {
    let Some(first) = backends.first() else { return Err(Error::NoDevice("no backend was given".into())) };
    if case.shard_sizes.is_empty() {
        return on_layer::<T>(Layer::alone(first, case)?, case, None).await;
    }
    let mut end = 0;
    let shards = case.shard_sizes.iter().map(|rows| {
        end += rows;
        end - rows..end
    });
    let mut members = Vec::new();
    let group = LocalGroup::members(case.shard_sizes.len(), WAIT);
    for ((member, backend), rows) in group.into_iter().zip(backends.iter().cycle()).zip(shards) {
        members.push(on_layer::<T>(Layer::of(member, backend, case)?, case, Some(rows)));
    }
    join(join_all(members).await.into_iter().collect::<Result<_, Error>>()?)
}

/// All steps on a layer: of the whole batch, or of a member's rows.
async fn on_layer<T: Element>(mut layer: Layer, case: &Case, rows: Option<Range<usize>>) -> Result<Computed, Error> {
    let mut steps = Vec::new();
    for step in &case.steps {
        let mut shape = step.shape.clone();
        let row: usize = shape[1..].iter().product();
        let part = rows.clone().map_or(0..step.x.len(), |rows| rows.start * row..rows.end * row);
        shape[0] = rows.as_ref().map_or(shape[0], Range::len);
        let (tensor, fusion) = (TensorDescriptor { shape: &shape, ..case.tensor(step) }, case.fusion);
        let x: Vec<T> = typed(&step.x[part.clone()]);
        let residual: Option<Vec<T>> = step.residual.as_ref().map(|residual| typed(&residual[part.clone()]));
        let residual = residual.as_deref();
        let mut computed = Step::default();
        if !case.training {
            computed.y = untyped(&layer.norm().forward_eval::<T, T>(&tensor, fusion, &x, residual).await?.y);
        }
        let commit = if case.training { Commit::Update } else { Commit::Skip };
        let (output, saved) = match case.statistics() {
            Statistics::Batch => layer.forward_train::<T>(&tensor, fusion, &x, residual, commit).await?,
            Statistics::Running => layer.norm().forward_frozen::<T, T>(&tensor, fusion, &x, residual).await?,
        };
        if case.training {
            computed.y = untyped(&output.y);
        } else {
            computed.y_kept = Some(untyped(&output.y));
        }
        if case.statistics() == Statistics::Batch {
            let statistics = layer.norm().statistics(&saved).await?;
            computed.mean = statistics.iter().map(|s| s.mean).collect();
            computed.var = statistics.iter().map(|s| s.var).collect();
        }
        if let Some(dy) = &step.dy {
            let dy: Vec<T> = typed(&dy[part]);
            let io = host::Backward { residual, ..host::Backward::new(&x, &dy) };
            let wanted = Gradients { dx: true, dresidual: residual.is_some(), affine: true };
            let gradients = layer.backward::<T>(saved, io, wanted).await?;
            computed.dx = gradients.dx.as_deref().map(untyped);
            computed.dresidual = gradients.dresidual.as_deref().map(untyped);
            computed.dweight = gradients.dweight.as_deref().map(wide);
            computed.dbias = gradients.dbias.as_deref().map(wide);
        }
        steps.push(computed);
    }
    let running = layer.norm().state().await?.running.map(|running| AfterTraining {
        mean: wide(&running.running_mean),
        var: wide(&running.running_var),
        tracked: running.tracked,
        skipped: running.skipped,
        drift: 0.0,
    });
    Ok(Computed { steps, running })
}

/// The layer's state before the first step.
pub fn state(case: &Case) -> State {
    let channels = case.descriptor.affine_len() as usize;
    State {
        weight: case.weight.as_deref().map(typed),
        bias: case.bias.as_deref().map(typed),
        running: case.running.as_ref().map(|(mean, var)| Running {
            running_mean: typed(mean),
            running_var: typed(var),
            tracked: vec![0; channels],
            skipped: vec![0; channels],
        }),
    }
}

fn compare(implementation: Implementation, case: &Case, computed: &Computed) -> Vec<Check> {
    let base = implementation.base();
    let is_reference = matches!(implementation, Implementation::Reference);
    let mut checks = Vec::new();
    for (i, (step, computed)) in case.steps.iter().zip(&computed.steps).enumerate() {
        let elements = if is_reference { base + computed.slack } else { tolerance(base, case.dtype) };
        let sums = if is_reference { elements } else { 4.0 * base };
        let at = |what: &str| if case.steps.len() > 1 { format!("{what}{i}") } else { what.into() };
        let expected = &step.expected;
        checks.push(Check::new(at("y"), &computed.y, &expected.y, elements));
        if let Some(y) = &computed.y_kept {
            checks.push(Check::new(at("y of the call for backward"), y, &expected.y, elements));
        }
        for (what, actual, expected, tolerance) in [
            ("mean", Some(&computed.mean), &expected.mean, base),
            ("var", Some(&computed.var), &expected.var, base),
            ("dx", computed.dx.as_ref(), &expected.dx, elements),
            ("dresidual", computed.dresidual.as_ref(), &expected.dresidual, elements),
            ("dweight", computed.dweight.as_ref(), &expected.dweight, sums),
            ("dbias", computed.dbias.as_ref(), &expected.dbias, sums),
        ] {
            if let Some(expected) = expected {
                checks.push(Check::new(at(what), actual.map_or(&[], |v| v), expected, tolerance));
            }
        }
    }
    // Evaluation leaves them alone.
    let running = case.running_after.as_ref().or(case.running.as_ref());
    if let (None, Some((mean, _))) = (&computed.running, running) {
        checks.push(Check::new("running_mean_after", &[], mean, base));
    }
    if let Some(after) = &computed.running {
        let scale = |expected: &[f64]| expected.iter().fold(1.0, |scale: f64, e| scale.max(e.abs()));
        let vector = |what, actual: &[f64], expected: &[f64]| {
            Check::new(what, actual, expected, base + after.drift / scale(expected))
        };
        if let Some((mean, var)) = running {
            checks.push(vector("running_mean_after", &after.mean, mean));
            checks.push(vector("running_var_after", &after.var, var));
        }
        let steps = if case.training { case.steps.len() as f64 } else { 0.0 };
        for (what, actual, expected) in [("tracked", &after.tracked, steps), ("skipped", &after.skipped, 0.0)] {
            let actual: Vec<f64> = actual.iter().map(|&n| f64::from(n)).collect();
            checks.push(Check::new(what, &actual, &vec![expected; actual.len()], 0.0));
        }
    }
    checks
}
