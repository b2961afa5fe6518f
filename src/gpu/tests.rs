//! Every shader that plans can ask for, without a device: parsed, validated and translated by naga.

use super::key::{Key, Update};
use super::params::Params;
use super::shader::Addressing;
use super::shader::{Variant, compose, strides_allow_vec4};
use crate::op::{Direction, Fusion, Gradients, Op, Residual, Statistics};
use crate::plan::{Kernel, Plan, Problem};
use crate::{
    BatchNormDescriptor, DType, Error, Format, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor,
    NormDescriptor, Profile, RmsNormDescriptor, TensorDescriptor,
};
use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, BinaryOperator, Block, Expression, Function, Handle, Module, Scalar, ScalarKind, ShaderStage,
    Statement, TypeInner, VectorSize,
};
use rayon::prelude::*;
use std::collections::HashSet;
use std::mem::offset_of;

/// Norms with and without their vectors, on shapes that take one workgroup, a part of one, and several.
fn layers() -> Vec<(NormDescriptor, Vec<usize>)> {
    let mut layers: Vec<(NormDescriptor, Vec<usize>)> = Vec::new();
    for [n, c, s] in [[4, 6, 5], [2, 4, 7], [3, 64, 8], [2, 8, 1024], [2, 2, 40000], [90, 6, 1], [5000, 8, 1]] {
        for affine in [true, false] {
            let batch = BatchNormDescriptor::new(c);
            let instance =
                InstanceNormDescriptor { affine, track_running_stats: affine, ..InstanceNormDescriptor::new(c) };
            layers.push((BatchNormDescriptor { affine, ..batch }.into(), vec![n, c, s]));
            layers.push((GroupNormDescriptor { affine, ..GroupNormDescriptor::new(2, c) }.into(), vec![n, c, s]));
            layers.push((instance.into(), vec![n, c, s]));
        }
    }
    for [m, d] in [[64, 30], [300, 64], [2, 40000]] {
        for weight in [true, false] {
            layers.push((LayerNormDescriptor { weight, ..LayerNormDescriptor::new(&[d]) }.into(), vec![m, d]));
            layers.push((RmsNormDescriptor { weight, ..RmsNormDescriptor::new(&[d]) }.into(), vec![m, d]));
        }
        let bare = LayerNormDescriptor { weight: false, bias: false, ..LayerNormDescriptor::new(&[d]) };
        layers.push((bare.into(), vec![m, d]));
    }
    layers
}

fn ops() -> Vec<Op> {
    let mut ops = vec![Op::Forward];
    for wanted in 1..8 {
        let [dx, dresidual, affine] = [1, 2, 4].map(|bit| wanted & bit != 0);
        ops.push(Op::Backward(Gradients { dx, dresidual, affine }));
    }
    for direction in [Direction::Forward, Direction::Backward] {
        ops.extend([Op::LocalSums(direction), Op::MergeSums(direction, 3)]);
    }
    ops.push(Op::ApplyMoments);
    for (dx, dresidual) in [(true, false), (false, true), (true, true)] {
        ops.push(Op::ApplyGradientSums(Gradients { dx, dresidual, affine: false }));
    }
    ops
}

fn fusions() -> Vec<Fusion> {
    let residuals = [Residual::None, Residual::After, Residual::Before];
    residuals.into_iter().flat_map(|residual| [false, true].map(|relu| Fusion { residual, relu })).collect()
}

/// Calls that the public API never makes.
fn makes_sense(problem: &Problem) -> bool {
    let has_dresidual = match problem.op {
        Op::Backward(wanted) | Op::ApplyGradientSums(wanted) => wanted.dresidual,
        _ => false,
    };
    // Only batch norm is synchronised.
    let synchronises = problem.layout.is_per_channel() && problem.statistics == Statistics::Batch;
    (!has_dresidual || problem.fusion.residual == Residual::After) && (!problem.op.is_synchronised() || synchronises)
}

/// The keys of a call, whatever its buffers' offsets.
fn keys_of(problem: Problem, profile: &Profile) -> Result<Vec<Key>, Error> {
    let plan = Plan::new(problem, profile)?;
    let mut keys = Vec::new();
    for pass in &plan.passes {
        let aligned: &[bool] =
            if strides_allow_vec4(&plan.walk(pass.over), pass.geometry.abreast) { &[true, false] } else { &[false] };
        let overlaps: &[bool] = if pass.writes.is_empty() { &[false] } else { &[true, false] };
        let may_update = matches!(problem.op, Op::Forward | Op::ApplyMoments) && problem.tracks;
        let updates = [Update::Never, Update::IfFinite, Update::Always];
        let updates = updates.into_iter().take(if may_update { 3 } else { 1 });
        for update in updates.filter(|&u| u != Update::Never || pass.kernel != Kernel::Running) {
            for (&vec4, strided) in aligned.iter().flat_map(|vec4| [(vec4, false), (vec4, true)]) {
                keys.extend(overlaps.iter().map(|&shared| {
                    Key::new(
                        &plan,
                        pass,
                        Addressing { vec4, shared, strided: strided && !pass.reads.is_empty() },
                        update,
                    )
                }));
            }
        }
    }
    Ok(keys)
}

/// Every key that plans ask for: norms x shapes x formats x statistics x fusions x calls x element types.
fn keys() -> Vec<Key> {
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let (mut keys, mut known) = (Vec::new(), HashSet::new());
    for (descriptor, shape) in layers() {
        for format in [Format::ChannelsFirst, Format::ChannelsLast] {
            for statistics in [Statistics::Batch, Statistics::Running] {
                for (fusion, op) in fusions().into_iter().flat_map(|f| ops().into_iter().map(move |op| (f, op))) {
                    let tensor = TensorDescriptor { format, ..TensorDescriptor::new(&shape) };
                    // A norm without this format or without running statistics.
                    let Ok(problem) = Problem::new(&descriptor, &tensor, statistics, fusion, op) else { continue };
                    if !makes_sense(&problem) {
                        continue;
                    }
                    for (input, output) in dtypes.into_iter().flat_map(|i| dtypes.map(|o| (i, o))) {
                        let problem = Problem { input, output, ..problem };
                        for profile in [Profile::GPU, Profile::SOFTWARE_GPU] {
                            let new =
                                keys_of(problem, &profile).unwrap().into_iter().filter(|key| known.insert(key.clone()));
                            keys.extend(new);
                        }
                    }
                }
            }
        }
    }
    keys
}

fn parse(variant: &Variant) -> Result<(Module, ModuleInfo), String> {
    let source = compose(variant);
    let module = naga::front::wgsl::parse_str(&source).map_err(|e| e.emit_to_string(&source))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
        .validate(&module)
        .map_err(|e| e.emit_to_string(&source))?;
    Ok((module, info))
}

fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let (stage, name) = (ShaderStage::Compute, "main".to_string());
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let options = spv::PipelineOptions { shader_stage: stage, entry_point: name.clone() };
    spv::write_vec(module, info, &spv::Options::default(), Some(&options)).map_err(|e| text(&e))?;
    let options = msl::Options { lang_version: (2, 0), ..Default::default() };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default()).map_err(|e| text(&e))?;
    let (options, pipeline_options) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
    let mut out = String::new();
    hlsl::Writer::new(&mut out, &options, &pipeline_options).write(module, info, None).map_err(|e| text(&e))?;
    let options = glsl::Options { version: glsl::Version::new_gles(310), ..Default::default() };
    let pipeline_options = glsl::PipelineOptions { shader_stage: stage, entry_point: name, multiview: None };
    let (mut out, policies) = (String::new(), Default::default());
    glsl::Writer::new(&mut out, module, info, &options, &pipeline_options, policies)
        .and_then(|mut writer| writer.write().map(drop))
        .map_err(|e| text(&e))
}

fn loops(block: &Block) -> usize {
    let of = |statement: &Statement| match statement {
        Statement::Loop { body, continuing, .. } => 1 + loops(body) + loops(continuing),
        Statement::If { accept, reject, .. } => loops(accept) + loops(reject),
        Statement::Switch { cases, .. } => cases.iter().map(|case| loops(&case.body)).sum(),
        Statement::Block(block) => loops(block),
        _ => 0,
    };
    block.iter().map(of).sum()
}

/// Whether a value comes from uniforms, and whether from anything else that changes. Functions' arguments and results may.
fn sources(module: &Module, function: &Function, value: Handle<Expression>) -> [bool; 2] {
    use Expression::*;
    let of = |value| sources(module, function, value);
    let all = |values: &[Handle<Expression>]| {
        values.iter().map(|&value| of(value)).fold([false; 2], |[a, b], [c, d]| [a | c, b | d])
    };
    match &function.expressions[value] {
        Literal(_) | Constant(_) | ZeroValue(_) => [false, false],
        &GlobalVariable(variable) => {
            let is_uniform = module.global_variables[variable].space == AddressSpace::Uniform;
            [is_uniform, !is_uniform]
        }
        &Load { pointer: value }
        | &AccessIndex { base: value, .. }
        | &Splat { value, .. }
        | &Swizzle { vector: value, .. }
        | &Unary { expr: value, .. }
        | &As { expr: value, .. }
        | &Relational { argument: value, .. } => of(value),
        &Binary { left, right, .. } | &Access { base: left, index: right } => all(&[left, right]),
        &Math { arg, arg1, arg2, arg3, .. } => {
            all(&[Some(arg), arg1, arg2, arg3].into_iter().flatten().collect::<Vec<_>>())
        }
        &Select { condition, accept, reject } => all(&[condition, accept, reject]),
        Compose { components, .. } => all(components),
        _ => [false, true],
    }
}

/// Whether a branch depends on uniforms alone, or within a loop (as its end) on how anything compares with them: Mesa's
/// software drivers make a shader for each of their values.
fn branches_on_uniforms(module: &Module, function: &Function, block: &Block, in_loop: bool) -> bool {
    let within = |block: &Block| branches_on_uniforms(module, function, block, in_loop);
    let is_uniform = |value| sources(module, function, value) == [true, false];
    block.iter().any(|statement| match statement {
        &Statement::If { condition, ref accept, ref reject } => {
            let compares = match function.expressions[condition] {
                Expression::Binary { left, right, .. } => is_uniform(left) || is_uniform(right),
                _ => false,
            };
            is_uniform(condition) || in_loop && compares || within(accept) || within(reject)
        }
        Statement::Loop { body, continuing, .. } => {
            [body, continuing].into_iter().any(|block| branches_on_uniforms(module, function, block, true))
        }
        Statement::Switch { selector, cases } => is_uniform(*selector) || cases.iter().any(|case| within(&case.body)),
        Statement::Block(block) => within(block),
        _ => false,
    })
}

/// Functions with a float (a - b) - c: to a compiler that takes floats for real numbers that is a - (b + c), and of a mean
/// in two parts only the high one is left. `leaf` uses a - b twice, which keeps clang from it (docs/platforms.md).
fn twice_subtracting(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let is_difference =
        |of: &Function, value| matches!(of.expressions[value], Expression::Binary { op: BinaryOperator::Subtract, .. });
    let has_one = |handle: Handle<Function>, function: &Function| {
        function.expressions.iter().any(|(value, expression)| {
            let scalar = info[handle][value].ty.inner_with(&module.types).scalar();
            is_difference(function, value)
                && matches!(*expression, Expression::Binary { left, .. } if is_difference(function, left))
                && scalar.is_some_and(|scalar| scalar.kind == ScalarKind::Float)
        })
    };
    let names = module.functions.iter().filter(|&(handle, function)| has_one(handle, function));
    names.filter_map(|(_, function)| function.name.clone()).filter(|name| name != "leaf").collect()
}

/// What a device with WebGPU's default limits must have, and what makes kernels fast.
fn check_resources(module: &Module, key: &Key) -> Result<(), String> {
    let globals = || module.global_variables.iter().map(|(_, variable)| variable);
    let buffers = globals().filter(|v| matches!(v.space, AddressSpace::Storage { .. })).count();
    let shared = globals().filter(|v| v.space == AddressSpace::WorkGroup);
    let bytes: u32 = shared.map(|v| module.types[v.ty].inner.size(module.to_ctx())).sum();
    let may_loop = |function: &Function| match function.name.as_deref() {
        Some("climb" | "write_columns") => 1,
        Some("leaves_in_parts") if key.variant.parts => 2,
        Some("take_in_parts") if key.variant.parts => 1,
        _ => 0,
    };
    let mut looping: Vec<String> = module
        .functions
        .iter()
        .filter(|(_, f)| loops(&f.body) > may_loop(f))
        .map(|(_, f)| f.name.clone().unwrap_or_default())
        .collect();
    // The average over samples has as many terms as there are samples, and rows follow one another.
    let main = usize::from(key.variant.kernel == Kernel::Running || key.variant.columns);
    if loops(&module.entry_points[0].function.body) > main {
        looping.push("main".into());
    }
    let entry = &module.entry_points[0].function;
    let functions = module.functions.iter().map(|(_, function)| function).chain([entry]);
    let branching: Vec<&str> = functions
        .filter(|function| branches_on_uniforms(module, function, &function.body, false))
        .map(|function| function.name.as_deref().unwrap_or("main"))
        .collect();
    // Backends take such types for different ones.
    let types: Vec<_> = module.types.iter().map(|(_, ty)| &ty.inner).collect();
    let twice: Vec<_> = types.iter().enumerate().filter(|(i, ty)| types[..*i].contains(ty)).collect();
    match (buffers, bytes) {
        (9.., _) => Err(format!("{buffers} storage buffers")),
        (_, 16385..) => Err(format!("{bytes} bytes of workgroup memory")),
        _ if !looping.is_empty() => Err(format!("loops in {looping:?}")),
        _ if !branching.is_empty() => Err(format!("branches on uniforms in {branching:?}")),
        _ if !twice.is_empty() => Err(format!("types under two names: {twice:?}")),
        _ => Ok(()),
    }
}

fn check(key: &Key) -> Result<(), String> {
    let (module, info) = parse(&key.variant)?;
    let constants = key.constants.pairs().map(|(name, value)| (name.to_string(), value)).into_iter().collect();
    let entry = Some((ShaderStage::Compute, "main"));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .map_err(|e| e.to_string())?;
    check_resources(&module, key)?;
    let regrouped = twice_subtracting(&module, &info);
    if !regrouped.is_empty() {
        return Err(format!("(a - b) - c in {regrouped:?}"));
    }
    translate(&module, &info)
}

/// A hundred thousand keys differ in parts that do not touch each other. Of those this takes every text but for
/// the number of units (element types, optional tensors, vec4, shared), every number of units of each kernel,
/// and every set of constants of each kernel.
fn sample(keys: Vec<Key>) -> Vec<Key> {
    let (mut texts, mut units, mut constants) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut is_new = |key: &Key| {
        let variant = &key.variant;
        let kernel = (variant.kernel, variant.direction);
        let new_text = texts.insert(Variant { units: 0, ..variant.clone() });
        let new_units = units.insert((kernel, variant.units));
        constants.insert((kernel, key.constants.clone())) || new_text || new_units
    };
    keys.into_iter().filter(|key| is_new(key)).collect()
}

#[test]
fn every_shader_translates() {
    let some = sample(keys());
    assert!(some.len() > 1000, "{} shaders are too few to be all", some.len());
    let failures = some.par_iter().filter_map(|key| check(key).err().map(|error| format!("{key:?}:\n{error}")));
    let failures: Vec<String> = failures.collect();
    assert!(failures.is_empty(), "{} of {}, the first: {}", failures.len(), some.len(), failures[0]);
}

#[test]
fn branches_on_uniforms_are_found() {
    let branches = |statement: &str, condition: &str| {
        let source = format!(
            "struct Params {{ a: f32, b: vec2<u32> }}
            @group(0) @binding(0) var<uniform> params: Params;
            @group(0) @binding(1) var<storage, read_write> data: array<u32>;
            fn helper(n: u32) -> u32 {{
                {statement} ({condition}) {{ return 1u; }}
                return 2u;
            }}
            @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) {{ data[0] = helper(id.x); }}"
        );
        let module = naga::front::wgsl::parse_str(&source).unwrap();
        let (_, helper) = module.functions.iter().next().unwrap();
        branches_on_uniforms(&module, helper, &helper.body, false)
    };
    for (condition, expected) in [
        ("params.a >= 0.0", true),
        ("select(params.b.x, 3u, params.a < 1.0) == 2u * params.b.y", true),
        ("max(params.a, 0.0) == 0.0", true),
        ("any(params.b > vec2<u32>(1u))", true),
        ("n < params.b.x", false),
        ("min(n, params.b.x) == 3u", false),
        ("data[n] == params.b.y", false),
        ("1u < 2u", false),
    ] {
        assert_eq!(branches("if", condition), expected, "{condition}");
    }
    for (condition, expected) in [
        ("n < params.b.x", true),
        ("n < min(params.b.x, 8u)", true),
        ("n < params.b.x + (n & params.b.y)", false),
        ("n < 8u", false),
    ] {
        assert_eq!(branches("while", condition), expected, "{condition}");
    }
}

#[test]
fn halves_are_stored_by_words_where_a_unit_has_both() {
    use DType::{BF16, F16, F32};
    let (first, last) = (Format::ChannelsFirst, Format::ChannelsLast);
    for (input, output, side, format, aligned, expected) in [
        (F16, F16, 7, first, true, true),
        (BF16, F32, 7, first, true, true),
        (F16, F16, 8, first, false, true),
        (F16, F16, 8, first, true, false),
        (F32, F16, 7, first, true, false),
        (F32, F32, 8, first, false, false),
        (F16, F16, 7, last, true, false),
    ] {
        let (norm, shape) = (BatchNormDescriptor::new(5).into(), [32, 5, side, side]);
        let tensor = TensorDescriptor { format, ..TensorDescriptor::new(&shape) };
        let problem = Problem::new(&norm, &tensor, Statistics::Batch, Fusion::default(), Op::Forward).unwrap();
        let plan = Plan::new(Problem { input, output, ..problem }, &Profile::GPU).unwrap();
        for pass in plan.passes.iter().filter(|pass| !pass.reads.is_empty()) {
            let key = Key::new(&plan, pass, Addressing::new(&plan, pass, false, aligned), Update::Never);
            assert_eq!(key.variant.neighbours, expected, "{input:?} {output:?} {side} {format:?} {aligned}");
        }
    }
}

macro_rules! fields {
    ($($field:ident)*) => {{
        // Does not compile when a field is left out.
        let Params { $($field: _,)* padding: _ } = Params::default();
        vec![$((stringify!($field), offset_of!(Params, $field) as u32)),*]
    }};
}

#[test]
fn params_are_what_the_shader_reads() {
    let module = naga::front::wgsl::parse_str(include_str!("../../shaders/common/params.wgsl")).unwrap();
    let (_, params) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params")).unwrap();
    let TypeInner::Struct { members, span } = &params.inner else { panic!("{params:?}") };
    let shader: Vec<(&str, u32)> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset)).collect();
    let rust = fields! {
        strides strides_input strides_residual strides_gradient strides_output strides_second_output
        inner segments len leaves_log2 parts grid_x first_target
        end_target first_tile tiles blocks partials_in partials_in_at partials_in_target partials_in_step
        partials_out_at partials_out_target map_target_div map_target map_segment map_position_div
        map_position stat_div state_stride gradients_at zero eps momentum shift_input shift_residual shift_gradient shift_output shift_second_output
    };
    assert_eq!(shader, rust);
    for member in members {
        let name = member.name.as_deref().unwrap();
        let scalar = if ["eps", "momentum"].contains(&name) { Scalar::F32 } else { Scalar::U32 };
        let expected = match name.starts_with("strides") {
            true => TypeInner::Vector { size: VectorSize::Quad, scalar },
            false => TypeInner::Scalar(scalar),
        };
        assert_eq!(module.types[member.ty].inner, expected, "{name}");
    }
    // Uniforms are bound in blocks of 16 bytes.
    assert_eq!(size_of::<Params>() as u32, span.next_multiple_of(16));
}
