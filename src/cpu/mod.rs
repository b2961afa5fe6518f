//! The CPU path: the same layers on slices, for machines without a GPU and as a second opinion on one.
//!
//! Results do not depend on the number of threads or on the instruction set, to the bit: sums follow a fixed
//! tree over leaves that the shape alone decides, sixteen virtual lanes wide on every machine.
//!
//! One chain of files: `norm`, `call`, `sync` and `io` are the calls; `forward` and `backward`, with `pass` in common,
//! go over the tensor, by `blocks` that fit the caches (one is written while the next is reduced: `relay`, `beside`) or
//! twice as a whole, in the terms of `grid`, with the `params` of rows and columns (short rows as one: `strip`);
//! `reduce` and `columns` walk the trees over the leaves of `source`; `leaf`, `leaf_columns` (few columns: `abreast`, rows
//! shorter than a vector: `short`) and `apply` are the loops over elements, `formula` what they do to one, all of it in `f32` by `lanes` (`half`: other types in and out);
//! `input` and `output` bring areas of tensors of any type and pitch in and out (a row's way out: `sink`, `way`), `stream`
//! past the caches (by the stores of `nontemporal`), `ahead` before they are needed; `exec` deals tasks out to threads and
//! instruction sets.
//!
//! Words: a *span* is up to sixteen elements of a row, a *stride* four of them. A *row* is what lies in one piece in memory: a
//! channel of a sample, or, channels-last and for layer norm, all columns of a position. A *cell* is one channel of one sample,
//! a row or a column of it. A *leaf* is what is summed up at once (at most 4096 elements of a row, or sixteen rows of a
//! column), an *entry* the result of a branch of the tree, in a table. An *area* is a rectangle of rows and columns, a *tile* its
//! elements, in place or copied. A *panel* is columns that are reduced together, a *strip* several rows that are worked on as
//! one, a *block* what is written while the caches hold it.

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
mod way;

pub use io::{Backward, Forward, Source};
pub use norm::Norm;
pub use saved::Saved;

#[cfg(test)]
mod tests;
