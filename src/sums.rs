//! What members of a group exchange: one sum a channel.

use crate::error::{Error, check_len};
use crate::moments::Moments;
use crate::norm::NormDescriptor;
use crate::op::Direction;

/// Sums over the elements of one channel, for the backward pass of synchronised batch norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct GradientSums {
    /// Number of values.
    pub count: u32,
    /// Σ dy (behind the ReLU): dbias.
    pub sum_dy: f32,
    /// Σ dy·xhat: dweight.
    pub sum_dy_xhat: f32,
    /// Always 0: a fourth word, as [`Moments`] have.
    reserved: f32,
}

impl GradientSums {
    /// Sums over so many values.
    pub const fn new(count: u32, sum_dy: f32, sum_dy_xhat: f32) -> GradientSums {
        GradientSums { count, sum_dy, sum_dy_xhat, reserved: 0.0 }
    }

    /// Sums over both sets together.
    #[must_use]
    pub fn merge(self, other: GradientSums) -> GradientSums {
        GradientSums::new(
            self.count.saturating_add(other.count),
            self.sum_dy + other.sum_dy,
            self.sum_dy_xhat + other.sum_dy_xhat,
        )
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Moments {}
    impl Sealed for crate::GradientSums {}
}

/// What a channel's elements are summed up as: [`Moments`] forward, [`GradientSums`] backward.
pub trait Sum: bytemuck::Pod + Default + Send + Sync + sealed::Sealed {
    /// Which pass exchanges it.
    const DIRECTION: Direction;
    /// Sum over both sets together.
    #[must_use]
    fn merge(self, other: Self) -> Self;
    /// Number of values.
    fn count(&self) -> u32;
}

impl Sum for Moments {
    const DIRECTION: Direction = Direction::Forward;
    fn merge(self, other: Self) -> Self {
        self.merge(other)
    }
    fn count(&self) -> u32 {
        self.count
    }
}

impl Sum for GradientSums {
    const DIRECTION: Direction = Direction::Backward;
    fn merge(self, other: Self) -> Self {
        self.merge(other)
    }
    fn count(&self) -> u32 {
        self.count
    }
}

/// The values that shards of one channel have together. [`Error::TooLarge`] if they are more than are counted.
pub(crate) fn check_count(shards: impl Iterator<Item = u64>) -> Result<u64, Error> {
    let (count, limit) = (shards.fold(0, u64::saturating_add), u32::MAX.into());
    if count > limit {
        return Err(Error::TooLarge { what: "values of one statistic, of all shards", required: count, limit });
    }
    Ok(count)
}

/// [`Error::Length`] if sums are not one a channel.
pub(crate) fn check_channels(sums: usize, of: &NormDescriptor) -> Result<(), Error> {
    check_len("the group's sums", Some(sums), of.affine_len())
}

/// Merges shards in the order given, by the same binary tree as within a device.
///
/// ```
/// use wgpu_norm::{Moments, merge_shards};
/// let one = |x| Moments { count: 1, mean_hi: x, mean_lo: 0.0, m2: 0.0 };
/// assert_eq!(merge_shards(&[one(1.0), one(2.0), one(6.0)]).mean(), 3.0);
/// assert_eq!(merge_shards::<Moments>(&[]).count, 0);
/// ```
#[must_use]
pub fn merge_shards<S: Sum>(shards: &[S]) -> S {
    merge_all(shards, &S::merge).unwrap_or_default()
}

/// The binary tree over what there is, as if it were padded to a power of two.
pub(crate) fn merge_all<T: Copy>(items: &[T], merge: &impl Fn(T, T) -> T) -> Option<T> {
    match items {
        [] => None,
        &[one] => Some(one),
        _ => {
            let (left, right) = items.split_at(items.len().next_power_of_two() / 2);
            Some(merge(merge_all(left, merge)?, merge_all(right, merge)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the formula in double precision: counts that `f32` does not hold, means far from 0, shards that are no power
    /// of two.
    #[test]
    fn merged_moments_are_those_of_all_values() {
        const MANY: u32 = 1 << 24;
        let far = [(MANY - 1, 1e6, 0.03125, 7e6), (MANY + 1, 1e6, -0.015625, 9e6), (MANY, 1e6 + 0.5, 0.0, 1e-3)];
        let most = [(i32::MAX as u32, -3.0, 0.0, 5e9), (i32::MAX as u32, 4.0, 1e-7, 1e3), (1, 1e4, 0.0, 0.0)];
        let uneven: Vec<_> = (1..8u32).map(|n| (n, n as f32 * 0.75, 0.0, n as f32)).collect();
        let one_and_all = [(1, 100.0, 0.0, 0.0), (u32::MAX - 1, 0.0, 0.0, 1.0)];
        for shards in [&far[..], &most, &uneven, &one_and_all, &far[..1]] {
            let all: Vec<_> = shards.iter().map(|&(count, hi, lo, m2)| Moments::of(count, [hi, lo, m2])).collect();
            let merged = merge_shards(&all);
            let count: f64 = all.iter().map(|m| f64::from(m.count)).sum();
            let mean = all.iter().map(|m| f64::from(m.count) * m.mean()).sum::<f64>() / count;
            let distance = |m: &Moments| m.mean() - mean;
            let between = |m: &Moments| f64::from(m.count) * distance(m).powi(2);
            let m2 = all.iter().map(|m| f64::from(m.m2) + between(m)).sum::<f64>();
            let spread = all.iter().map(|m| distance(m).abs()).fold(0.0, f64::max);
            assert_eq!(f64::from(merged.count), count);
            assert!((merged.mean() - mean).abs() <= 4e-7 * spread + 1e-13 * mean.abs(), "{merged:?}, mean {mean}");
            assert!((f64::from(merged.m2) - m2).abs() <= 1e-6 * m2, "{merged:?}, m2 {m2}");
        }
    }
}
