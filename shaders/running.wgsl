// Instance norm: a channel's running statistics take in the average over the samples' statistics.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let channel = (workgroup.x + workgroup.y * params.grid_x) * WORKGROUP + slot;
    if (channel >= params.inner) {
        return;
    }
    let samples = loop_end(params.end_target / params.inner, slot);
    // In the order of a running average, as no sum then grows with the batch.
    var mean = vec2<f32>();
    var variance = vec2<f32>();
    for (var n = 0u; n < samples; n++) {
        let stat = saved_stat(n * params.inner + channel);
        let weight = divide(1.0, f32(n + 1u));
        mean = averaged(mean, stat.hi, weight);
        variance = averaged(variance, stat.variance, weight);
    }
    let count = f32(params.segments * params.len);
    update_running(channel, mean.x, opaque(variance.x * divide(count, count - 1.0)), params.segments * params.len);
}

// An average and what was rounded off it, with one value more.
fn averaged(before: vec2<f32>, value: f32, weight: f32) -> vec2<f32> {
    let distance = opaque(opaque(value - before.x) - before.y);
    return two_sum(before.x, opaque(before.y + opaque(distance * weight)));
}
