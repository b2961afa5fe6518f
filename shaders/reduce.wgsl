// A tile of a target to one partial result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    let known = known_of(p);
    let sum = tree(p, leaf(p, load_tile(p, known), known), LEAVES);
    if (FINISHES) {
        finish(p, sum);
    }
    write_partial(p, sum);
}
