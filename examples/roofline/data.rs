//! Inputs of a case, and what the reference makes of them.

use super::cases::{Call, Case};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use wgpu_norm::{DType, Error, Fusion, Running, State, half, reference};

/// A batch that repeats a few samples, which changes neither their statistics nor their gradients.
pub struct Data {
    pub x: Vec<f32>,
    pub dy: Vec<f32>,
    pub state: State,
}

impl Data {
    pub fn new(case: &Case) -> Result<Data, Error> {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut numbers = |n: usize, low: f32, high: f32| -> Vec<f32> {
            (0..n).map(|_| rounded(case.dtype, rng.random_range(low..high))).collect()
        };
        let mut state = State::new(&case.norm)?;
        let weights = case.norm.affine_len() as usize;
        state.weight = state.weight.map(|_| numbers(weights, 0.5, 1.5));
        state.bias = state.bias.map(|_| numbers(weights, -1.0, 1.0));
        if let Some(Running { running_mean, running_var, .. }) = &mut state.running {
            *running_mean = numbers(weights, -1.0, 1.0);
            *running_var = numbers(weights, 0.5, 2.0);
        }
        let period = case.period().elements();
        let mut tensor = |low, high| numbers(period, low, high).repeat(case.elements() / period);
        Ok(Data { x: tensor(-2.0, 3.0), dy: tensor(-1.0, 1.0), state })
    }

    /// What the call makes of them.
    pub fn expected(&self, whole: &Case) -> Result<Expected, Error> {
        let case = &whole.period();
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let [x, dy] = [&self.x, &self.dy].map(|values| wide(&values[..case.elements()]));
        let (weight, bias) = (self.state.weight.as_deref().map(wide), self.state.bias.as_deref().map(wide));
        let running = self.state.running.as_ref().map(|r| (wide(&r.running_mean), wide(&r.running_var)));
        let running = running.as_ref().filter(|_| case.call == Call::Eval);
        let inputs = reference::Inputs {
            x: &x,
            residual: None,
            weight: weight.as_deref(),
            bias: bias.as_deref(),
            running: running.map(|(mean, var)| (&mean[..], &var[..])),
            fusion: Fusion::default(),
        };
        match case.call {
            Call::Backward => {
                let of_period = reference::backward(&case.norm, &case.tensor(), &inputs, &dy, None)?;
                let times = (whole.elements() / case.elements()) as f64;
                let [dweight, dbias] =
                    [of_period.dweight, of_period.dbias].map(|sums| sums.into_iter().map(|sum| sum * times).collect());
                Ok(Expected { output: of_period.dx, dweight, dbias })
            }
            _ => Ok(Expected {
                output: reference::forward(&case.norm, &case.tensor(), &inputs)?.y,
                ..Default::default()
            }),
        }
    }
}

/// Results by the reference.
#[derive(Default)]
pub struct Expected {
    /// y, or dx, of the samples that repeat.
    pub output: Vec<f64>,
    /// Of all samples; empty but for backward.
    pub dweight: Vec<f64>,
    pub dbias: Vec<f64>,
}

/// The nearest number of an element type.
fn rounded(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::BF16 => half::bf16::from_f32(value).to_f32(),
        DType::F32 => value,
    }
}
