//! A device without memory for one of a call's buffers, for each of them in turn.

use super::backend;
use super::device::Device;
use crate::table::cases::{narrow, noise};
use std::path::Path;
use wgpu_norm::{BatchNormDescriptor, Commit, Error, Fusion, Gradients, Profile, Residual, TensorDescriptor, host};

const FUSION: Fusion = Fusion { residual: Residual::Before, relu: false };
/// Passes leave partial results for others.
const SHAPE: [usize; 4] = [40, 3, 11, 13];

type Step = (host::Output<f32, f32>, host::OutputGradients<f32>);

/// A call that lacks a buffer is an error, changes nothing, and leaves nothing behind that the next call would use.
/// Returns for how many buffers that was checked.
pub fn check(folder: &Path) -> Result<usize, String> {
    let device = Device::new(folder);
    let backend = backend(&device, &Profile::SOFTWARE_GPU).map_err(|e| e.to_string())?;
    let layer = || host::Norm::new(&backend, BatchNormDescriptor::new(SHAPE[1])).map_err(|e| e.to_string());
    let len = SHAPE.iter().product();
    let [x, residual, dy] = [1, 2, 3].map(|seed| narrow(noise(seed, len, 0.5, 2.0)));
    let step = |norm: &mut host::Norm| pollster::block_on(step(norm, [&x, &residual, &dy]));
    let expected = step(&mut layer()?).map_err(|(_, error)| error.to_string())?;
    for left in 0.. {
        let mut norm = layer()?;
        device.set_buffers_left(Some(left));
        let without = step(&mut norm);
        device.set_buffers_left(None);
        let taken = match without {
            Ok(results) if results == expected => return Ok(left),
            Ok(_) => return Err(format!("with {left} buffers a step has other results")),
            Err((taken, Error::NewBuffer(_) | Error::Readback(_))) => taken,
            Err((_, error)) => return Err(format!("with {left} buffers a step has another error: {error}")),
        };
        let again = step(&mut norm).map_err(|(_, e)| format!("after one with {left} buffers a step fails: {e}"))?;
        let running = pollster::block_on(norm.state()).map_err(|e| e.to_string())?.running.unwrap_or_default();
        if again != expected || running.tracked != [taken + 1; SHAPE[1]] {
            let tracked = running.tracked;
            return Err(format!("a step with {left} buffers has changed the next one, or the {tracked:?} batches"));
        }
    }
    unreachable!("a step has an end")
}

/// A training step; an error with the number of batches that were taken in.
async fn step(norm: &mut host::Norm, [x, residual, dy]: [&[f32]; 3]) -> Result<Step, (u32, Error)> {
    let tensor = TensorDescriptor::new(&SHAPE);
    let pass = norm.forward_train::<f32, f32>(&tensor, FUSION, x, Some(residual), Commit::Update);
    let (output, saved) = pass.await.map_err(|error| (0, error))?;
    let wanted = Gradients { dx: true, dresidual: false, affine: true };
    let io = host::Backward::new(output.sum.as_deref().unwrap_or_default(), dy);
    let gradients = norm.backward(saved, io, wanted).await.map_err(|error| (1, error))?;
    Ok((output, gradients))
}
