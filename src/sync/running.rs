//! Running statistics that diverged, because data-parallel training ran without synchronisation.

use crate::error::{Error, check_len};
use crate::state::Running;

/// Merges running statistics of members that each stand for `counts[i]` values per channel: those of the batch
/// with momentum 1, all values seen (rows, positions, batches) for averages over many batches.
///
/// The mean is the members' mean, weighted by counts. The variance is what lies within the members plus what
/// lies between their means: the average of variances alone is too small, since it forgets that the means
/// differ. Exact if each member's statistics are those of its own share of the data; running statistics are
/// averages over time, so this assumes that the members saw the same number of batches, with the same momentum.
/// Counters: the largest of the members'.
///
/// [`Error::Empty`] for no members or a total count of 0, [`Error::Length`] if channels or counts differ.
pub fn merge_running(members: &[Running], counts: &[u64]) -> Result<Running, Error> {
    combine(members, counts, |values| {
        let total: f64 = values.iter().map(|v| v.count).sum();
        let mean = average(values, |v| v.mean);
        // An unbiased variance of n values stands for n - 1 squared deviations.
        let within: f64 = values.iter().map(|v| (v.count - 1.0).max(0.0) * v.var).sum();
        let between: f64 = values.iter().map(|v| v.count * (v.mean - mean).powi(2)).sum();
        (mean, (within + between) / (total - 1.0).max(1.0))
    })
}

/// The naive average of running statistics, weighted by counts: what is usually done, and wrong for the
/// variance. For comparison with [`merge_running`], with the same errors.
pub fn average_running(members: &[Running], counts: &[u64]) -> Result<Running, Error> {
    combine(members, counts, |values| (average(values, |v| v.mean), average(values, |v| v.var)))
}

/// One member's statistics of one channel.
struct Value {
    count: f64,
    mean: f64,
    var: f64,
}

fn average(values: &[Value], of: impl Fn(&Value) -> f64) -> f64 {
    let total: f64 = values.iter().map(|v| v.count).sum();
    values.iter().map(|v| v.count * of(v)).sum::<f64>() / total
}

/// Joins the members channel by channel with `join`, which gives mean and variance.
fn combine(members: &[Running], counts: &[u64], join: impl Fn(&[Value]) -> (f64, f64)) -> Result<Running, Error> {
    let Some(first) = members.first() else { return Err(Error::Empty { what: "the number of members" }) };
    let channels = first.running_mean.len();
    let lengths = members.iter().flat_map(|m| {
        [
            ("running_mean", channels, m.running_mean.len()),
            ("running_var", channels, m.running_var.len()),
            ("tracked", channels, m.tracked.len()),
            ("skipped", channels, m.skipped.len()),
        ]
    });
    for (name, expected, actual) in lengths.chain([("counts", members.len(), counts.len())]) {
        check_len(name, Some(actual), expected as u64)?;
    }
    if counts.iter().all(|&c| c == 0) {
        return Err(Error::Empty { what: "the total count" });
    }
    let mut merged = first.clone();
    for c in 0..channels {
        let value = |(m, &count): (&Running, &u64)| Value {
            count: count as f64,
            mean: m.running_mean[c].into(),
            var: m.running_var[c].into(),
        };
        // One that stands for nothing may be anything, NaN too.
        let values: Vec<Value> = members.iter().zip(counts).filter(|&(_, &count)| count > 0).map(value).collect();
        let (mean, var) = join(&values);
        merged.running_mean[c] = mean as f32;
        merged.running_var[c] = var as f32;
        merged.tracked[c] = members.iter().map(|m| m.tracked[c]).max().unwrap_or(0);
        merged.skipped[c] = members.iter().map(|m| m.skipped[c]).max().unwrap_or(0);
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32]) -> Running {
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (n - 1.0);
        Running { running_mean: vec![mean], running_var: vec![var], tracked: vec![1], skipped: vec![0] }
    }

    #[test]
    fn merged_statistics_are_those_of_all_values() {
        let (a, b) = ([1.0, 2.0, 3.0, 6.0], [11.0, 13.0]);
        let merged = merge_running(&[of(&a), of(&b)], &[4, 2]).unwrap();
        assert_eq!(merged, of(&[&a[..], &b].concat()));
        let naive = average_running(&[of(&a), of(&b)], &[4, 2]).unwrap();
        assert_eq!(naive.running_mean, merged.running_mean);
        assert!(naive.running_var[0] < 0.2 * merged.running_var[0]);
    }

    #[test]
    fn a_member_without_values_changes_nothing() {
        let (good, diverged) = (of(&[1.0, 2.0, 6.0]), of(&[f32::NAN, f32::INFINITY]));
        for merge in [merge_running, average_running] {
            assert_eq!(merge(&[good.clone(), diverged.clone()], &[3, 0]).unwrap(), good);
        }
    }

    #[test]
    fn members_must_fit() {
        assert!(matches!(merge_running(&[], &[]), Err(Error::Empty { .. })));
        assert!(matches!(merge_running(&[of(&[1.0, 2.0])], &[0]), Err(Error::Empty { .. })));
        assert!(matches!(merge_running(&[of(&[1.0, 2.0])], &[1, 2]), Err(Error::Length { .. })));
    }
}
