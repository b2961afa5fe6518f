// Four positions of a target are neighbours, in two words.
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec2<u32>>;

fn load_NAME(p: Place, unit: u32) -> Abreast {
    let words = NAME[four(p, unit, BASE)];
    return Abreast(vec4<f32>(unpack_DTYPE(words.x), unpack_DTYPE(words.y)));
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: Abreast) {
    if (valid(p, unit) > 0u) {
        let bits = round_DTYPE(v[0]);
        NAME[four(p, unit, BASE)] = bits.xz | (bits.yw << vec2<u32>(16u));
    }
}
//#end
