fn rounded_f32(v: vec4<f32>) -> vec4<f32> {
    return v;
}
