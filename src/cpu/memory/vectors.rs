//! Several vectors of numbers in one piece of memory, as small calls spend much of their time on asking for it.

use crate::cpu::grid::{Grid, Join};

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

/// How numbers become those of more cells, or of a strip's elements.
#[derive(Clone, Copy)]
pub(crate) enum Repeat {
    /// Every number so many times.
    Each(usize),
    /// All of them so many times.
    All(usize),
}

impl Repeat {
    /// Numbers of statistics, to be one a cell in grids of columns.
    pub fn of_stats(grid: &Grid) -> Repeat {
        match grid.join {
            Join::Channels(size) if grid.columns => Repeat::Each(size),
            _ => Repeat::All(1),
        }
    }

    pub fn times(self) -> usize {
        let (Repeat::Each(times) | Repeat::All(times)) = self;
        times
    }

    /// Takes the numbers that vectors begin with to all of them.
    pub fn spread<const N: usize>(self, vectors: [&mut [f32]; N]) {
        vectors.into_iter().for_each(|vector| self.spread_one(vector));
    }

    fn spread_one(self, vector: &mut [f32]) {
        let mut numbers = vector.len() / self.times();
        match self {
            Repeat::Each(times) => (0..numbers).rev().for_each(|i| {
                let number = vector[i];
                vector[i * times..][..times].fill(number);
            }),
            Repeat::All(_) => {
                while numbers < vector.len() {
                    let more = numbers.min(vector.len() - numbers);
                    vector.copy_within(..more, numbers);
                    numbers += more;
                }
            }
        }
    }
}
