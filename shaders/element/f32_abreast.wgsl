// Four targets at a position are neighbours.
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec4<f32>>;

fn load_NAME(p: Place, unit: u32) -> Abreast {
    let at = fours(p, unit, BASE, params.STRIDES.w);
    let targets = transpose(mat4x4<f32>(NAME[at.x], NAME[at.y], NAME[at.z], NAME[at.w]));
    return Abreast(targets[0], targets[1], targets[2], targets[3]);
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: Abreast) {
    if (valid(p, unit) > 0u) {
        let at = fours(p, unit, BASE, params.STRIDES.w);
        let positions = transpose(mat4x4<f32>(
//#for t
            repeated(p, unit, v[$t]),
//#end
        ));
        NAME[at.x] = positions[0];
        NAME[at.y] = positions[1];
        NAME[at.z] = positions[2];
        NAME[at.w] = positions[3];
    }
}
//#end
