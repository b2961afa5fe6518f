// Of a sum: what is subtracted from it next must not be regrouped with it.
fn rounded_f32(v: vec4<f32>) -> vec4<f32> {
    return opaque4(v);
}
