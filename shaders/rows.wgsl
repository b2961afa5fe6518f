// Targets that fit on chip: read once, reduce, finish, write once.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    let known = knowns(p);
    let tile = load_tile(p, known);
    let result = results(p, tree(p, leaves(p, tile, known), LEAVES));
//#if WRITES
    if (p.inside) {
//#for u
        transform_units(p, $uu, tile[$u], result, known);
//#end
    }
//#end
}
