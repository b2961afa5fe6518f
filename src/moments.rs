//! Moments of a set of numbers, and the one way to merge them.

use std::ops::{Add, Mul, Sub};

/// Count, mean and sum of squared deviations of a set of numbers.
///
/// The mean is the unevaluated sum `mean_hi + mean_lo`, because a mean of 1e6 with a standard deviation of 1
/// does not fit in one `f32`. Merging is Chan, Golub and LeVeque's pairwise update (1983). What devices of a
/// group exchange is this, never `1/std`, from which a small variance cannot be recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Moments {
    /// Number of values.
    pub count: u32,
    /// Leading part of the mean.
    pub mean_hi: f32,
    /// Rounding error of `mean_hi`: the mean is `mean_hi + mean_lo`.
    pub mean_lo: f32,
    /// Sum of squared deviations from the mean.
    pub m2: f32,
}

/// `a + b` as a rounded sum and its exact rounding error (Knuth's TwoSum); of numbers, or of vectors of them.
#[inline(always)]
pub(crate) fn two_sum<T: Copy + Add<Output = T> + Sub<Output = T>>(a: T, b: T) -> (T, T) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// Mean (a pair) and sum of squared deviations of two sets together, each of so many values, not 0; of numbers, or of
/// vectors of them.
#[inline(always)]
pub(crate) fn merged<T>([hi, lo, m2]: [T; 3], [other_hi, other_lo, other_m2]: [T; 3], [a, b]: [u32; 2]) -> [T; 3]
where
    T: Copy + Add<Output = T> + Sub<Output = T> + Mul<Output = T> + Mul<f32, Output = T>,
{
    let ratio = b as f32 / a.saturating_add(b) as f32;
    let delta = (other_hi - hi) + (other_lo - lo);
    let (hi, error) = two_sum(hi, delta * ratio);
    let (hi, lo) = two_sum(hi, error + lo);
    let between = delta * delta * (a as f32 * ratio);
    [hi, lo, (m2 + other_m2) + between]
}

impl Moments {
    /// Moments of no values: merging with it changes nothing.
    pub const EMPTY: Moments = Moments { count: 0, mean_hi: 0.0, mean_lo: 0.0, m2: 0.0 };

    /// Moments of both sets together.
    ///
    /// ```
    /// use wgpu_norm::Moments;
    /// let a = Moments { count: 1, mean_hi: 1.0, mean_lo: 0.0, m2: 0.0 };
    /// let b = Moments { count: 1, mean_hi: 3.0, mean_lo: 0.0, m2: 0.0 };
    /// let both = a.merge(b);
    /// assert_eq!((both.count, both.mean(), both.var()), (2, 2.0, 1.0));
    /// assert_eq!(both.merge(Moments::EMPTY), both);
    /// ```
    #[must_use]
    pub fn merge(self, other: Moments) -> Moments {
        if self.count == 0 {
            return other;
        }
        if other.count == 0 {
            return self;
        }
        let counts = [self.count, other.count];
        Moments::of(counts[0].saturating_add(counts[1]), merged(self.parts(), other.parts(), counts))
    }

    /// Of a mean (a pair) and a sum of squared deviations.
    #[inline(always)]
    pub(crate) fn of(count: u32, [mean_hi, mean_lo, m2]: [f32; 3]) -> Moments {
        Moments { count, mean_hi, mean_lo, m2 }
    }

    fn parts(&self) -> [f32; 3] {
        [self.mean_hi, self.mean_lo, self.m2]
    }

    /// The mean, in double precision.
    pub fn mean(&self) -> f64 {
        f64::from(self.mean_hi) + f64::from(self.mean_lo)
    }

    /// Biased variance, `m2 / count`: what normalises. NaN for no values.
    pub fn var(&self) -> f64 {
        f64::from(self.m2) / f64::from(self.count)
    }
}
