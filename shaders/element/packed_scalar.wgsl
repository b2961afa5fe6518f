//#if WRITABLE
// Two elements share a word, and two invocations may own them.
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<atomic<u32>>;

fn word_NAME(i: u32) -> u32 {
    return atomicLoad(&NAME[i]);
}

//#if NEIGHBOURS
// Four halves, or their masks, in the words where they lie.
fn words_NAME(halves: vec4<u32>, odd: bool) -> vec3<u32> {
    let even_words = vec3<u32>(halves.x | (halves.y << 16u), halves.z | (halves.w << 16u), 0u);
    let odd_words = vec3<u32>(halves.x << 16u, halves.y | (halves.z << 16u), halves.w);
    return select(even_words, odd_words, odd);
}

// A word of which a unit has both halves is nobody else's.
fn store_word_NAME(i: u32, bits: u32, mask: u32) {
    if (mask == 0xffffffffu) {
        atomicStore(&NAME[i], bits);
    } else if (mask != 0u) {
        atomicAnd(&NAME[i], ~mask);
        atomicOr(&NAME[i], bits & mask);
    }
}

fn store_NAME(p: Place, unit: u32, v: Abreast) {
    let at = BASE + first_of(p, unit);
    let odd = (at & 1u) == 1u;
    let own = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(valid(p, unit));
    let masks = words_NAME(select(vec4<u32>(0u), vec4<u32>(0xffffu), own), odd);
    let bits = words_NAME(round_DTYPE(v[0]), odd);
    store_word_NAME(at >> 1u, bits.x, masks.x);
    store_word_NAME((at >> 1u) + 1u, bits.y, masks.y);
    store_word_NAME((at >> 1u) + 2u, bits.z, masks.z);
}
//#else
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
//#end
//#else
@group(0) @binding(BINDING) var<storage, ACCESS> NAME: array<u32>;

fn word_NAME(i: u32) -> u32 {
    return NAME[i];
}
//#end

//#if NEIGHBOURS
// Four neighbours lie in three words at most.
fn load_NAME(p: Place, unit: u32) -> Abreast {
    let first = BASE + first_of(p, unit);
    let at = first >> 1u;
    let last = (first + max(valid(p, unit), 1u) - 1u) >> 1u;
    let words = vec3<u32>(word_NAME(at), word_NAME(min(at + 1u, last)), word_NAME(min(at + 2u, last)));
    let crossing = (words.xy >> vec2<u32>(16u)) | (words.yz << vec2<u32>(16u));
    let pairs = select(words.xy, crossing, (first & 1u) == 1u);
    return Abreast(vec4<f32>(unpack_DTYPE(pairs.x), unpack_DTYPE(pairs.y)));
}
//#else
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
//#end
