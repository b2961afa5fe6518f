//! The calls whose pipelines are compiled.

use std::collections::HashSet;
use wgpu_norm::gpu::inspect::{Shader, Update, shaders};
use wgpu_norm::plan::{Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, DType, Direction, Format, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor,
    LayerNormDescriptor, NormDescriptor, Op, Profile, Residual, RmsNormDescriptor, Statistics, TensorDescriptor,
};

/// A pipeline, and the first call that uses it.
pub struct Pipeline {
    pub call: String,
    pub shader: Shader,
}

/// Shapes of ResNet-50, of detection networks and of transformers, batches of rows: on chip and split,
/// aligned and not. With each: whether the default report has it with all fusions and element types.
fn layers() -> Vec<(NormDescriptor, Vec<usize>, bool)> {
    let mut layers: Vec<(NormDescriptor, Vec<usize>, bool)> = Vec::new();
    let resnet = [(64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28), (256, 28), (256, 14), (1024, 14)];
    for (channels, side) in resnet.into_iter().chain([(512, 14), (512, 7), (2048, 7)]) {
        let thorough = [(256, 56), (2048, 7)].contains(&(channels, side));
        layers.push((BatchNormDescriptor::new(channels).into(), vec![32, channels, side, side], thorough));
    }
    layers.push((BatchNormDescriptor::new(64).into(), vec![4, 64, 28, 28], false));
    // No multiple of four.
    layers.push((BatchNormDescriptor::new(18).into(), vec![32, 18, 56, 56], true));
    for (rows, channels) in [(64, 32), (4096, 1024)] {
        layers.push((BatchNormDescriptor::new(channels).into(), vec![rows, channels], false));
    }
    for (rows, len) in [(8192, 768), (8192, 1024), (4096, 4096), (4096, 8192), (64, 30), (16, 100_000)] {
        layers.push((LayerNormDescriptor::new(&[len]).into(), vec![rows, len], len == 768));
        layers.push((RmsNormDescriptor::new(&[len]).into(), vec![rows, len], false));
    }
    for shape in [[2, 256, 100, 152], [8, 64, 14, 14], [8, 64, 7, 7]] {
        let tracking = InstanceNormDescriptor { track_running_stats: true, ..InstanceNormDescriptor::new(shape[1]) };
        layers.push((GroupNormDescriptor::new(32, shape[1]).into(), shape.to_vec(), false));
        layers.push((tracking.into(), shape.to_vec(), false));
    }
    layers
}

/// Training and evaluation of a network, or everything that the API has.
fn ops(all: bool) -> Vec<Op> {
    let backward = |bits: u32| {
        let [dx, dresidual, affine] = [1, 2, 4].map(|bit| bits & bit != 0);
        Gradients { dx, dresidual, affine }
    };
    let mut ops = vec![Op::Forward, Op::Backward(backward(5)), Op::Backward(backward(7))];
    if all {
        ops.extend([1, 2, 3, 4, 6].map(|bits| Op::Backward(backward(bits))));
        for direction in [Direction::Forward, Direction::Backward] {
            ops.extend([Op::LocalSums(direction), Op::MergeSums(direction, 3)]);
        }
        ops.push(Op::ApplyMoments);
        ops.extend([1, 2, 3].map(|bits| Op::ApplyGradientSums(backward(bits))));
    }
    ops
}

/// Whether a call asks for all gradients that there are.
fn all_gradients(op: Op, fusion: Fusion) -> bool {
    !matches!(op, Op::Backward(wanted) if wanted.dresidual != (fusion.residual == Residual::After))
}

pub fn fusions() -> [Fusion; 5] {
    let fusion = |residual, relu| Fusion { residual, relu };
    [
        fusion(Residual::None, false),
        fusion(Residual::After, true),
        fusion(Residual::None, true),
        fusion(Residual::Before, false),
        fusion(Residual::After, false),
    ]
}

/// Combinations that no caller asks for.
fn makes_sense(problem: &Problem) -> bool {
    let wanted = match problem.op {
        Op::Backward(wanted) | Op::ApplyGradientSums(wanted) => wanted,
        _ => Gradients { dx: false, dresidual: false, affine: false },
    };
    let synchronises = problem.layout.is_per_channel() && problem.statistics == Statistics::Batch;
    (!wanted.dresidual || problem.fusion.residual == Residual::After)
        && (!problem.op.is_synchronised() || synchronises)
        && (!wanted.affine || problem.affine.weight)
}

/// The calls' pipelines, each once. `all`: also every other operation, and outputs of another element type.
pub fn pipelines(all: bool) -> Result<Vec<Pipeline>, String> {
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let (mut pipelines, mut known) = (Vec::new(), HashSet::new());
    for (norm, shape, thorough) in layers() {
        for format in [Format::ChannelsFirst, Format::ChannelsLast] {
            for (fusion, op) in fusions().into_iter().flat_map(|f| ops(all).into_iter().map(move |op| (f, op))) {
                for (input, output) in dtypes.into_iter().flat_map(|i| dtypes.map(|o| (i, o))) {
                    for statistics in [Statistics::Batch, Statistics::Running] {
                        let plain = fusion == Fusion::default() && input == DType::F32;
                        let usual = (thorough || plain) && input == output && all_gradients(op, fusion);
                        if !usual && !all {
                            continue;
                        }
                        let tensor = TensorDescriptor { format, ..TensorDescriptor::new(&shape) };
                        // A norm without this format or without running statistics.
                        let Ok(problem) = Problem::new(&norm, &tensor, statistics, fusion, op) else { continue };
                        if !makes_sense(&problem) {
                            continue;
                        }
                        let problem = Problem { input, output, ..problem };
                        let plan = Plan::new(problem, &Profile::GPU).map_err(|e| format!("{norm:?}: {e}"))?;
                        let updates = problem.tracks && op.direction() == Direction::Forward;
                        let update = if updates { Update::IfFinite } else { Update::Never };
                        let call = name(&norm, &shape, &problem, format);
                        for shader in shaders(&plan, update) {
                            let constants: Vec<u64> = shader.constants.iter().map(|c| c.1.to_bits()).collect();
                            if known.insert((shader.wgsl.clone(), constants)) {
                                pipelines.push(Pipeline { call: call.clone(), shader });
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(pipelines)
}

fn name(norm: &NormDescriptor, shape: &[usize], problem: &Problem, format: Format) -> String {
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut name = format!("{} {} {:?}", norm.name(), shape.join("x"), problem.input).to_lowercase();
    if problem.output != problem.input {
        name += &format!("/{:?}", problem.output).to_lowercase();
    }
    if format == Format::ChannelsLast {
        name += " channels-last";
    }
    name += match (problem.op, problem.statistics) {
        (Op::Forward, Statistics::Batch) => " train",
        (Op::Forward, Statistics::Running) => " eval",
        (Op::Backward(_), _) => " backward",
        _ => " sync",
    };
    match problem.fusion.residual {
        Residual::None => {}
        Residual::After => name += " +residual",
        Residual::Before => name += " residual+",
    }
    if problem.fusion.relu {
        name += " relu";
    }
    name
}
