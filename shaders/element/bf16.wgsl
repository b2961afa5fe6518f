fn unpack_bf16(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}

// Bits of the nearest bfloat16, ties to even.
fn round_bf16(v: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(v);
    let nearest = (bits + 0x7fffu + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) >> vec4<u32>(16u);
    let not_a_number = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(nearest, (bits >> vec4<u32>(16u)) | vec4<u32>(0x40u), not_a_number);
}

fn rounded_bf16(v: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(round_bf16(v) << vec4<u32>(16u));
}
