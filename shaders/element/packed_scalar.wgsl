//#if WRITABLE
// Two elements share a word, and two invocations may own them.
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<atomic<u32>>;

fn word_NAME(i: u32) -> u32 {
    return atomicLoad(&NAME[i]);
}

fn store_one_NAME(at: u32, bits: u32) {
    let shift = (at & 1u) * 16u;
    atomicAnd(&NAME[at >> 1u], 0xffff0000u >> shift);
    atomicOr(&NAME[at >> 1u], bits << shift);
}

fn store_NAME(p: Place, unit: u32, v: Abreast) {
    if (valid(p, unit) > 0u) {
        let at = elements(p, unit, BASE, params.STRIDES.w);
//#for t
        let bits$t = round_DTYPE(repeated(p, unit, v[$t]));
        store_one_NAME(at.x + $tu * params.STRIDES.y, bits$t.x);
        store_one_NAME(at.y + $tu * params.STRIDES.y, bits$t.y);
        store_one_NAME(at.z + $tu * params.STRIDES.y, bits$t.z);
        store_one_NAME(at.w + $tu * params.STRIDES.y, bits$t.w);
//#end
    }
}
//#else
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<u32>;

fn word_NAME(i: u32) -> u32 {
    return NAME[i];
}
//#end

fn load_one_NAME(at: u32) -> f32 {
    return unpack_DTYPE(word_NAME(at >> 1u) >> ((at & 1u) * 16u)).x;
}

fn load_NAME(p: Place, unit: u32) -> Abreast {
    let at = elements(p, unit, BASE, params.STRIDES.w);
    return Abreast(
//#for t
        vec4<f32>(
            load_one_NAME(at.x + $tu * params.STRIDES.y),
            load_one_NAME(at.y + $tu * params.STRIDES.y),
            load_one_NAME(at.z + $tu * params.STRIDES.y),
            load_one_NAME(at.w + $tu * params.STRIDES.y),
        ),
//#end
    );
}
