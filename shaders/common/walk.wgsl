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

// A target's number in its group, without a division (some 25 instructions) where there is one group. Where groups have
// one target each it is the group's, and what it is multiplied by is made for that.
fn in_group(goal: u32) -> u32 {
    if (GROUPED) {
        return goal % params.inner;
    }
    return goal;
}

fn segment_offset(goal: u32, segment: u32, strides: vec4<u32>) -> u32 {
    var group = 0u;
    if (GROUPED) {
        group = goal / params.inner * strides.x;
    }
    return group + in_group(goal) * strides.y + segment * strides.z;
}

fn locate(workgroup: vec3<u32>, slot: u32) -> Place {
    return locate_round(workgroup, slot, 0u);
}

fn locate_round(workgroup: vec3<u32>, slot: u32, round: u32) -> Place {
    let steps = select(params.tiles, params.blocks, ACROSS);
    let turns = select(params.blocks, params.tiles, ACROSS);
    var at = workgroup.xy;
    var works = true;
    if (FOLDED) {
        // There may be more workgroups than there is work.
        let number = workgroup.x + workgroup.y * params.grid_x;
        works = number < steps * turns;
        let work = min(number, steps * turns - 1u);
        at = vec2<u32>(work % steps, work / steps);
    }
    if (REVERSED) {
        at = vec2<u32>(steps, turns) - 1u - at;
    }
    let leaf_lane = (slot / LEAF_STRIDE) % LEAVES;
    // Where all of a workgroup have one target, or one row of targets, the compiler has to see it.
    let row = select(slot / (LEAF_STRIDE * LEAVES), 0u, LEAF_STRIDE * LEAVES == WORKGROUP);
    let target_lane = slot % LEAF_STRIDE + row * LEAF_STRIDE;
    let block = select(at.y, at.x, ACROSS);
    let tile_of_dispatch = select(at.x, at.y, ACROSS);
    let lanes = block * (WORKGROUP / LEAVES) + target_lane;
    let wanted = params.first_target + ABREASTu * (lanes * ROUNDS + round);
    let exists = works & (wanted < params.end_target);
    let goal = min(wanted, params.end_target - ABREASTu);
    let tile = params.first_tile + tile_of_dispatch;
    let leaf = tile * LEAVES + leaf_lane;
    let wanted_segment = leaf >> params.leaves_log2;
    // Without work it looks at the last: behind that one's statistic others write gradients.
    let segment = min(wanted_segment, params.segments - 1u);
    let in_segment = leaf & ((1u << params.leaves_log2) - 1u);
    let lane = in_segment % LANES * select(1u, 4u, SPACING == 1u);
//#if PARTS
    let units = UNITSu * params.parts;
//#else
    let units = UNITSu;
//#end
    let first = in_segment / LANES * (4u * LANES * units) + lane;
    // `&` and not `&&`, which is a branch.
    let inside = exists & (wanted_segment < params.segments) & (first < params.len);
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

// How far the elements of a whole unit are behind the leaf's first, for all invocations alike.
fn behind(unit: u32) -> vec4<u32> {
    return 4u * unit * LANES + vec4<u32>(0u, 1u, 2u, 3u) * SPACING;
}

// Offsets of a unit's elements, one by one.
fn elements(p: Place, unit: u32, base: u32, stride: u32) -> vec4<u32> {
    let step = select(stride, 1u, IN_A_ROW);
    if (unit < WHOLE) {
        return base + p.first * step + behind(unit) * step;
    }
    return base + positions(p, unit) * step;
}

// The same in fours, where offsets and stride are multiples of four: of targets abreast.
fn fours(p: Place, unit: u32, base: u32, stride: u32) -> vec4<u32> {
    if (unit < WHOLE) {
        return ((base + p.first * stride) >> 2u) + behind(unit) * (stride >> 2u);
    }
    return elements(p, unit, base, stride) >> vec4<u32>(2u);
}

// Offset of a unit that is one of them.
fn four(p: Place, unit: u32, base: u32) -> u32 {
    let fours_behind = select(0u, unit * LANES, valid(p, unit) > 0u);
    return ((base + p.first) >> 2u) + fours_behind;
}

// The values to store in `elements`.
fn repeated(p: Place, unit: u32, v: vec4<f32>) -> vec4<f32> {
    let n = valid(p, unit);
    let y = select(v.x, v.y, n > 1u);
    let z = select(y, v.z, n > 2u);
    return vec4<f32>(v.x, y, z, select(z, v.w, n > 3u));
}

fn mapped(p: Place) -> u32 {
    var i = in_group(p.goal);
    if (MAP_SHARED) {
        i /= params.map_target_div;
    }
    i *= params.map_target;
    if (MAP_BY_SEGMENT) {
        i += p.segment * params.map_segment;
    }
    return i;
}

fn mapped_at(p: Place, positions: vec4<u32>) -> vec4<u32> {
    if (MAP == 1u) {
        return mapped(p) + positions * params.map_position;
    }
    return mapped(p) + positions / params.map_position_div * params.map_position;
}

// A vector of the state at a unit's elements; `uniform_value` is the one of the whole segment.
fn state_of_unit(vector: u32, p: Place, unit: u32, uniform_value: f32) -> vec4<f32> {
    if (MAP == 0u) {
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
        // NaN must stay: not max(), nor a comparison of floats, of which a driver makes max(). What has a sign and is a number.
        let bits = bitcast<vec4<u32>>(v);
        return select(v, vec4<f32>(0.0), bits - vec4<u32>(0x80000000u) <= vec4<u32>(0x7f800000u));
    }
    return v;
}
