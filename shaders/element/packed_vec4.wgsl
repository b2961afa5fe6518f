@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec2<u32>>;

fn load_NAME(p: Place, j: u32, n: u32) -> vec4<f32> {
    let words = NAME[(OFFSET + params.shift_NAME) >> 2u];
    return vec4<f32>(unpack_DTYPE(words.x), unpack_DTYPE(words.y));
}

//#if WRITABLE
fn store_NAME(p: Place, j: u32, v: vec4<f32>, n: u32) {
    if (n > 0u) {
        let bits = round_DTYPE(v);
        NAME[(OFFSET + params.shift_NAME) >> 2u] = bits.xz | (bits.yw << vec2<u32>(16u));
    }
}
//#end
