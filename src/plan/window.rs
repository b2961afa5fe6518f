//! Dispatches: ranges of targets and tiles whose elements fit a binding, and grids that fit the limits.

use super::geometry::Geometry;
use super::{Kernel, Over, Pass, Problem, Tensor};
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
    /// Coordinates in the walk (outer, segment, inner, position) of the first element that it touches.
    pub first: [u64; 4],
    /// And of the last.
    pub last: [u64; 4],
    /// Workgroups: those over tiles along x and those over blocks of targets along y, or the other way round, whichever are
    /// neighbours in memory being first.
    pub grid: [u32; 3],
    /// Whether they are more than a dimension takes, so that they are counted through from row to row of the grid, which
    /// may then have a few more than there is work for. The same for all dispatches of a pass.
    pub folded: bool,
}

impl Dispatch {
    /// Elements of a tensor from the first to the last that it touches: what has to be bound.
    pub fn window(&self, walk: &Walk) -> Range<u64> {
        let strides = [walk.outer_stride, walk.segment_stride, walk.inner_stride, walk.stride];
        let at = |corner: [u64; 4]| corner.iter().zip(strides).map(|(i, stride)| i * stride).sum::<u64>();
        at(self.first)..at(self.last) + 1
    }
}

const ONE_LEAF: &str = "elements that a binding must hold at once (max_storage_buffer_binding_size)";

/// Windows of one pass: more than any tensor that a device can hold needs.
const MOST_WINDOWS: u64 = 1 << 16;

/// The walk with each stride the longest of any tensor: windows that fit it fit all tensors.
fn widest(problem: &Problem, over: Over) -> Walk {
    let dense = problem.walk(over);
    // The others' walk is the dense one: no need to divide its strides again.
    let with_gaps = problem.memories.iter().filter(|&memory| *memory != problem.layout.memory);
    with_gaps.map(|memory| memory.walk(&dense)).fold(dense, |a, b| Walk {
        outer_stride: a.outer_stride.max(b.outer_stride),
        segment_stride: a.segment_stride.max(b.segment_stride),
        inner_stride: a.inner_stride.max(b.inner_stride),
        stride: a.stride.max(b.stride),
        ..a
    })
}

/// Bytes of a binding whose size is a number of 32 bits, which is what shaders of some backends are told.
pub(crate) const MOST_BYTES: u64 = u32::MAX as u64 / 16 * 16;

/// Most elements that one binding can hold, whatever the offset of the tensor in its buffer; kernels count in 32
/// bits.
fn max_elements(problem: &Problem, profile: &Profile) -> u64 {
    let size = problem.input.size().max(problem.output.size());
    profile.max_binding_size.min(MOST_BYTES).saturating_sub(profile.offset_alignment) / size
}

/// A direction in which a window can end: groups of targets, segments, targets of a group, or positions.
#[derive(Clone, Copy, Debug)]
struct Axis {
    len: u64,
    stride: u64,
    /// Windows begin at multiples of this, so that they hold whole tiles.
    step: u64,
}

/// The box of a tensor that each window takes.
#[derive(Clone, Copy, Debug)]
struct Windows {
    /// Outer, segments, inner, positions.
    axes: [Axis; 4],
    /// Sizes of the box.
    sizes: [u64; 4],
}

impl Windows {
    /// The largest that fit in `limit` elements: cut across the longest strides first, so that a window is one
    /// run of memory or nearly so.
    fn new(walk: &Walk, geometry: &Geometry, limit: u64) -> Windows {
        let (tree, leaves) = (geometry.tree, u64::from(geometry.leaves));
        let (segments, positions) = if leaves >= tree.leaves {
            (leaves / tree.leaves, walk.len)
        } else {
            (1, (leaves / u64::from(tree.lanes)).max(1) * tree.chunk_len())
        };
        // Columns are summed of whole workgroups' targets.
        let (groups, of_group) = if geometry.rounds > 1 {
            (factor(geometry.targets.into(), walk.inner), walk.inner)
        } else {
            (1, geometry.abreast.into())
        };
        let axes = [
            Axis { len: walk.outer, stride: walk.outer_stride, step: groups },
            Axis { len: walk.segments, stride: walk.segment_stride, step: segments },
            Axis { len: walk.inner, stride: walk.inner_stride, step: of_group },
            Axis { len: walk.len, stride: walk.stride, step: positions },
        ];
        let mut windows = Windows { axes, sizes: axes.map(|a| a.len) };
        let mut order = [0, 1, 2, 3];
        order.sort_by_key(|&i| std::cmp::Reverse(axes[i].stride));
        for i in order {
            let (Axis { len, stride, step }, all) = (axes[i], windows.span());
            if all <= limit {
                break;
            }
            let others = all - (len - 1) * stride;
            // Without a stride there is one of them.
            let fitting = limit.saturating_sub(others).checked_div(stride).map_or(1, |n| n + 1);
            windows.sizes[i] = (fitting / step * step).max(step).min(len);
        }
        windows
    }

    /// Elements from the first to the last of a box.
    fn span(&self) -> u64 {
        1 + self.axes.iter().zip(self.sizes).map(|(axis, size)| (size - 1) * axis.stride).sum::<u64>()
    }

    fn count(&self) -> u64 {
        self.axes.iter().zip(self.sizes).fold(1, |n, (axis, size)| n.saturating_mul(axis.len.div_ceil(size)))
    }

    /// Whether they fit, and are not many more than the tensors need.
    fn are_few(&self, problem: &Problem, limit: u64) -> bool {
        let span = Tensor::ALL.into_iter().map(|t| problem.memory(t).span()).max().unwrap_or(0);
        self.span() <= limit && self.count() <= 4 * span.div_ceil(limit.max(1))
    }

    /// Every box: its ranges along the axes.
    fn boxes(self) -> impl Iterator<Item = [Range<u64>; 4]> {
        (0..self.count()).map(move |mut i| {
            std::array::from_fn(|axis| {
                let (len, size) = (self.axes[axis].len, self.sizes[axis]);
                let start = i % len.div_ceil(size) * size;
                i /= len.div_ceil(size);
                start..(start + size).min(len)
            })
        })
    }
}

/// Tiles small enough that a binding holds one; the same tree, so the same bits.
pub(super) fn fitting(geometry: Geometry, over: Over, problem: &Problem, profile: &Profile) -> Result<Geometry, Error> {
    let limit = max_elements(problem, profile);
    if problem.is_dense() && problem.layout.elements <= limit {
        return Ok(geometry);
    }
    let walk = &widest(problem, over);
    let smaller = |g: &Geometry| (g.leaves > 1).then(|| g.with_leaves(walk, g.leaves / 2));
    let tiles = || std::iter::successors(Some(geometry), smaller).map(|g| (g, Windows::new(walk, &g, limit)));
    let fits = || tiles().filter(|(_, windows)| windows.span() <= limit);
    // Large tiles that stand in the way of windows are worse than small ones.
    let good = fits().find(|(_, windows)| windows.are_few(problem, limit));
    if let Some((geometry, _)) = good.or_else(|| fits().min_by_key(|(_, windows)| windows.count())) {
        return Ok(geometry);
    }
    let required = tiles().map(|(_, windows)| windows.span()).min().unwrap_or(0);
    Err(Error::TooLarge { what: ONE_LEAF, required, limit })
}

/// Whether a binding holds what a workgroup takes.
pub(super) fn holds(geometry: &Geometry, over: Over, problem: &Problem, profile: &Profile) -> bool {
    check(geometry, over, problem, profile).is_ok()
}

/// Whether windows of what a workgroup takes are not many more than tensors need.
pub(super) fn are_few(geometry: &Geometry, over: Over, problem: &Problem, profile: &Profile) -> bool {
    let limit = max_elements(problem, profile);
    Windows::new(&widest(problem, over), geometry, limit).are_few(problem, limit)
}

/// As [`holds`]. [`Error::TooLarge`] if not.
pub(super) fn check(geometry: &Geometry, over: Over, problem: &Problem, profile: &Profile) -> Result<(), Error> {
    let limit = max_elements(problem, profile);
    within(ONE_LEAF, Windows::new(&widest(problem, over), geometry, limit).span(), limit)
}

pub(super) fn dispatches(pass: &Pass, problem: &Problem, profile: &Profile) -> Result<Vec<Dispatch>, Error> {
    let walk = &widest(problem, pass.over);
    let (geometry, tiles) = (&pass.geometry, pass.geometry.tiles);
    within("targets of one pass", walk.targets(), u32::MAX.into())?;
    let folded = tiles.max(geometry.blocks(walk.targets())) > profile.max_workgroups.into();
    if matches!(pass.kernel, Kernel::Merge | Kernel::Running) {
        return Ok(vec![dispatch(pass, profile, folded, 0..walk.targets(), 0..tiles, [[0; 4]; 2])?]);
    }
    let windows = Windows::new(walk, geometry, max_elements(problem, profile));
    within("windows of one pass", windows.count(), MOST_WINDOWS)?;
    let (tree, leaves) = (geometry.tree, u64::from(geometry.leaves));
    let windows = windows.boxes().map(|[outer, segments, inner, positions]| {
        // An axis is cut only where each longer one is cut to a single step: targets and tiles stay ranges.
        let targets = outer.start * walk.inner + inner.start..(outer.end - 1) * walk.inner + inner.end;
        let leaf = |position| position / tree.chunk_len() * u64::from(tree.lanes);
        let first = segments.start * tree.leaves + leaf(positions.start);
        let end = if positions.end == walk.len {
            segments.end * tree.leaves
        } else {
            segments.start * tree.leaves + leaf(positions.end)
        };
        let corners = [
            [outer.start, segments.start, inner.start, positions.start],
            [outer.end - 1, segments.end - 1, inner.end - 1, positions.end - 1],
        ];
        dispatch(pass, profile, folded, targets, first / leaves..end.div_ceil(leaves), corners)
    });
    windows.collect()
}

/// The least number whose product with `by` is a multiple of `number`.
fn factor(number: u64, by: u64) -> u64 {
    let (mut a, mut b) = (number, by);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    number / a
}

fn within(what: &'static str, required: u64, limit: u64) -> Result<(), Error> {
    if required > limit { Err(Error::TooLarge { what, required, limit }) } else { Ok(()) }
}

fn dispatch(
    pass: &Pass,
    profile: &Profile,
    folded: bool,
    targets: Range<u64>,
    tiles: Range<u64>,
    [first, last]: [[u64; 4]; 2],
) -> Result<Dispatch, Error> {
    let blocks = pass.geometry.blocks(targets.end - targets.start);
    let all = tiles.end - tiles.start;
    let groups = blocks * all;
    let side = u64::from(profile.max_workgroups);
    within("workgroups of one dispatch", groups, (side * side).min(u32::MAX.into()))?;
    let [x, y] = match (folded, pass.geometry.tree.side_by_side) {
        (true, _) => {
            let y = groups.div_ceil(side).max(1);
            [groups.div_ceil(y), y]
        }
        (false, true) => [blocks, all],
        (false, false) => [all, blocks],
    };
    Ok(Dispatch { targets, tiles, first, last, grid: [x as u32, y as u32, 1], folded })
}
