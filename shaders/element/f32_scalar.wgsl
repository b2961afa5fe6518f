@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<f32>;

fn load_NAME(p: Place, unit: u32) -> vec4<f32> {
    let at = elements(p, unit, BASE, params.STRIDES.w);
    return vec4<f32>(NAME[at.x], NAME[at.y], NAME[at.z], NAME[at.w]);
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: vec4<f32>) {
    if (valid(p, unit) > 0u) {
        let at = elements(p, unit, BASE, params.STRIDES.w);
        let values = repeated(p, unit, v);
        NAME[at.x] = values.x;
        NAME[at.y] = values.y;
        NAME[at.z] = values.z;
        NAME[at.w] = values.w;
    }
}
//#end
