// Unit by unit, after merging what partial results are left.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    var known = Knowns();
    var result = Results();
    if (REDUCES) {
        known = knowns(p);
        // A tile's lanes take the partial results of all tiles.
        var q = p;
        q.leaf = select(0u, p.leaf_lane, MERGES);
        var sums = partials_of(q);
        if (MERGES) {
            sums = tree(p, sums, params.partials_in);
        }
        result = results(p, sums);
        if (p.tile == 0u) {
            write_partials(p, sums);
        }
    }
    if (p.inside) {
        // Not before: elements would be loaded after what this waits for.
        if (!REDUCES) {
            known = knowns(p);
            result = givens(p);
        }
//#for u
        transform_units(p, $uu, load_units(p, $uu, known), result, known);
//#end
    }
}
