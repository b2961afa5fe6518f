// Unit by unit, after merging what partial results are left.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    var known = Knowns();
    var result = Results();
    if (REDUCES) {
//#if GRADIENT
        // A weight is part of what a gradient's sums come to.
        known = knowns(p);
//#end
        // A tile's lanes take the partial results of all tiles.
        var q = p;
        q.leaf = select(0u, p.leaf_lane, MERGES);
        var sums = partials_of(q, stat_indices(q));
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
}
