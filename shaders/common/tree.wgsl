// The fixed binary tree over a workgroup's leaves. Barriers are here and nowhere else.
struct Partial {
    count: u32,
    a: f32,
    b: f32,
    c: f32,
}

const EMPTY = Partial(0u, 0.0, 0.0, 0.0);

var<workgroup> slots: array<vec4<u32>, WORKGROUP>;

fn to_bits(s: Partial) -> vec4<u32> {
    return vec4<u32>(s.count, bitcast<u32>(s.a), bitcast<u32>(s.b), bitcast<u32>(s.c));
}

fn from_bits(v: vec4<u32>) -> Partial {
    return Partial(v.x, bitcast<f32>(v.y), bitcast<f32>(v.z), bitcast<f32>(v.w));
}

// Merges the first `width` leaves of each target; every lane gets the result.
fn tree(p: Place, leaf: Partial, width: u32) -> Partial {
    if (LEAVES == 1u) {
        return leaf;
    }
    var sum = leaf;
    slots[p.slot] = to_bits(sum);
    for (var step = 1u; step < min(LEAVES, width); step <<= 1u) {
        workgroupBarrier();
        if (p.leaf_lane % (2u * step) == 0u) {
            sum = merge(sum, from_bits(slots[p.slot + step * LEAF_STRIDE]));
            slots[p.slot] = to_bits(sum);
        }
    }
    workgroupBarrier();
    return from_bits(slots[p.slot - p.leaf_lane * LEAF_STRIDE]);
}

fn partial_in(p: Place) -> Partial {
    if (p.exists & (p.leaf < params.partials_in)) {
        let at = p.goal * params.partials_in_target + p.leaf * params.partials_in_step;
        return from_bits(partials[params.partials_in_at + at]);
    }
    return EMPTY;
}

fn write_partial(p: Place, sum: Partial) {
    if (p.exists & (p.leaf_lane == 0u) & (params.partials_out > 0u)) {
        partials[params.partials_out_at + p.goal * params.partials_out + p.tile] = to_bits(sum);
    }
}
