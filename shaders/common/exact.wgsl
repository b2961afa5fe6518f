// Arithmetic to the last bit. WGSL lets a driver take floats for real numbers (s - (s - a) becomes a), fuse a product
// with a sum or not, from pipeline to pipeline, and divide with an error of 2.5 units in the last place: real ones do
// all of it. What must not be regrouped is made opaque, and sums of products are written as `fma`.

// A value that the compiler must not see through.
fn opaque(v: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(v) ^ params.zero);
}

fn opaque4(v: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) ^ vec4<u32>(params.zero));
}

// a + b and its rounding error (Knuth).
fn two_sum(a: f32, b: f32) -> vec2<f32> {
    let sum = opaque(a + b);
    let b_part = opaque(sum - a);
    return vec2<f32>(sum, opaque(a - opaque(sum - b_part)) + opaque(b - b_part));
}

const EXPONENT = 0x7f800000u;
const ONE_EXPONENT = 0x00800000u;

fn is_normal(bits: u32) -> bool {
    return (bits & EXPONENT) - ONE_EXPONENT < EXPONENT - ONE_EXPONENT;
}

// a / b to the nearest, for a count b. There are no ties, and numbers that are not normal are left as the driver
// divides them.
fn divide(a: f32, b: f32) -> f32 {
    let quotient = a / b;
    let bits = vec3<u32>(bitcast<u32>(a), bitcast<u32>(b), bitcast<u32>(quotient)) & vec3<u32>(0x7fffffffu);
    let digits = vec3<i32>((bits & vec3<u32>(0x007fffffu)) | vec3<u32>(ONE_EXPONENT));
    // What is left of a, in units of b's last digit times the quotient's: a few times b, so that 32 bits are enough.
    let exponents = (bits & vec3<u32>(EXPONENT)) >> vec3<u32>(23u);
    let left = (digits.x << (exponents.x + 150u - exponents.y - exponents.z)) - digits.y * digits.z;
    let steps = i32(round(f32(left) / f32(digits.y)));
    let rest = 2 * (left - steps * digits.y);
    let nearest = steps + select(0, 1, rest > digits.y) - select(0, 1, rest < -digits.y);
    let corrected = bitcast<f32>(bitcast<u32>(quotient) + bitcast<u32>(nearest));
    return select(quotient, corrected, is_normal(bits.x) & is_normal(bits.z));
}
