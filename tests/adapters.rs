//! What stands before every other test on a GPU: the adapters that must be here are here, they
//! run a shader, and they keep the rounding error that the moments' pairs are made of.

#[path = "common/adapters.rs"]
mod adapters;

use adapters::Gpu;
use wgpu::util::DeviceExt;

#[test]
fn required_adapters_are_here_and_run() {
    for gpu in adapters::all() {
        adapters::say(format_args!("testing adapter {gpu}"));
        for reduced in &gpu.reduced {
            adapters::say(format_args!("  {reduced}"));
        }
        let input: Vec<u32> = (0..1000).collect();
        let got = run(
            gpu,
            "@group(0) @binding(0) var<uniform> add: u32;
            @group(0) @binding(1) var<storage, read_write> data: array<u32>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
                if id.x < arrayLength(&data) { data[id.x] = data[id.x] * 3 + add; }
            }",
            7,
            &input,
        );
        let expected: Vec<u32> = input.iter().map(|x| x * 3 + 7).collect();
        assert_eq!(got, expected, "{gpu}");
    }
}

/// Writes what a function of `shaders/common/exact.wgsl` makes of pairs of numbers.
fn exact(gpu: &Gpu, call: &str, pairs: &[(f32, f32)]) -> Vec<[f32; 2]> {
    exact_with(gpu, call, pairs, str::to_owned)
}

/// As [`exact`], with functions that are changed first.
fn exact_with(gpu: &Gpu, call: &str, pairs: &[(f32, f32)], change: impl Fn(&str) -> String) -> Vec<[f32; 2]> {
    let functions = change(include_str!("../shaders/common/exact.wgsl"));
    let shader = format!(
        "struct Params {{ zero: u32 }}
        @group(0) @binding(0) var<uniform> params: Params;
        @group(0) @binding(1) var<storage, read_write> data: array<vec2<f32>>;
        {functions}
        fn plain_two_sum(a: f32, b: f32) -> vec2<f32> {{
            let sum = a + b;
            let b_part = sum - a;
            return vec2<f32>(sum, (a - (sum - b_part)) + (b - b_part));
        }}
        @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3u) {{
            _ = params.zero; // in the layout whatever is called
            if id.x >= arrayLength(&data) {{ return; }}
            let a = data[id.x].x;
            let b = data[id.x].y;
            data[id.x] = {call};
        }}"
    );
    let input: Vec<u32> = pairs.iter().flat_map(|&(a, b)| [a.to_bits(), b.to_bits()]).collect();
    run(gpu, &shader, 0, &input).chunks_exact(2).map(|pair| [pair[0], pair[1]].map(f32::from_bits)).collect()
}

/// A mean that is a pair of f32 needs the exact error of a sum (Knuth's TwoSum). Compilers that
/// take f32 for real numbers fold it to zero, or to what it would be without rounding.
#[test]
fn two_sum_keeps_its_residual() {
    // Small terms that lose some of their bits or all, with either sign, in either place; and an exact sum.
    let pairs: [(f32, f32); 6] =
        [(1e6, 0.3), (-1e6, 0.3), (1.0, 1e-9), (0.1, 12345.678), (16_777_216.0, 1.0), (3.0, -4.0)];
    for gpu in adapters::all() {
        let plain = exact(gpu, "plain_two_sum(a, b)", &pairs);
        let kept = exact(gpu, "two_sum(a, b)", &pairs);
        for (((a, b), plain), [sum, residual]) in pairs.into_iter().zip(plain).zip(kept) {
            // Both steps are exact in f64 for numbers this close in magnitude.
            let error = ((f64::from(a) - f64::from(a + b)) + f64::from(b)) as f32;
            println!("{}: {a} + {b}: residual {error:e}, written plainly {:e}", gpu.name, plain[1]);
            assert_eq!(sum, a + b, "{gpu}: {a} + {b} is rounded differently");
            assert_eq!(residual, error, "{gpu}: {a} + {b} loses its rounding error");
        }
    }
}

/// Devices that divide differently would merge the same moments to different statistics.
#[test]
fn quotients_are_the_nearest() {
    let counts = [1, 2, 3, 5, 7, 10, 11, 33, 48, 49, 255, 1023, 3135, 65_535, 100_352, 1_000_003, 16_777_215];
    let mut pairs: Vec<(f32, f32)> = counts.into_iter().flat_map(|a| counts.map(|b| (a as f32, b as f32))).collect();
    pairs.extend(counts.into_iter().zip([0.1, 1e-30, 3e38, 0.75, 1e-3, 8.669254]).map(|(n, a)| (a, n as f32)));
    // Counts that are no multiples of anything, against squares' sums of every size.
    let (mut bits, mut count) = (0x0080_0001u32, 1u32);
    while bits < 0x7f00_0000 {
        pairs.push((f32::from_bits(bits), count as f32));
        bits += 0x0007_3c59;
        count = count.wrapping_mul(69_069).wrapping_add(1) >> 8;
    }
    // On either side of 1, and of the middle of two numbers.
    for n in [1, 3, 8, 9, 18, 20, 49, 1000, 65_535].map(|n| n as f32) {
        let near = |bits: u32| (n.to_bits() - 3 + bits..n.to_bits() + 4 + bits).map(move |a| (f32::from_bits(a), n));
        pairs.extend(near(0).chain(near(3 << 23)));
    }
    pairs.push((5_033_164.0, 10_066_329.0));
    pairs.extend(pairs.clone().into_iter().step_by(3).map(|(a, b)| (-a, b)));
    // A count is at least 1, and what is below the smallest normal number, or near it, is the driver's.
    pairs.retain(|&(a, b)| b >= 1.0 && (a / b).abs() > 4.0 * f32::MIN_POSITIVE && a.abs() < f32::MAX / 2.0);
    pairs.push((0.0, 7.0));
    for gpu in adapters::all() {
        let plain = exact(gpu, "vec2<f32>(a / b, 0.0)", &pairs);
        let nearest = exact(gpu, "vec2<f32>(divide(a, b), 0.0)", &pairs);
        let off = pairs.iter().zip(plain).filter(|((a, b), got)| got[0] != a / b).count();
        println!("{}: {off} of {} quotients are not the nearest without help", gpu.name, pairs.len());
        // Drivers that divide well have nothing to correct: help as bad as the worst that Vulkan allows.
        let worse = ["+ 2u", "- 2u"].map(|off| {
            let good = "f32(digits.x) / f32(digits.y)";
            let bad = format!("bitcast<f32>(bitcast<u32>({good}) {off})");
            exact_with(gpu, "vec2<f32>(divide(a, b), 0.0)", &pairs, |text| {
                assert!(text.contains(good));
                text.replace(good, &bad)
            })
        });
        for (i, (a, b)) in pairs.iter().enumerate().filter(|(_, (a, _))| *a != 0.0) {
            let got = [nearest[i][0], worse[0][i][0], worse[1][i][0]];
            assert_eq!(got, [a / b; 3], "{gpu}: {a:e} / {b:e}");
        }
    }
}

/// Results of 16 bits do not depend on what a driver makes of infinities, ties and subnormal numbers.
#[test]
fn halves_are_the_nearest() {
    use half::{bf16, f16};
    check_halves(
        include_str!("../shaders/element/f16.wgsl"),
        "round_f16",
        // Where the largest number's neighbour would be.
        |bits| if bits == 0x7c00 { 65536.0 } else { f16::from_bits(bits).to_f32() },
        |v| (f16::from_f32(v).to_bits(), v.is_nan()),
        0x7c00,
    );
    check_halves(
        include_str!("../shaders/element/bf16.wgsl"),
        "round_bf16",
        |bits| bf16::from_bits(bits).to_f32(),
        |v| (bf16::from_f32(v).to_bits(), v.is_nan()),
        0x7f7f,
    );
}

/// `value` of a half's bits, `expected` of a number; halves below `end` are finite.
fn check_halves(
    functions: &str,
    round: &str,
    value: impl Fn(u16) -> f32,
    expected: impl Fn(f32) -> (u16, bool),
    end: u16,
) {
    let shader = format!(
        "@group(0) @binding(0) var<uniform> unused: u32;
        @group(0) @binding(1) var<storage, read_write> data: array<vec4<u32>>;
        {functions}
        @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3u) {{
            _ = unused;
            if id.x < arrayLength(&data) {{ data[id.x] = {round}(bitcast<vec4<f32>>(data[id.x])); }}
        }}"
    );
    let edges = (0..20).chain(0x3f0..0x410).chain(end - 20..end);
    // A half, what lies between it and the next, and its neighbours.
    let mut bits: Vec<u32> = (0..end)
        .step_by(5)
        .chain(edges)
        .flat_map(|half| {
            let (low, high) = (value(half), value(half + 1));
            let middle = (low + (high - low) / 2.0).to_bits();
            [low.to_bits(), middle - 1, middle, middle + 1]
        })
        .collect();
    let ends = [f32::MAX, f32::INFINITY, f32::NAN, 1e6, f32::MIN_POSITIVE, 65535.0, 65519.996, 65520.0];
    bits.extend(ends.map(f32::to_bits));
    bits.extend([1, 0x7f80_0001, 0x7fff_ffff, 0x007f_ffff]);
    bits.extend(bits.clone().into_iter().map(|bits| bits | 0x8000_0000));
    for gpu in adapters::all() {
        let got = run(gpu, &shader, 0, &bits);
        for (&bits, got) in bits.iter().zip(got) {
            let v = f32::from_bits(bits);
            let (nearest, is_nan) = expected(v);
            let same = if is_nan { value(got as u16).is_nan() } else { got == u32::from(nearest) };
            assert!(same, "{gpu}: {round}({v:e}), {bits:#x}, is {got:#x}, not {nearest:#x}");
        }
    }
}

#[test]
fn a_required_adapter_that_is_missing_is_named() {
    let check = adapters::check_required;
    assert_eq!(check("", &[]), Ok(()));
    assert_eq!(check("gl, lavapipe,", &["lavapipe", "gl", "other"]), Ok(()));
    let message = check("lavapipe,swiftshader,gl", &["lavapipe"]).unwrap_err();
    assert!(message.contains("not here: swiftshader, gl; found: lavapipe"), "{message}");
}

#[test]
fn names_are_short_and_stable() {
    let name = |name: &str, backend| {
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Other, backend);
        info.name = name.into();
        adapters::short_name(&info)
    };
    assert_eq!(name("llvmpipe (LLVM 15.0.6, 256 bits)", wgpu::Backend::Vulkan), "lavapipe");
    assert_eq!(name("SwiftShader Device (Subzero)", wgpu::Backend::Vulkan), "swiftshader");
    assert_eq!(name("llvmpipe (LLVM 15.0.6, 256 bits)", wgpu::Backend::Gl), "gl");
    assert_eq!(name("NVIDIA GeForce RTX 3060/PCIe/SSE2", wgpu::Backend::Vulkan), "nvidia-geforce-rtx-3060-vulkan");
    assert_eq!(name("AMD Radeon RX 6800 XT (RADV NAVI21)", wgpu::Backend::Vulkan), "amd-radeon-rx-6800-xt-vulkan");
    assert_eq!(name("Apple M1 Pro", wgpu::Backend::Metal), "apple-m1-pro-metal");
    assert_eq!(name("Microsoft Basic Render Driver", wgpu::Backend::Dx12), "microsoft-basic-render-driver-dx12");
}

/// Runs `main` with one number in a uniform over one buffer and returns the buffer. There is a workgroup
/// for each element, so a shader must check its index.
fn run(gpu: &Gpu, wgsl: &str, uniform: u32, data: &[u32]) -> Vec<u32> {
    let _turn = gpu.turn();
    let Gpu { device, queue, .. } = gpu;
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("test"),
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("test"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let buffer = |label, contents: &[u32], usage| {
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(label),
            contents: bytemuck::cast_slice(contents),
            usage,
        })
    };
    let uniform = buffer("uniform", &[uniform, 0, 0, 0], wgpu::BufferUsages::UNIFORM);
    let storage = buffer("data", data, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let readback = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("readback"),
        size: storage.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("test"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: uniform.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: storage.as_entire_binding() },
        ],
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("test") });
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &bind_group, &[]);
    pass.dispatch_workgroups(data.len() as u32, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&storage, 0, &readback, 0, storage.size());
    queue.submit([encoder.finish()]);
    readback.map_async(wgpu::MapMode::Read, .., |result| result.expect("the buffer maps"));
    device.poll(wgpu::PollType::wait_indefinitely()).expect("the work ends");
    bytemuck::cast_slice(&readback.get_mapped_range(..).expect("the buffer is mapped")).to_vec()
}
