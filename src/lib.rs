//! Normalisation layers for wgpu.
#![deny(missing_docs)]

mod error;
pub mod layout;
mod moments;
mod norm;
mod op;
pub mod reference;
mod tensor;

pub use error::Error;
pub use moments::Moments;
pub use norm::*;
pub use op::*;
pub use tensor::{DType, Format, TensorDescriptor};
pub use wgpu;
