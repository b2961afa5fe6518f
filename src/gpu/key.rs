//! What a pipeline is made from: a shader's variant, and the values of its `override` declarations.

use super::params::index_map;
use super::shader::{Access, Addressing, Variant};
use crate::layout::IndexMap;
use crate::op::{Direction, Op, Residual, Statistics};
use crate::plan::{Kernel, Over, Pass, Plan, Tensor, UNIT};
use crate::tensor::DType;

/// What a forward pass does to the running statistics: `UPDATE` of the shaders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Update {
    /// Nothing.
    #[default]
    Never,
    /// Takes the batch in if it is finite, and counts it otherwise.
    IfFinite,
    /// Takes it in.
    Always,
}

/// The shaders' `override` declarations, and their values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Constants([(&'static str, u32); 31]);

impl Constants {
    fn new(plan: &Plan, pass: &Pass, update: Update) -> Constants {
        let (problem, geometry) = (&plan.problem, pass.geometry);
        let map = index_map(plan, pass.over);
        let over_affine = pass.over == Over::Affine;
        // Gradients of weight and bias are sums over their own elements, or of columns.
        let results_are_gradients = problem.layout.is_per_channel() || over_affine || pass.sums_columns();
        let wants_gradients = match problem.op {
            Op::Backward(wanted) => wanted.affine,
            op => matches!(op, Op::LocalSums(_)),
        };
        let merges = pass.kernel != Kernel::Apply || pass.partials_in > 1;
        let finishes = pass.direction == Direction::Forward || (results_are_gradients && wants_gradients);
        let spacing = plan.spacing(pass);
        let walk = plan.walk(pass.over);
        let slots = match (pass.reduces && merges, pass.sums_columns()) {
            // Two sums of each of a unit's four columns.
            (_, true) => geometry.workgroup * 2,
            (true, false) => geometry.workgroup * geometry.abreast,
            // Memory of a workgroup that nothing is kept in would only keep others from running.
            (false, false) => 1,
        };
        let map_kind = match (map.position, map.position_div) {
            (0, _) => 0,
            (_, 1) => 1,
            (_, div) if div.is_multiple_of(UNIT) => 3,
            _ => 2,
        };
        let weights_vary = match pass.over {
            Over::Stats | Over::Channels => map != IndexMap::OF_TARGET,
            // Those of a channel are weighed as they are merged to those of its group.
            Over::Instances => pass.kernel == Kernel::Apply,
            Over::Affine | Over::Samples | Over::WideRows => false,
        };
        let across = geometry.tree.side_by_side;
        Constants([
            ("WORKGROUP", geometry.workgroup),
            ("SLOTS", slots),
            ("LEAVES", geometry.leaves),
            ("LEAF_STRIDE", if across { geometry.targets / geometry.abreast } else { 1 }),
            ("LANES", geometry.tree.lanes),
            ("WHOLE", geometry.tree.whole_units(walk.len, spacing)),
            ("SPACING", spacing),
            ("ACROSS", across.into()),
            ("FOLDED", pass.dispatches.iter().any(|d| d.folded).into()),
            ("REVERSED", pass.reversed.into()),
            ("ROUNDS", geometry.rounds),
            ("CENTRED", problem.centred.into()),
            ("HAS_WEIGHT", problem.affine.weight.into()),
            ("HAS_BIAS", problem.affine.bias.into()),
            ("RELU", problem.fusion.relu.into()),
            ("RUNNING", (problem.statistics == Statistics::Running).into()),
            ("OVER_AFFINE", over_affine.into()),
            ("MAP", map_kind),
            ("REDUCES", pass.reduces.into()),
            ("MERGES", merges.into()),
            ("FINISHES", (pass.finishes && finishes).into()),
            ("PARTIALS", (pass.partials_out > 0).into()),
            ("WEIGHS", pass.weighs.into()),
            ("UPDATE", update as u32),
            ("PROJECT", (problem.statistics == Statistics::Batch).into()),
            ("WEIGHTS_VARY", weights_vary.into()),
            ("GROUPED", (walk.outer > 1 && walk.inner > 1).into()),
            ("MAP_SHARED", (map.target_div > 1).into()),
            ("MAP_BY_SEGMENT", (map.segment > 0).into()),
            ("STATS_SHARED", (pass.over == Over::Instances).into()),
            ("IN_A_ROW", lies_in_a_row(plan, pass).into()),
        ])
    }

    pub(super) fn pairs(&self) -> [(&'static str, f64); 31] {
        self.0.map(|(name, value)| (name, value.into()))
    }
}

/// Whether a segment's elements are neighbours in every tensor of a pass.
fn lies_in_a_row(plan: &Plan, pass: &Pass) -> bool {
    Tensor::ALL.into_iter().all(|t| !pass.touches(t) || plan.walk_of(pass.over, t).stride == 1)
}

/// A shader's variant and constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub variant: Variant,
    pub constants: Constants,
}

impl Key {
    /// `update`: what a forward pass does to the running statistics.
    pub fn new(plan: &Plan, pass: &Pass, addressing: Addressing, update: Update) -> Key {
        let access =
            |tensor| Access { tensor, dtype: plan.problem.dtype(tensor), written: pass.writes.contains(&tensor) };
        let elements = !pass.reads.is_empty();
        let vec4 = addressing.vec4 || !elements;
        let map = index_map(plan, pass.over);
        let tensors: Vec<Access> = Tensor::ALL.into_iter().filter(|&t| pass.touches(t)).map(access).collect();
        let running = plan.problem.statistics == Statistics::Running;
        // Several of its targets are one channel.
        debug_assert!(pass.over != Over::WideRows || !(pass.finishes || pass.partials_out > 0));
        debug_assert!(
            match pass.over {
                _ if pass.geometry.abreast == 1 => true,
                Over::Affine => !running,
                over => over == Over::WideRows || map == IndexMap::OF_TARGET,
            },
            "weights of targets abreast are neighbours: {map:?}"
        );
        Key {
            variant: Variant {
                kernel: pass.kernel,
                direction: pass.direction,
                residual: if elements { plan.problem.fusion.residual } else { Residual::None },
                units: pass.geometry.tree.units,
                parts: pass.geometry.tree.parts > 1,
                abreast: pass.geometry.abreast,
                singles: pass.geometry.tree.singles && matches!(pass.kernel, Kernel::Rows | Kernel::Reduce),
                columns: pass.sums_columns(),
                channels: pass.weighs && pass.kernel == Kernel::Rows,
                samples: pass.over == Over::Samples,
                wide_rows: pass.over == Over::WideRows,
                addressing: Addressing { vec4, ..addressing },
                unit_weights: elements
                    && vec4
                    && pass.geometry.abreast == 1
                    && pass.over == Over::Stats
                    && (map.position, map.position_div) == (1, 1)
                    && [map.target, map.segment].iter().all(|step| step.is_multiple_of(UNIT)),
                neighbours: !vec4
                    && pass.geometry.abreast == 1
                    && plan.spacing(pass) == 1
                    && lies_in_a_row(plan, pass)
                    && tensors.iter().any(|t| t.dtype != DType::F32),
                tensors,
                input: plan.problem.input,
            },
            constants: Constants::new(plan, pass, update),
        }
    }

    pub(super) fn label(&self) -> String {
        let direction = match self.variant.direction {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        };
        format!("wgpu-norm {direction} {:?}", self.variant.kernel).to_lowercase()
    }
}
