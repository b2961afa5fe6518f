// Targets that one workgroup takes: read, reduce, finish, write.

// Sums of each target, from its leaves; partial results are written.
fn sums_of_targets(p: Place, leaves: Partials, known: Knowns) -> Partials {
//#if CHANNELS
    // A channel's sum is written as it is, for the weights; weighed, it goes on up the group's tree.
    let channel = 1u << params.leaves_log2;
    put(p, leaves);
    climb(p, 1u, channel);
    workgroupBarrier();
    if (p.inside & ((p.leaf & (channel - 1u)) == 0u)) {
        let sum = from_bits(slots[p.slot]);
        if (PARTIALS) {
            partials[params.partials_out_at + p.goal * params.partials_out_target + p.segment] = to_bits(sum);
        }
        slots[p.slot] = to_bits(weighed(sum, known[0].weight));
    }
    climb(p, channel, LEAVES);
    return top(p);
//#else
    let sums = tree(p, leaves, LEAVES);
    write_partials(p, sums);
    return sums;
//#end
}

fn take(p: Place, known: Knowns, tile: Tile) {
    let result = finish(p, sums_of_targets(p, leaves(p, tile, known), known), known);
//#if WRITES
    if (p.inside) {
//#for u
        transform_units(p, $uu, tile[$u], result, known);
//#end
    }
//#end
}

//#if PARTS
// What does not fit registers is read again, part by part, while it is still in a cache.
fn take_in_parts(p: Place, known: Knowns) {
    let result = finish(p, sums_of_targets(p, leaves_in_parts(p, known), known), known);
//#if WRITES
    let parts = loop_end(params.parts, p.slot);
    for (var part = 0u; part < parts; part++) {
        let q = part_of(p, part);
        if (q.inside) {
//#for u
            transform_units(q, $uu, load_units(q, $uu, known), result, known);
//#end
        }
    }
//#end
}
//#end

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
//#if COLUMNS
//#for u
    var columns$u = Columns();
//#end
    for (var round = 0u; round < ROUNDS; round++) {
        let p = locate_round(workgroup, slot, round);
        let known = knowns(p);
        let tile = load_tile(p, known);
        take(p, known, tile);
        if (p.inside) {
//#for u
            columns$u = with_row(columns$u, tile[$u][0]);
//#end
        }
        // The next row's leaves go where results of this one are read.
        workgroupBarrier();
    }
    let first = locate(workgroup, slot);
//#for u
    write_columns(first, $uu, columns$u);
//#end
//#else
    let p = locate(workgroup, slot);
    let known = knowns(p);
//#if PARTS
    take_in_parts(p, known);
//#else
    take(p, known, load_tile(p, known));
//#end
//#end
}
