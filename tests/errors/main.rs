//! Bad input: which error, what it says, and that nothing was written.

#[path = "../common/adapters.rs"]
mod adapters;
#[macro_use]
mod bench;
mod buffers;
mod devices;
mod shapes;
mod slices;
#[path = "../common/transfer.rs"]
mod transfer;
