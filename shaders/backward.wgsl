// Backward: leaves are sums of the gradient g and of g * xhat, elements become dx and dresidual.

fn merge(x: Partial, y: Partial) -> Partial {
    return Partial(x.count + y.count, x.a + y.a, x.b + y.b, 0.0);
}

struct Coefficients {
    rstd: f32,
    mean_g: f32,
    mean_g_xhat: f32,
}

fn stat_of(p: Place) -> Stat {
    return stat_at(select(p.goal, mapped(p), OVER_AFFINE));
}

//#if GRADIENT
// Gradient behind the ReLU, and the normalised input before `shift` is taken off.
struct Tile {
    n: array<u32, UNITS>,
    g: array<vec4<f32>, UNITS>,
    xhat: array<vec4<f32>, UNITS>,
}

fn normalise(p: Place, j: u32, x: vec4<f32>, stat: Stat) -> vec4<f32> {
    if (OVER_AFFINE && MAP != 0u) {
        let i = min(mapped_at(p, j), vec4<u32>(mapped_at(p, params.len - 1u).x));
        let a = stat_at(i.x);
        let b = stat_at(i.y);
        let c = stat_at(i.z);
        let d = stat_at(i.w);
        return ((x - vec4<f32>(a.hi, b.hi, c.hi, d.hi)) - vec4<f32>(a.lo, b.lo, c.lo, d.lo))
            * vec4<f32>(a.rstd, b.rstd, c.rstd, d.rstd);
    }
    return (x - stat.hi) * stat.rstd;
}

// What the mean's low part takes off every normalised input of a target: taken off the sums, not off each element,
// where it would be lost in the rounding, always to the same side.
fn shift(p: Place) -> f32 {
    let stat = stat_of(p);
    return select(stat.lo * stat.rstd, 0.0, OVER_AFFINE && MAP != 0u);
}

// dy where the ReLU let the value through. The sum is the forward pass's.
fn masked(p: Place, j: u32, n: u32, dy: vec4<f32>, x: vec4<f32>, xhat: vec4<f32>, stat: Stat) -> vec4<f32> {
    if (!RELU) {
        return dy;
    }
    var y = xhat * weights(p, j, weight_of(p)) + biases(p, j, bias_of(p));
    if (!(OVER_AFFINE && MAP != 0u)) {
        y = ((x - stat.hi) - stat.lo) * (weights(p, j, weight_of(p)) * stat.rstd) + biases(p, j, bias_of(p));
    }
//#if RESIDUAL_AFTER
    y += load_residual(p, j, n);
//#end
    return select(dy, vec4<f32>(0.0), y <= vec4<f32>(0.0));
}

fn load_tile(p: Place) -> Tile {
    let stat = stat_of(p);
//#for u
    let j$u = position(p, $uu);
    let n$u = valid(p, j$u);
    let dy$u = load_gradient(p, j$u, n$u);
//#if INPUT
    let x$u = load_input(p, j$u, n$u);
    let xhat$u = normalise(p, j$u, x$u, stat);
    let g$u = masked(p, j$u, n$u, dy$u, x$u, xhat$u, stat);
//#else
    let xhat$u = vec4<f32>(0.0);
    let g$u = dy$u;
//#end
//#end
    return Tile(
        array<u32, UNITS>(
//#for u
            n$u,
//#end
        ),
        array<vec4<f32>, UNITS>(
//#for u
            g$u,
//#end
        ),
        array<vec4<f32>, UNITS>(
//#for u
            xhat$u,
//#end
        ),
    );
}

fn leaf(p: Place, tile: Tile) -> Partial {
    var count = 0u;
    var sums = vec4<f32>(0.0);
    var products = vec4<f32>(0.0);
    let weight = weight_of(p);
//#for u
    count += tile.n[$u];
    var g$u = tile.g[$u];
    if (WEIGHTED) {
        g$u *= weights(p, position(p, $uu), weight);
    }
    g$u = select(vec4<f32>(0.0), g$u, mask(tile.n[$u]));
    sums += g$u;
    products += select(vec4<f32>(0.0), g$u * tile.xhat[$u], mask(tile.n[$u]));
//#end
    let sum = (sums.x + sums.y) + (sums.z + sums.w);
    return Partial(count, sum, ((products.x + products.y) + (products.z + products.w)) - shift(p) * sum, 0.0);
}
//#end

fn finish(p: Place, sum: Partial) -> Coefficients {
    if (writes_results(p)) {
        saved[params.gradients_at + p.goal] = bitcast<u32>(sum.b);
        saved[params.gradients_at + params.state_stride + p.goal] = bitcast<u32>(sum.a);
    }
    var scale = select(0.0, 1.0 / f32(max(sum.count, 1u)), PROJECT);
    if (!WEIGHTED) {
        scale *= weight_of(p);
    }
    return Coefficients(stat_of(p).rstd, select(0.0, sum.a * scale, CENTRED), sum.b * scale);
}

fn given(p: Place) -> Coefficients {
    return Coefficients(stat_of(p).rstd, 0.0, 0.0);
}

//#if GRADIENT
fn transform(p: Place, tile: Tile, c: Coefficients) {
    let weight = weight_of(p);
    let shift = shift(p);
//#for u
    {
        let j = position(p, $uu);
        let n = tile.n[$u];
//#if OUTPUT
        let xhat = tile.xhat[$u] - shift;
        var dx = (tile.g[$u] * weights(p, j, weight) - (c.mean_g + xhat * c.mean_g_xhat)) * c.rstd;
//#if RESIDUAL_BEFORE
        dx += load_residual(p, j, n);
//#end
        store_output(p, j, dx, n);
//#end
//#if SECOND_OUTPUT
        store_second_output(p, j, tile.g[$u], n);
//#end
    }
//#end
}
//#end
