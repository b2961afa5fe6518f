// Backward: leaves are sums of the gradient g and of g * xhat, elements become dx and dresidual.

fn merge(x: Partial, y: Partial) -> Partial {
    return Partial(x.count + y.count, x.a + y.a, x.b + y.b, 0.0);
}

// What is known of a leaf before its elements.
struct Known {
    stat: Stat,
    // What the mean's low part takes off every normalised input of a target: taken off the sums, not off each element,
    // where it would be lost in the rounding, always to the same side.
    shift: f32,
    weight: f32,
    bias: f32,
}

fn known_of(p: Place) -> Known {
    let stat = stat_at(select(p.goal, mapped(p), OVER_AFFINE));
    let shift = select(opaque(stat.lo * stat.rstd), 0.0, OVER_AFFINE && MAP != 0u);
    return Known(stat, shift, weight_of(p), bias_of(p));
}

struct Result {
    mean_g: f32,
    mean_g_xhat: f32,
}

// Gradient behind the ReLU, and the normalised input before `shift` is taken off.
struct Unit {
    g: vec4<f32>,
    xhat: vec4<f32>,
}

fn normalise(p: Place, unit: u32, x: vec4<f32>, stat: Stat) -> vec4<f32> {
    if (OVER_AFFINE && MAP != 0u) {
        let i = min(mapped_at(p, 4u * unit_at(p, unit)), vec4<u32>(mapped_at(p, params.len - 1u).x));
        let a = stat_at(i.x);
        let b = stat_at(i.y);
        let c = stat_at(i.z);
        let d = stat_at(i.w);
        return ((x - vec4<f32>(a.hi, b.hi, c.hi, d.hi)) - vec4<f32>(a.lo, b.lo, c.lo, d.lo))
            * vec4<f32>(a.rstd, b.rstd, c.rstd, d.rstd);
    }
    return opaque4((x - stat.hi) * stat.rstd);
}

// dy where the ReLU let the value through. The sum is the forward pass's.
fn masked(
    p: Place,
    unit: u32,
    x: vec4<f32>,
    residual: vec4<f32>,
    dy: vec4<f32>,
    xhat: vec4<f32>,
    known: Known,
) -> vec4<f32> {
    if (!RELU) {
        return dy;
    }
    let weight = weights(p, unit, known.weight);
    let bias = biases(p, unit, known.bias);
    var y = fma(xhat, weight, bias);
    if (!(OVER_AFFINE && MAP != 0u)) {
        y = fma((x - known.stat.hi) - known.stat.lo, weight * known.stat.rstd, bias);
    }
//#if RESIDUAL_EARLY
    y += residual;
//#end
    return select(dy, vec4<f32>(0.0), y <= vec4<f32>(0.0));
}

fn unit_of(p: Place, unit: u32, x: vec4<f32>, residual: vec4<f32>, dy: vec4<f32>, known: Known) -> Unit {
//#if INPUT
    let xhat = normalise(p, unit, x, known.stat);
    return Unit(masked(p, unit, x, residual, dy, xhat, known), xhat);
//#else
    return Unit(dy, vec4<f32>(0.0));
//#end
}

//#if SINGLES
fn leaf(p: Place, tile: array<Unit, UNITS>, known: Known) -> Partial {
    // There are two units at most.
    var sum = EMPTY;
//#for u
    let g$u = only(p, $uu, tile[$u].g);
    let product$u = fma(g$u, only(p, $uu, tile[$u].xhat), vec4<f32>(0.0));
    sum = merge(sum, tree_of_unit(p, $uu, g$u, fma(vec4<f32>(-known.shift), g$u, product$u)));
//#end
    if (!p.inside) {
        return EMPTY;
    }
    return sum;
}
//#else
fn leaf(p: Place, tile: array<Unit, UNITS>, known: Known) -> Partial {
    var count = 0u;
    var sums = vec4<f32>(0.0);
    var products = vec4<f32>(0.0);
//#for u
    count += valid(p, $uu);
    var g$u = tile[$u].g;
    if (WEIGHTED) {
        g$u = opaque4(g$u * weights(p, $uu, known.weight));
    }
    sums += only(p, $uu, g$u);
    products = fma(only(p, $uu, g$u), only(p, $uu, tile[$u].xhat), products);
//#end
    let sum = (sums.x + sums.y) + (sums.z + sums.w);
    if (!p.inside) {
        return EMPTY;
    }
    return Partial(count, sum, fma(-known.shift, sum, (products.x + products.y) + (products.z + products.w)), 0.0);
}
//#end

fn finish(p: Place, sum: Partial) -> Result {
    if (writes_results(p)) {
        saved[params.gradients_at + p.goal] = bitcast<u32>(sum.b);
        saved[params.gradients_at + params.state_stride + p.goal] = bitcast<u32>(sum.a);
    }
    var scale = opaque(1.0 / f32(max(sum.count, 1u)));
    if (!WEIGHTED) {
        scale *= weight_of(p);
    }
    return Result(select(0.0, opaque(sum.a * scale), CENTRED), opaque(sum.b * scale));
}

fn given(p: Place) -> Result {
    return Result(0.0, 0.0);
}

fn transform(p: Place, unit: u32, values: Unit, residual: vec4<f32>, means: Result, known: Known) -> Written {
    // Rounded as in the sums: of a single value nothing is left.
    var dx = opaque4(values.g * weights(p, unit, known.weight));
    if (PROJECT) {
        let xhat = values.xhat - known.shift;
        dx -= fma(xhat, vec4<f32>(means.mean_g_xhat), vec4<f32>(means.mean_g));
    }
//#if RESIDUAL_LATE
    dx = fma(dx, vec4<f32>(known.stat.rstd), residual);
//#else
    dx *= known.stat.rstd;
//#end
    return Written(dx, values.g);
}
