// Instance norm: a channel's running statistics take in the average over the samples' statistics.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let channel = (workgroup.x + workgroup.y * params.grid_x) * WORKGROUP + slot;
    if (channel >= params.inner) {
        return;
    }
    let samples = params.end_target / params.inner;
    // Sums of pairs, in the order of a running average: no sum grows with the batch.
    var mean = 0.0;
    var variance = 0.0;
    for (var n = 0u; n < samples; n++) {
        let stat = saved_stat(n * params.inner + channel);
        let weight = divide(1.0, f32(n + 1u));
        mean += opaque((stat.hi - mean) * weight);
        variance += opaque((stat.variance - variance) * weight);
    }
    let count = f32(params.segments * params.len);
    update_running(channel, mean, opaque(variance * divide(count, count - 1.0)), params.segments * params.len);
}
