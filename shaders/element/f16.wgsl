fn unpack_f16(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}

// Bits of the nearest binary16, ties to even. By integers: WGSL leaves pack2x16float's rounding and overflow open.
fn round_f16(v: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(v);
    let size = bits & vec4<u32>(0x7fffffffu);
    let normal = (size - 0x38000000u + 0xfffu + ((size >> vec4<u32>(13u)) & vec4<u32>(1u))) >> vec4<u32>(13u);
    // Adding 0.5 moves the last bit of a subnormal to the last bit of the sum.
    let small = bitcast<vec4<u32>>(bitcast<vec4<f32>>(size) + 0.5) - 0x3f000000u;
    var half = select(min(normal, vec4<u32>(0x7c00u)), small, size < vec4<u32>(0x38800000u));
    half = select(half, vec4<u32>(0x7e00u), size > vec4<u32>(0x7f800000u));
    return half | ((bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u));
}

fn rounded_f16(v: vec4<f32>) -> vec4<f32> {
    let bits = round_f16(v);
    let pairs = bits.xz | (bits.yw << vec2<u32>(16u));
    return vec4<f32>(unpack_f16(pairs.x), unpack_f16(pairs.y));
}
