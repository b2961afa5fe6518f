//! The specification: every norm forward and backward, in `f64`, one scalar at a time, as textbooks write it.
//!
//! It is made to be read and to be compared with, not to be fast. It shares no arithmetic with the CPU and GPU passes:
//! each element's logical coordinates are worked out from its position in memory, and from those the statistic
//! and the weight that it uses. Tensors lie in memory as their [`TensorDescriptor`] says; the element type in it
//! is not looked at, all values are `f64` (what is stored as `f16` is widened by the caller).
//!
//! ```
//! use wgpu_norm::{NormDescriptor, RmsNormDescriptor, TensorDescriptor, reference};
//! let descriptor = NormDescriptor::from(RmsNormDescriptor { weight: false, ..RmsNormDescriptor::new(&[2]) });
//! let inputs = reference::Inputs { x: &[3.0, -3.0], ..Default::default() };
//! let forward = reference::forward(&descriptor, &TensorDescriptor::new(&[1, 2]), &inputs).unwrap();
//! assert_eq!(forward.var, [9.0]); // the mean square
//! assert!((forward.y[0] - 1.0).abs() < 1e-7 && (forward.y[1] + 1.0).abs() < 1e-7);
//! ```

mod backward;
mod forward;
#[cfg(test)]
mod tests;

pub use backward::{Backward, backward};
pub use forward::{Forward, forward, update_running};

use crate::error::Error;
use crate::norm::{LayerNormDescriptor, NormDescriptor, RmsNormDescriptor};
use crate::op::{Fusion, Residual};
use crate::tensor::{Format, TensorDescriptor};

/// What a pass reads. Lengths are in elements; tensors have the length and memory order of the
/// [`TensorDescriptor`] they are passed with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a> {
    /// Input tensor.
    pub x: &'a [f64],
    /// Second input tensor; given exactly when `fusion.residual` is not [`Residual::None`].
    pub residual: Option<&'a [f64]>,
    /// One a channel (batch, instance, group) or an element of the normalised shape (layer, rms); given exactly
    /// when the descriptor has a weight.
    pub weight: Option<&'a [f64]>,
    /// As long as the weight; given exactly when the descriptor has a bias.
    pub bias: Option<&'a [f64]>,
    /// Running mean and (unbiased) running variance, one a channel, to normalise with
    /// ([`Statistics::Running`](crate::Statistics::Running)); `None`: the input's own statistics.
    pub running: Option<(&'a [f64], &'a [f64])>,
    /// What is added on the way.
    pub fusion: Fusion,
}

/// Which statistic normalises an element, and which weight and bias it meets.
struct Place {
    statistic: usize,
    weight: usize,
}

/// Checked inputs with their statistics: where forward and backward both start.
struct Normalised<'a> {
    inputs: &'a Inputs<'a>,
    /// What is normalised: x, or x + residual with [`Residual::Before`].
    input: Vec<f64>,
    places: Vec<Place>,
    mean: Vec<f64>,
    var: Vec<f64>,
    rstd: Vec<f64>,
    /// Values of each statistic.
    count: usize,
}

impl<'a> Normalised<'a> {
    fn new(
        descriptor: &NormDescriptor,
        tensor: &TensorDescriptor,
        inputs: &'a Inputs<'a>,
    ) -> Result<Normalised<'a>, Error> {
        check(descriptor, tensor, inputs)?;
        let input: Vec<f64> = match (inputs.fusion.residual, inputs.residual) {
            (Residual::Before, Some(residual)) => inputs.x.iter().zip(residual).map(|(x, r)| x + r).collect(),
            _ => inputs.x.to_vec(),
        };
        let places = places(descriptor, tensor, inputs.running.is_some());
        let statistics = 1 + places.iter().map(|place| place.statistic).max().unwrap_or(0);
        let count = input.len() / statistics;

        let (mean, var) = match inputs.running {
            Some((mean, var)) => (mean.to_vec(), var.to_vec()),
            None => {
                let two_or_more = matches!(descriptor, NormDescriptor::Batch(_) | NormDescriptor::Instance(_));
                if two_or_more && count < 2 {
                    return Err(Error::TooFewValues { count: count as u64, shape: tensor.shape.to_vec() });
                }
                let mean = match descriptor {
                    NormDescriptor::Rms(_) => vec![0.0; statistics],
                    _ => averages(&places, statistics, count, |i| input[i]),
                };
                let var = averages(&places, statistics, count, |i| (input[i] - mean[places[i].statistic]).powi(2));
                (mean, var)
            }
        };
        let eps = f64::from(descriptor.eps());
        let rstd = var.iter().map(|var| 1.0 / (var + eps).sqrt()).collect();
        Ok(Normalised { inputs, input, places, mean, var, rstd, count })
    }

    /// The element with mean 0 and variance 1.
    fn xhat(&self, i: usize) -> f64 {
        let statistic = self.places[i].statistic;
        (self.input[i] - self.mean[statistic]) * self.rstd[statistic]
    }

    fn weight(&self, i: usize) -> f64 {
        self.inputs.weight.map_or(1.0, |weight| weight[self.places[i].weight])
    }

    /// The output before the ReLU.
    fn pre_activation(&self, i: usize) -> f64 {
        let bias = self.inputs.bias.map_or(0.0, |bias| bias[self.places[i].weight]);
        let normalised = self.xhat(i) * self.weight(i) + bias;
        match (self.inputs.fusion.residual, self.inputs.residual) {
            (Residual::After, Some(residual)) => normalised + residual[i],
            _ => normalised,
        }
    }
}

/// Sums `value(i)` over the elements of each statistic.
fn sums(places: &[Place], statistics: usize, value: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; statistics];
    for (i, place) in places.iter().enumerate() {
        sums[place.statistic] += value(i);
    }
    sums
}

fn averages(places: &[Place], statistics: usize, count: usize, value: impl Fn(usize) -> f64) -> Vec<f64> {
    sums(places, statistics, value).into_iter().map(|sum| sum / count as f64).collect()
}

/// The place of every element, in memory order.
fn places(descriptor: &NormDescriptor, tensor: &TensorDescriptor, running: bool) -> Vec<Place> {
    let shape = tensor.shape;
    let mut axes_in_memory: Vec<usize> = (0..shape.len()).collect();
    if tensor.format == Format::ChannelsLast {
        axes_in_memory.remove(1);
        axes_in_memory.push(1);
    }
    let mut at = vec![0; shape.len()];
    (0..shape.iter().product())
        .map(|index: usize| {
            let mut rest = index;
            for &axis in axes_in_memory.iter().rev() {
                at[axis] = rest % shape[axis];
                rest /= shape[axis];
            }
            place(descriptor, shape, &at, running)
        })
        .collect()
}

/// The statistic of every element's own batch, for tests of what may depend on what.
#[cfg(test)]
pub(crate) fn statistics(descriptor: &NormDescriptor, tensor: &TensorDescriptor) -> Vec<usize> {
    places(descriptor, tensor, false).into_iter().map(|place| place.statistic).collect()
}

/// The definition of each norm: who shares a statistic, who shares a weight. `at` is (n, c, spatial...).
fn place(descriptor: &NormDescriptor, shape: &[usize], at: &[usize], running: bool) -> Place {
    match descriptor {
        NormDescriptor::Batch(_) => Place { statistic: at[1], weight: at[1] },
        // Running statistics are kept per channel, whoever the sample is.
        NormDescriptor::Instance(_) if running => Place { statistic: at[1], weight: at[1] },
        NormDescriptor::Instance(_) => Place { statistic: at[0] * shape[1] + at[1], weight: at[1] },
        NormDescriptor::Group(d) => {
            let channels_per_group = d.num_channels / d.num_groups;
            Place { statistic: at[0] * d.num_groups + at[1] / channels_per_group, weight: at[1] }
        }
        NormDescriptor::Layer(LayerNormDescriptor { normalized_shape, .. })
        | NormDescriptor::Rms(RmsNormDescriptor { normalized_shape, .. }) => {
            let leading = shape.len() - normalized_shape.len();
            Place {
                statistic: row_major(&shape[..leading], &at[..leading]),
                weight: row_major(&shape[leading..], &at[leading..]),
            }
        }
    }
}

fn row_major(shape: &[usize], at: &[usize]) -> usize {
    shape.iter().zip(at).fold(0, |index, (size, at)| index * size + at)
}

fn check(descriptor: &NormDescriptor, tensor: &TensorDescriptor, inputs: &Inputs) -> Result<(), Error> {
    descriptor.validate()?;
    descriptor.layout(tensor)?;
    let elements = tensor.len()?;
    check_length("x", inputs.x, elements)?;
    match (inputs.fusion.residual, inputs.residual) {
        (Residual::None, Some(_)) => {
            return Err(Error::Unexpected { name: "residual", reason: "fusion.residual is Residual::None" });
        }
        (Residual::After | Residual::Before, None) => {
            return Err(Error::Missing { name: "residual", hint: "fusion.residual asks for it" });
        }
        (_, Some(residual)) => check_length("residual", residual, elements)?,
        (Residual::None, None) => {}
    }
    let (affine, affine_len) = (descriptor.affine(), descriptor.affine_len());
    for (name, wanted, given) in [("weight", affine.weight, inputs.weight), ("bias", affine.bias, inputs.bias)] {
        match given {
            Some(given) if wanted => check_length(name, given, affine_len)?,
            Some(_) => return Err(Error::Unexpected { name, reason: "the layer was made without it" }),
            None if wanted => return Err(Error::Missing { name, hint: "the layer was made with it" }),
            None => {}
        }
    }
    if let Some((mean, var)) = inputs.running {
        if descriptor.running_stats().is_none() {
            return Err(Error::Unexpected { name: "running", reason: NOT_TRACKED });
        }
        check_length("running mean", mean, affine_len)?;
        check_length("running variance", var, affine_len)?;
    }
    Ok(())
}

const NOT_TRACKED: &str = "the layer keeps no running statistics";

fn check_length<T>(name: &'static str, values: &[T], expected: u64) -> Result<(), Error> {
    let actual = values.len() as u64;
    if actual == expected { Ok(()) } else { Err(Error::Length { name, expected, actual }) }
}
