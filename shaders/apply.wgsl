// Element by element, after merging what partial results are left.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    let tile = load_tile(p);
    if (REDUCES) {
        // A tile's lanes take the partial results of all tiles.
        var q = p;
        q.leaf = p.leaf_lane;
        transform(p, tile, finish(p, tree(p, partial_in(q), params.partials_in)));
    } else {
        transform(p, tile, given(p));
    }
}
