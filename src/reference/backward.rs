use super::{Inputs, Normalised, averages, check_length, sums};
use crate::error::Error;
use crate::norm::NormDescriptor;
use crate::op::Residual;
use crate::tensor::TensorDescriptor;

/// What [`backward`] computes. `dy` here is the gradient behind the ReLU, if there is one: 0 where it is closed.
#[derive(Clone, Debug, PartialEq)]
pub struct Backward {
    /// Gradient of x, in its shape and memory order; with [`Residual::Before`] of x and of the residual alike.
    pub dx: Vec<f64>,
    /// Gradient of the residual, with [`Residual::After`] only.
    pub dresidual: Option<Vec<f64>>,
    /// Gradient of the weight, or what it would be were there one: Σ dy·xhat of the elements that meet it.
    pub dweight: Vec<f64>,
    /// Gradient of the bias, or what it would be were there one: Σ dy of the elements that meet it.
    pub dbias: Vec<f64>,
    /// Σ dy of each statistic's elements, in the order of [`Forward::mean`](super::Forward::mean), the weight not
    /// in it. With [`sum_dy_xhat`](Backward::sum_dy_xhat) what a synchronised batch norm exchanges.
    pub sum_dy: Vec<f64>,
    /// Σ dy·xhat of each statistic's elements, the weight not in it.
    pub sum_dy_xhat: Vec<f64>,
}

/// Gradients of [`forward`](super::forward()) on the same inputs. `dy` has the shape and memory order of x;
/// `dsum` is what reaches the second output, x + residual, of [`Residual::Before`], and `None` stands for zeros.
///
/// With g = dy·weight, and averages over the elements of a statistic:
/// - statistics of the input: `dx = rstd * (g - average(g) - xhat * average(g * xhat))`;
/// - rms, which subtracts no mean: `dx = rstd * (g - xhat * average(g * xhat))`;
/// - running statistics, which do not depend on x: `dx = rstd * g`.
///
/// The ReLU passes what has a positive input (or NaN) and nothing at 0, as PyTorch does. Ioffe and Szegedy, 2015,
/// section 3, whose chain of derivatives these are after simplifying.
///
/// # Errors
///
/// Those of [`forward`](super::forward()); [`Error::Length`] when `dy` or `dsum` does not have the length of x,
/// [`Error::Unexpected`] for a `dsum` without [`Residual::Before`].
pub fn backward(
    descriptor: &NormDescriptor,
    tensor: &TensorDescriptor,
    inputs: &Inputs,
    dy: &[f64],
    dsum: Option<&[f64]>,
) -> Result<Backward, Error> {
    let norm = Normalised::new(descriptor, tensor, inputs)?;
    check_length("dy", dy, norm.input.len() as u64)?;
    if let Some(dsum) = dsum {
        check_length("dsum", dsum, norm.input.len() as u64)?;
        if inputs.fusion.residual != Residual::Before {
            return Err(Error::Unexpected { name: "dsum", reason: "only Residual::Before has a second output" });
        }
    }
    let closed = |i| inputs.fusion.relu && norm.pre_activation(i) <= 0.0;
    let dy: Vec<f64> = dy.iter().enumerate().map(|(i, &dy)| if closed(i) { 0.0 } else { dy }).collect();

    let mut dweight = vec![0.0; descriptor.affine_len() as usize];
    let mut dbias = dweight.clone();
    for (i, place) in norm.places.iter().enumerate() {
        dweight[place.weight] += dy[i] * norm.xhat(i);
        dbias[place.weight] += dy[i];
    }

    let statistics = norm.mean.len();
    let g = |i: usize| dy[i] * norm.weight(i);
    let average_g = match descriptor {
        NormDescriptor::Rms(_) => vec![0.0; statistics],
        _ => averages(&norm.places, statistics, norm.count, g),
    };
    let average_g_xhat = averages(&norm.places, statistics, norm.count, |i| g(i) * norm.xhat(i));
    let dx = (0..dy.len())
        .map(|i| {
            let s = norm.places[i].statistic;
            let through_norm = match inputs.running {
                Some(_) => norm.rstd[s] * g(i),
                None => norm.rstd[s] * (g(i) - average_g[s] - norm.xhat(i) * average_g_xhat[s]),
            };
            through_norm + dsum.map_or(0.0, |dsum| dsum[i])
        })
        .collect();

    Ok(Backward {
        dx,
        dweight,
        dbias,
        sum_dy: sums(&norm.places, statistics, |i| dy[i]),
        sum_dy_xhat: sums(&norm.places, statistics, |i| dy[i] * norm.xhat(i)),
        dresidual: (inputs.fusion.residual == Residual::After).then_some(dy),
    })
}
