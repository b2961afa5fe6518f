//! A small classifier that trains: data, layers, optimiser, loop.
//!
//! `tests/training.rs` includes this folder too.
#![allow(dead_code, reason = "each of the programs that share this folder uses a part of it")]

pub mod data;
pub mod linear;
pub mod network;
pub mod optimiser;

pub use data::{Problem, Units};
pub use network::Network;
pub use optimiser::Adam;
pub use rand::SeedableRng;
pub use rand::rngs::Xoshiro256PlusPlus as Rng;
use wgpu_norm::{Error, host::Backend};

/// Samples in a training batch.
pub const BATCH: usize = 64;
/// Adam's learning rate.
pub const LEARNING_RATE: f32 = 1e-3;

/// A network after its training, with the loss of every step.
pub struct Trained {
    pub network: Network,
    pub losses: Vec<f32>,
    /// Share of right answers in evaluation, on samples that training did not see.
    pub accuracy: f64,
}

/// Trains a network from scratch. The seed fixes weights and batches; `each` is called after every step.
pub fn train(
    backend: Option<&Backend>,
    problem: &Problem,
    seed: u64,
    steps: usize,
    mut each: impl FnMut(),
) -> Result<Trained, Error> {
    let mut rng = Rng::seed_from_u64(seed);
    let mut network = Network::new(backend, &mut rng)?;
    let mut adam = Adam::new(LEARNING_RATE);
    let mut losses = Vec::with_capacity(steps);
    for _ in 0..steps {
        losses.push(network.train(&problem.batch(&mut rng, BATCH), &mut adam)?);
        each();
    }
    let accuracy = network.accuracy(&problem.held_out())?;
    Ok(Trained { network, losses, accuracy })
}

/// Mean loss of the last 20 steps: of one step it would be noise.
pub fn final_loss(losses: &[f32]) -> f32 {
    let last = &losses[losses.len().saturating_sub(20)..];
    last.iter().sum::<f32>() / last.len() as f32
}
