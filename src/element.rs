//! Element types of host slices.

use crate::tensor::DType;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A number that tensors are made of: `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync {
    /// The type as data.
    const DTYPE: DType;
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even; overflows to infinity.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

macro_rules! half_element {
    ($($t:ty = $dtype:expr),*) => {$(
        impl Element for $t {
            const DTYPE: DType = $dtype;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self.to_f32()
            }
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                Self::from_f32(value)
            }
        }
    )*};
}
half_element!(half::f16 = DType::F16, half::bf16 = DType::BF16);
