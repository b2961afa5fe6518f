// Backward: leaves are sums of the gradient g and of g * xhat, elements become dx and dresidual.

// Opaque, so that no merges that follow each other are regrouped.
fn merge(x: Partial, y: Partial) -> Partial {
    return Partial(x.count + y.count, opaque(x.a + y.a), opaque(x.b + y.b), 0.0);
}

// What is known of a leaf before its elements.
struct Known {
    stat: Stat,
    // What the mean's low part takes off every normalised input of a target.
    shift: f32,
    weight: f32,
    bias: f32,
}

fn known_of(stat: Stat, weight: f32, bias: f32) -> Known {
    return Known(stat, opaque(stat.lo * stat.rstd), weight, bias);
}

// It is taken off the sums, not off each element, where it would be lost in the rounding, always to the same side. But
// where weights change with each position each element has it taken off: sums of columns need it so.
fn shift_of_sums(known: Known) -> f32 {
    return select(known.shift, 0.0, MAP == 1u);
}

fn knowns(p: Place) -> Knowns {
    let stat = stats_at(stat_indices(p));
    let i = affine_indices(p);
    let weight = weights_at(i);
    let bias = biases_at(i);
    return Knowns(
//#for t
        known_of(stat[$t], weight[$t], bias[$t]),
//#end
    );
}

struct Result {
    mean_g: f32,
    mean_g_xhat: f32,
}

// Gradient behind the ReLU, and the normalised input before `shift_of_sums` is taken off.
struct Unit {
    g: vec4<f32>,
    xhat: vec4<f32>,
}

// dy where the ReLU let the value through. The sum is the forward pass's.
fn masked(
    p: Place,
    unit: u32,
    beyond: vec4<f32>,
    residual: vec4<f32>,
    dy: vec4<f32>,
    known: Known,
) -> vec4<f32> {
    if (!RELU) {
        return dy;
    }
    let scale = weights(p, unit, known.weight) * known.stat.rstd;
    var y = fma(beyond, scale, shifted(biases(p, unit, known.bias), known.stat.lo, scale));
//#if RESIDUAL_EARLY
    y += residual;
//#end
    return select(dy, vec4<f32>(0.0), y <= vec4<f32>(0.0));
}

fn unit_of(p: Place, unit: u32, x: vec4<f32>, residual: vec4<f32>, dy: vec4<f32>, known: Known) -> Unit {
//#if INPUT
    let beyond = x - known.stat.hi;
    var xhat = beyond * known.stat.rstd;
    if (MAP == 1u) {
        xhat = fma(beyond, vec4<f32>(known.stat.rstd), vec4<f32>(-known.shift));
    }
    return Unit(masked(p, unit, beyond, residual, dy, known), opaque4(xhat));
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
    sum = merge(sum, tree_of_unit(p, $uu, g$u, fma(vec4<f32>(-shift_of_sums(known)), g$u, product$u)));
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
    if (WEIGHTS_VARY & !WEIGHS) {
        g$u = opaque4(g$u * weights(p, $uu, known.weight));
    }
    sums += only(p, $uu, g$u);
    products = fma(only(p, $uu, g$u), only(p, $uu, tile[$u].xhat), products);
//#end
    let sum = (sums.x + sums.y) + (sums.z + sums.w);
    if (!p.inside) {
        return EMPTY;
    }
    let product = (products.x + products.y) + (products.z + products.w);
    return Partial(count, sum, fma(-shift_of_sums(known), sum, product), 0.0);
}
//#end

fn result_of(sum: Partial, known: Known) -> Result {
    var scale = opaque(1.0 / f32(max(sum.count, 1u)));
    if (!WEIGHTS_VARY) {
        scale *= known.weight;
    }
    return Result(select(0.0, opaque(sum.a * scale), CENTRED), opaque(sum.b * scale));
}

fn write_results(p: Place, sums: Partials, result: Results) {
//#if FOUR_TARGETS
    let at = (params.gradients_at + p.goal) >> 2u;
    saved[at] = bitcast<vec4<u32>>(vec4<f32>(
//#for t
        sums[$t].b,
//#end
    ));
    saved[at + (params.state_stride >> 2u)] = bitcast<vec4<u32>>(vec4<f32>(
//#for t
        sums[$t].a,
//#end
    ));
//#else
    let at = params.gradients_at + p.goal;
    saved[at] = bitcast<u32>(sums[0].b);
    saved[at + params.state_stride] = bitcast<u32>(sums[0].a);
//#end
}

fn givens(p: Place) -> Results {
    return Results();
}

fn transform(p: Place, unit: u32, values: Unit, residual: vec4<f32>, means: Result, known: Known) -> Written {
    // Rounded as in the sums: of a single value nothing is left.
    var dx = opaque4(values.g * weights(p, unit, known.weight));
    if (PROJECT) {
        let xhat = values.xhat - shift_of_sums(known);
        dx -= fma(xhat, vec4<f32>(means.mean_g_xhat), vec4<f32>(means.mean_g));
    }
//#if RESIDUAL_LATE
    dx = fma(dx, vec4<f32>(known.stat.rstd), residual);
//#else
    dx *= known.stat.rstd;
//#end
    return Written(dx, values.g);
}
