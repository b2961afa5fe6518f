// Four targets at a position are neighbours, in two words.
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec2<u32>>;

fn load_four_NAME(at: u32) -> vec4<f32> {
    let words = NAME[at];
    return vec4<f32>(unpack_DTYPE(words.x), unpack_DTYPE(words.y));
}

fn load_NAME(p: Place, unit: u32) -> Abreast {
    let at = fours(p, unit, BASE, params.STRIDES.w);
    let targets = transpose(
        mat4x4<f32>(load_four_NAME(at.x), load_four_NAME(at.y), load_four_NAME(at.z), load_four_NAME(at.w)),
    );
    return Abreast(targets[0], targets[1], targets[2], targets[3]);
}

//#if WRITABLE
fn store_four_NAME(at: u32, v: vec4<f32>) {
    let bits = round_DTYPE(v);
    NAME[at] = bits.xz | (bits.yw << vec2<u32>(16u));
}

fn store_NAME(p: Place, unit: u32, v: Abreast) {
    if (valid(p, unit) > 0u) {
        let at = fours(p, unit, BASE, params.STRIDES.w);
        let positions = transpose(mat4x4<f32>(
//#for t
            repeated(p, unit, v[$t]),
//#end
        ));
        store_four_NAME(at.x, positions[0]);
        store_four_NAME(at.y, positions[1]);
        store_four_NAME(at.z, positions[2]);
        store_four_NAME(at.w, positions[3]);
    }
}
//#end
