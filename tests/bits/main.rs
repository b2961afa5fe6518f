//! The same bits: run to run, for any number of threads, for any split, and wherever tensors lie.

#[path = "../common/adapters.rs"]
mod adapters;
#[path = "../common/backends.rs"]
mod backends;
#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/golden.rs"]
mod golden;
#[path = "../common/placed_on_gpu.rs"]
mod placed_on_gpu;
#[path = "../common/placement.rs"]
mod placement;
mod places;
mod runs;
mod table;
#[path = "../common/transfer.rs"]
mod transfer;
