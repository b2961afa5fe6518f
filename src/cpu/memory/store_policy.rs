//! Through the caches or around them.

use super::nontemporal::{QUAD, is_aligned};

/// How what is written gets to memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum StorePolicy {
    /// Through the caches, as it may soon be read.
    Cached,
    /// Around them, so that it is not read first: from registers where rows begin and end at multiples of [`QUAD`]
    /// bytes, otherwise an area at a time by way of a buffer that the caches hold.
    Around,
}

/// Bytes of a call's tensors from which on what is written goes around the caches, which could not hold it anyway.
const LARGE: u64 = 16 << 20;

impl StorePolicy {
    /// For a call whose tensors have so many bytes: around the caches, where there are instructions for it.
    pub fn of(bytes: u64) -> StorePolicy {
        if cfg!(target_arch = "x86_64") && bytes >= LARGE { StorePolicy::Around } else { StorePolicy::Cached }
    }

    /// Whether a row goes around the caches from registers.
    #[inline(always)]
    pub fn is_around(self, row: &[u8]) -> bool {
        self == StorePolicy::Around && is_aligned(row.as_ptr()) && row.len().is_multiple_of(QUAD)
    }
}
