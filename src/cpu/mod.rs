//! The CPU path: the same layers on slices, for machines without a GPU and as a second opinion on one.
//!
//! Results do not depend on the number of threads or on the instruction set, to the bit: sums follow a fixed
//! tree over leaves that the shape alone decides, sixteen virtual lanes wide on every machine.
//!
//! From the call inwards:
//!
//! - `norm`, `call`, `sync`: the calls, on slices (`io`) of elements, then on bytes; `saved` and `running` are what they leave.
//! - `grid`: the layout as rows and cells. `exec`: tasks for threads, loops for instruction sets.
//! - `pass`: over the tensor, `forward` and `backward`, by `blocks` that fit the caches (one is written while the next is
//!   reduced: `relay`, `beside`) or twice as a whole. What belongs to rows is in `params`, to columns in `column_params`;
//!   `strip` takes short rows as one, `apply` writes elements.
//! - `reduce`: the trees over rows (`mod.rs`) and `columns`, of what `source` sums, in `partial` results. Leaves are in `leaf`
//!   (rows shorter than a vector: `transposed`) and `leaf_columns` (few columns: `abreast`).
//! - `simd`: `lanes` on every instruction set, the `formula` of an element, `half` for other types than `f32`.
//! - `memory`: areas of tensors of any type and pitch in (`input`) and out (`output`, a row of it: `sink`), around the caches
//!   (`stream`, by the stores of `nontemporal`, where `store_policy` says so), asked for before they are needed (`prefetch`).
//!
//! Words: a *span* is up to sixteen elements of a row, a *stride* four of them. A *row* is what lies in one piece in memory: a
//! channel of a sample, or, channels-last and for layer norm, all columns of a position. A *cell* is one channel of one sample,
//! a row or a column of it. A *leaf* is what is summed up at once (at most 4096 elements of a row, or sixteen rows of a
//! column), an *entry* the result of a branch of the tree, in a table. An *area* is a rectangle of rows and columns, a *tile* its
//! elements, in place or copied. A *panel* is columns that are reduced together, a *strip* several rows that are worked on as
//! one, a *block* what is written while the caches hold it.

mod call;
mod exec;
mod grid;
mod io;
mod memory;
mod norm;
mod pass;
mod reduce;
mod running;
mod saved;
mod simd;
mod sync;

pub use io::{Backward, Forward, Source};
pub use norm::Norm;
pub use saved::Saved;

#[cfg(test)]
mod tests;
