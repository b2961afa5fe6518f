@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<f32>;

fn load_NAME(p: Place, j: u32, n: u32) -> vec4<f32> {
    let at = OFFSET + params.shift_NAME + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(max(n, 1u) - 1u)) * params.STRIDES.w;
    return vec4<f32>(NAME[at.x], NAME[at.y], NAME[at.z], NAME[at.w]);
}

//#if WRITABLE
fn store_NAME(p: Place, j: u32, v: vec4<f32>, n: u32) {
    let at = OFFSET + params.shift_NAME + vec4<u32>(0u, 1u, 2u, 3u) * params.STRIDES.w;
    if (n > 0u) {
        NAME[at.x] = v.x;
    }
    if (n > 1u) {
        NAME[at.y] = v.y;
    }
    if (n > 2u) {
        NAME[at.z] = v.z;
    }
    if (n > 3u) {
        NAME[at.w] = v.w;
    }
}
//#end
