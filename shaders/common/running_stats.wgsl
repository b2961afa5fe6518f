// The moving averages of a channel, or of four neighbours at once.
//#if FOUR_TARGETS
alias Floats = vec4<f32>;
alias Words = vec4<u32>;
alias Flags = vec4<bool>;
//#else
alias Floats = f32;
alias Words = u32;
alias Flags = bool;
//#end

fn opaque_bits(v: Floats) -> Words {
    return bitcast<Words>(v) ^ Words(params.zero);
}

// A driver may assume that there are no NaNs. The bits tell, but compilers know this test of them, too.
fn is_finite(v: Floats) -> Flags {
    return (opaque_bits(v) & Words(0x7f800000u)) != Words(0x7f800000u);
}

fn opaque_floats(v: Floats) -> Floats {
    return bitcast<Floats>(opaque_bits(v));
}

// Not fused, so that devices of different vendors agree on running statistics.
fn moving_average(before: Words, batch: Floats, m: Floats) -> Words {
    return bitcast<Words>(opaque_floats((Floats(1.0) - m) * bitcast<Floats>(before)) + opaque_floats(m * batch));
}

// The weight of a new batch. Of a cumulative average it is the channel's own: no host is asked.
// Not a branch: where one depends on a uniform alone, Mesa's software drivers make a shader for each of its values, and
// lavapipe one for each dispatch.
fn momentum_of(tracked: Words) -> Floats {
//#if FOUR_TARGETS
    let count = vec4<f32>(tracked);
    let cumulative = vec4<f32>(divide(1.0, count.x), divide(1.0, count.y), divide(1.0, count.z), divide(1.0, count.w));
//#else
    let cumulative = divide(1.0, f32(tracked));
//#end
    return select(cumulative, Floats(params.momentum), Flags(params.momentum >= 0.0));
}

// One more of those, if that can be counted.
fn counted(before: Words, more: Flags) -> Words {
    return before + select(Words(), Words(1u), more & (before < Words(0xffffffffu)));
}

fn update_running(channel: u32, mean: Floats, variance: Floats, count: Words) {
//#if UNIT_WEIGHTS
    // Norms whose weights differ within a statistic have no running statistics.
//#else
    let has_any = count > Words();
    if (UPDATE == 0u || !any(has_any)) {
        return;
    }
//#if FOUR_TARGETS
    let first = channel >> 2u;
    let step = params.state_stride >> 2u;
//#else
    let first = channel;
    let step = params.state_stride;
//#end
    let taken = has_any & (Flags(UPDATE == 2u) | (is_finite(mean) & is_finite(variance)));
    if (!all(taken)) {
        state[first + 5u * step] = counted(state[first + 5u * step], has_any & !taken);
    }
    let tracked_at = first + 4u * step;
    let tracked = counted(state[tracked_at], taken);
    state[tracked_at] = tracked;
    let m = momentum_of(tracked);
    let mean_at = first + 2u * step;
    state[mean_at] = select(state[mean_at], moving_average(state[mean_at], mean, m), taken);
    // A single element has no unbiased variance.
    let spreads = taken & (count > Words(1u));
    let variance_at = mean_at + step;
    state[variance_at] = select(state[variance_at], moving_average(state[variance_at], variance, m), spreads);
//#end
}
