//! The shaders of a plan, without a device: for tools that look at what drivers make of them.
#![allow(missing_docs, reason = "no part of the API")]

use super::key::Key;
pub use super::key::Update;
use super::shader::{Addressing, compose};
use crate::op::Direction;
use crate::plan::{Kernel, Plan, UNIT};
use crate::tensor::DType;

/// What a pipeline is made from, and what it should cost.
#[derive(Clone, Debug)]
pub struct Shader {
    pub label: String,
    pub wgsl: String,
    pub constants: Vec<(&'static str, f64)>,
    pub kernel: Kernel,
    pub direction: Direction,
    /// Elements of each tensor that an invocation has at a time: units of four, of all targets abreast.
    pub elements: u32,
    /// Whether columns are summed on the way.
    pub columns: bool,
    /// Whether sums of a group's channels are weighed on their way up its tree.
    pub channels: bool,
    /// Whether an element's channel is looked up where it is written.
    pub samples: bool,
    /// Whether targets are columns of rows of all channels.
    pub wide_rows: bool,
    /// Whether one load takes a unit.
    pub vec4: bool,
    /// Whether a unit's elements, of which some are halves, are neighbours though no one load takes all four.
    pub neighbours: bool,
    /// Element type of each tensor, and whether it is written. None: the shader streams no elements.
    pub tensors: Vec<(DType, bool)>,
}

/// One shader a pass, for tensors in buffers of their own that begin at multiples of 256 bytes.
pub fn shaders(plan: &Plan, update: Update) -> Vec<Shader> {
    let of_pass = |pass| {
        let pass: &crate::plan::Pass = pass;
        let key = Key::new(plan, pass, Addressing::new(plan, pass, false, true), update);
        Shader {
            label: key.label(),
            wgsl: compose(&key.variant),
            constants: key.constants.pairs().to_vec(),
            kernel: pass.kernel,
            direction: pass.direction,
            elements: if key.variant.tensors.is_empty() {
                0
            } else {
                UNIT as u32 * key.variant.units * key.variant.abreast
            },
            columns: key.variant.columns,
            channels: key.variant.channels,
            samples: key.variant.samples,
            wide_rows: key.variant.wide_rows,
            vec4: key.variant.addressing.vec4,
            neighbours: key.variant.neighbours,
            tensors: key.variant.tensors.iter().map(|t| (t.dtype, t.written)).collect(),
        }
    };
    plan.passes.iter().map(of_pass).collect()
}
