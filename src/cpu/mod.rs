//! The CPU path: the same layers on slices, for machines without a GPU and as a second opinion on one.
//!
//! Results do not depend on the number of threads or on the instruction set, to the bit: sums follow a fixed
//! tree over leaves that the shape alone decides, sixteen virtual lanes wide on every machine.
//!
//! One chain of files: `norm`, `call`, `sync` and `io` are the calls; `forward` and `backward`, with `pass` in common,
//! go over the tensor, by `blocks` that fit the caches (one is written while the next is reduced: `relay`, `beside`) or
//! twice as a whole, in the terms of `grid`, with the `params` of rows and columns (short rows as one: `strip`);
//! `reduce` and `columns` walk the trees over the leaves of `source`; `leaf`, `leaf_columns` and `apply` are the loops
//! over elements, `formula` what they do to one, all of it in `f32` by `lanes` (`half`: other types in and out);
//! `input` and `output` bring areas of tensors of any type and pitch in and out (a row's way out: `sink`), `stream` past
//! the caches (by the stores of `nontemporal`), `ahead` before they are needed; `exec` deals tasks out to threads and
//! instruction sets.

mod abreast;
mod ahead;
mod apply;
mod area;
mod backward;
mod beside;
mod blocks;
mod call;
mod column_params;
mod columns;
mod exec;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod f16c;
mod formula;
mod forward;
mod grid;
mod half;
mod input;
mod io;
mod lanes;
mod leaf;
mod leaf_columns;
mod nontemporal;
mod norm;
mod output;
mod params;
mod partial;
mod pass;
mod reduce;
mod relay;
mod running;
mod saved;
mod short;
mod sink;
mod source;
mod stream;
mod strip;
mod sync;
mod vectors;

pub use io::{Backward, Forward, Source};
pub use norm::Norm;
pub use saved::Saved;

#[cfg(test)]
mod tests;
