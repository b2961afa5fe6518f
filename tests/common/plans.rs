//! Plans of tests, without a device.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use wgpu_norm::plan::{Kernel, Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, Error, Format, Fusion, Gradients, LayerNormDescriptor, NormDescriptor, Op, Profile, Residual,
    Statistics, TensorDescriptor,
};

pub const PLAIN: Fusion = Fusion { residual: Residual::None, relu: false };
pub const ALL: Gradients = Gradients { dx: true, dresidual: false, affine: true };

pub fn batch(channels: usize) -> NormDescriptor {
    BatchNormDescriptor::new(channels).into()
}

pub fn layer(len: usize) -> NormDescriptor {
    LayerNormDescriptor::new(&[len]).into()
}

pub fn last<'a>(shape: &'a [usize]) -> TensorDescriptor<'a> {
    TensorDescriptor { format: Format::ChannelsLast, ..TensorDescriptor::new(shape) }
}

pub fn plan(norm: &NormDescriptor, tensor: &TensorDescriptor, fusion: Fusion, op: Op) -> Plan {
    plan_for(norm, tensor, Statistics::Batch, fusion, op, &Profile::GPU).unwrap()
}

pub fn plan_for(
    norm: &NormDescriptor,
    tensor: &TensorDescriptor,
    statistics: Statistics,
    fusion: Fusion,
    op: Op,
    profile: &Profile,
) -> Result<Plan, Error> {
    Plan::new(Problem::new(norm, tensor, statistics, fusion, op)?, profile)
}

pub fn kernels(plan: &Plan) -> Vec<Kernel> {
    plan.passes.iter().map(|p| p.kernel).collect()
}

/// Channels and side of ResNet-50's images at its batch norms.
pub const RESNET50: [(usize, usize); 12] = [
    (64, 112),
    (64, 56),
    (256, 56),
    (128, 56),
    (128, 28),
    (512, 28),
    (256, 28),
    (256, 14),
    (1024, 14),
    (512, 14),
    (512, 7),
    (2048, 7),
];

/// Tensors read and written by all passes together.
pub fn traffic(plan: &Plan) -> (usize, usize) {
    (plan.passes.iter().map(|p| p.reads.len()).sum(), plan.passes.iter().map(|p| p.writes.len()).sum())
}
