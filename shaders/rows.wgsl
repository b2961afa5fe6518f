// Targets that fit on chip: read once, reduce, finish, write once.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    let tile = load_tile(p);
    let sum = tree(p, leaf(p, tile), LEAVES);
    let result = finish(p, sum);
//#if WRITES
    transform(p, tile, result);
//#end
}
