//! Dispatches: ranges of targets and tiles whose elements fit a binding, and grids that fit the limits.

use super::geometry::{Geometry, Tree, UNIT};
use super::{Kernel, Pass, Problem};
use crate::error::Error;
use crate::layout::Walk;
use crate::profile::Profile;
use std::ops::Range;

/// One dispatch of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dispatch {
    /// Targets that it takes.
    pub targets: Range<u64>,
    /// Tiles of each of them.
    pub tiles: Range<u64>,
    /// Elements of every tensor that it touches: what has to be bound.
    pub window: Range<u64>,
    /// Workgroups.
    pub grid: [u32; 3],
}

/// Most elements that one binding can hold, whatever the offset of the tensor in its buffer.
pub(super) fn max_elements(problem: &Problem, profile: &Profile) -> u64 {
    let size = problem.input.size().max(problem.output.size());
    profile.max_binding_size.saturating_sub(profile.offset_alignment) / size
}

pub(super) fn dispatches(
    pass: &Pass,
    walk: &Walk,
    problem: &Problem,
    profile: &Profile,
) -> Result<Vec<Dispatch>, Error> {
    let (targets, tiles) = (walk.targets(), pass.geometry.tiles);
    let limit = max_elements(problem, profile);
    let elements = problem.layout.elements;
    if matches!(pass.kernel, Kernel::Merge | Kernel::Running) {
        return Ok(vec![dispatch(pass, profile, 0..targets, 0..tiles, 0..0)?]);
    }
    if elements <= limit {
        return Ok(vec![dispatch(pass, profile, 0..targets, 0..tiles, 0..elements)?]);
    }
    let whole = |what, required| Error::TooLarge { what, required, limit };
    if walk.outer > 1 {
        let step = limit / walk.outer_stride;
        if step == 0 {
            return Err(whole("elements of one sample in a binding", walk.outer_stride));
        }
        return ranges(walk.outer, step)
            .map(|o| {
                let window = o.start * walk.outer_stride..o.end * walk.outer_stride;
                dispatch(pass, profile, o.start * walk.inner..o.end * walk.inner, 0..tiles, window)
            })
            .collect();
    }
    // One group of targets that spans the tensor: windows over segments, or over positions of the only segment.
    let leaves = u64::from(pass.geometry.leaves);
    let (steps, stride, leaves_a_step) = steps(walk, pass.geometry.tree);
    let aligned = leaves.div_ceil(leaves_a_step);
    let step = limit / stride / aligned * aligned;
    if step == 0 {
        return Err(whole("elements of one sample in a binding", stride * aligned));
    }
    ranges(steps, step)
        .map(|s| {
            let last = s.end == steps;
            let tiles = s.start * leaves_a_step / leaves..if last { tiles } else { s.end * leaves_a_step / leaves };
            dispatch(pass, profile, 0..targets, tiles, s.start * stride..(s.end * stride).min(elements))
        })
        .collect()
}

/// Steps in which windows of one group of targets can grow: their number, the elements from one to the next, and
/// the leaves that each takes of every target.
fn steps(walk: &Walk, tree: Tree) -> (u64, u64, u64) {
    if walk.segments > 1 {
        return (walk.segments, walk.segment_stride, tree.leaves);
    }
    let positions = tree.leaf_len() * u64::from(tree.lanes);
    (walk.len.div_ceil(positions), walk.stride * positions, u64::from(tree.lanes))
}

/// Tiles that a window of a tensor over the limit can hold whole. The tree, and with it the bits, stay the same.
pub(super) fn narrowed(geometry: Geometry, walk: &Walk, problem: &Problem, profile: &Profile) -> Geometry {
    let limit = max_elements(problem, profile);
    if walk.outer > 1 || problem.layout.elements <= limit {
        return geometry;
    }
    let (_, stride, leaves_a_step) = steps(walk, geometry.tree);
    let mut leaves = u64::from(geometry.leaves);
    while leaves > 1 && leaves.div_ceil(leaves_a_step) > limit / stride {
        leaves /= 2;
    }
    geometry.with_leaves(walk, leaves)
}

fn ranges(end: u64, step: u64) -> impl Iterator<Item = Range<u64>> {
    (0..end.div_ceil(step)).map(move |i| i * step..((i + 1) * step).min(end))
}

fn dispatch(
    pass: &Pass,
    profile: &Profile,
    targets: Range<u64>,
    tiles: Range<u64>,
    window: Range<u64>,
) -> Result<Dispatch, Error> {
    let blocks = (targets.end - targets.start).div_ceil(pass.geometry.targets.into());
    let groups = blocks * (tiles.end - tiles.start);
    let limit = u64::from(profile.max_workgroups);
    let y = groups.div_ceil(limit).max(1);
    if y > limit || groups > u32::MAX.into() || targets.end > u32::MAX.into() || window.end - window.start > 1 << 32 {
        return Err(Error::TooLarge { what: "workgroups of one dispatch", required: groups, limit: limit * limit });
    }
    let x = groups.div_ceil(y);
    debug_assert!(pass.geometry.tree.leaf_len() >= UNIT);
    Ok(Dispatch { targets, tiles, window, grid: [x as u32, y as u32, 1] })
}
