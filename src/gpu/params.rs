//! The uniform of a dispatch, as `shaders/common/params.wgsl` reads it (a test compares the two).

use crate::layout::IndexMap;
use crate::plan::{Dispatch, Over, Pass, Plan};

#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Params {
    pub inner: u32,
    pub outer_stride: u32,
    pub inner_stride: u32,
    pub segments: u32,
    pub segment_stride: u32,
    pub len: u32,
    pub stride: u32,
    pub leaves_log2: u32,
    pub lanes_log2: u32,
    pub grid_x: u32,
    pub first_target: u32,
    pub end_target: u32,
    pub first_tile: u32,
    pub tiles: u32,
    pub partials_in: u32,
    pub partials_in_at: u32,
    pub partials_in_target: u32,
    pub partials_in_step: u32,
    pub partials_out: u32,
    pub partials_out_at: u32,
    pub map_target_div: u32,
    pub map_target: u32,
    pub map_segment: u32,
    pub map_position_div: u32,
    pub map_position: u32,
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
    pub padding: u32,
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
    /// `partials_at`: where partial results come in and go out.
    pub fn new(plan: &Plan, pass: &Pass, dispatch: &Dispatch, partials_at: (u32, u32), numbers: &Numbers) -> Params {
        // The plan has checked that what matters fits; offsets are modulo 2^32.
        let low = |v: u64| v as u32;
        let walk = plan.walk(pass.over);
        let tree = pass.geometry.tree;
        let map = index_map(plan, pass.over);
        Params {
            inner: low(walk.inner),
            outer_stride: low(walk.outer_stride),
            inner_stride: low(walk.inner_stride),
            segments: low(walk.segments),
            segment_stride: low(walk.segment_stride),
            len: low(walk.len),
            stride: low(walk.stride),
            leaves_log2: tree.leaves.ilog2(),
            lanes_log2: tree.lanes.ilog2(),
            grid_x: dispatch.grid[0],
            first_target: low(dispatch.targets.start),
            end_target: low(dispatch.targets.end),
            first_tile: low(dispatch.tiles.start),
            tiles: low(dispatch.tiles.end - dispatch.tiles.start),
            partials_in: low(pass.partials_in),
            partials_in_at: partials_at.0,
            partials_in_target: low(if pass.planes { 1 } else { pass.partials_in }),
            partials_in_step: low(if pass.planes { walk.targets() } else { 1 }),
            partials_out: low(pass.partials_out),
            partials_out_at: partials_at.1,
            map_target_div: low(map.target_div),
            map_target: low(map.target),
            map_segment: low(map.segment),
            map_position_div: low(map.position_div),
            map_position: low(map.position),
            state_stride: numbers.state_stride,
            gradients_at: numbers.gradients_at,
            eps: numbers.eps,
            momentum: numbers.momentum,
            ..Params::default()
        }
    }
}

/// The index that a pass's walk does not go over itself.
pub(crate) fn index_map(plan: &Plan, over: Over) -> IndexMap {
    match over {
        Over::Stats => plan.problem.layout.affine_of_stats,
        Over::Affine => plan.problem.layout.stat_of_affine,
    }
}
