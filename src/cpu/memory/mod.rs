//! Tensors in memory: what is read and written, in which form and by which way.

pub(super) mod area;
pub(super) mod input;
pub(super) mod nontemporal;
pub(super) mod output;
pub(super) mod prefetch;
pub(super) mod sink;
pub(super) mod store_policy;
pub(super) mod stream;
pub(super) mod vectors;
