//! Tensors larger than a binding, on the GPU: an artificially low limit cuts small ones the same way.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;

use adapters::Gpu;
use cases::{Case, Data, compare, run};
use wgpu_norm::plan::{Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, DType, Format, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor,
    LayerNormDescriptor, Op, Profile, Residual, RmsNormDescriptor, Statistics, gpu, host,
};

/// Tensors of several bindings: with samples and rows that fit in one, and with ones that do not.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [&[9, 6, 330], &[3, 12, 700], &[2, 2, 9000]] {
        let c = shape[1];
        let tracking =
            InstanceNormDescriptor { affine: true, track_running_stats: true, ..InstanceNormDescriptor::new(c) };
        for format in [Format::ChannelsFirst, Format::ChannelsLast] {
            for case in [
                Case::new(BatchNormDescriptor::new(c), shape),
                Case::new(GroupNormDescriptor::new(1, c), shape),
                Case::new(GroupNormDescriptor::new(c.div_ceil(3), c), shape),
                Case::new(GroupNormDescriptor::new(c, c), shape),
                Case::new(tracking.clone(), shape),
            ] {
                cases.push(Case { format, ..case });
            }
        }
    }
    cases.push(Case::new(BatchNormDescriptor::new(12), &[1500, 12]));
    for (m, d) in [(90, 200), (7, 1300)] {
        cases.push(Case::new(LayerNormDescriptor::new(&[d]), &[m, d]));
        cases.push(Case::new(RmsNormDescriptor::new(&[d]), &[m, d]));
    }

    let batch = Case::new(BatchNormDescriptor::new(12), &[3, 12, 700]);
    for format in [Format::ChannelsFirst, Format::ChannelsLast] {
        let running = Case { format, statistics: Statistics::Running, ..batch.clone() };
        let fusion = Fusion { residual: Residual::After, relu: true };
        let half = Case { format, fusion, input: DType::F16, output: DType::F16, ..batch.clone() };
        // An odd number of elements a channel: words that two windows share.
        let odd = Case::new(BatchNormDescriptor::new(5), &[1, 5, 3001]);
        let fusion = Fusion { residual: Residual::Before, relu: false };
        let mixed = Case { format, fusion, input: DType::BF16, output: DType::F32, ..odd };
        cases.extend([running, half, mixed]);
    }
    for statistics in [Statistics::Batch, Statistics::Running] {
        let odd = Case::new(BatchNormDescriptor::new(5), &[8, 5, 751]);
        cases.push(Case { format: Format::ChannelsLast, statistics, input: DType::F16, output: DType::F16, ..odd });
    }
    cases
}

fn profile(gpu: &Gpu, max_binding_size: u64) -> Profile {
    let row = Profile::new(&gpu.device.adapter_info(), &gpu.device.limits());
    let max_units_in_parts = row.max_units_in_parts.min(20);
    Profile { max_binding_size, max_units: 4, max_units_in_parts, max_strided_units: 4, max_workgroups: 100, ..row }
}

fn backend(gpu: &Gpu, profile: Profile) -> host::Backend {
    let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
    host::Backend::Gpu { context, queue: gpu.queue.clone() }
}

/// Dispatches and passes of forward and backward.
fn cuts(case: &Case, profile: &Profile) -> (usize, usize) {
    let affine = case.descriptor.affine();
    let dresidual = case.fusion.residual == Residual::After;
    let wanted = Gradients { dx: true, dresidual, affine: affine.weight || affine.bias };
    let plans = [Op::Forward, Op::Backward(wanted)].map(|op| {
        let mut problem = Problem::new(&case.descriptor, &case.tensor(), case.statistics, case.fusion, op).unwrap();
        problem.output = case.output;
        Plan::new(problem, profile).unwrap()
    });
    plans.iter().fold((0, 0), |(d, p), plan| (d + plan.dispatches(), p + plan.passes.len()))
}

#[test]
fn windows_change_nothing() {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let (low, high) = (profile(gpu, 32 << 10), profile(gpu, 1 << 20));
        let (cut, whole) = (backend(gpu, low), backend(gpu, high));
        let mut wrong = Vec::new();
        for case in cases() {
            let (dispatches, passes) = cuts(&case, &low);
            assert!(dispatches > passes, "{}: {dispatches} dispatches of {passes} passes", case.name());
            let data = Data::new(&case);
            let results = run(&cut, &case, &data).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
            wrong.extend(compare(&case, &data, &results, 1e-6).iter().map(|f| format!("{}: {f}", case.name())));
            if results != run(&whole, &case, &data).unwrap() {
                wrong.push(format!("{}: the bits differ from those of one window", case.name()));
            }
        }
        assert!(wrong.is_empty(), "{}: {} results are off:\n{}", gpu.name, wrong.len(), wrong.join("\n"));
    }
}
