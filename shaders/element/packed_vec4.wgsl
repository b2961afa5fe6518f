@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec2<u32>>;

fn load_NAME(p: Place, unit: u32) -> vec4<f32> {
    let words = NAME[(BASE + 4u * unit_at(p, unit)) >> 2u];
    return vec4<f32>(unpack_DTYPE(words.x), unpack_DTYPE(words.y));
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: vec4<f32>) {
    if (valid(p, unit) > 0u) {
        let bits = round_DTYPE(v);
        NAME[(BASE + 4u * unit_at(p, unit)) >> 2u] = bits.xz | (bits.yw << vec2<u32>(16u));
    }
}
//#end
