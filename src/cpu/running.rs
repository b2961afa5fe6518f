//! The update of running statistics.

use crate::moments::Moments;
use crate::norm::{Momentum, NonFinite, RunningStats};
use crate::state::Running;

/// Takes a batch in: `moments` has one entry a channel, or one a sample and channel (instance norm), whose means
/// and unbiased variances are averaged over samples.
pub(crate) fn update(running: &mut Running, how: RunningStats, moments: &[Moments]) {
    let channels = running.running_mean.len();
    if channels == 0 {
        return;
    }
    let samples = moments.len() / channels;
    for channel in 0..channels {
        let of_channel = || moments.iter().skip(channel).step_by(channels);
        let Some(count) = of_channel().map(|m| m.count).min().filter(|&count| count > 0) else {
            continue;
        };
        let mean = of_channel().map(Moments::mean).sum::<f64>() / samples as f64;
        let unbiased = |m: &Moments| f64::from(m.m2) / f64::from(m.count - 1);
        let var = (count > 1).then(|| of_channel().map(unbiased).sum::<f64>() / samples as f64);
        let finite = mean.is_finite() && of_channel().all(|m| m.m2.is_finite());
        if !finite && how.non_finite == NonFinite::Skip {
            running.skipped[channel] = running.skipped[channel].saturating_add(1);
            continue;
        }
        let tracked = running.tracked[channel].saturating_add(1);
        running.tracked[channel] = tracked;
        let factor = match how.momentum {
            Momentum::Exponential(factor) => f64::from(factor),
            Momentum::Cumulative => 1.0 / f64::from(tracked),
        };
        let blend = |old: &mut f32, new: f64| *old = ((1.0 - factor) * f64::from(*old) + factor * new) as f32;
        blend(&mut running.running_mean[channel], mean);
        if let Some(var) = var {
            blend(&mut running.running_var[channel], var);
        }
    }
}
