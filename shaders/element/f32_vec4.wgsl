@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<vec4<f32>>;

fn load_NAME(p: Place, j: u32, n: u32) -> vec4<f32> {
    return NAME[(OFFSET + params.shift_NAME) >> 2u];
}

//#if WRITABLE
fn store_NAME(p: Place, j: u32, v: vec4<f32>, n: u32) {
    if (n > 0u) {
        NAME[(OFFSET + params.shift_NAME) >> 2u] = v;
    }
}
//#end
