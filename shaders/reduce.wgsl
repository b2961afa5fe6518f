// A tile of a target to one partial result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    let known = knowns(p);
    let sums = tree(p, leaves_in_parts(p, known), LEAVES);
    if (FINISHES) {
        _ = finish(p, sums, known);
    }
    write_partials(p, sums);
}
