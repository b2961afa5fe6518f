// Vectors per channel, one after the other: weight, bias, running_mean, running_var, tracked, skipped.
//#if UNIT_WEIGHTS
@group(0) @binding(6) var<storage, read_write> state: array<vec4<u32>>;
//#else
@group(0) @binding(6) var<storage, read_write> state: array<u32>;
//#end

fn state_at(vector: u32, i: u32) -> f32 {
    let at = vector * params.state_stride + i;
//#if UNIT_WEIGHTS
    return bitcast<f32>(state[at >> 2u][at & 3u]);
//#else
    return bitcast<f32>(state[at]);
//#end
}

fn inverse_std(variance: f32) -> f32 {
    return opaque(1.0 / sqrt(variance + params.eps));
}

struct Stat {
    hi: f32,
    lo: f32,
    rstd: f32,
}

fn stat_at(i: u32) -> Stat {
    if (RUNNING) {
        return Stat(state_at(2u, i), 0.0, inverse_std(state_at(3u, i)));
    }
    return Stat(bitcast<f32>(saved[4u * i]), bitcast<f32>(saved[4u * i + 1u]), bitcast<f32>(saved[4u * i + 2u]));
}
