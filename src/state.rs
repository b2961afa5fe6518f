//! Parameters and running statistics of a layer, in PyTorch's terms.

use crate::error::{Error, check_len};
use crate::norm::NormDescriptor;

/// Running statistics, one value a channel each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    /// Starts at 0.
    pub running_mean: Vec<f32>,
    /// Unbiased variance; starts at 1.
    pub running_var: Vec<f32>,
    /// Batches taken into each channel's running statistics (PyTorch's `num_batches_tracked`, which is one
    /// number: see [`Running::num_batches_tracked`]).
    pub tracked: Vec<u32>,
    /// Batches left out because the channel's mean or variance was not finite.
    pub skipped: Vec<u32>,
}

impl Running {
    /// From PyTorch's buffers of a layer, which counts batches for all channels together: to go on from a checkpoint of this
    /// crate, keep `tracked` and `skipped` themselves (a channel that left out a batch has a count of its own).
    ///
    /// ```
    /// use wgpu_norm::{BatchNormDescriptor, Running, State};
    /// let descriptor = BatchNormDescriptor::new(2);
    /// let running = Running::from_pytorch(vec![0.5, -1.0], vec![2.0, 3.0], 1000);
    /// let state = State { running: Some(running), ..State::new(descriptor.clone())? };
    /// state.check(&descriptor.into())?;
    /// # Ok::<(), wgpu_norm::Error>(())
    /// ```
    pub fn from_pytorch(running_mean: Vec<f32>, running_var: Vec<f32>, num_batches_tracked: u32) -> Running {
        let channels = running_mean.len();
        Running { running_mean, running_var, tracked: vec![num_batches_tracked; channels], skipped: vec![0; channels] }
    }

    /// Batches taken in so far, for PyTorch: the largest of the channels' counts, so not all that [`Momentum::Cumulative`]
    /// needs to go on where a channel left one out. PyTorch counts a batch that is not finite, too.
    ///
    /// [`Momentum::Cumulative`]: crate::Momentum::Cumulative
    pub fn num_batches_tracked(&self) -> u32 {
        self.tracked.iter().copied().max().unwrap_or(0)
    }
}

/// What a layer learns and remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Scale, one a channel or element of `normalized_shape`; starts at 1. `None`: the layer has none.
    pub weight: Option<Vec<f32>>,
    /// Shift; starts at 0. `None`: the layer has none.
    pub bias: Option<Vec<f32>>,
    /// Running statistics. `None`: the layer does not track them.
    pub running: Option<Running>,
}

impl State {
    /// The state of a new layer. Errors as [`NormDescriptor::validate`].
    pub fn new(descriptor: impl Into<NormDescriptor>) -> Result<State, Error> {
        let descriptor = descriptor.into();
        descriptor.validate()?;
        let len = usize::try_from(descriptor.affine_len()).unwrap_or(usize::MAX);
        let affine = descriptor.affine();
        Ok(State {
            weight: affine.weight.then(|| vec![1.0; len]),
            bias: affine.bias.then(|| vec![0.0; len]),
            running: descriptor.running_stats().map(|_| Running {
                running_mean: vec![0.0; len],
                running_var: vec![1.0; len],
                tracked: vec![0; len],
                skipped: vec![0; len],
            }),
        })
    }

    /// Checks that every vector is there exactly when the descriptor has it, with the right length:
    /// [`Error::Missing`], [`Error::Unexpected`], [`Error::Length`]; and that no variance is negative:
    /// [`Error::Parameter`]. (It may be NaN, as [`NonFinite::Poison`](crate::NonFinite::Poison) makes it.)
    pub fn check(&self, descriptor: &NormDescriptor) -> Result<(), Error> {
        let (affine, len) = (descriptor.affine(), descriptor.affine_len());
        let running = self.running.as_ref();
        let tracks = descriptor.running_stats().is_some();
        let vectors = [
            ("weight", affine.weight, self.weight.as_ref().map(Vec::len)),
            ("bias", affine.bias, self.bias.as_ref().map(Vec::len)),
            ("running_mean", tracks, running.map(|r| r.running_mean.len())),
            ("running_var", tracks, running.map(|r| r.running_var.len())),
            ("tracked", tracks, running.map(|r| r.tracked.len())),
            ("skipped", tracks, running.map(|r| r.skipped.len())),
        ];
        for (name, expected, actual) in vectors {
            match (expected, actual) {
                (false, Some(_)) => {
                    return Err(Error::Unexpected { name, reason: "the layer has none: leave it None" });
                }
                (true, None) => return Err(Error::Missing { name, hint: "the layer was made with it" }),
                _ => check_len(name, actual, len)?,
            }
        }
        if let Some(&var) = running.and_then(|r| r.running_var.iter().find(|&&var| var < 0.0)) {
            return Err(Error::Parameter { name: "running_var", value: var.into(), expected: "0 or more" });
        }
        Ok(())
    }
}
