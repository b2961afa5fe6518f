//! WGSL text of a kernel: the files of `shaders/`, put together for element types and optional tensors.
//!
//! Lines that begin with `//#` steer it: `//#if NAME`, `//#else`, `//#end`, and `//#for u` and `//#for t`, which
//! write their lines once a unit, or once a target abreast, with `$u` or `$t` as its number, so that no loop over these is
//! left in the shader.

use crate::layout::Walk;
use crate::op::{Direction, Residual};
use crate::plan::{Kernel, Pass, Plan, Tensor};
use crate::tensor::DType;

/// How a tensor is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    pub tensor: Tensor,
    pub dtype: DType,
    pub written: bool,
}

/// How elements are found in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Addressing {
    /// Whether one load or store takes four elements: of a unit, or of a position of targets abreast.
    pub vec4: bool,
    /// Whether tensors share a buffer: WebGPU then wants all of them bound for reading and writing. (In a browser it also
    /// wants bindings of one buffer not to overlap, which in-place calls do; wgpu's own implementation does not ask.)
    pub shared: bool,
    /// Whether tensors have strides of their own.
    pub strided: bool,
}

impl Addressing {
    /// For the tensors of a pass. `aligned`: all of them are bound where a unit of four elements begins.
    pub fn new(plan: &Plan, pass: &Pass, shared: bool, aligned: bool) -> Addressing {
        let walk = |tensor| plan.walk_of(pass.over, tensor);
        let mut walks = Tensor::ALL.into_iter().filter(|&t| pass.touches(t)).map(walk);
        let vec4 = aligned && walks.clone().all(|walk| strides_allow_vec4(&walk, pass.geometry.abreast));
        let first = walks.next();
        Addressing { vec4, shared, strided: walks.any(|walk| Some(walk) != first) }
    }
}

/// Whether all that is loaded together begins at a multiple of four: units of four elements of a target, or an element
/// of each of four targets.
pub(super) fn strides_allow_vec4(walk: &Walk, abreast: u32) -> bool {
    let four = |&(n, stride): &(u64, u64)| n == 1 || stride.is_multiple_of(4);
    let (inner, positions) = ((walk.inner, walk.inner_stride), (walk.len, walk.stride));
    let across = if abreast == 1 { inner } else { positions };
    let (along, stride) = if abreast == 1 { positions } else { inner };
    let steps = [(walk.outer, walk.outer_stride), (walk.segments, walk.segment_stride), across];
    stride == 1 && along.is_multiple_of(4) && steps.iter().all(four)
}

/// Everything that the text depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub kernel: Kernel,
    pub direction: Direction,
    pub residual: Residual,
    /// Units of four elements in a part of a leaf.
    pub units: u32,
    /// Whether a leaf has several parts.
    pub parts: bool,
    /// Targets that an invocation takes abreast.
    pub abreast: u32,
    /// Whether a leaf's elements are merged pair by pair.
    pub singles: bool,
    /// Whether columns are summed on the way.
    pub columns: bool,
    /// Whether sums of a group's channels are weighed on their way up its tree.
    pub channels: bool,
    /// Whether an element's channel is looked up where it is written.
    pub samples: bool,
    /// Whether targets are columns of rows of all channels.
    pub wide_rows: bool,
    pub addressing: Addressing,
    /// Whether the weights of a unit's elements are four aligned neighbours.
    pub unit_weights: bool,
    /// Whether a unit's elements, of which some are halves, are neighbours though no one load takes all four.
    pub neighbours: bool,
    pub tensors: Vec<Access>,
    pub input: DType,
}

impl Tensor {
    pub(crate) const fn binding(self) -> u32 {
        self as u32 + 1
    }

    /// What shaders know it as, whatever the direction.
    const fn variable(self) -> &'static str {
        match self {
            Tensor::Input => "input",
            Tensor::Residual => "residual",
            Tensor::Gradient => "gradient",
            Tensor::Output => "output",
            Tensor::SecondOutput => "second_output",
        }
    }
}

const fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
    }
}

const fn dtype_functions(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => include_str!("../../shaders/element/f32.wgsl"),
        DType::F16 => include_str!("../../shaders/element/f16.wgsl"),
        DType::BF16 => include_str!("../../shaders/element/bf16.wgsl"),
    }
}

/// The whole shader module of a variant.
pub(crate) fn compose(variant: &Variant) -> String {
    let mut flags: Vec<String> = variant.tensors.iter().map(|t| t.tensor.variable().to_uppercase()).collect();
    let has_residual = flags.iter().any(|f| f == "RESIDUAL");
    let (is_forward, four_targets) = (variant.direction == Direction::Forward, variant.abreast > 1);
    // A sum that is normalised, and a mask, are needed before anything is reduced.
    let early = (variant.residual == Residual::Before) == is_forward;
    let others = [
        ("FORWARD", is_forward),
        ("RESIDUAL_EARLY", has_residual && early),
        ("RESIDUAL_LATE", has_residual && !early),
        ("WRITES", variant.tensors.iter().any(|t| t.written)),
        ("SINGLES", variant.singles),
        ("PARTS", variant.parts),
        ("COLUMNS", variant.columns),
        ("CHANNELS", variant.channels),
        ("SAMPLES", variant.samples),
        ("WIDE_ROWS", variant.wide_rows),
        ("EIGHTS", variant.kernel == Kernel::Merge && variant.units > 1),
        ("UNIT_WEIGHTS", variant.unit_weights),
        ("FOUR_TARGETS", four_targets),
        ("FOUR_NEIGHBOURS", four_targets && !variant.wide_rows),
        // Weights of four targets, and their statistics if these are the running ones, are four aligned neighbours.
        ("STATE_FOURS", variant.unit_weights || four_targets),
        // Gradients of one target are one word each.
        ("SAVED_FOURS", is_forward || four_targets),
    ];
    flags.extend(others.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name.into()));
    let counts = Counts { units: variant.units, abreast: variant.abreast };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();

    let mut text = String::new();
    let mut add = |source: &str, flags: &[&str]| text.push_str(&expand(source, counts, flags));
    add(include_str!("../../shaders/common/params.wgsl"), &flags);
    add(include_str!("../../shaders/common/exact.wgsl"), &flags);
    add(include_str!("../../shaders/common/state.wgsl"), &flags);
    add(include_str!("../../shaders/common/walk.wgsl"), &flags);
    add(include_str!("../../shaders/common/tree.wgsl"), &flags);
    let mut dtypes: Vec<DType> = variant.tensors.iter().map(|t| t.dtype).chain([variant.input]).collect();
    dtypes.sort_by_key(|&d| d as u32);
    dtypes.dedup();
    for dtype in dtypes {
        add(dtype_functions(dtype), &flags);
    }
    for access in &variant.tensors {
        let Addressing { vec4, shared, strided } = variant.addressing;
        let template = match (access.dtype, vec4, variant.abreast > 1) {
            (DType::F32, true, true) => include_str!("../../shaders/element/f32_abreast.wgsl"),
            (DType::F32, true, false) => include_str!("../../shaders/element/f32_vec4.wgsl"),
            (DType::F32, false, _) => include_str!("../../shaders/element/f32_scalar.wgsl"),
            (DType::F16 | DType::BF16, true, true) => include_str!("../../shaders/element/packed_abreast.wgsl"),
            (DType::F16 | DType::BF16, true, false) => include_str!("../../shaders/element/packed_vec4.wgsl"),
            (DType::F16 | DType::BF16, false, _) => include_str!("../../shaders/element/packed_scalar.wgsl"),
        };
        let mode = if access.written || shared { "read_write" } else { "read" };
        let name = access.tensor.variable();
        // Where the segment's first element lies in the binding.
        let (strides, base) = if strided {
            ("strides_NAME", "(segment_offset(p.goal, p.segment, params.strides_NAME) + params.shift_NAME)")
        } else {
            ("strides", "(p.base + params.shift_NAME)")
        };
        let source = template
            .replace("STRIDES", strides)
            .replace("BASE", base)
            .replace("NAME", name)
            .replace("BINDING", &access.tensor.binding().to_string())
            .replace("ACCESS", mode)
            .replace("DTYPE", dtype_name(access.dtype));
        let written = access.written.then_some("WRITABLE");
        let neighbours = variant.neighbours.then_some("NEIGHBOURS");
        add(&source, &written.into_iter().chain(neighbours).collect::<Vec<_>>());
    }
    match variant.direction {
        Direction::Forward => {
            add(include_str!("../../shaders/common/running_stats.wgsl"), &flags);
            add(include_str!("../../shaders/forward.wgsl"), &flags);
        }
        Direction::Backward => add(include_str!("../../shaders/backward.wgsl"), &flags),
    }
    add(include_str!("../../shaders/common/tile.wgsl"), &flags);
    if variant.columns {
        add(include_str!("../../shaders/common/columns.wgsl"), &flags);
    }
    add(
        match variant.kernel {
            Kernel::Rows => include_str!("../../shaders/rows.wgsl"),
            Kernel::Reduce => include_str!("../../shaders/reduce.wgsl"),
            Kernel::Merge => include_str!("../../shaders/merge.wgsl"),
            Kernel::Apply => include_str!("../../shaders/apply.wgsl"),
            Kernel::Running => include_str!("../../shaders/running.wgsl"),
        },
        &flags,
    );
    let text = text
        .replace("INPUT_DTYPE", dtype_name(variant.input))
        .replace("UNITS", &variant.units.to_string())
        .replace("ABREAST", &variant.abreast.to_string());
    without_aliases(&text)
}

/// Writes types out. To naga an alias is another type than the one that it stands for, which makes invalid SPIR-V, and
/// HLSL that defines a constructor twice.
fn without_aliases(text: &str) -> String {
    let alias = |line| str::strip_prefix(line, "alias ")?.trim_end_matches(';').split_once(" = ");
    let aliases: Vec<(&str, &str)> = text.lines().filter_map(alias).collect();
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines().filter(|line| alias(line).is_none()) {
        write_out(line, &aliases, &mut out);
        out.push('\n');
    }
    out
}

/// Puts for each word that is an alias what it stands for, which may hold other aliases.
fn write_out(text: &str, aliases: &[(&str, &str)], out: &mut String) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (word, after) = rest.split_at(rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len()));
        match aliases.iter().find(|(name, _)| *name == word) {
            Some((_, meaning)) => write_out(meaning, aliases, out),
            None => out.push_str(word),
        }
        rest = after;
    }
}

/// How often the lines of a `//#for` are written.
#[derive(Clone, Copy)]
struct Counts {
    units: u32,
    abreast: u32,
}

/// Carries out the `//#` lines.
fn expand(source: &str, counts: Counts, flags: &[&str]) -> String {
    let mut lines = source.lines();
    let mut out = String::with_capacity(source.len());
    expand_block(&mut lines, counts, flags, true, &mut out);
    out
}

/// Up to the block's `//#end`; says whether an `//#else` came first.
fn expand_block<'a>(
    lines: &mut impl Iterator<Item = &'a str>,
    counts: Counts,
    flags: &[&str],
    keep: bool,
    out: &mut String,
) -> bool {
    while let Some(line) = lines.next() {
        let Some(directive) = line.trim_start().strip_prefix("//#") else {
            if keep {
                out.push_str(line);
                out.push('\n');
            }
            continue;
        };
        match directive.split_once(' ') {
            Some(("if", name)) => {
                let set = flags.contains(&name.trim());
                if expand_block(lines, counts, flags, keep && set, out) {
                    expand_block(lines, counts, flags, keep && !set, out);
                }
            }
            Some(("for", name)) => {
                let mut body = String::new();
                expand_block(lines, counts, flags, keep, &mut body);
                let (number, count) = if name == "t" { ("$t", counts.abreast) } else { ("$u", counts.units) };
                for i in 0..count {
                    out.push_str(&body.replace(number, &i.to_string()));
                }
            }
            _ => return directive.trim() == "else",
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        let source = "a\n//#if X\nb\n//#else\nc\n//#end\n//#for u\nd$u\n//#if Y\ne$uu\n//#end\n//#end\nf";
        let counts = |units, abreast| Counts { units, abreast };
        assert_eq!(expand(source, counts(2, 1), &["X"]), "a\nb\nd0\nd1\nf\n");
        assert_eq!(expand(source, counts(1, 3), &["Y"]), "a\nc\nd0\ne0u\nf\n");
        let nested = "//#for t\n//#for u\n$u$tu\n//#end\n//#end";
        assert_eq!(expand(nested, counts(2, 3), &[]), "00u\n10u\n01u\n11u\n02u\n12u\n");
    }

    #[test]
    fn aliases() {
        let source = "fn a(b: Units) -> Unit { Unit_(UnitS); }\nalias Units = array<Unit, 2>;\nalias Unit = vec4<f32>;";
        let expected = "fn a(b: array<vec4<f32>, 2>) -> vec4<f32> { Unit_(UnitS); }\n";
        assert_eq!(without_aliases(source), expected);
    }
}
