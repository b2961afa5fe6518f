// Partial results to fewer, or to what is written of a target: statistics, gradients of weight and bias.
//#if EIGHTS

// The tree over eight neighbours, where there are more than the workgroup has invocations.
fn leaf_of(p: Place) -> Partial {
    var q = p;
//#for u
    q.leaf = UNITSu * p.leaf + $uu;
    let own$u = partial_of(q, p.goal);
//#end
    let low = merge(merge(own0, own1), merge(own2, own3));
    return merge(low, merge(merge(own4, own5), merge(own6, own7)));
}
//#else

fn leaf_of(p: Place) -> Partial {
    return partial_of(p, p.goal);
}
//#end

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let p = locate(workgroup, slot);
    // One target an invocation.
    let sums = tree(p, Partials(leaf_of(p)), LEAVES);
    if (FINISHES) {
        _ = finish(p, sums, Knowns());
    }
    write_partials(p, sums);
}
