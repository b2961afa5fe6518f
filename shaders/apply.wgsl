// A tile's lanes take the partial results of all tiles, or each the only one.
fn leaf_in(p: Place) -> Place {
    var q = p;
    q.leaf = select(0u, p.leaf_lane, MERGES);
    return q;
}

// Unit by unit, after merging what partial results are left.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
//#if COLUMNS
//#for u
    var columns$u = Columns();
//#end
    for (var round = 0u; round < ROUNDS; round++) {
        let p = locate_round(workgroup, slot, round);
        let known = knowns(p);
        var result = Results();
        if (REDUCES) {
            result = finish(p, partials_of(leaf_in(p), stat_indices(p)), known);
        }
        if (p.inside) {
//#for u
            let units$u = load_units(p, $uu, known);
            columns$u = with_row(columns$u, units$u[0]);
            transform_units(p, $uu, units$u, result, known);
//#end
        }
    }
    let first = locate(workgroup, slot);
//#for u
    write_columns(first, $uu, columns$u);
//#end
//#else
    let p = locate(workgroup, slot);
    var known = Knowns();
    var result = Results();
    if (REDUCES) {
//#if GRADIENT
        // A weight is part of what a gradient's sums come to.
        known = knowns(p);
//#end
        var sums = partials_of(leaf_in(p), stat_indices(p));
        if (MERGES) {
            sums = tree(p, sums, params.partials_in);
        }
        result = finish(p, sums, known);
        if (p.tile == 0u) {
            write_partials(p, sums);
        }
    }
    if (p.inside) {
        // No sooner than needed: elements would be loaded after what this waits for.
//#if GRADIENT
        if (!REDUCES) {
            known = knowns(p);
        }
//#else
        known = knowns(p);
//#end
        if (!REDUCES) {
            result = givens(p);
        }
//#for u
        transform_units(p, $uu, load_units(p, $uu, known), result, known);
//#end
    }
//#end
}
