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
    let m2 = opaque(opaque(x.c + y.c) + opaque(opaque(delta * delta) * opaque(f32(x.count) * ratio)));
    if (x.count == 0u) {
        return y;
    }
    if (y.count == 0u) {
        return x;
    }
    if (!CENTRED) {
        return Partial(count, 0.0, 0.0, opaque(x.c + y.c));
    }
    return Partial(count, mean.x, mean.y, m2);
}

// What is known of a leaf before its elements.
struct Known {
    weight: f32,
    bias: f32,
}

fn knowns(p: Place) -> Knowns {
//#if SAMPLES
    return Knowns();
//#else
    let i = affine_indices(p);
    let weight = weights_at(i);
    let bias = biases_at(i);
    return Knowns(
//#for t
        Known(weight[$t], bias[$t]),
//#end
    );
//#end
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

alias Result = Stat;

fn unbiased_variance_of(sum: Partial) -> f32 {
    return divide(sum.c, f32(max(sum.count, 2u) - 1u));
}

fn result_of(sum: Partial, known: Known) -> Result {
    let variance = divide(sum.c, f32(max(sum.count, 1u)));
    return Stat(sum.a, sum.b, inverse_sqrt(variance + params.eps), variance);
}

fn write_results(p: Place, sums: Partials, stats: Results) {
//#for t
    saved[p.goal + $tu] = bitcast<vec4<u32>>(vec4<f32>(stats[$t].hi, stats[$t].lo, stats[$t].rstd, stats[$t].variance));
//#end
//#if FOUR_TARGETS
    update_running(
        p.goal,
        vec4<f32>(
//#for t
            sums[$t].a,
//#end
        ),
        vec4<f32>(
//#for t
            unbiased_variance_of(sums[$t]),
//#end
        ),
        vec4<u32>(
//#for t
            sums[$t].count,
//#end
        ),
    );
//#else
    update_running(p.goal, sums[0].a, unbiased_variance_of(sums[0]), sums[0].count);
//#end
}

fn givens(p: Place) -> Results {
//#if SAMPLES
    return Results();
//#else
    return stats_at(stat_indices(p));
//#end
}

// Of a unit's elements: y = (x - hi) * scale + shift.
struct Line {
    hi: vec4<f32>,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

fn line_from(stat: Stat, weight: vec4<f32>, bias: vec4<f32>) -> Line {
    let scale = weight * stat.rstd;
    return Line(vec4<f32>(stat.hi), scale, shifted(bias, stat.lo, scale));
}

//#if SAMPLES
// Those of a channel.
fn line_of(channel: u32) -> Line {
    let i = Indices(channel);
    return line_from(stats_at(i)[0], vec4<f32>(weights_at(i)[0]), vec4<f32>(biases_at(i)[0]));
}

// A unit's elements belong to one channel, or its last ones to the next: channels have more than a unit has.
fn line(p: Place, unit: u32, stat: Result, known: Known) -> Line {
    let at = positions(p, unit);
    let channel = at.x / params.map_position_div;
    let is_next = at >= vec4<u32>((channel + 1u) * params.map_position_div);
    let own = line_of(channel);
    let next = line_of(channel + u32(is_next.w));
    return Line(
        select(own.hi, next.hi, is_next),
        select(own.scale, next.scale, is_next),
        select(own.shift, next.shift, is_next),
    );
}
//#else
fn line(p: Place, unit: u32, stat: Result, known: Known) -> Line {
    return line_from(stat, weights(p, unit, known.weight), biases(p, unit, known.bias));
}
//#end

fn transform(p: Place, unit: u32, x: Unit, residual: vec4<f32>, stat: Result, known: Known) -> Written {
    let made = line(p, unit, stat, known);
    var y = fma(x - made.hi, made.scale, made.shift);
//#if RESIDUAL_LATE
    y += residual;
//#end
    return Written(relu(y), x);
}
