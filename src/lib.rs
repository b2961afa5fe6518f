#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

pub mod cpu;
mod element;
mod error;
pub mod gpu;
pub mod host;
pub mod layout;
mod moments;
mod norm;
mod op;
pub mod plan;
mod profile;
pub mod reference;
mod state;
mod sums;
pub mod sync;
mod tensor;

pub use element::Element;
pub use error::Error;
pub use half;
pub use moments::Moments;
#[cfg(feature = "mpi")]
pub use mpi;
pub use norm::*;
pub use op::*;
pub use profile::Profile;
pub use state::{Running, State};
pub use sums::{GradientSums, Sum, merge_shards};
pub use tensor::{BackwardPitches, DType, Format, ForwardPitches, Pitch, TensorDescriptor};
pub use wgpu;
