//! The uniform of a dispatch, as `shaders/common/params.wgsl` reads it (a test compares the two).

use crate::layout::{IndexMap, Walk};
use crate::plan::{Dispatch, Over, Pass, Plan, Tensor};

#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Params {
    pub strides: [u32; 4],
    pub strides_input: [u32; 4],
    pub strides_residual: [u32; 4],
    pub strides_gradient: [u32; 4],
    pub strides_output: [u32; 4],
    pub strides_second_output: [u32; 4],
    pub inner: u32,
    pub segments: u32,
    pub len: u32,
    pub leaves_log2: u32,
    pub parts: u32,
    pub grid_x: u32,
    pub first_target: u32,
    pub end_target: u32,
    pub first_tile: u32,
    pub tiles: u32,
    pub blocks: u32,
    pub partials_in: u32,
    pub partials_in_at: u32,
    pub partials_in_target: u32,
    pub partials_in_step: u32,
    pub partials_out_at: u32,
    pub partials_out_target: u32,
    pub map_target_div: u32,
    pub map_target: u32,
    pub map_segment: u32,
    pub map_position_div: u32,
    pub map_position: u32,
    pub stat_div: u32,
    pub state_stride: u32,
    pub gradients_at: u32,
    pub zero: u32,
    pub eps: f32,
    pub momentum: f32,
    pub shift_input: u32,
    pub shift_residual: u32,
    pub shift_gradient: u32,
    pub shift_output: u32,
    pub shift_second_output: u32,
    /// WGSL rounds the size of a struct up.
    pub padding: [u32; 3],
}

/// Numbers of a layer and a call that no plan has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Numbers {
    pub eps: f32,
    /// Negative: cumulative.
    pub momentum: f32,
    pub state_stride: u32,
    pub gradients_at: u32,
}

impl Params {
    /// Where a tensor lies: its strides, and the shift from an element's offset to its place in the binding.
    pub fn place(&mut self, tensor: Tensor, strides: [u32; 4], shift: u32) {
        let (own_strides, own_shift) = match tensor {
            Tensor::Input => (&mut self.strides_input, &mut self.shift_input),
            Tensor::Residual => (&mut self.strides_residual, &mut self.shift_residual),
            Tensor::Gradient => (&mut self.strides_gradient, &mut self.shift_gradient),
            Tensor::Output => (&mut self.strides_output, &mut self.shift_output),
            Tensor::SecondOutput => (&mut self.strides_second_output, &mut self.shift_second_output),
        };
        (*own_strides, *own_shift) = (strides, shift);
        // Where tensors' strides differ, the shader does not read these.
        self.strides = strides;
    }

    pub fn new(plan: &Plan, pass: &Pass, dispatch: &Dispatch, numbers: &Numbers) -> Params {
        // The plan has checked that what matters fits; offsets are modulo 2^32.
        let low = |v: u64| v as u32;
        let walk = plan.walk(pass.over);
        let tree = pass.geometry.tree;
        let map = index_map(plan, pass.over);
        let (partials_in_target, partials_in_step) =
            if pass.planes_in { (1, walk.targets()) } else { (pass.partials_in, 1) };
        Params {
            // Of the columns of several rows those of one.
            inner: low(if pass.over == Over::WideRows { plan.problem.layout.row_width() } else { walk.inner }),
            segments: low(walk.segments),
            len: low(walk.len),
            leaves_log2: tree.leaves.ilog2(),
            parts: tree.parts,
            grid_x: dispatch.grid[0],
            first_target: low(dispatch.targets.start),
            end_target: low(dispatch.targets.end),
            first_tile: low(dispatch.tiles.start),
            tiles: low(dispatch.tiles.end - dispatch.tiles.start),
            blocks: low(pass.geometry.blocks(dispatch.targets.end - dispatch.targets.start)),
            partials_in: low(pass.partials_in),
            partials_in_at: low(pass.partials_in_at),
            partials_in_target: low(partials_in_target),
            partials_in_step: low(partials_in_step),
            partials_out_at: low(pass.partials_out_at),
            partials_out_target: low(pass.partials_out),
            map_target_div: low(map.target_div),
            // As `strides`: of the only target of a group the number is 0.
            map_target: if walk.inner == 1 { 0 } else { low(map.target) },
            map_segment: low(map.segment),
            map_position_div: low(map.position_div),
            map_position: low(map.position),
            stat_div: low(plan.problem.layout.stat_of_affine.target_div),
            state_stride: numbers.state_stride,
            gradients_at: numbers.gradients_at,
            eps: numbers.eps,
            momentum: numbers.momentum,
            ..Params::default()
        }
    }
}

/// Strides of a walk, as the shaders count them: outer, inner, segment, position. Groups of one target are one group of all.
pub(super) fn strides(walk: &Walk) -> [u32; 4] {
    let inner = if walk.inner == 1 { walk.outer_stride } else { walk.inner_stride };
    [walk.outer_stride, inner, walk.segment_stride, walk.stride].map(|stride| stride as u32)
}

/// The index that a pass's walk does not go over itself.
pub(crate) fn index_map(plan: &Plan, over: Over) -> IndexMap {
    match over {
        Over::Stats => plan.problem.layout.affine_of_stats,
        Over::Channels => IndexMap::of_channels(plan.problem.layout.stat_of_affine.target_div),
        Over::Instances => IndexMap::OF_TARGET,
        Over::WideRows => IndexMap { target_div: plan.problem.layout.columns_of_channel(), ..IndexMap::OF_TARGET },
        Over::Affine => plan.problem.layout.stat_of_affine,
        Over::Samples => IndexMap::of_positions(plan.problem.layout.affine.len),
    }
}
