//! Calls whose input and output types differ: run in `f32`, with copies.

use super::io::{Backward, Forward, Source};
use super::saved::Saved;
use crate::element::Element;
use crate::error::Error;
use crate::op::{Fusion, Residual};
use crate::tensor::{DType, TensorDescriptor};
use half::{bf16, f16};

/// Element types of x and y.
type Types = (DType, DType);

fn widen(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    fn of<T: Element>(bytes: &[u8]) -> Vec<f32> {
        bytemuck::cast_slice::<u8, T>(bytes).iter().map(|v| v.to_f32()).collect()
    }
    match dtype {
        DType::F32 => of::<f32>(bytes),
        DType::F16 => of::<f16>(bytes),
        DType::BF16 => of::<bf16>(bytes),
    }
}

fn narrow(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    fn of<T: Element>(values: &[f32], bytes: &mut [u8]) {
        for (to, &from) in bytemuck::cast_slice_mut::<u8, T>(bytes).iter_mut().zip(values) {
            *to = T::from_f32(from);
        }
    }
    match dtype {
        DType::F32 => of::<f32>(values, bytes),
        DType::F16 => of::<f16>(values, bytes),
        DType::BF16 => of::<bf16>(values, bytes),
    }
}

/// Runs a forward call on copies. A sum is rounded to its type first, as it is what is normalised.
pub(super) fn through_f32<R>(
    tensor: &TensorDescriptor,
    fusion: Fusion,
    io: Forward<'_, u8, u8>,
    (input, output): Types,
    call: impl FnOnce(&TensorDescriptor, Fusion, Forward<'_, f32, f32>) -> Result<R, Error>,
) -> Result<R, Error> {
    let wide = |source: &Source<u8>| match source {
        Source::From(bytes) => Ok(widen(input, bytes)),
        Source::InPlace => Err(Error::DType { name: "y", expected: input, actual: output }),
    };
    if tensor.dtype != input {
        return Err(Error::DType { name: "x", expected: tensor.dtype, actual: input });
    }
    let tensor = TensorDescriptor { dtype: DType::F32, ..*tensor };
    let mut x = wide(&io.x)?;
    let residual = io.residual.as_ref().map(wide).transpose()?;
    let mut y = vec![0.0; io.y.len() / output.size() as usize];
    let mut sum = io.sum.as_ref().map(|sum| vec![0.0; sum.len() / input.size() as usize]);
    if let (Residual::Before, Some(residual)) = (fusion.residual, &residual) {
        // In two roundings what the norm's own addition does in one type.
        let mut rounded = vec![0u8; x.len() * input.size() as usize];
        let added: Vec<f32> = x.iter().zip(residual).map(|(x, r)| x + r).collect();
        narrow(input, &added, &mut rounded);
        let zeros = vec![0.0; residual.len()];
        x = widen(input, &rounded);
        let io_f32 =
            Forward { x: Source::From(&x), residual: Some(Source::From(&zeros)), y: &mut y, sum: sum.as_deref_mut() };
        let result = call(&tensor, fusion, io_f32)?;
        narrow(output, &y, io.y);
        if let (Some(sum), Some(to)) = (sum, io.sum) {
            narrow(input, &sum, to);
        }
        return Ok(result);
    }
    let residual = residual.as_deref().map(Source::From);
    let result = call(&tensor, fusion, Forward { x: Source::From(&x), residual, y: &mut y, sum: sum.as_deref_mut() })?;
    narrow(output, &y, io.y);
    Ok(result)
}

/// Runs a backward call on copies.
pub(super) fn back_through_f32<R>(
    saved: Saved,
    io: Backward<'_, u8, u8>,
    types: Types,
    call: impl FnOnce(Saved, Backward<'_, f32, f32>) -> Result<R, Error>,
) -> Result<R, Error> {
    let (input, output) = types;
    saved.check_types(types)?;
    let saved = saved.of((DType::F32, DType::F32));
    let (x, dy) = (widen(input, io.x), widen(output, io.dy));
    let residual = io.residual.map(|r| widen(input, r));
    let dsum = io.dsum.map(|d| widen(input, d));
    let empty = |to: &Option<&mut [u8]>| to.as_ref().map(|to| vec![0.0f32; to.len() / input.size() as usize]);
    let (mut dx, mut dresidual) = (empty(&io.dx), empty(&io.dresidual));
    let result = call(
        saved,
        Backward {
            x: &x,
            residual: residual.as_deref(),
            dy: &dy,
            dsum: dsum.as_deref(),
            dx: dx.as_deref_mut(),
            dresidual: dresidual.as_deref_mut(),
            dweight: io.dweight,
            dbias: io.dbias,
        },
    )?;
    for (values, bytes) in [(dx, io.dx), (dresidual, io.dresidual)] {
        if let (Some(values), Some(bytes)) = (values, bytes) {
            narrow(input, &values, bytes);
        }
    }
    Ok(result)
}
