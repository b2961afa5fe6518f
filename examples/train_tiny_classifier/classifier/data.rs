//! A problem that no linear classifier solves: exclusive or, turned at random in eight dimensions.

use super::{Rng, SeedableRng};
use rand::RngExt;
use rand_distr::StandardNormal;

pub const FEATURES: usize = 8;
pub const CLASSES: usize = 2;
/// Standard deviation of a cluster, whose centre is at (±1, ±1): a few samples lie on the wrong side.
const NOISE: f32 = 0.4;

/// Where the features lie: what is measured in other units has another scale and offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Units {
    pub scale: f32,
    pub offset: f32,
}

impl Units {
    /// Mean 0, standard deviation about 0.6.
    pub const PLAIN: Units = Units { scale: 1.0, offset: 0.0 };
}

/// Where samples come from.
pub struct Problem {
    /// Orthogonal, so that no feature alone says anything.
    rotation: [[f32; FEATURES]; FEATURES],
    units: Units,
}

/// Samples with their classes.
pub struct Batch {
    /// Rows of [`FEATURES`].
    pub x: Vec<f32>,
    pub labels: Vec<usize>,
}

impl Batch {
    pub fn rows(&self) -> usize {
        self.labels.len()
    }
}

impl Problem {
    pub fn new(units: Units) -> Problem {
        let mut rng = Rng::seed_from_u64(8);
        let mut rotation = [[0.0; FEATURES]; FEATURES];
        // Gram and Schmidt, on random rows.
        for i in 0..FEATURES {
            let mut row: [f32; FEATURES] = std::array::from_fn(|_| rng.sample(StandardNormal));
            for other in &rotation[..i] {
                let along: f32 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
            let length = row.iter().map(|a| a * a).sum::<f32>().sqrt();
            rotation[i] = row.map(|a| a / length);
        }
        Problem { rotation, units }
    }

    /// Samples of both classes.
    pub fn batch(&self, rng: &mut Rng, rows: usize) -> Batch {
        self.draw(rows, rng, |rng| (rng.random(), rng.random()))
    }

    /// Samples of one of the four clusters: requests that come in bursts.
    pub fn burst(&self, rng: &mut Rng, rows: usize) -> Batch {
        let cluster = (rng.random(), rng.random());
        self.draw(rows, rng, |_| cluster)
    }

    /// The same samples every time, which no training sees.
    pub fn held_out(&self) -> Batch {
        self.batch(&mut Rng::seed_from_u64(1 << 32), 4000)
    }

    fn draw(&self, rows: usize, rng: &mut Rng, cluster: impl Fn(&mut Rng) -> (bool, bool)) -> Batch {
        let mut batch = Batch { x: Vec::with_capacity(rows * FEATURES), labels: Vec::with_capacity(rows) };
        for _ in 0..rows {
            let (a, b) = cluster(rng);
            let mut point: [f32; FEATURES] = std::array::from_fn(|_| NOISE * rng.sample::<f32, _>(StandardNormal));
            point[0] += if a { 1.0 } else { -1.0 };
            point[1] += if b { 1.0 } else { -1.0 };
            batch.labels.push(usize::from(a != b));
            for feature in 0..FEATURES {
                let turned: f32 = point.iter().zip(&self.rotation).map(|(p, row)| p * row[feature]).sum();
                batch.x.push(turned * self.units.scale + self.units.offset);
            }
        }
        batch
    }
}
