//! The tensors of a call, and the checks on them.

use crate::error::Error;
use crate::layout::Memory;
use crate::op::{Fusion, Gradients, Residual};
use crate::plan::{Plan, Problem, Tensor};
use crate::tensor::{BackwardPitches, DType, ForwardPitches};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use wgpu::{BufferBinding, BufferUsages};

/// Tensors of a forward pass.
///
/// Buffers need `STORAGE` usage. Offsets may be any multiple of the element size; where an offset is not a
/// multiple of the device's 256 bytes, a few elements before it are bound too, and not touched. Buffers have whole words of
/// four bytes: an odd number of halves takes two bytes more.
///
/// Outputs may lie over inputs where the call says so, and tensors may share a buffer. Not so in a browser: WebGPU refuses
/// bindings of one buffer that overlap if one of them is written, and since bindings begin at multiples of 256 bytes, those
/// of tensors that lie nearer to each other overlap, too. wgpu's own implementation does not check this.
#[derive(Clone, Debug)]
pub struct Forward<'a> {
    /// Input, in the shape, type and format of the call's descriptor.
    pub x: BufferBinding<'a>,
    /// Second input of the same shape and type, if the call fuses one.
    pub residual: Option<BufferBinding<'a>>,
    /// Output.
    pub y: BufferBinding<'a>,
    /// Second output, x + residual, with [`Residual::Before`]. It may lie over x or over the residual.
    pub sum: Option<BufferBinding<'a>>,
    /// Element type of y; default: that of x.
    pub y_dtype: Option<DType>,
    /// Gaps within the tensors: each is bound where its first element lies.
    pub pitches: ForwardPitches,
}

impl<'a> Forward<'a> {
    /// From x to y, nothing else.
    pub fn new(x: BufferBinding<'a>, y: BufferBinding<'a>) -> Self {
        Forward { x, residual: None, y, sum: None, y_dtype: None, pitches: ForwardPitches::default() }
    }
}

/// Tensors of a backward pass. Gradients that are `None` are not computed; others overwrite their buffers, so where a step has
/// several backward passes, of which PyTorch's `.grad` is the sum, add them up yourself.
///
/// dx and dresidual may each lie exactly over a tensor that the pass reads and nobody needs again: over dy or x, or over
/// dsum, a gradient that goes up a residual stream and is updated in place. (Not in a browser: see [`Forward`].)
#[derive(Clone, Debug)]
pub struct Backward<'a> {
    /// The forward pass's x; with [`Residual::Before`] its sum.
    pub x: BufferBinding<'a>,
    /// The forward pass's residual; needed with [`Residual::After`] and ReLU.
    pub residual: Option<BufferBinding<'a>>,
    /// Gradient of y, in y's element type.
    pub dy: BufferBinding<'a>,
    /// Gradient of the sum ([`Residual::Before`]) from its other uses, in x's element type, as dx and dresidual.
    pub dsum: Option<BufferBinding<'a>>,
    /// Gradient of x.
    pub dx: Option<BufferBinding<'a>>,
    /// Gradient of the residual ([`Residual::After`]; with [`Residual::Before`] it is dx).
    pub dresidual: Option<BufferBinding<'a>>,
    /// Gradient of weight, `f32`: a copy's destination (`COPY_DST`, offset a multiple of 4).
    pub dweight: Option<BufferBinding<'a>>,
    /// Gradient of bias, `f32`: a copy's destination (`COPY_DST`, offset a multiple of 4).
    pub dbias: Option<BufferBinding<'a>>,
    /// Gaps within the tensors: each is bound where its first element lies.
    pub pitches: BackwardPitches,
    /// x, and the residual where it is needed, are not where the forward pass had them: they were copied, or computed again
    /// as gradient checkpointing does. By default they must be, or it is [`Error::Moved`].
    pub moved: bool,
}

impl<'a> Backward<'a> {
    /// From dy to nothing yet: set the gradients that are wanted.
    pub fn new(x: BufferBinding<'a>, dy: BufferBinding<'a>) -> Self {
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
            moved: false,
        }
    }
}

/// The tensors of a call by their place in the shaders.
pub(crate) type Tensors<'a> = [Option<BufferBinding<'a>>; 5];

/// Which outputs may be written over which inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InPlace {
    /// y and the sum, each over x or over the residual.
    Any,
    /// y over the residual; x is needed again.
    Residual,
    /// Gradients, each over any tensor.
    Gradients,
    /// None.
    Never,
}

impl InPlace {
    /// What training allows: backward reads x again, and for a ReLU's mask the residual; or the sum of both alone.
    pub fn training(fusion: Fusion) -> InPlace {
        match fusion.residual {
            Residual::Before => InPlace::Any,
            _ if fusion.masks_by_residual() => InPlace::Never,
            _ => InPlace::Residual,
        }
    }
}

impl<'a> Forward<'a> {
    pub(crate) fn tensors(&self, fusion: Fusion) -> Result<Tensors<'a>, Error> {
        fusion.check_residual(self.residual.is_some())?;
        fusion.check_sum(self.sum.is_some())?;
        Ok([Some(self.x.clone()), self.residual.clone(), None, Some(self.y.clone()), self.sum.clone()])
    }

    /// Where the tensors lie that backward reads again.
    pub(super) fn read_again(&self, fusion: Fusion) -> ReadAgain {
        let residual = self.residual.as_ref().filter(|_| fusion.masks_by_residual());
        [(Tensor::Input, Some(self.sum.as_ref().unwrap_or(&self.x))), (Tensor::Residual, residual)]
            .map(|(tensor, binding)| binding.map(|binding| (tensor, Spot::of(binding))))
    }
}

impl<'a> Backward<'a> {
    /// The gradients that are asked for.
    pub(super) fn wanted(&self) -> Gradients {
        let Backward { dx, dresidual, dweight, dbias, .. } = self;
        Gradients { dx: dx.is_some(), dresidual: dresidual.is_some(), affine: dweight.is_some() || dbias.is_some() }
    }

    pub(crate) fn tensors(&self, fusion: Fusion) -> Result<Tensors<'a>, Error> {
        fusion.check_backward(self.wanted(), self.residual.is_some(), self.dsum.is_some())?;
        let residual = if fusion.residual == Residual::Before {
            self.dsum.clone()
        } else {
            self.residual.clone().filter(|_| fusion.masks_by_residual())
        };
        Ok([Some(self.x.clone()), residual, Some(self.dy.clone()), self.dx.clone(), self.dresidual.clone()])
    }
}

/// Where a tensor lies, to be found again: not the buffer itself, which is its user's to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    buffer: u64,
    offset: u64,
}

/// Tensors of a forward pass.
pub(super) type ReadAgain = [Option<(Tensor, Spot)>; 2];

impl Spot {
    pub fn of(binding: &BufferBinding) -> Spot {
        Spot { buffer: BuildHasherDefault::<DefaultHasher>::default().hash_one(binding.buffer), offset: binding.offset }
    }
}

/// Bytes of a buffer from a tensor's first to its last.
fn range(binding: &BufferBinding, bytes: u64) -> Range<u64> {
    binding.offset..binding.offset.saturating_add(bytes)
}

/// A tensor in a buffer.
struct Placed<'a> {
    binding: &'a BufferBinding<'a>,
    memory: &'a Memory,
    /// Bytes of an element.
    size: u64,
}

impl<'a> Placed<'a> {
    fn new(plan: &'a Plan, tensors: &'a Tensors, tensor: Tensor) -> Option<Placed<'a>> {
        let (memory, size) = (plan.problem.memory(tensor), plan.problem.dtype(tensor).size());
        tensors[tensor as usize].as_ref().map(|binding| Placed { binding, memory, size })
    }

    fn range(&self) -> Range<u64> {
        range(self.binding, self.memory.span() * self.size)
    }

    /// Its rows, if they are equally far apart, but for a whole number of rows in the gaps between samples; and its samples.
    fn runs(&self) -> [Option<Run>; 2] {
        let Memory { rows, width, row_pitch, sample_pitch, .. } = *self.memory;
        let run =
            |len: u64, pitch: u64| Run { first: self.binding.offset, len: len * self.size, pitch: pitch * self.size };
        let is_regular = rows > 1 && sample_pitch.is_multiple_of(row_pitch);
        [is_regular.then(|| run(width, row_pitch)), Some(run((rows - 1) * row_pitch + width, sample_pitch))]
    }

    fn overlaps(&self, other: &Placed) -> bool {
        let (a, b) = (self.range(), other.range());
        if self.binding.buffer != other.binding.buffer || a.start >= b.end || b.start >= a.end {
            return false;
        }
        let are_apart = |(a, b): (Option<Run>, Option<Run>)| a.zip(b).is_some_and(|(a, b)| a.is_beside(&b));
        !self.runs().into_iter().zip(other.runs()).any(are_apart)
    }
}

/// Slices of a larger tensor: `len` bytes, every `pitch`.
struct Run {
    first: u64,
    len: u64,
    pitch: u64,
}

impl Run {
    /// Whether each lies in the other's gaps.
    fn is_beside(&self, other: &Run) -> bool {
        let pitch = self.pitch;
        let after = (other.first % pitch + pitch - self.first % pitch) % pitch;
        pitch == other.pitch && after >= self.len && pitch - after >= other.len
    }
}

/// Checks a binding of `bytes` bytes.
pub(crate) fn check_binding(
    name: &'static str,
    binding: &BufferBinding,
    bytes: u64,
    alignment: u64,
    usage: BufferUsages,
) -> Result<(), Error> {
    let missing = usage - binding.buffer.usage();
    if !missing.is_empty() {
        return Err(Error::BufferUsage { name, missing });
    }
    if !binding.offset.is_multiple_of(alignment) {
        return Err(Error::Alignment { name, offset: binding.offset, alignment });
    }
    let to_end = binding.buffer.size().saturating_sub(binding.offset);
    let available = binding.size.map_or(to_end, |s| s.get().min(to_end));
    // Bindings are whole words, so the word of the last element must be in the buffer.
    let whole_words = (binding.offset % 4 + bytes).next_multiple_of(4) - binding.offset % 4;
    if available < bytes || to_end < whole_words {
        let required = if available < bytes { bytes } else { whole_words };
        return Err(Error::BufferTooSmall { name, required, offset: binding.offset, available });
    }
    Ok(())
}

/// Checks every tensor that a plan uses: there, large enough, with its usage, and not in another's way.
pub(crate) fn check(plan: &Plan, tensors: &Tensors, in_place: InPlace) -> Result<(), Error> {
    let used = Tensor::ALL.into_iter().filter(|&t| plan.uses(t));
    for tensor in used.clone() {
        let name = plan.problem.name(tensor);
        let Some(binding) = &tensors[tensor as usize] else {
            return Err(Error::Missing { name, hint: "the call reads or writes it" });
        };
        let size = plan.problem.dtype(tensor).size();
        let bytes = plan
            .problem
            .memory(tensor)
            .span()
            .checked_mul(size)
            .filter(|&b| b <= u64::MAX - 1024)
            .ok_or(Error::TooLarge { what: "bytes of the tensor", required: u64::MAX, limit: u64::MAX - 1024 })?;
        check_binding(name, binding, bytes, size, BufferUsages::STORAGE)?;
    }
    for written in used.clone().filter(|&t| plan.writes(t)) {
        for other in used.clone().filter(|&t| t != written && !(plan.writes(t) && t < written)) {
            let placed = |tensor| Placed::new(plan, tensors, tensor);
            let (Some(a), Some(b)) = (placed(written), placed(other)) else { continue };
            if !a.overlaps(&b) {
                continue;
            }
            let exact = a.range() == b.range() && a.memory == b.memory;
            let allowed = match in_place {
                InPlace::Any => matches!(other, Tensor::Input | Tensor::Residual),
                InPlace::Residual => other == Tensor::Residual,
                InPlace::Gradients => !plan.writes(other),
                InPlace::Never => false,
            };
            if !(exact && allowed) {
                let hint = match in_place {
                    InPlace::Any => {
                        "an output may lie exactly over x or over residual, and nothing may overlap in part"
                    }
                    InPlace::Residual => "backward needs x: only y exactly over residual is possible in training",
                    InPlace::Gradients => {
                        "a gradient may lie exactly over a tensor that is read, and nothing may overlap in part"
                    }
                    InPlace::Never => "backward needs x and residual again: give y a place of its own",
                };
                let (first, second) = (plan.problem.name(written), plan.problem.name(other));
                return Err(Error::Overlap { first, second, hint });
            }
        }
    }
    Ok(())
}

/// Something that lies in a buffer: its name, its binding, its bytes.
type Named<'a> = (&'static str, &'a BufferBinding<'a>, u64);

/// Checks that gradients of weight and bias lie apart from the call's tensors and from each other, and all of them from
/// `own`, the layer's buffers.
pub(crate) fn check_apart<'a>(
    plan: &Plan,
    tensors: &'a Tensors,
    vectors: [Option<Named<'a>>; 2],
    own: [Option<&wgpu::Buffer>; 2],
) -> Result<(), Error> {
    let tensor = |t: Tensor| -> Option<Named<'a>> {
        let binding = tensors[t as usize].as_ref().filter(|_| plan.uses(t))?;
        Some((plan.problem.name(t), binding, plan.problem.memory(t).span() * plan.problem.dtype(t).size()))
    };
    for (first, binding, _) in Tensor::ALL.into_iter().filter_map(tensor).chain(vectors.into_iter().flatten()) {
        if own.contains(&Some(binding.buffer)) {
            let hint = "the layer's buffers cannot be its tensors";
            return Err(Error::Overlap { first, second: "the layer's state", hint });
        }
    }
    for (i, (first, binding, bytes)) in vectors.into_iter().enumerate().filter_map(|(i, v)| Some((i, v?))) {
        let others = Tensor::ALL.into_iter().filter_map(tensor).chain(vectors.into_iter().take(i).flatten());
        for (second, other, other_bytes) in others {
            let (a, b) = (range(binding, bytes), range(other, other_bytes));
            if binding.buffer == other.buffer && a.start < b.end && b.start < a.end {
                return Err(Error::Overlap { first, second, hint: "gradients need a place of their own" });
            }
        }
    }
    Ok(())
}

/// A residual that backward would read is left out of the plan if there is none to read.
pub(crate) fn without_unused(problem: Problem, tensors: &Tensors) -> Problem {
    if tensors[Tensor::Residual as usize].is_some() {
        return problem;
    }
    Problem { fusion: Fusion { residual: Residual::None, ..problem.fusion }, ..problem }
}
