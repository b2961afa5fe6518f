//! The slices of a call.

use super::memory::store_policy::StorePolicy;
use crate::error::{Error, check_len};
use crate::op::{Gradients, Residual};
use crate::plan::{Problem, Tensor};
use crate::tensor::{BackwardPitches, DType, ForwardPitches};
use bytemuck::Pod;

/// Where an input is.
#[derive(Debug)]
pub enum Source<'a, T> {
    /// In a slice of its own, as long as the tensor.
    From(&'a [T]),
    /// In `y`, which holds it on entry. Input and output must have the same element type.
    InPlace,
    /// In `sum`, which holds it on entry: a residual stream that is updated in place.
    InSum,
}

impl<'a, T: Pod> Source<'a, T> {
    /// The same memory as elements of another type.
    fn cast<U: Pod>(self) -> Source<'a, U> {
        match self {
            Source::From(slice) => Source::From(bytemuck::cast_slice(slice)),
            Source::InPlace => Source::InPlace,
            Source::InSum => Source::InSum,
        }
    }
}

impl<T> Clone for Source<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Source<'_, T> {}

impl<'a, T> From<&'a [T]> for Source<'a, T> {
    fn from(slice: &'a [T]) -> Self {
        Source::From(slice)
    }
}

impl<'a, T> Source<'a, T> {
    pub(super) fn slice(&self) -> Option<&'a [T]> {
        match *self {
            Source::From(slice) => Some(slice),
            Source::InPlace | Source::InSum => None,
        }
    }
}

/// Inputs and outputs of a forward pass. All slices have as many elements as the tensor; more if it has gaps.
#[derive(Debug)]
pub struct Forward<'a, I, O> {
    /// The input. In place only in evaluation, because a backward pass needs it again; with
    /// [`Residual::Before`] it needs the sum alone.
    pub x: Source<'a, I>,
    /// The second input, if the call fuses one. In place in evaluation, and in training unless the backward pass
    /// needs it again, which [`Residual::After`] with a ReLU does.
    pub residual: Option<Source<'a, I>>,
    /// The output.
    pub y: &'a mut [O],
    /// `x + residual`, for [`Residual::Before`] only.
    pub sum: Option<&'a mut [I]>,
    /// Gaps within the tensors. A slice begins at its tensor's first element and reaches to the last, or further.
    pub pitches: ForwardPitches,
}

impl<'a, I, O> Forward<'a, I, O> {
    /// From x to y, without a second input.
    pub fn new(x: &'a [I], y: &'a mut [O]) -> Self {
        Forward { x: Source::From(x), residual: None, y, sum: None, pitches: ForwardPitches::default() }
    }
}

/// Inputs and outputs of a backward pass. Gradients that are not wanted are `None` and cost nothing; others overwrite their
/// slices.
#[derive(Debug)]
pub struct Backward<'a, I, O> {
    /// The forward pass's input; with [`Residual::Before`] the `sum` that it wrote.
    pub x: &'a [I],
    /// The forward pass's residual. Needed for [`Residual::After`] with a ReLU only.
    pub residual: Option<&'a [I]>,
    /// Gradient of y.
    pub dy: &'a [O],
    /// Gradient of `sum` that came back another way, which is added to dx
    /// ([`Residual::Before`] only).
    pub dsum: Option<&'a [I]>,
    /// Gradient of x; with [`Residual::Before`] that of the sum, which is that of both inputs.
    pub dx: Option<&'a mut [I]>,
    /// Gradient of the residual, [`Residual::After`] only.
    pub dresidual: Option<&'a mut [I]>,
    /// Gradient of the weight, as long as it.
    pub dweight: Option<&'a mut [f32]>,
    /// Gradient of the bias, as long as it.
    pub dbias: Option<&'a mut [f32]>,
    /// Gaps within the tensors. A slice begins at its tensor's first element and reaches to the last, or further.
    pub pitches: BackwardPitches,
}

impl<'a, I, O> Backward<'a, I, O> {
    /// From x and dy to nothing yet: fill in the gradients that are wanted.
    ///
    /// ```
    /// use wgpu_norm::cpu::Backward;
    /// # let (x, dy, mut dx) = ([0f32; 4], [0f32; 4], [0f32; 4]);
    /// let io = Backward { dx: Some(&mut dx), ..Backward::new(&x, &dy) };
    /// ```
    pub fn new(x: &'a [I], dy: &'a [O]) -> Self {
        Backward {
            x,
            residual: None,
            dy,
            dsum: None,
            dx: None,
            dresidual: None,
            dweight: None,
            dbias: None,
            pitches: BackwardPitches::default(),
        }
    }
}

impl<'a, I: Pod, O: Pod> Forward<'a, I, O> {
    /// The same memory as elements of other types: bytes on the way into the crate, and back inside it.
    pub(super) fn cast<J: Pod, P: Pod>(self) -> Forward<'a, J, P> {
        Forward {
            x: self.x.cast(),
            residual: self.residual.map(Source::cast),
            y: bytemuck::cast_slice_mut(self.y),
            sum: self.sum.map(bytemuck::cast_slice_mut),
            pitches: self.pitches,
        }
    }
}

impl<'a, I: Pod, O: Pod> Backward<'a, I, O> {
    /// As [`Forward::cast`].
    pub(super) fn cast<J: Pod, P: Pod>(self) -> Backward<'a, J, P> {
        Backward {
            x: bytemuck::cast_slice(self.x),
            residual: self.residual.map(bytemuck::cast_slice),
            dy: bytemuck::cast_slice(self.dy),
            dsum: self.dsum.map(bytemuck::cast_slice),
            dx: self.dx.map(bytemuck::cast_slice_mut),
            dresidual: self.dresidual.map(bytemuck::cast_slice_mut),
            dweight: self.dweight,
            dbias: self.dbias,
            pitches: self.pitches,
        }
    }
}

/// `Ok` if a tensor that may be absent has as many bytes as it needs; if it has gaps, or more.
pub(super) fn check_tensor(problem: &Problem, tensor: Tensor, dtype: DType, bytes: Option<usize>) -> Result<(), Error> {
    let Some(bytes) = bytes else { return Ok(()) };
    let (expected, actual) = (problem.memory(tensor).span(), bytes as u64 / dtype.size());
    let has_gaps = *problem.memory(tensor) != problem.layout.memory;
    if actual == expected || (has_gaps && actual > expected) {
        return Ok(());
    }
    Err(Error::Length { name: problem.name(tensor), expected, actual })
}

impl Forward<'_, u8, u8> {
    /// How y is to be written: what is in place has been read just now.
    pub(super) fn policy(&self, problem: &Problem) -> StorePolicy {
        if matches!(self.x, Source::InPlace) || matches!(self.residual, Some(Source::InPlace)) {
            return StorePolicy::Cached;
        }
        let residual = self.residual.as_ref().map(|_| Tensor::Residual);
        let sum = self.sum.as_ref().map(|_| Tensor::SecondOutput);
        StorePolicy::of(problem.bytes([Tensor::Input, Tensor::Output].into_iter().chain(residual).chain(sum)))
    }

    pub(super) fn check(&self, problem: &Problem, training: bool) -> Result<(), Error> {
        let Problem { fusion, input, output, .. } = *problem;
        fusion.check_residual(self.residual.is_some())?;
        fusion.check_sum(self.sum.is_some())?;
        let len = |source: &Source<u8>| source.slice().map(<[u8]>::len);
        check_tensor(problem, Tensor::Input, input, len(&self.x))?;
        check_tensor(problem, Tensor::Residual, input, self.residual.as_ref().and_then(len))?;
        check_tensor(problem, Tensor::Output, output, Some(self.y.len()))?;
        check_tensor(problem, Tensor::SecondOutput, input, self.sum.as_ref().map(|s| s.len()))?;
        let x_in_place = matches!(self.x, Source::InPlace);
        let residual_in_place = matches!(self.residual, Some(Source::InPlace));
        let overlap = |first, hint| Err(Error::Overlap { first, second: "y", hint });
        if x_in_place && residual_in_place {
            return overlap("x and residual", "only one of them can be where y goes");
        }
        match (matches!(self.x, Source::InSum), matches!(self.residual, Some(Source::InSum))) {
            (true, true) => {
                let hint = "only one of them can be where their sum goes";
                return Err(Error::Overlap { first: "x and residual", second: "sum", hint });
            }
            (true, _) | (_, true) if self.sum.is_none() => {
                return Err(Error::Missing { name: "sum", hint: "x or residual is said to be in it" });
            }
            _ => {}
        }
        if x_in_place && training && fusion.residual != Residual::Before {
            return overlap("x", "the backward pass needs x: write y elsewhere, or over the residual");
        }
        if residual_in_place && training && fusion.masks_by_residual() {
            return overlap("residual", "the backward pass needs the residual to mask the ReLU: write y elsewhere");
        }
        if (x_in_place || residual_in_place) && input != output {
            return Err(Error::DType { name: "y", expected: input, actual: output });
        }
        Ok(())
    }
}

impl Backward<'_, u8, u8> {
    /// The gradients that are asked for.
    pub(super) fn wanted(&self) -> Gradients {
        let Backward { dx, dresidual, dweight, dbias, .. } = self;
        Gradients { dx: dx.is_some(), dresidual: dresidual.is_some(), affine: dweight.is_some() || dbias.is_some() }
    }

    /// How gradients are to be written.
    pub(super) fn policy(&self, problem: &Problem) -> StorePolicy {
        let residual = self.residual.or(self.dsum).map(|_| Tensor::Residual);
        let dx = self.dx.as_ref().map(|_| Tensor::Output);
        let dresidual = self.dresidual.as_ref().map(|_| Tensor::SecondOutput);
        let read = [Tensor::Input, Tensor::Gradient].into_iter().chain(residual);
        StorePolicy::of(problem.bytes(read.chain(dx).chain(dresidual)))
    }

    pub(super) fn check(&self, problem: &Problem, weights: u64) -> Result<(), Error> {
        let Problem { fusion, input, output, .. } = *problem;
        fusion.check_backward(self.wanted(), self.residual.is_some(), self.dsum.is_some())?;
        check_tensor(problem, Tensor::Input, input, Some(self.x.len()))?;
        check_tensor(problem, Tensor::Residual, input, self.residual.map(<[u8]>::len))?;
        check_tensor(problem, Tensor::Gradient, output, Some(self.dy.len()))?;
        check_tensor(problem, Tensor::Residual, input, self.dsum.map(<[u8]>::len))?;
        check_tensor(problem, Tensor::Output, input, self.dx.as_ref().map(|d| d.len()))?;
        check_tensor(problem, Tensor::SecondOutput, input, self.dresidual.as_ref().map(|d| d.len()))?;
        check_len("dweight", self.dweight.as_ref().map(|d| d.len()), weights)?;
        check_len("dbias", self.dbias.as_ref().map(|d| d.len()), weights)
    }
}
