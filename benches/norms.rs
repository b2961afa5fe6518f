//! Every norm, on the CPU and on every adapter, over the roofline example's table; throughput in bytes.
//!
//! `cargo bench --bench norms -- cpu/BatchNorm` for some of them; `NORMS_FULL=1` for tensors of up to 103 MB.

#[path = "../tests/common/adapters.rs"]
mod adapters;
#[path = "../examples/roofline/cases.rs"]
mod cases;
#[path = "../examples/roofline/cpu.rs"]
mod cpu;
#[path = "../examples/roofline/data.rs"]
mod data;
#[path = "../examples/roofline/gpu.rs"]
mod gpu;
#[path = "../examples/roofline/measure.rs"]
#[allow(dead_code)]
mod measure;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use data::Data;
use measure::Runner;
use std::time::Duration;

fn bench(criterion: &mut Criterion) {
    let full = std::env::var_os("NORMS_FULL").is_some();
    for case in cases::cases(!full) {
        let data = Data::new(&case).expect("the table is valid");
        let name = format!("{}/{}", case.name(), case.call.name());
        let mut group = criterion.benchmark_group(&name);
        group.sample_size(10).throughput(Throughput::Bytes(case.least_bytes()));
        let mut run = |device: &str, runner: &mut dyn Runner| {
            group.bench_function(device, |bencher| {
                // The runner's own clock: uploads and a backward pass's forward pass do not count.
                bencher.iter_custom(|n| (0..n).map(|_| Duration::from_secs_f64(runner.run().expect("it runs"))).sum());
            });
        };
        run("cpu", &mut *cpu::runner(&case, &data).expect("it fits"));
        for gpu in adapters::all() {
            let _turn = gpu.turn();
            let context = wgpu_norm::gpu::Context::new(&gpu.device).expect("a device with default limits");
            run(&gpu.name, &mut gpu::runner(gpu, &context, &case, &data).expect("it fits"));
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
