// Four positions of a target are neighbours.
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec4<f32>>;

fn load_NAME(p: Place, unit: u32) -> Abreast {
    return Abreast(NAME[four(p, unit, BASE)]);
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: Abreast) {
    if (valid(p, unit) > 0u) {
        NAME[four(p, unit, BASE)] = v[0];
    }
}
//#end
