@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<f32>;

fn at_NAME(p: Place, unit: u32) -> vec4<u32> {
    return BASE + (4u * unit_at(p, unit) + elements(p, unit)) * params.STRIDES.w;
}

fn load_NAME(p: Place, unit: u32) -> vec4<f32> {
    let at = at_NAME(p, unit);
    return vec4<f32>(NAME[at.x], NAME[at.y], NAME[at.z], NAME[at.w]);
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: vec4<f32>) {
    if (valid(p, unit) > 0u) {
        let at = at_NAME(p, unit);
        let values = repeated(p, unit, v);
        NAME[at.x] = values.x;
        NAME[at.y] = values.y;
        NAME[at.z] = values.z;
        NAME[at.w] = values.w;
    }
}
//#end
