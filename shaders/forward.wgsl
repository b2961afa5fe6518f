// Forward: leaves are moments (count, mean high, mean low, m2), elements become y.

// Chan, Golub and LeVeque's pairwise update. Products are opaque, so that no driver fuses them with a sum: the
// same bits as `Moments::merge`.
fn merge(x: Partial, y: Partial) -> Partial {
    let count = x.count + y.count;
    var ratio = 0.5;
    if (x.count != y.count) {
        ratio = divide(f32(y.count), f32(max(count, 1u)));
    }
    let delta = opaque(y.a - x.a) + opaque(y.b - x.b);
    let moved = two_sum(x.a, opaque(delta * ratio));
    let mean = two_sum(moved.x, opaque(moved.y + x.b));
    let m2 = opaque(x.c + y.c) + opaque(opaque(delta * delta) * opaque(f32(x.count) * ratio));
    if (x.count == 0u) {
        return y;
    }
    if (y.count == 0u) {
        return x;
    }
    if (!CENTRED) {
        return Partial(count, 0.0, 0.0, x.c + y.c);
    }
    return Partial(count, mean.x, mean.y, m2);
}

// What is known of a leaf before its elements.
struct Known {
    weight: f32,
    bias: f32,
}

fn known_of(p: Place) -> Known {
    return Known(weight_of(p), bias_of(p));
}

alias Unit = vec4<f32>;

fn unit_of(p: Place, unit: u32, x: vec4<f32>, residual: vec4<f32>, dy: vec4<f32>, known: Known) -> Unit {
//#if RESIDUAL_EARLY
    return rounded_INPUT_DTYPE(x + residual);
//#else
    return x;
//#end
}

//#if SINGLES
fn leaf(p: Place, tile: array<Unit, UNITS>, known: Known) -> Partial {
    // There are two units at most.
    var sum = EMPTY;
//#for u
    sum = merge(sum, tree_of_unit(p, $uu, tile[$u], vec4<f32>(0.0)));
//#end
    if (!p.inside) {
        return EMPTY;
    }
    return sum;
}
//#else
// Where all leaves have the same power of two of elements, its inverse is exact, and the compiler knows it.
fn mean_of_leaf(sum: f32, count: u32) -> f32 {
    if (WHOLE == UNITSu && (UNITSu & (UNITSu - 1u)) == 0u) {
        return opaque(sum * (1.0 / f32(4u * UNITSu)));
    }
    return divide(sum, f32(max(count, 1u)));
}

// Two passes over registers, with one of the leaf's own elements as the pivot.
fn leaf(p: Place, tile: array<Unit, UNITS>, known: Known) -> Partial {
    var count = 0u;
    var sums = vec4<f32>(0.0);
    let pivot = select(0.0, tile[0].x, CENTRED);
//#for u
    count += valid(p, $uu);
    sums += only(p, $uu, tile[$u] - pivot);
//#end
    let sum = (sums.x + sums.y) + (sums.z + sums.w);
    var shift = 0.0;
    if (CENTRED) {
        shift = mean_of_leaf(sum, count);
    }
    var squares = vec4<f32>(0.0);
//#for u
    let d$u = only(p, $uu, (tile[$u] - pivot) - shift);
    squares = fma(d$u, d$u, squares);
//#end
    let mean = two_sum(pivot, shift);
    if (!p.inside) {
        return EMPTY;
    }
    return Partial(count, mean.x, mean.y, (squares.x + squares.y) + (squares.z + squares.w));
}
//#end

// The bits tell: a driver may assume that there are no NaNs.
fn is_finite(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

// Not fused, so that devices of different vendors agree on running statistics.
fn moving_average(before: u32, batch: f32, m: f32) -> f32 {
    return opaque((1.0 - m) * bitcast<f32>(before)) + opaque(m * batch);
}

// The weight of a cumulative average and the count of skipped batches are the channel's own: no host is asked.
fn update_running(channel: u32, mean: f32, variance: f32, count: u32) {
//#if UNIT_WEIGHTS
    // Norms whose weights differ within a statistic have no running statistics.
//#else
    if (UPDATE == 0u || count == 0u) {
        return;
    }
    let tracked_at = 4u * params.state_stride + channel;
    if (UPDATE == 1u && !(is_finite(mean) & is_finite(variance))) {
        state[tracked_at + params.state_stride] += 1u;
        return;
    }
    let tracked = state[tracked_at] + 1u;
    state[tracked_at] = tracked;
    let m = select(params.momentum, divide(1.0, f32(tracked)), params.momentum < 0.0);
    let mean_at = 2u * params.state_stride + channel;
    state[mean_at] = bitcast<u32>(moving_average(state[mean_at], mean, m));
    if (count > 1u) {
        let variance_at = mean_at + params.state_stride;
        state[variance_at] = bitcast<u32>(moving_average(state[variance_at], variance, m));
    }
//#end
}

alias Result = Stat;

fn finish(p: Place, sum: Partial) -> Result {
    let variance = divide(sum.c, f32(max(sum.count, 1u)));
    let stat = Stat(sum.a, sum.b, inverse_std(variance));
    if (writes_results(p)) {
        let at = 4u * p.goal;
        saved[at] = bitcast<u32>(stat.hi);
        saved[at + 1u] = bitcast<u32>(stat.lo);
        saved[at + 2u] = bitcast<u32>(stat.rstd);
        saved[at + 3u] = bitcast<u32>(variance);
        update_running(p.goal, sum.a, divide(sum.c, f32(max(sum.count, 2u) - 1u)), sum.count);
    }
    return stat;
}

fn given(p: Place) -> Result {
    return stat_at(p.goal);
}

fn transform(p: Place, unit: u32, x: Unit, residual: vec4<f32>, stat: Result, known: Known) -> Written {
    var y = fma((x - stat.hi) - stat.lo, weights(p, unit, known.weight) * stat.rstd, biases(p, unit, known.bias));
//#if RESIDUAL_LATE
    y += residual;
//#end
    return Written(relu(y), x);
}
