// Partial results to fewer, or to the gradients of weight and bias.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    let sums = tree(p, partials_of(p), LEAVES);
    if (FINISHES) {
        _ = finish(p, sums, Knowns());
    }
    write_partials(p, sums);
}
