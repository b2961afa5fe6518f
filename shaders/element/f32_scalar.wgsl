@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<f32>;

fn load_NAME(p: Place, unit: u32) -> Abreast {
    let at = elements(p, unit, BASE, params.STRIDES.w);
    return Abreast(
//#for t
        vec4<f32>(
            NAME[at.x + $tu * params.STRIDES.y],
            NAME[at.y + $tu * params.STRIDES.y],
            NAME[at.z + $tu * params.STRIDES.y],
            NAME[at.w + $tu * params.STRIDES.y],
        ),
//#end
    );
}

//#if WRITABLE
fn store_NAME(p: Place, unit: u32, v: Abreast) {
    if (valid(p, unit) > 0u) {
        let at = elements(p, unit, BASE, params.STRIDES.w);
//#for t
        let values$t = repeated(p, unit, v[$t]);
        NAME[at.x + $tu * params.STRIDES.y] = values$t.x;
        NAME[at.y + $tu * params.STRIDES.y] = values$t.y;
        NAME[at.z + $tu * params.STRIDES.y] = values$t.z;
        NAME[at.w + $tu * params.STRIDES.y] = values$t.w;
//#end
    }
}
//#end
