//! Asking for memory before it is needed.

use crate::cpu::simd::lanes::LANES;

/// Bytes of a cache line: sixteen `f32`.
pub(super) const LINE: usize = LANES * size_of::<f32>();

/// Memory that will be read next, of so many tensors. Asking for a line of it with each line that is worked on keeps memory
/// busy all the time, in both directions.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch<const N: usize = 2>(pub [Rest; N]);

/// Nothing.
impl<const N: usize> Default for Prefetch<N> {
    #[inline(always)]
    fn default() -> Self {
        Prefetch([Rest::default(); N])
    }
}

/// Of one tensor, where there may be two.
impl From<Prefetch<1>> for Prefetch {
    #[inline(always)]
    fn from(Prefetch([rest]): Prefetch<1>) -> Prefetch {
        Prefetch([rest, Rest::default()])
    }
}

/// Rows of one tensor; an address alone, as asking for one is safe whatever is there.
#[derive(Clone, Copy)]
pub(crate) struct Rest {
    start: *const u8,
    /// Bytes of all rows, from the first on.
    len: usize,
    /// Bytes from one row to the next.
    pitch: usize,
    /// Bytes of sixteen elements: a line, or half of one.
    vector: usize,
}

/// Nothing: the same line again and again, which costs less than to test in inner loops whether there is anything.
impl Default for Rest {
    #[inline(always)]
    fn default() -> Rest {
        static NOTHING: u8 = 0;
        Rest { start: &raw const NOTHING, len: 0, pitch: 0, vector: 0 }
    }
}

impl Rest {
    #[inline(always)]
    pub fn new(bytes: &[u8], pitch: usize, vector: usize) -> Rest {
        match bytes.len() {
            0 => Rest::default(),
            len => Rest { start: bytes.as_ptr(), len, pitch, vector },
        }
    }

    #[inline(always)]
    fn skip(self, at: usize) -> Rest {
        Rest { start: self.start.wrapping_add(at), ..self }
    }

    #[inline(always)]
    fn ask(self, at: usize) {
        prefetch_line(self.start.wrapping_add(at));
    }
}

impl<const N: usize> Prefetch<N> {
    /// From a byte of each tensor on.
    #[inline(always)]
    pub fn skip(self, at: usize) -> Self {
        Prefetch(self.0.map(|rest| rest.skip(at)))
    }

    /// From row k on.
    #[inline(always)]
    pub fn row(self, k: usize) -> Self {
        Prefetch(self.0.map(|rest| rest.skip(k * rest.pitch)))
    }

    /// From vector i on.
    #[inline(always)]
    pub fn vector(self, i: usize) -> Self {
        Prefetch(self.0.map(|rest| rest.skip(i * rest.vector)))
    }

    /// Whether there is nothing to ask for.
    #[inline(always)]
    pub fn is_nothing(&self) -> bool {
        self.0.iter().all(|rest| rest.len == 0)
    }

    /// Of rows of which 2^this lie side by side.
    #[inline(always)]
    pub fn of_pieces(self, pieces: u32) -> Self {
        Prefetch(self.0.map(|rest| Rest { pitch: rest.pitch << pieces, ..rest }))
    }

    /// Asks for the line of vector i.
    #[inline(always)]
    pub fn ask(self, i: usize) {
        self.0.into_iter().for_each(|rest| rest.ask(rest.vector * i));
    }

    /// Asks for the lines of a few neighbouring vectors of such elements.
    #[inline(always)]
    pub fn ask_vectors<T, const VECTORS: usize>(self, vectors: [usize; VECTORS]) {
        for rest in self.0 {
            for (k, i) in vectors.into_iter().enumerate() {
                if begins_line::<T>(k) {
                    rest.ask(rest.vector * i);
                }
            }
        }
    }

    /// Asks for line i, if there is anything to ask for: nothing is a single line.
    #[inline(always)]
    pub fn ask_line(self, i: usize) {
        self.0.into_iter().filter(|rest| rest.len > 0).for_each(|rest| rest.ask(LINE * i));
    }

    /// Asks for all of it.
    #[inline(always)]
    pub fn ask_all(self) {
        self.0.into_iter().for_each(|rest| (0..rest.len).step_by(LINE).for_each(|at| rest.ask(at)));
    }
}

/// Whether vector `k` of a few neighbours of elements like these has a line of its own: two vectors of halves share one.
#[inline(always)]
pub(crate) const fn begins_line<T>(k: usize) -> bool {
    (k * size_of::<T>()).is_multiple_of(size_of::<f32>())
}

/// Asks for the cache line of an address.
#[inline(always)]
fn prefetch_line(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: asking for an address does not fault, whatever it is.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
