//! Every implementation against the reference, from one table.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "common/cases.rs"]
mod cases;
#[path = "common/golden.rs"]
mod golden;

use cases::{Case, Data, compare, half, last, norms, run};
use wgpu_norm::plan::{Kernel, Over, Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, DType, Format, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor,
    LayerNormDescriptor, Op, Profile, Residual, RmsNormDescriptor, Statistics, TensorDescriptor, host,
};

/// Runs a list of cases on a backend and fails with all that is wrong.
fn check(name: &str, backend: &host::Backend, cases: &[Case]) {
    assert!(!cases.is_empty());
    let base = cases::base(backend);
    let mut wrong = Vec::new();
    for case in cases {
        let data = Data::new(case);
        match run(backend, case, &data) {
            Err(error) => wrong.push(format!("{}: {error}", case.name())),
            Ok(results) => {
                wrong.extend(compare(case, &data, &results, base).iter().map(|f| format!("{}: {f}", case.name())));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}: {} results are off:\n{}", wrong.len(), wrong.join("\n"));
}

fn shapes() -> Vec<Case> {
    norms()
}

/// With an eps that does not hide the variance.
fn small_variances() -> Vec<Case> {
    let eps = 1e-12;
    let batch = BatchNormDescriptor { eps, ..BatchNormDescriptor::new(5) };
    let group = GroupNormDescriptor { eps, ..GroupNormDescriptor::new(2, 6) };
    let layer = LayerNormDescriptor { eps, ..LayerNormDescriptor::new(&[70]) };
    let cases = [Case::new(batch, &[9, 5, 70]), Case::new(group, &[3, 6, 35]), Case::new(layer, &[9, 70])];
    cases.into_iter().map(|case| Case { mean: 1.0, std: 1e-4, ..case }).collect()
}

fn offsets() -> Vec<Case> {
    let offsets = [(1e4, 1.0), (1e6, 1.0), (1.0, 1e-4), (-3e5, 0.5)];
    // Of two values 1e-4 apart dx is a small difference of numbers 300 times larger: no `f32` algorithm has it.
    let enough = |case: &Case| case.descriptor.layout(&case.tensor()).is_ok_and(|l| l.stats.count() > 2);
    offsets
        .into_iter()
        .flat_map(|(mean, std)| {
            let some = norms().into_iter().step_by(7).filter(enough);
            some.map(move |case| Case { mean, std, ..case })
        })
        .collect()
}

fn fusions() -> Vec<Case> {
    let mut cases = Vec::new();
    for residual in [Residual::None, Residual::After, Residual::Before] {
        for relu in [false, true] {
            // A prime step and another start each time: every norm meets every fusion, and every shape some.
            let start = cases.len() % 7;
            cases.extend(
                norms().into_iter().skip(start).step_by(7).map(|c| Case { fusion: Fusion { residual, relu }, ..c }),
            );
        }
    }
    cases
}

fn running_statistics() -> Vec<Case> {
    let fusions = [
        Fusion::default(),
        Fusion { residual: Residual::After, relu: true },
        Fusion { residual: Residual::Before, relu: false },
    ];
    let tracking: Vec<Case> = norms().into_iter().filter(|c| c.descriptor.running_stats().is_some()).collect();
    fusions
        .into_iter()
        .flat_map(|fusion| tracking.iter().map(move |c| Case { fusion, statistics: Statistics::Running, ..c.clone() }))
        .collect()
}

/// Halves of channels that share words, of samples that do not: units of one channel and of two, everywhere in one.
fn halves_by_samples() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    let types = [(F16, F16), (BF16, BF16), (F32, F16), (F16, F32), (BF16, F16)];
    let shapes =
        [[3, 4, 5], [2, 8, 7], [5, 12, 9], [2, 2, 6], [3, 8, 49], [2, 4, 1023], [1, 4, 4097], [300, 4, 13], [3, 12, 9]];
    let residuals = [Residual::None, Residual::After, Residual::Before];
    let fusions = residuals.into_iter().flat_map(|residual| [false, true].map(|relu| Fusion { residual, relu }));
    let mut fusions = fusions.collect::<Vec<Fusion>>().into_iter().cycle();
    let mut cases = Vec::new();
    for shape in shapes {
        for (input, output) in types {
            let statistics = Statistics::Running;
            let case = Case { input, output, statistics, ..Case::new(BatchNormDescriptor::new(shape[1]), &shape) };
            cases.push(Case { fusion: fusions.next().unwrap_or_default(), ..case });
        }
    }
    let instance = InstanceNormDescriptor { affine: true, track_running_stats: true, ..InstanceNormDescriptor::new(8) };
    cases.push(Case { statistics: Statistics::Running, ..half(F16, Case::new(instance, &[3, 8, 7, 7])) });
    cases
}

#[test]
fn halves_by_samples_go_by_samples() {
    for case in halves_by_samples() {
        let (tensor, op) = (case.tensor(), Op::Forward);
        let mut problem = Problem::new(&case.descriptor, &tensor, case.statistics, case.fusion, op).unwrap();
        problem.output = case.output;
        // More are taken as wide rows.
        let expected = if case.shape[0] < 4 { Over::Samples } else { Over::WideRows };
        for profile in [Profile::GPU, Profile::SOFTWARE_GPU] {
            let plan = Plan::new(problem, &profile).unwrap();
            assert_eq!(plan.passes[0].over, expected, "{}", case.name());
        }
    }
}

/// Channels of several rows abreast: one channel in all four places and up to four, rows that are all taken at once and that
/// are not. What a GPU holds on chip, software drivers split.
fn wide_rows() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    let mut types = [(F32, F32), (F16, F16), (BF16, F32), (F32, F16)].into_iter().cycle();
    let pixels: [&[usize]; 8] = [
        &[20, 2, 70],
        &[9, 3, 16, 9],
        &[5, 5, 100],
        &[5, 6, 94],
        &[900, 7],
        &[3, 33, 12, 10],
        &[5, 129, 36],
        &[70, 6, 38],
    ];
    let images: [&[usize]; 6] =
        [&[40, 4, 7], &[36, 6, 2], &[44, 3, 3, 3], &[8, 4, 67, 70], &[5, 20, 7, 99], &[40, 1, 1030]];
    let all = pixels.map(|shape| (shape, Format::ChannelsLast)).into_iter();
    let residuals = [Residual::None, Residual::After, Residual::Before];
    let fusions = residuals.into_iter().flat_map(|residual| [false, true].map(|relu| Fusion { residual, relu }));
    let mut fusions = fusions.collect::<Vec<Fusion>>().into_iter().cycle();
    let mut cases = Vec::new();
    for (shape, format) in all.chain(images.map(|shape| (shape, Format::ChannelsFirst))) {
        for statistics in [Statistics::Batch, Statistics::Batch, Statistics::Running] {
            let case = Case { format, statistics, ..Case::new(BatchNormDescriptor::new(shape[1]), shape) };
            let (input, output) = types.next().unwrap_or((F32, F32));
            cases.push(Case { input, output, fusion: fusions.next().unwrap_or_default(), ..case });
        }
    }
    cases
}

/// But for those that write words and are on chip.
#[test]
fn wide_rows_are_wide() {
    let wanted = Gradients { dx: true, dresidual: false, affine: true };
    let mut words = 0;
    for (case, op) in
        wide_rows().into_iter().flat_map(|case| [Op::Forward, Op::Backward(wanted)].map(|op| (case.clone(), op)))
    {
        let problem = Problem::new(&case.descriptor, &case.tensor(), case.statistics, case.fusion, op).unwrap();
        let plan = Plan::new(Problem { output: case.output, ..problem }, &Profile::SOFTWARE_GPU).unwrap();
        let Some(last) = plan.passes.last() else { unreachable!() };
        let of_words = if op == Op::Forward { case.output } else { case.input } == DType::F32;
        assert!(last.over == Over::WideRows || (of_words && last.kernel == Kernel::Rows), "{} {op:?}", case.name());
        words += usize::from(of_words && case.statistics == Statistics::Batch && last.over == Over::WideRows);
    }
    assert!(words > 4, "{words} training passes write words by columns");
}

fn channels_last() -> Vec<Case> {
    let fusion = Fusion { residual: Residual::After, relu: true };
    let norms = norms().into_iter().filter(|c| c.shape.len() > 2);
    norms
        .filter(|c| !c.descriptor.name().starts_with("Layer") && !c.descriptor.name().starts_with("RMS"))
        .map(|case| Case { format: Format::ChannelsLast, fusion, ..case })
        .collect()
}

/// Element types by formats by norms by modes, each combination with the next of the fusions.
fn every_combination() -> Vec<Case> {
    const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
    let residuals = [Residual::None, Residual::After, Residual::Before];
    let fusions = residuals.into_iter().flat_map(|residual| [false, true].map(|relu| Fusion { residual, relu }));
    let mut fusions = fusions.collect::<Vec<Fusion>>().into_iter().cycle();
    let mut cases = Vec::new();
    let instance =
        |c| InstanceNormDescriptor { affine: true, track_running_stats: true, ..InstanceNormDescriptor::new(c) };
    for (input, output) in TYPES.into_iter().flat_map(|input| TYPES.map(|output| (input, output))) {
        for format in [Format::ChannelsFirst, Format::ChannelsLast] {
            for statistics in [Statistics::Batch, Statistics::Running] {
                // An odd number of elements a channel, so that halves share words; or one that takes wide loads.
                let positions = if cases.len() % 2 == 0 { 35 } else { 64 };
                let images = [3, 6, positions];
                for case in [
                    Case::new(BatchNormDescriptor::new(6), &images),
                    Case::new(instance(6), &images),
                    Case::new(GroupNormDescriptor::new(2, 6), &images),
                    Case::new(LayerNormDescriptor::new(&[positions]), &images),
                    Case::new(RmsNormDescriptor::new(&[positions]), &images),
                ] {
                    let tensor = TensorDescriptor { format, ..case.tensor() };
                    let has_format = case.descriptor.layout(&tensor).is_ok();
                    let has_mode = statistics == Statistics::Batch || case.descriptor.running_stats().is_some();
                    if has_format && has_mode {
                        let fusion = fusions.next().unwrap_or_default();
                        cases.push(Case { input, output, format, statistics, fusion, ..case });
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn every_combination_is_one() {
    let cases = every_combination();
    // 9 pairs of types; 3 norms in 2 formats and 2 in one; 2 of the 3 also with running statistics.
    assert_eq!(cases.len(), 9 * (3 * 2 + 2 + 2 * 2));
}

/// Workgroups as large as a real GPU's, whatever is here: what fits one chip there is split on software drivers.
fn workgroups_of_a_gpu() -> Vec<Case> {
    let instance = |c| InstanceNormDescriptor { affine: true, ..InstanceNormDescriptor::new(c) };
    let fusion = Fusion { residual: Residual::After, relu: true };
    let before = Fusion { residual: Residual::Before, relu: true };
    // Rows of which neighbouring lanes take neighbouring elements, and whose halves share words with the next row's.
    let odd = |case: Case| {
        use DType::{BF16, F16, F32};
        [(F32, F32), (F32, F16), (F16, F32), (F16, F16), (BF16, BF16)].map(|(input, output)| Case {
            input,
            output,
            ..case.clone()
        })
    };
    let images = Case::new(BatchNormDescriptor::new(5), &[6, 5, 49]);
    let odd = [
        Case { fusion, ..images.clone() },
        Case { statistics: Statistics::Running, ..images },
        // By columns of samples, or if there are halves by samples.
        Case { fusion, statistics: Statistics::Running, ..Case::new(BatchNormDescriptor::new(40), &[6, 40, 49]) },
        Case { fusion, statistics: Statistics::Running, ..Case::new(BatchNormDescriptor::new(40), &[3, 40, 49]) },
        Case::new(GroupNormDescriptor::new(2, 6), &[2, 6, 4101]),
        Case::new(RmsNormDescriptor::new(&[701]), &[9, 701]),
    ]
    .into_iter()
    .flat_map(odd);
    let cases = vec![
        Case::new(LayerNormDescriptor::new(&[768]), &[70, 768]),
        Case::new(LayerNormDescriptor::new(&[131]), &[300, 131]),
        Case::new(LayerNormDescriptor::new(&[5000]), &[9, 5000]),
        Case::new(LayerNormDescriptor::new(&[9000]), &[3, 9000]),
        Case { fusion, ..Case::new(LayerNormDescriptor::new(&[4200]), &[70, 4200]) },
        half(DType::F16, Case::new(RmsNormDescriptor::new(&[4101]), &[35, 4101])),
        Case::new(LayerNormDescriptor::new(&[3]), &[3000, 3]),
        Case { fusion, ..Case::new(LayerNormDescriptor::new(&[260]), &[70, 260]) },
        Case { input: DType::BF16, output: DType::BF16, ..Case::new(RmsNormDescriptor::new(&[4096]), &[17, 4096]) },
        Case::new(instance(3), &[4, 3, 900]),
        Case::new(instance(3), &[2, 3, 9000]),
        // Groups on chip channel by channel, on chip but not so, and neither.
        Case { fusion, ..Case::new(GroupNormDescriptor::new(2, 12), &[3, 12, 100]) },
        Case::new(GroupNormDescriptor::new(4, 12), &[2, 12, 35]),
        Case::new(GroupNormDescriptor::new(2, 96), &[2, 96, 36]),
        Case::new(GroupNormDescriptor::new(2, 6), &[3, 6, 4100]),
        Case::new(GroupNormDescriptor::new(1, 300), &[2, 300, 40]),
        // Channels side by side, four of which have one group or two, and an odd number of them.
        Case { fusion, ..last(Case::new(GroupNormDescriptor::new(2, 12), &[3, 12, 2000])) },
        half(DType::F16, last(Case::new(GroupNormDescriptor::new(8, 16), &[2, 16, 2001]))),
        Case { fusion: before, ..last(Case::new(GroupNormDescriptor::new(4, 12), &[3, 12, 700])) },
        last(Case::new(GroupNormDescriptor::new(2, 40), &[2, 40, 90])),
        half(DType::F16, Case { fusion, ..last(Case::new(GroupNormDescriptor::new(3, 9), &[2, 9, 1001])) }),
        last(Case::new(BatchNormDescriptor::new(300), &[9, 300, 50])),
        // By columns, of which the last workgroup has few.
        half(DType::F16, Case { fusion, ..last(Case::new(BatchNormDescriptor::new(18), &[8, 18, 40, 40])) }),
        half(DType::F16, Case { fusion: before, ..Case::new(BatchNormDescriptor::new(4), &[36, 4, 35, 35]) }),
        Case::new(BatchNormDescriptor::new(70), &[700, 70]),
    ];
    cases.into_iter().chain(odd).collect()
}

/// Either side of each number at which the CPU takes another way.
fn ways_of_the_cpu() -> Vec<Case> {
    let batch =
        |samples, channels, positions| Case::new(BatchNormDescriptor::new(channels), &[samples, channels, positions]);
    let rows = |samples, len| Case::new(LayerNormDescriptor::new(&[len]), &[samples, len]);
    let mut cases = vec![];
    // Samples and rows from which on rows go as strips: very short, short, and ragged (512 bytes).
    for positions in [1, 2, 3, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 129] {
        cases.extend([1, 2, 7, 8, 9].map(|samples| batch(samples, 20, positions)));
    }
    for positions in [33, 255, 256, 257] {
        cases.extend([DType::F16, DType::BF16].map(|dtype| half(dtype, batch(9, 20, positions))));
    }
    // Columns that lie abreast, that are rows of strips, and that make a panel.
    for channels in [1, 3, 15, 16, 17, 255, 256, 257, 511, 512, 513] {
        cases.extend([last(batch(3, channels, 5)), batch(20, channels, 1), rows(37, channels)]);
    }
    // Channels side by side where tensors are read twice.
    cases.extend([512, 513, 1100].map(|channels| batch(4, channels, 20)));
    // More threads than one; around the caches, by lines and by a buffer; blocks that exceed a cache.
    cases.extend([batch(2, 64, 1024), batch(2, 64, 1025), rows(1024, 128), rows(1025, 128)]);
    cases.extend([batch(32, 64, 1023), batch(32, 64, 1024), batch(40, 104, 508), batch(40, 104, 509), rows(2731, 768)]);
    cases.extend([last(batch(16, 60, 2185)), half(DType::F16, batch(33, 128, 1000)), batch(43, 17, 3000)]);
    let fusions = [false, true].map(|relu| Fusion { relu, ..Fusion::default() });
    cases.iter().zip(fusions.into_iter().cycle()).map(|(case, fusion)| Case { fusion, ..case.clone() }).collect()
}

#[test]
fn on_all_ways_of_the_cpu() {
    // Of two values dx is a small difference of large numbers.
    let enough = |case: &Case| case.descriptor.layout(&case.tensor()).is_ok_and(|layout| layout.stats.count() > 2);
    let cases: Vec<Case> = ways_of_the_cpu().into_iter().filter(enough).collect();
    check("cpu", &host::Backend::Cpu, &cases);
}

#[test]
fn on_workgroups_of_a_gpu() {
    for (gpu, _) in backends::gpus() {
        let _turn = gpu.turn();
        let own = *wgpu_norm::gpu::Context::new(&gpu.device).unwrap().profile();
        let context = wgpu_norm::gpu::Context::with_profile(&gpu.device, backends::of_a_gpu(own), None).unwrap();
        let backend = host::Backend::Gpu { context, queue: gpu.queue.clone() };
        check(&gpu.name, &backend, &workgroups_of_a_gpu());
    }
}

backends::implementations!(
    shapes,
    offsets,
    small_variances,
    fusions,
    running_statistics,
    halves_by_samples,
    wide_rows,
    channels_last,
    every_combination
);
