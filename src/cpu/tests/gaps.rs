//! Tensors that do not lie in memory without gaps.

use crate::layout::Memory;
use crate::*;

/// A tensor with gaps: rows `by` elements longer, samples as much again.
#[derive(Clone, Copy)]
pub(super) struct Gaps {
    pub memory: Memory,
    pub by: u64,
}

impl Gaps {
    pub fn pitch(&self) -> Pitch {
        if self.by == 0 {
            return Pitch::default();
        }
        let Memory { rows, width, .. } = self.memory;
        let row = width + self.by;
        Pitch { row: (rows > 1).then_some(row), sample: Some(rows * row + self.by) }
    }

    /// For each row where it begins.
    fn rows(&self) -> Vec<usize> {
        let Memory { samples, rows, width, .. } = self.memory;
        let row = width + self.by;
        let sample = rows * row + self.by;
        (0..samples).flat_map(|n| (0..rows).map(move |r| (n * sample + r * row) as usize)).collect()
    }

    pub fn put<T: Element>(&self, dense: &[T]) -> Vec<T> {
        let (rows, width) = (self.rows(), self.memory.width as usize);
        let mut all = vec![T::from_f32(GAP); rows.last().unwrap() + width + self.by as usize];
        for (at, row) in rows.into_iter().zip(dense.chunks(width)) {
            all[at..at + width].copy_from_slice(row);
        }
        all
    }

    /// Without the gaps, which nobody must have written.
    pub fn take<T: Element>(&self, mut all: Vec<T>) -> Vec<T> {
        let width = self.memory.width as usize;
        let dense: Vec<T> = self.rows().into_iter().flat_map(|at| all[at..at + width].to_vec()).collect();
        for at in self.rows() {
            all[at..at + width].fill(T::from_f32(GAP));
        }
        assert!(all.iter().all(|v| v.to_f32() == GAP), "a gap was written");
        dense
    }
}

const GAP: f32 = -77.0;
