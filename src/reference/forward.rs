use super::{Inputs, NOT_TRACKED, Normalised, check_length};
use crate::error::Error;
use crate::norm::{Momentum, NonFinite, NormDescriptor};
use crate::op::{Residual, Statistics};
use crate::tensor::TensorDescriptor;

/// What [`forward`] computes.
///
/// `mean`, `var` and `rstd` have one value a statistic, in this order: batch: channel; instance: (sample,
/// channel); group: (sample, group); layer and rms: row of the leading axes. With running statistics: channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Output, in the shape and memory order of x.
    pub y: Vec<f64>,
    /// x + residual, with [`Residual::Before`] only.
    pub sum: Option<Vec<f64>>,
    /// Mean that was subtracted; 0 for rms.
    pub mean: Vec<f64>,
    /// Variance that was divided by, eps not in it: biased (divided by `count`) when it is the input's own, the
    /// given one when it is running; for rms the mean square.
    pub var: Vec<f64>,
    /// 1 / sqrt(var + eps).
    pub rstd: Vec<f64>,
    /// Values that share a statistic.
    pub count: u64,
    /// Where the statistics came from.
    pub statistics: Statistics,
}

/// `y = relu((x - mean) / sqrt(var + eps) * weight + bias + residual)`, of which the descriptor and
/// [`Inputs::fusion`] choose the parts.
///
/// The mean is a plain sum divided by the count, the variance a second pass over the squared distances from it.
/// `relu(NaN)` is NaN, as in PyTorch. Batch norm: Ioffe and Szegedy, 2015, algorithm 1; layer: Ba, Kiros and
/// Hinton, 2016, equation 3; instance: Ulyanov et al., 2016, equation 4; group: Wu and He, 2018, equations 1 to
/// 6; rms: Zhang and Sennrich, 2019, equation 4. `eps` is inside the root, as in PyTorch's documentation.
///
/// # Errors
///
/// What the descriptor or the shape has wrong; [`Error::Length`], [`Error::Missing`] or [`Error::Unexpected`] for
/// an input that does not fit them; [`Error::TooFewValues`] when batch or instance norm would take the statistics
/// of one value.
pub fn forward(descriptor: &NormDescriptor, tensor: &TensorDescriptor, inputs: &Inputs) -> Result<Forward, Error> {
    let norm = Normalised::new(descriptor, tensor, inputs)?;
    let y = (0..norm.input.len())
        .map(|i| {
            let y = norm.pre_activation(i);
            // Not max(): that would turn NaN into 0.
            if inputs.fusion.relu && y <= 0.0 { 0.0 } else { y }
        })
        .collect();
    Ok(Forward {
        y,
        sum: (inputs.fusion.residual == Residual::Before).then_some(norm.input),
        mean: norm.mean,
        var: norm.var,
        rstd: norm.rstd,
        count: norm.count as u64,
        statistics: if inputs.running.is_some() { Statistics::Running } else { Statistics::Batch },
    })
}

/// Takes the statistics of a training pass into the running ones, all of them one value a channel.
///
/// `running = (1 - m) * running + m * batch`, for the mean and for the unbiased variance (divided by
/// `count - 1`). m is the momentum, or 1 / (batches including this one) when it is cumulative. Instance norm
/// takes the average over samples of each instance's mean and unbiased variance. A channel's `tracked` counts
/// the batches it took in, `skipped` those it did not because they were not finite ([`NonFinite::Skip`]).
/// [PyTorch](https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html) has one `num_batches_tracked`
/// for all channels; they differ here only after a skip. Its InstanceNorm ignores `momentum=None`.
///
/// # Errors
///
/// [`Error::Unexpected`] when the descriptor keeps no running statistics or `forward` used them instead of the
/// batch's, [`Error::Length`] when a slice or the pass does not have the descriptor's channels. Nothing is
/// written then.
pub fn update_running(
    descriptor: &NormDescriptor,
    running_mean: &mut [f64],
    running_var: &mut [f64],
    tracked: &mut [u32],
    skipped: &mut [u32],
    forward: &Forward,
) -> Result<(), Error> {
    let Some(running) = descriptor.running_stats() else {
        return Err(Error::Unexpected { name: "running", reason: NOT_TRACKED });
    };
    if forward.statistics == Statistics::Running {
        return Err(Error::Unexpected { name: "forward", reason: "it did not take statistics of its batch" });
    }
    let affine_len = descriptor.affine_len();
    check_length("running mean", running_mean, affine_len)?;
    check_length("running variance", running_var, affine_len)?;
    check_length("tracked", tracked, affine_len)?;
    check_length("skipped", skipped, affine_len)?;
    let channels = running_mean.len();
    // Batch norm has one statistic a channel; instance norm one a sample and channel.
    let samples = match descriptor {
        NormDescriptor::Instance(_) => (forward.mean.len() / channels).max(1),
        _ => 1,
    };
    let statistics = (samples * channels) as u64;
    check_length("the mean of the pass", &forward.mean, statistics)?;
    check_length("the variance of the pass", &forward.var, statistics)?;

    let unbiased = forward.count as f64 / (forward.count as f64 - 1.0);
    for c in 0..channels {
        let average = |values: &[f64]| (0..samples).map(|n| values[n * channels + c]).sum::<f64>() / samples as f64;
        let mean = average(&forward.mean);
        let var = average(&forward.var) * unbiased;
        if running.non_finite == NonFinite::Skip && !(mean.is_finite() && var.is_finite()) {
            skipped[c] = skipped[c].saturating_add(1);
            continue;
        }
        tracked[c] = tracked[c].saturating_add(1);
        let m = match running.momentum {
            Momentum::Exponential(m) => f64::from(m),
            Momentum::Cumulative => 1.0 / f64::from(tracked[c]),
        };
        running_mean[c] = (1.0 - m) * running_mean[c] + m * mean;
        running_var[c] = (1.0 - m) * running_var[c] + m * var;
    }
    Ok(())
}
