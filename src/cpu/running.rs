//! The update of running statistics.

use crate::moments::{Moments, two_sum};
use crate::norm::{Momentum, NonFinite, RunningStats};
use crate::state::Running;

/// Takes a batch in: `moments` has one entry a channel, or one a sample and channel (instance norm), whose means
/// and unbiased variances are averaged over samples.
pub(crate) fn update(running: &mut Running, how: RunningStats, moments: &[Moments]) {
    let channels = running.running_mean.len();
    if channels == 0 {
        return;
    }
    for channel in 0..channels {
        let of_channel = || moments.iter().skip(channel).step_by(channels);
        let Some(count) = of_channel().map(|m| m.count).min().filter(|&count| count > 0) else {
            continue;
        };
        // In the order of a running average, as no sum then grows with the batch; what is rounded off is not lost.
        let average = |of: fn(&Moments) -> f32| {
            let numbered = of_channel().map(of).zip(1u32..);
            let pair = numbered.fold((0.0, 0.0), |(mean, rest), (value, n)| {
                two_sum(mean, rest + ((value - mean) - rest) * (1.0 / n as f32))
            });
            pair.0
        };
        let mean = average(|m| m.mean_hi);
        let var = (count > 1).then(|| average(|m| m.m2 / (m.count - 1) as f32));
        let finite = mean.is_finite() && of_channel().all(|m| m.m2.is_finite());
        if !finite && how.non_finite == NonFinite::Skip {
            running.skipped[channel] = running.skipped[channel].saturating_add(1);
            continue;
        }
        let tracked = running.tracked[channel].saturating_add(1);
        running.tracked[channel] = tracked;
        let factor = match how.momentum {
            Momentum::Exponential(factor) => factor,
            Momentum::Cumulative => 1.0 / tracked as f32,
        };
        // The shaders' operations, one by one: members of a group must agree to the bit, whatever they run on.
        let blend = |old: &mut f32, new: f32| *old = (1.0 - factor) * *old + factor * new;
        blend(&mut running.running_mean[channel], mean);
        if let Some(var) = var {
            blend(&mut running.running_var[channel], var);
        }
    }
}
