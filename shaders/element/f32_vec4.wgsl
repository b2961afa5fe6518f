// Four positions of a target are neighbours.
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec4<f32>>;

fn load_NAME(p: Place, unit: u32) -> Abreast {
    return Abreast(NAME[(BASE + first_of(p, unit)) >> 2u]);
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: Abreast) {
    if (valid(p, unit) > 0u) {
        NAME[(BASE + first_of(p, unit)) >> 2u] = v[0];
    }
}
//#end
