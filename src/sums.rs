//! What members of a group exchange in a backward pass.

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
    /// Always 0: a fourth word, as [`Moments`](crate::Moments) have.
    pub reserved: f32,
}

impl GradientSums {
    /// Sums over both sets together.
    #[must_use]
    pub fn merge(self, other: GradientSums) -> GradientSums {
        GradientSums {
            count: self.count.saturating_add(other.count),
            sum_dy: self.sum_dy + other.sum_dy,
            sum_dy_xhat: self.sum_dy_xhat + other.sum_dy_xhat,
            reserved: 0.0,
        }
    }
}
