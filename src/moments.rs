//! Moments of a set of numbers, and the one way to merge them.

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

/// `a + b` as a rounded sum and its exact rounding error (Knuth's TwoSum).
#[inline(always)]
pub(crate) fn two_sum(a: f32, b: f32) -> (f32, f32) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
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
        let count = self.count.saturating_add(other.count);
        let ratio = other.count as f32 / count as f32;
        let delta = (other.mean_hi - self.mean_hi) + (other.mean_lo - self.mean_lo);
        let (hi, error) = two_sum(self.mean_hi, delta * ratio);
        let (mean_hi, mean_lo) = two_sum(hi, error + self.mean_lo);
        let between = delta * delta * (self.count as f32 * ratio);
        Moments { count, mean_hi, mean_lo, m2: (self.m2 + other.m2) + between }
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
