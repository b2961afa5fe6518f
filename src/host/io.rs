//! What a backward pass is given.

/// Slices that a backward pass reads.
///
/// ```
/// # let (x, dy, other) = ([0.0f32; 4], [0.0f32; 4], [0.0f32; 4]);
/// use wgpu_norm::host::Backward;
/// let plain = Backward::new(&x, &dy);
/// let sum_used_elsewhere = Backward { dsum: Some(&other[..]), ..Backward::new(&x, &dy) };
/// ```
#[derive(Debug)]
pub struct Backward<'a, I, O> {
    /// x as in the forward pass; with [`Residual::Before`](crate::Residual::Before) the forward pass's sum.
    pub x: &'a [I],
    /// As in the forward pass, with [`Residual::After`](crate::Residual::After) and ReLU.
    pub residual: Option<&'a [I]>,
    /// Gradient of y.
    pub dy: &'a [O],
    /// Gradient of the sum's other uses, with [`Residual::Before`](crate::Residual::Before).
    pub dsum: Option<&'a [I]>,
}

impl<'a, I, O> Backward<'a, I, O> {
    /// x and dy; the rest is absent.
    pub fn new(x: &'a [I], dy: &'a [O]) -> Backward<'a, I, O> {
        Backward { x, residual: None, dy, dsum: None }
    }
}

impl<I, O> Clone for Backward<'_, I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, O> Copy for Backward<'_, I, O> {}
