// Arithmetic to the last bit. WGSL lets a driver take floats for real numbers (s - (s - a) becomes a), fuse a product
// with a sum or not, from pipeline to pipeline, and divide with an error of 2.5 units in the last place: real ones do
// all of it. What must not be regrouped is made opaque, and sums of products are written as `fma`, which drivers of
// GPUs fuse.

// A value that the compiler must not see through.
fn opaque(v: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(v) ^ params.zero);
}

fn opaque4(v: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) ^ vec4<u32>(params.zero));
}

// A uniform number, to end a loop: Mesa's software drivers make a shader for each value of one that does, unless it may be
// another in each invocation.
fn loop_end(n: u32, slot: u32) -> u32 {
    return n + (slot & params.zero);
}

// a + b and its rounding error (Knuth).
fn two_sum(a: f32, b: f32) -> vec2<f32> {
    let sum = opaque(a + b);
    let b_part = opaque(sum - a);
    return vec2<f32>(sum, opaque(a - opaque(sum - b_part)) + opaque(b - b_part));
}

// A bias less what the mean's low part takes off. Not off each element: (x - hi) - lo is x - (hi + lo) to a driver that
// takes floats for real numbers, and hi + lo is hi.
fn shifted(bias: vec4<f32>, lo: f32, scale: vec4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(-lo), scale, bias);
}

// Whether neither a number nor its neighbours are zero, subnormal, infinite or no number.
fn is_ordinary(v: f32) -> bool {
    return ((bitcast<u32>(v) >> 23u) & 0xffu) - 2u < 252u;
}

// a / b to the nearest, for a count b. What is not ordinary is left as the driver divides it.
fn divide(a: f32, b: f32) -> f32 {
    let quotient = a / b;
    let bits = vec2<u32>(bitcast<u32>(a), bitcast<u32>(b)) & vec2<u32>(0x7fffffffu);
    let digits = vec2<i32>((bits & vec2<u32>(0x007fffffu)) | vec2<u32>(0x00800000u));
    // The 24 digits of the quotient, and what they leave of a: a few times b, so that 32 bits are enough. A quotient of
    // 24 digits by 24 never lies in the middle of two.
    let less = digits.x < digits.y;
    let shift = select(23u, 24u, less);
    let near = i32((f32(digits.x) / f32(digits.y)) * select(8388608.0, 16777216.0, less));
    let left = (digits.x << shift) - near * digits.y;
    let steps = i32(round(f32(left) / f32(digits.y)));
    let rest = 2 * (left - steps * digits.y);
    let nearest = near + steps + select(0, 1, rest > digits.y) - select(0, 1, rest < -digits.y);
    let exponent = (bits.x >> 23u) - (bits.y >> 23u) - shift;
    let exact = (bitcast<u32>(f32(nearest)) + (exponent << 23u)) | (bitcast<u32>(a) & 0x80000000u);
    return select(quotient, bitcast<f32>(exact), is_ordinary(a) & is_ordinary(quotient));
}

// One step of Newton's on the driver's 1 / sqrt(v), which may be off by a few units in the last place: the nearest float, or
// its neighbour where `fma` rounds twice.
fn inverse_sqrt(v: f32) -> f32 {
    let near = opaque(1.0 / sqrt(v));
    let root = opaque(v * near);
    let left = fma(-near, fma(v, near, -root), fma(-root, near, 1.0));
    return select(near, opaque(fma(0.5 * near, left, near)), is_ordinary(v));
}
