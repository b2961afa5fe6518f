//! Several vectors of numbers in one piece of memory, as small calls spend much of their time on asking for it.

/// `N` vectors of one length.
#[derive(Default)]
pub(crate) struct Vectors<const N: usize> {
    numbers: Vec<f32>,
    len: usize,
}

impl<const N: usize> Vectors<N> {
    /// All 0.
    pub fn zeros(len: usize) -> Self {
        Vectors { numbers: vec![0.0; N * len], len }
    }

    #[inline(always)]
    pub fn each(&self) -> [&[f32]; N] {
        let mut rest = &self.numbers[..];
        [(); N].map(
            #[inline(always)]
            |()| {
                let (first, others) = rest.split_at(self.len);
                rest = others;
                first
            },
        )
    }

    #[inline(always)]
    pub fn each_mut(&mut self) -> [&mut [f32]; N] {
        let mut rest = &mut self.numbers[..];
        [(); N].map(
            #[inline(always)]
            |()| {
                let (first, others) = std::mem::take(&mut rest).split_at_mut(self.len);
                rest = others;
                first
            },
        )
    }
}
