//! The public calls. They are thin: loops over elements are compiled once, here, and not in every crate that
//! calls them with an element type.

use super::io::{Backward, Forward};
use super::mixed::{back_through_f32, through_f32};
use super::norm::Norm;
use super::saved::Saved;
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::op::{Commit, Fusion};
use crate::sums::GradientSums;
use crate::tensor::{DType, TensorDescriptor};
use half::{bf16, f16};

/// Calls with the type of a dtype, for x and y alike.
macro_rules! typed {
    ($dtype:expr, $T:ident => $call:expr) => {
        match $dtype {
            DType::F32 => typed!(@ f32, $T, $call),
            DType::F16 => typed!(@ f16, $T, $call),
            DType::BF16 => typed!(@ bf16, $T, $call),
        }
    };
    (@ $t:ty, $T:ident, $call:expr) => {{
        type $T = $t;
        $call
    }};
}

/// Element types of x and y.
type Types = (DType, DType);

impl Norm {
    /// Training: normalises with the batch's own statistics, takes them into the running ones if `commit` says
    /// so, and keeps what [`Norm::backward`] needs.
    ///
    /// `tensor` describes x; all slices have its length. [`Error::TooFewValues`] for batch and instance norm if
    /// there is one value per statistic; [`Error::Length`], [`Error::Missing`], [`Error::Unexpected`],
    /// [`Error::Overlap`] and [`Error::DType`] if the slices are not what shape and fusion ask for. Then nothing
    /// has been written.
    pub fn forward_train<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
        commit: Commit,
    ) -> Result<Saved, Error> {
        self.any_forward_train(tensor, fusion, io.cast(), commit, (I::DTYPE, O::DTYPE))
    }

    /// Evaluation: normalises with the running statistics if the layer tracks them, otherwise with the input's
    /// own. x or the residual may be where y goes.
    ///
    /// Errors as [`Norm::forward_train`]; [`Error::TooFewValues`] only if statistics are the input's own.
    pub fn forward_eval<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<(), Error> {
        self.any_forward_eval(tensor, fusion, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// Evaluation that keeps what [`Norm::backward`] needs: a frozen layer inside a network that trains.
    ///
    /// Errors as [`Norm::forward_eval`], and x must not be where y goes.
    pub fn forward_frozen<I: Element, O: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<Saved, Error> {
        self.any_forward_frozen(tensor, fusion, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// Gradients of the pass that returned `saved`, with PyTorch's meaning.
    ///
    /// Where nothing came through the ReLU, nothing goes back. Gradients of statistics are included where the
    /// statistics were the batch's own. [`Error::Foreign`] if `saved` is another layer's; [`Error::Length`],
    /// [`Error::Missing`] and [`Error::Unexpected`] if the slices are not what shape and fusion ask for,
    /// [`Error::DType`] if their element types are not those of the forward pass. Then nothing has been written.
    ///
    /// A saved state is used up, so it cannot be used twice:
    ///
    /// ```compile_fail
    /// # use wgpu_norm::{cpu::*, *};
    /// # fn f(layer: &Norm, saved: Saved, x: &[f32], dy: &[f32]) {
    /// layer.backward(saved, Backward::new(x, dy)).unwrap();
    /// layer.backward(saved, Backward::new(x, dy)).unwrap();
    /// # }
    /// ```
    pub fn backward<I: Element, O: Element>(&self, saved: Saved, io: Backward<'_, I, O>) -> Result<(), Error> {
        self.any_backward(saved, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// First step, forward: moments of this shard, one a channel. An empty shard (N = 0) has moments of count 0.
    ///
    /// With [`Residual::Before`] `residual` is added to x, rounded to its type. Only batch norm has this
    /// ([`Error::Unexpected`] for the others).
    pub fn local_moments<I: Element>(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        x: &[I],
        residual: Option<&[I]>,
    ) -> Result<Vec<Moments>, Error> {
        self.any_local_moments(tensor, fusion, bytemuck::cast_slice(x), residual.map(bytemuck::cast_slice), I::DTYPE)
    }

    /// Last step, forward: as [`Norm::forward_train`], with the moments of the whole group.
    ///
    /// [`Error::TooFewValues`] is for the caller to raise, who knows the counts: running statistics are left
    /// alone for a count of 0, and `running_var` for a count of 1.
    pub fn forward_train_with<I: Element, O: Element>(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, I, O>,
        moments: &[Moments],
        commit: Commit,
    ) -> Result<Saved, Error> {
        self.any_forward_train_with(tensor, fusion, io.cast(), moments, commit, (I::DTYPE, O::DTYPE))
    }

    /// First step, backward: sums of this shard, which are also its own dbias and dweight.
    ///
    /// Those stay local, as in PyTorch: the optimiser of data-parallel training sums them over the members with
    /// all other gradients. Gradients that `io` asks for are left to the last step.
    pub fn local_gradient_sums<I: Element, O: Element>(
        &self,
        saved: &Saved,
        io: Backward<'_, I, O>,
    ) -> Result<Vec<GradientSums>, Error> {
        self.any_local_gradient_sums(saved, io.cast(), (I::DTYPE, O::DTYPE))
    }

    /// Last step, backward: dx (and dresidual) from the sums of the whole group.
    pub fn backward_with<I: Element, O: Element>(
        &self,
        saved: Saved,
        io: Backward<'_, I, O>,
        sums: &[GradientSums],
    ) -> Result<(), Error> {
        self.any_backward_with(saved, io.cast(), sums, (I::DTYPE, O::DTYPE))
    }
}

/// The same with bytes: not generic, so compiled in this crate. Different types in and out are rare, and loops
/// for each pair would be two thirds of the code: they go through `f32`.
impl Norm {
    fn any_forward_train(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        commit: Commit,
        types: Types,
    ) -> Result<Saved, Error> {
        if types.0 != types.1 {
            return through_f32(tensor, fusion, io, types, |tensor, fusion, io| {
                self.typed_forward_train::<f32, f32>(tensor, fusion, io, commit)
            })
            .map(|saved| saved.of(types));
        }
        typed!(types.0, T => self.typed_forward_train::<T, T>(tensor, fusion, io.cast(), commit))
    }

    fn any_forward_eval(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        types: Types,
    ) -> Result<(), Error> {
        if types.0 != types.1 {
            return through_f32(tensor, fusion, io, types, |tensor, fusion, io| {
                self.typed_forward_eval::<f32, f32>(tensor, fusion, io)
            });
        }
        typed!(types.0, T => self.typed_forward_eval::<T, T>(tensor, fusion, io.cast()))
    }

    fn any_forward_frozen(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        types: Types,
    ) -> Result<Saved, Error> {
        if types.0 != types.1 {
            return through_f32(tensor, fusion, io, types, |tensor, fusion, io| {
                self.typed_forward_frozen::<f32, f32>(tensor, fusion, io)
            })
            .map(|saved| saved.of(types));
        }
        typed!(types.0, T => self.typed_forward_frozen::<T, T>(tensor, fusion, io.cast()))
    }

    fn any_backward(&self, saved: Saved, io: Backward<'_, u8, u8>, types: Types) -> Result<(), Error> {
        if types.0 != types.1 {
            return back_through_f32(saved, io, types, |saved, io| self.typed_backward::<f32, f32>(saved, io));
        }
        typed!(types.0, T => self.typed_backward::<T, T>(saved, io.cast()))
    }

    fn any_local_moments(
        &self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        x: &[u8],
        residual: Option<&[u8]>,
        dtype: DType,
    ) -> Result<Vec<Moments>, Error> {
        typed!(dtype, T => {
            let residual = residual.map(bytemuck::cast_slice);
            self.typed_local_moments::<T>(tensor, fusion, bytemuck::cast_slice(x), residual)
        })
    }

    fn any_forward_train_with(
        &mut self,
        tensor: &TensorDescriptor,
        fusion: Fusion,
        io: Forward<'_, u8, u8>,
        moments: &[Moments],
        commit: Commit,
        types: Types,
    ) -> Result<Saved, Error> {
        if types.0 != types.1 {
            return through_f32(tensor, fusion, io, types, |tensor, fusion, io| {
                self.typed_forward_train_with::<f32, f32>(tensor, fusion, io, moments, commit)
            })
            .map(|saved| saved.of(types));
        }
        typed!(types.0, T => self.typed_forward_train_with::<T, T>(tensor, fusion, io.cast(), moments, commit))
    }

    fn any_local_gradient_sums(
        &self,
        saved: &Saved,
        io: Backward<'_, u8, u8>,
        types: Types,
    ) -> Result<Vec<GradientSums>, Error> {
        if types.0 != types.1 {
            let saved = saved.duplicate();
            return back_through_f32(saved, io, types, |saved, io| {
                self.typed_local_gradient_sums::<f32, f32>(&saved, &io)
            });
        }
        typed!(types.0, T => self.typed_local_gradient_sums::<T, T>(saved, &io.cast()))
    }

    fn any_backward_with(
        &self,
        saved: Saved,
        io: Backward<'_, u8, u8>,
        sums: &[GradientSums],
        types: Types,
    ) -> Result<(), Error> {
        if types.0 != types.1 {
            return back_through_f32(saved, io, types, |saved, io| {
                self.typed_backward_with::<f32, f32>(saved, io, sums)
            });
        }
        typed!(types.0, T => self.typed_backward_with::<T, T>(saved, io.cast(), sums))
    }
}
