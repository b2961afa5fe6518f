//! Elements, sixteen at a time.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod bf16;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod f16c;
pub(super) mod formula;
pub(super) mod half;
pub(super) mod lanes;
