// Partial results to fewer, or to the gradients of weight and bias.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    let sum = tree(p, partial_in(p), LEAVES);
    if (FINISHES) {
        finish(p, sum);
    }
    write_partial(p, sum);
}
