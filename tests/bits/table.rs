//! Cases that every kind of loop and kernel takes part in.

use super::cases::{Case, half, last};
use wgpu_norm::plan::{self, Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, DType, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor,
    Op, Profile, Residual, RmsNormDescriptor, Statistics,
};

pub fn fused(residual: Residual, relu: bool, case: Case) -> Case {
    Case { fusion: Fusion { residual, relu }, ..case }
}

/// Images of four channels that share words with each other and not with the next image.
pub fn four_channels(samples: usize, positions: usize) -> Case {
    let statistics = Statistics::Running;
    Case { statistics, ..Case::new(BatchNormDescriptor::new(4), &[samples, 4, positions]) }
}

#[test]
fn images_go_by_samples() {
    for case in [four_channels(3, 35), four_channels(2, 7), four_channels(3, 2621)] {
        let problem =
            Problem::new(&case.descriptor, &case.tensor(), case.statistics, case.fusion, Op::Forward).unwrap();
        let plan = Plan::new(Problem { output: DType::F16, ..problem }, &Profile::SOFTWARE_GPU).unwrap();
        assert_eq!(plan.passes[0].over, plan::Over::Samples, "{}", case.name());
    }
}

/// What every kind of loop and kernel takes part in; large enough to be split, small enough for software drivers.
pub fn table() -> Vec<Case> {
    // More than a workgroup takes of a software driver's long leaves.
    let images = || Case::new(BatchNormDescriptor::new(3), &[40, 3, 11, 13]);
    let tracking = InstanceNormDescriptor { affine: true, track_running_stats: true, ..InstanceNormDescriptor::new(3) };
    vec![
        images(),
        Case::new(BatchNormDescriptor::new(2), &[20, 2, 4100]),
        Case::new(BatchNormDescriptor::new(24), &[700, 24]),
        last(Case::new(BatchNormDescriptor::new(33), &[7, 33, 9, 5])),
        Case::new(GroupNormDescriptor::new(2, 6), &[88, 6, 7, 9]),
        Case::new(GroupNormDescriptor::new(2, 6), &[28, 6, 1701]),
        last(Case::new(BatchNormDescriptor::new(36), &[5, 36, 7, 9])),
        half(DType::F16, last(Case::new(BatchNormDescriptor::new(40), &[6, 40, 53]))),
        // Rows that are taken four at once.
        half(DType::F16, last(Case::new(BatchNormDescriptor::new(33), &[7, 33, 12, 5]))),
        last(Case::new(GroupNormDescriptor::new(2, 8), &[6, 8, 5, 5])),
        last(Case::new(GroupNormDescriptor::new(4, 12), &[6, 12, 7, 11])),
        Case::new(tracking, &[22, 3, 131]),
        Case::new(LayerNormDescriptor::new(&[701]), &[400, 701]),
        fused(Residual::None, true, Case::new(RmsNormDescriptor::new(&[704]), &[400, 704])),
        // Rows that are not on chip with the sums of their columns.
        Case::new(LayerNormDescriptor::new(&[2200]), &[130, 2200]),
        half(DType::F16, images()),
        half(DType::F16, four_channels(60, 263)),
        fused(Residual::After, true, images()),
        fused(Residual::Before, false, half(DType::BF16, Case::new(LayerNormDescriptor::new(&[701]), &[400, 701]))),
    ]
}

/// The plans of both directions; `None` where the profile has no way to compute the case.
pub fn plans(case: &Case, profile: &Profile) -> Option<[Plan; 2]> {
    let after = case.fusion.residual == Residual::After;
    let gradients = Gradients { dx: true, dresidual: after, affine: true };
    let plan = |op| {
        let mut problem = Problem::new(&case.descriptor, &case.tensor(), case.statistics, case.fusion, op).unwrap();
        problem.output = case.output;
        Plan::new(problem, profile).ok()
    };
    Some([plan(Op::Forward)?, plan(Op::Backward(gradients))?])
}
