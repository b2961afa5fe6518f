// The fixed binary tree over a workgroup's leaves. Barriers are here, in rows.wgsl, and where columns are summed.
struct Partial {
    count: u32,
    a: f32,
    b: f32,
    c: f32,
}

const EMPTY = Partial(0u, 0.0, 0.0, 0.0);

alias Partials = array<Partial, ABREAST>;

var<workgroup> slots: array<vec4<u32>, SLOTS>;

fn to_bits(s: Partial) -> vec4<u32> {
    return vec4<u32>(s.count, bitcast<u32>(s.a), bitcast<u32>(s.b), bitcast<u32>(s.c));
}

fn from_bits(v: vec4<u32>) -> Partial {
    return Partial(v.x, bitcast<f32>(v.y), bitcast<f32>(v.z), bitcast<f32>(v.w));
}

// The tree over a unit's elements, of which each is a leaf.
fn tree_of_unit(p: Place, unit: u32, a: vec4<f32>, b: vec4<f32>) -> Partial {
    let n = valid(p, unit);
    let x = Partial(select(0u, 1u, n > 0u), a.x, b.x, 0.0);
    let y = Partial(select(0u, 1u, n > 1u), a.y, b.y, 0.0);
    let z = Partial(select(0u, 1u, n > 2u), a.z, b.z, 0.0);
    let w = Partial(select(0u, 1u, n > 3u), a.w, b.w, 0.0);
    return merge(merge(x, y), merge(z, w));
}

// Merges the first `width` leaves of each target; every lane gets the results.
fn tree(p: Place, leaves: Partials, width: u32) -> Partials {
    if (LEAVES == 1u) {
        return leaves;
    }
    put(p, leaves);
    climb(p, 1u, min(LEAVES, width));
    return top(p);
}

fn put(p: Place, leaves: Partials) {
//#for t
    slots[$tu * WORKGROUP + p.slot] = to_bits(leaves[$t]);
//#end
}

// From sums of `low` leaves to those of `high`.
fn climb(p: Place, low: u32, high: u32) {
    for (var step = low; step < high; step <<= 1u) {
        workgroupBarrier();
        // The first invocations take all pairs, so that the others' subgroups rest.
        // Not `p.slot < WORKGROUP / (2u * step)`: a division is some 25 instructions, between two barriers.
        if (p.slot * (2u * step) < WORKGROUP) {
            let left = p.slot / LEAF_STRIDE * (2u * step * LEAF_STRIDE) + p.slot % LEAF_STRIDE;
            let right = left + step * LEAF_STRIDE;
//#for t
            let sum$t = merge(from_bits(slots[$tu * WORKGROUP + left]), from_bits(slots[$tu * WORKGROUP + right]));
            slots[$tu * WORKGROUP + left] = to_bits(sum$t);
//#end
        }
    }
}

fn top(p: Place) -> Partials {
    workgroupBarrier();
    let first = p.slot - p.leaf_lane * LEAF_STRIDE;
    return Partials(
//#for t
        from_bits(slots[$tu * WORKGROUP + first]),
//#end
    );
}

fn weighed(sum: Partial, weight: f32) -> Partial {
    return Partial(sum.count, opaque(weight * sum.a), opaque(weight * sum.b), 0.0);
}

// Of a target, or of the statistic that it shares.
// Loaded whether it is there or not: behind branches loads would wait for each other.
fn partial_of(p: Place, goal: u32) -> Partial {
    let is_there = p.exists & (p.leaf < params.partials_in);
    let leaf = select(0u, p.leaf, is_there);
    let at = goal * params.partials_in_target + leaf * params.partials_in_step;
    var sum = from_bits(partials[params.partials_in_at + at]);
    if (WEIGHS & HAS_WEIGHT) {
        sum = weighed(sum, state_at(0u, in_group(goal) * params.map_target + leaf));
    }
    return from_bits(select(vec4<u32>(), to_bits(sum), is_there));
}

fn partials_of(p: Place, goals: Indices) -> Partials {
    return Partials(
//#for t
        partial_of(p, goals[$t]),
//#end
    );
}

fn write_partials(p: Place, sums: Partials) {
    if (PARTIALS & p.exists & (p.leaf_lane == 0u)) {
//#for t
        let at$t = (p.goal + $tu) * params.partials_out_target + p.tile;
        partials[params.partials_out_at + at$t] = to_bits(sums[$t]);
//#end
    }
}
