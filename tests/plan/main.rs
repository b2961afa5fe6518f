//! What plans promise, without a device.

mod any;
mod elements;
mod limits;
mod partials;
mod passes;
mod plans;
#[path = "../common/random.rs"]
mod random;
