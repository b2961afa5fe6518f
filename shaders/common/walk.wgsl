// Which elements an invocation takes: the only place that knows.
struct Place {
    slot: u32,
    leaf_lane: u32,
    tile: u32,
    // The statistic or the affine parameter: the first of those abreast.
    goal: u32,
    segment: u32,
    leaf: u32,
    // The leaf's first element in its segment.
    first: u32,
    // Offset of the segment's first element by the strides that all tensors share.
    base: u32,
    // Whether there is such a target, and whether the leaf has elements.
    exists: bool,
    inside: bool,
}

// A unit's elements, of each of the targets abreast.
alias Abreast = array<vec4<f32>, ABREAST>;

fn segment_offset(goal: u32, segment: u32, strides: vec4<u32>) -> u32 {
    return goal / params.inner * strides.x + goal % params.inner * strides.y
        + min(segment, params.segments - 1u) * strides.z;
}

fn locate(workgroup: vec3<u32>, slot: u32) -> Place {
    return locate_round(workgroup, slot, 0u);
}

fn locate_round(workgroup: vec3<u32>, slot: u32, round: u32) -> Place {
    // A grid that is folded has more workgroups than there is work.
    let number = workgroup.x + workgroup.y * params.grid_x;
    let last = params.tiles * params.blocks - 1u;
    let turn_of_work = min(number, last);
    let group = select(turn_of_work, last - turn_of_work, BACKWARDS);
    let leaf_lane = (slot / LEAF_STRIDE) % LEAVES;
    let target_lane = slot % LEAF_STRIDE + slot / (LEAF_STRIDE * LEAVES) * LEAF_STRIDE;
    let steps = select(params.tiles, params.blocks, ACROSS);
    let turn = group / steps;
    let block = select(turn, group % steps, ACROSS);
    let tile_of_dispatch = select(group % steps, turn, ACROSS);
    let lanes = block * (WORKGROUP / LEAVES) + target_lane;
    let wanted = params.first_target + ABREASTu * (lanes * ROUNDS + round);
    let exists = (number <= last) & (wanted < params.end_target);
    let goal = min(wanted, params.end_target - ABREASTu);
    let tile = params.first_tile + tile_of_dispatch;
    let leaf = tile * LEAVES + leaf_lane;
    let segment = leaf >> params.leaves_log2;
    let in_segment = leaf & ((1u << params.leaves_log2) - 1u);
    let lane = in_segment % LANES * select(1u, 4u, SPACING == 1u);
    let first = in_segment / LANES * (4u * LANES * UNITSu * PARTS) + lane;
    // `&` and not `&&`, which is a branch.
    let inside = exists & (segment < params.segments) & (first < params.len);
    return Place(
        slot, leaf_lane, tile, goal, segment, leaf, select(0u, first, inside),
        segment_offset(goal, segment, params.strides), exists, inside,
    );
}

// The place of a leaf's part.
fn part_of(p: Place, part: u32) -> Place {
    var q = p;
    q.first += 4u * part * UNITSu * LANES;
    q.inside = p.inside & (q.first < params.len);
    q.first = select(0u, q.first, q.inside);
    return q;
}

// A unit's first element in its segment; of one that is not there, the leaf's.
fn first_of(p: Place, unit: u32) -> u32 {
    let at = p.first + 4u * unit * LANES;
    if (unit < WHOLE) {
        return at;
    }
    return select(p.first, at, at < params.len);
}

// How many of a unit's four elements a leaf with elements has.
fn valid(p: Place, unit: u32) -> u32 {
    if (unit < WHOLE) {
        return 4u;
    }
    let at = p.first + 4u * unit * LANES;
    return select(0u, min((params.len - at - 1u) / SPACING + 1u, 4u), at < params.len);
}

// A unit's elements in their segment; those that are not there are the last that is.
fn positions(p: Place, unit: u32) -> vec4<u32> {
    let i = min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(max(valid(p, unit), 1u) - 1u));
    return first_of(p, unit) + i * SPACING;
}

// Zeros for elements that are not there.
fn only(p: Place, unit: u32, v: vec4<f32>) -> vec4<f32> {
    if (unit < WHOLE) {
        return v;
    }
    return select(vec4<f32>(0.0), v, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(valid(p, unit)));
}

// Offsets of a unit's elements, one by one.
fn elements(p: Place, unit: u32, base: u32, stride: u32) -> vec4<u32> {
    return base + positions(p, unit) * stride;
}

// The values to store in `elements`.
fn repeated(p: Place, unit: u32, v: vec4<f32>) -> vec4<f32> {
    let n = valid(p, unit);
    let y = select(v.x, v.y, n > 1u);
    let z = select(y, v.z, n > 2u);
    return vec4<f32>(v.x, y, z, select(z, v.w, n > 3u));
}

fn mapped(p: Place) -> u32 {
    return p.goal % params.inner / params.map_target_div * params.map_target + p.segment * params.map_segment;
}

fn mapped_at(p: Place, positions: vec4<u32>) -> vec4<u32> {
    if (MAP == 1u) {
        return mapped(p) + positions * params.map_position;
    }
    return mapped(p) + positions / params.map_position_div * params.map_position;
}

// A vector of the state at a unit's elements; `uniform_value` is the one of the whole segment.
fn state_of_unit(vector: u32, p: Place, unit: u32, uniform_value: f32) -> vec4<f32> {
    if (MAP == 0u || OVER_AFFINE) {
        return vec4<f32>(uniform_value);
    }
    let first = first_of(p, unit);
    if (MAP == 3u) {
        return vec4<f32>(state_at(vector, mapped(p) + first / params.map_position_div * params.map_position));
    }
//#if UNIT_WEIGHTS
    return bitcast<vec4<f32>>(state[(vector * params.state_stride + mapped(p) + first) >> 2u]);
//#else
    let i = mapped_at(p, positions(p, unit));
    return vec4<f32>(state_at(vector, i.x), state_at(vector, i.y), state_at(vector, i.z), state_at(vector, i.w));
//#end
}

fn affine_index(p: Place) -> u32 {
    return select(mapped(p), p.goal, OVER_AFFINE);
}

fn weight_of(p: Place) -> f32 {
    if (HAS_WEIGHT) {
        return state_at(0u, affine_index(p));
    }
    return 1.0;
}

fn bias_of(p: Place) -> f32 {
    if (HAS_BIAS) {
        return state_at(1u, affine_index(p));
    }
    return 0.0;
}

fn weights(p: Place, unit: u32, uniform_value: f32) -> vec4<f32> {
    if (HAS_WEIGHT) {
        return state_of_unit(0u, p, unit, uniform_value);
    }
    return vec4<f32>(1.0);
}

fn biases(p: Place, unit: u32, uniform_value: f32) -> vec4<f32> {
    if (HAS_BIAS) {
        return state_of_unit(1u, p, unit, uniform_value);
    }
    return vec4<f32>(0.0);
}

fn relu(v: vec4<f32>) -> vec4<f32> {
    if (RELU) {
        // Not max(): NaN must stay.
        return select(v, vec4<f32>(0.0), v <= vec4<f32>(0.0));
    }
    return v;
}

// Writes results of a target once, whatever the number of workgroups that have them.
fn writes_results(p: Place) -> bool {
    return FINISHES & p.exists & (p.tile == 0u) & (p.leaf_lane == 0u);
}
