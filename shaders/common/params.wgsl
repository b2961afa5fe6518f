// One dispatch's numbers. Strides and offsets are in elements, modulo 2^32: only their sums must fit a binding.
struct Params {
    // The walk's strides (outer, inner, segment, position), of all tensors, or where they differ of each. Groups of one
    // target are taken for one group of all.
    strides: vec4<u32>,
    strides_input: vec4<u32>,
    strides_residual: vec4<u32>,
    strides_gradient: vec4<u32>,
    strides_output: vec4<u32>,
    strides_second_output: vec4<u32>,
    // The walk: see `Walk` in src/layout.rs. Where targets are columns of several rows `inner` is those of one.
    inner: u32,
    segments: u32,
    len: u32,
    // The tree: leaves of a segment, and parts of a leaf, each of as many units as an invocation holds.
    leaves_log2: u32,
    parts: u32,
    // The dispatch.
    grid_x: u32,
    first_target: u32,
    end_target: u32,
    first_tile: u32,
    tiles: u32,
    // Workgroups' blocks of targets.
    blocks: u32,
    // Partial results per target, where they start, and the distances of two targets and of two partial results; then where
    // those start that are written, and how many of them a target has.
    partials_in: u32,
    partials_in_at: u32,
    partials_in_target: u32,
    partials_in_step: u32,
    partials_out_at: u32,
    partials_out_target: u32,
    // The index that the walk does not go over: see `IndexMap`.
    map_target_div: u32,
    map_target: u32,
    map_segment: u32,
    map_position_div: u32,
    map_position: u32,
    // Neighbouring targets that share a statistic.
    stat_div: u32,
    // Words between two vectors of the state, and where dweight starts in `saved`.
    state_stride: u32,
    gradients_at: u32,
    // Always 0, which the compiler must not know.
    zero: u32,
    eps: f32,
    // Weight of the new batch; negative: the cumulative average.
    momentum: f32,
    // From an element's offset to its place in the binding.
    shift_input: u32,
    shift_residual: u32,
    shift_gradient: u32,
    shift_output: u32,
    shift_second_output: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

override WORKGROUP: u32;
// Partial results that a workgroup has: one for each of its targets and leaves.
override SLOTS: u32;
// Lanes that share a target, and the distance of two of them.
override LEAVES: u32;
override LEAF_STRIDE: u32;
// Leaves whose units interleave, and how many of a part's units have four elements wherever it has any.
override LANES: u32;
override WHOLE: u32;
// Distance of a unit's elements: 1, or LANES, so that neighbouring lanes load neighbours.
override SPACING: u32;
// Whether workgroups follow one another over targets first, which are neighbours in memory, and not over tiles.
override ACROSS: bool;
// Whether workgroups are counted through, as they are more than the grid's first or second dimension takes.
override FOLDED: bool;
// Whether workgroups begin with what comes last.
override REVERSED: bool;
// Targets that an invocation takes one after the other.
override ROUNDS: u32;
override CENTRED: bool;
override HAS_WEIGHT: bool;
override HAS_BIAS: bool;
override RELU: bool;
// Mean and variance are the running ones.
override RUNNING: bool;
// The targets are affine parameters, not statistics.
override OVER_AFFINE: bool;
// Whether there are several groups of several targets; whether neighbours among targets share a mapped index, and whether
// that changes from segment to segment.
override GROUPED: bool;
override MAP_SHARED: bool;
override MAP_BY_SEGMENT: bool;
// Whether the elements of a segment are neighbours in memory.
override IN_A_ROW: bool;
// Whether targets share statistics: each sample's channels those of their group.
override STATS_SHARED: bool;
// Where the mapped index changes: 0 per target or segment, 1 with each position, 2 every few positions, 3 every few
// units.
override MAP: u32;
// Sums of this pass, or partial results, are used.
override REDUCES: bool;
// There are several partial results of a target to merge.
override MERGES: bool;
// Results per target are written.
override FINISHES: bool;
// Partial results per target are written.
override PARTIALS: bool;
// Sums of a group's channels are weighed as they are merged.
override WEIGHS: bool;
// What to do with the running statistics: 0 nothing, 1 update, 2 update even if not finite.
override UPDATE: u32;
// dx is projected (statistics depend on x).
override PROJECT: bool;
// The weight varies within a statistic, so sums are weighed: in a leaf, or with WEIGHS as channels are merged.
override WEIGHTS_VARY: bool;

@group(0) @binding(8) var<storage, read_write> partials: array<vec4<u32>>;
