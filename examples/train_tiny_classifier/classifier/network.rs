//! Linear(8, 32) → BatchNorm → ReLU → Linear(32, 2), with or without the BatchNorm.

use super::data::{Batch, CLASSES, FEATURES};
use super::linear::Linear;
use super::{Adam, Rng};
use pollster::block_on;
use wgpu_norm::{BatchNormDescriptor, Commit, Error, Fusion, Gradients, Running, State, TensorDescriptor, host};

const HIDDEN: usize = 32;
/// The ReLU runs in the pass that normalises, forward and backward.
const FUSION: Fusion = Fusion { relu: true, residual: wgpu_norm::Residual::None };

pub struct Network {
    first: Linear,
    norm: Option<BatchNorm>,
    second: Linear,
}

/// The layer, and the optimiser's copy of what it learns.
struct BatchNorm {
    layer: host::Norm,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Network {
    /// With a BatchNorm on this backend, or without one.
    pub fn new(backend: Option<&host::Backend>, rng: &mut Rng) -> Result<Network, Error> {
        let norm = backend.map(|backend| {
            let layer = host::Norm::new(backend, BatchNormDescriptor::new(HIDDEN))?;
            Ok(BatchNorm { layer, weight: vec![1.0; HIDDEN], bias: vec![0.0; HIDDEN] })
        });
        Ok(Network {
            first: Linear::new(FEATURES, HIDDEN, rng),
            norm: norm.transpose()?,
            second: Linear::new(HIDDEN, CLASSES, rng),
        })
    }

    /// One step of training; returns the loss before it.
    pub fn train(&mut self, batch: &Batch, adam: &mut Adam) -> Result<f32, Error> {
        let shape = [batch.rows(), HIDDEN];
        let tensor = TensorDescriptor::new(&shape);

        let before = self.first.forward(&batch.x);
        let (hidden, saved) = match &mut self.norm {
            Some(norm) => {
                let pass = norm.layer.forward_train::<f32, f32>(&tensor, FUSION, &before, None, Commit::Update);
                let (output, saved) = block_on(pass)?;
                (output.y, Some(saved))
            }
            None => (relu(&before), None),
        };
        let probabilities = softmax(self.second.forward(&hidden));

        let (loss, dlogits) = cross_entropy(&probabilities, &batch.labels);
        let second = self.second.backward(&hidden, &dlogits);
        let (dbefore, dweight, dbias) = match (&mut self.norm, saved) {
            (Some(norm), Some(saved)) => {
                let wanted = Gradients { dx: true, dresidual: false, affine: true };
                let pass = norm.layer.backward::<f32, f32>(saved, host::Backward::new(&before, &second.dx), wanted);
                let g = block_on(pass)?;
                // Everything that was asked for is there.
                (g.dx.unwrap_or_default(), g.dweight.unwrap_or_default(), g.dbias.unwrap_or_default())
            }
            _ => {
                let dbefore = second.dx.iter().zip(&before).map(|(&d, &b)| if b > 0.0 { d } else { 0.0 });
                (dbefore.collect(), Vec::new(), Vec::new())
            }
        };
        let first = self.first.backward(&batch.x, &dbefore);

        let (mut none, mut none_either) = (Vec::new(), Vec::new());
        let (weight, bias) = match &mut self.norm {
            Some(norm) => (&mut norm.weight, &mut norm.bias),
            None => (&mut none, &mut none_either),
        };
        adam.step([
            (&mut self.first.weight, &first.dweight),
            (&mut self.first.bias, &first.dbias),
            (weight, &dweight),
            (bias, &dbias),
            (&mut self.second.weight, &second.dweight),
            (&mut self.second.bias, &second.dbias),
        ]);
        if let Some(norm) = &mut self.norm {
            norm.layer.set_affine(Some(&norm.weight), Some(&norm.bias))?;
        }
        Ok(loss)
    }

    // PyTorch code is well advised to enter evaluation mode through a guard that restores the old mode even when
    // inference fails. A layer here has no mode to restore: `infer` evaluates, whatever ran before it.

    /// Probabilities of the classes, in evaluation: a sample's do not depend on the others.
    pub fn infer(&mut self, x: &[f32]) -> Result<Vec<f32>, Error> {
        self.infer_with(x, |layer, tensor, before| {
            block_on(layer.forward_eval::<f32, f32>(tensor, FUSION, before, None)).map(|output| output.y)
        })
    }

    /// The mistake: inference with the training pass. `commit` as in training changes the layer each time.
    pub fn infer_in_training_mode(&mut self, x: &[f32], commit: Commit) -> Result<Vec<f32>, Error> {
        self.infer_with(x, |layer, tensor, before| {
            block_on(layer.forward_train::<f32, f32>(tensor, FUSION, before, None, commit)).map(|(output, _)| output.y)
        })
    }

    fn infer_with(
        &mut self,
        x: &[f32],
        pass: impl FnOnce(&mut host::Norm, &TensorDescriptor, &[f32]) -> Result<Vec<f32>, Error>,
    ) -> Result<Vec<f32>, Error> {
        let before = self.first.forward(x);
        let shape = [x.len() / FEATURES, HIDDEN];
        let hidden = match &mut self.norm {
            Some(norm) => pass(&mut norm.layer, &TensorDescriptor::new(&shape), &before)?,
            None => relu(&before),
        };
        Ok(softmax(self.second.forward(&hidden)))
    }

    /// Share of right answers, in evaluation.
    pub fn accuracy(&mut self, batch: &Batch) -> Result<f64, Error> {
        Ok(share_of_right(&self.infer(&batch.x)?, &batch.labels))
    }

    /// The BatchNorm's state, if there is one.
    pub fn state(&self) -> Result<Option<State>, Error> {
        self.norm.as_ref().map(|norm| block_on(norm.layer.state())).transpose()
    }

    /// Its running statistics.
    pub fn running(&self) -> Result<Running, Error> {
        Ok(self.state()?.and_then(|state| state.running).unwrap_or_default())
    }

    /// Puts an earlier state back.
    pub fn restore(&mut self, state: State) -> Result<(), Error> {
        match &mut self.norm {
            Some(norm) => norm.layer.set_state(state),
            None => Ok(()),
        }
    }
}

/// Share of rows whose most probable class is the label.
pub fn share_of_right(probabilities: &[f32], labels: &[usize]) -> f64 {
    let right = probabilities.chunks(CLASSES).zip(labels).filter(|(p, label)| p[**label] > 0.5).count();
    right as f64 / labels.len() as f64
}

fn relu(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x.max(0.0)).collect()
}

/// Of each row of logits.
fn softmax(mut logits: Vec<f32>) -> Vec<f32> {
    for row in logits.chunks_mut(CLASSES) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - largest).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= sum);
    }
    logits
}

/// The mean over the batch, and its gradient with respect to the logits.
fn cross_entropy(probabilities: &[f32], labels: &[usize]) -> (f32, Vec<f32>) {
    let rows = labels.len() as f32;
    let mut loss = 0.0;
    let mut dlogits: Vec<f32> = probabilities.iter().map(|p| p / rows).collect();
    for ((row, p), &label) in dlogits.chunks_mut(CLASSES).zip(probabilities.chunks(CLASSES)).zip(labels) {
        loss -= p[label].max(f32::MIN_POSITIVE).ln() / rows;
        row[label] -= 1.0 / rows;
    }
    (loss, dlogits)
}
