// Vectors per channel, one after the other: weight, bias, running_mean, running_var, tracked, skipped.
//#if STATE_FOURS
@group(0) @binding(6) var<storage, read_write> state: array<vec4<u32>>;
//#else
@group(0) @binding(6) var<storage, read_write> state: array<u32>;
//#end
// Per statistic mean (high, low), 1/std, biased variance, or of a frozen pass running_mean and running_var; then dweight and
// dbias.
//#if SAVED_FOURS
@group(0) @binding(7) var<storage, read_write> saved: array<vec4<u32>>;
//#else
@group(0) @binding(7) var<storage, read_write> saved: array<u32>;
//#end

fn state_at(vector: u32, i: u32) -> f32 {
    let at = vector * params.state_stride + i;
//#if STATE_FOURS
    return bitcast<f32>(state[at >> 2u][at & 3u]);
//#else
    return bitcast<f32>(state[at]);
//#end
}

fn saved_at(i: u32) -> f32 {
//#if SAVED_FOURS
    return bitcast<f32>(saved[i >> 2u][i & 3u]);
//#else
    return bitcast<f32>(saved[i]);
//#end
}

// What targets abreast have: an index, a number, a statistic each.
alias Indices = array<u32, ABREAST>;
alias Numbers = array<f32, ABREAST>;
alias Stats = array<Stat, ABREAST>;

fn numbers_at(vector: u32, i: Indices) -> Numbers {
//#if FOUR_NEIGHBOURS
    // The first is a multiple of four.
    let four = bitcast<vec4<f32>>(state[(vector * params.state_stride + i[0]) >> 2u]);
    return Numbers(four.x, four.y, four.z, four.w);
//#else
    return Numbers(
//#for t
        state_at(vector, i[$t]),
//#end
    );
//#end
}

// Running mean (0) or variance (1), as they are, or were when the forward pass ran.
fn running_at(which: u32, i: Indices) -> Numbers {
//#if FORWARD
    return numbers_at(2u + which, i);
//#else
    let at = which * params.state_stride;
//#if FOUR_NEIGHBOURS
    let four = bitcast<vec4<f32>>(saved[(at + i[0]) >> 2u]);
    return Numbers(four.x, four.y, four.z, four.w);
//#else
    return Numbers(
//#for t
        saved_at(at + i[$t]),
//#end
    );
//#end
//#end
}

fn weights_at(i: Indices) -> Numbers {
    if (HAS_WEIGHT) {
        return numbers_at(0u, i);
    }
    return Numbers(
//#for t
        1.0,
//#end
    );
}

fn biases_at(i: Indices) -> Numbers {
    if (HAS_BIAS) {
        return numbers_at(1u, i);
    }
    return Numbers();
}

// Of running statistics. Not `inverse_sqrt`: each invocation makes them anew.
fn inverse_std(variance: f32) -> f32 {
    return opaque(1.0 / sqrt(variance + params.eps));
}

struct Stat {
    hi: f32,
    lo: f32,
    rstd: f32,
    variance: f32,
}

fn saved_stat(i: u32) -> Stat {
//#if SAVED_FOURS
    let words = saved[i];
//#else
    let words = vec4<u32>(saved[4u * i], saved[4u * i + 1u], saved[4u * i + 2u], saved[4u * i + 3u]);
//#end
    let numbers = bitcast<vec4<f32>>(words);
    return Stat(numbers.x, numbers.y, numbers.z, numbers.w);
}

fn stats_at(i: Indices) -> Stats {
    if (RUNNING) {
        let mean = running_at(0u, i);
        let variance = running_at(1u, i);
        return Stats(
//#for t
            Stat(mean[$t], 0.0, inverse_std(variance[$t]), variance[$t]),
//#end
        );
    }
    return Stats(
//#for t
        saved_stat(i[$t]),
//#end
    );
}
