//! Wherever tensors lie: at any offset, one over another, with gaps.

use super::adapters::{self, Gpu};
use super::backends;
use super::cases::{Case, Data, half, last};
use super::placed_on_gpu;
use super::placement::{Gaps, Over, Placed, Placement, Read};
use super::table::{four_channels, fused, plans, table};
use wgpu_norm::plan::{self, Kernel, Pass, Plan};
use wgpu_norm::{
    BatchNormDescriptor, DType, Fusion, GroupNormDescriptor, LayerNormDescriptor, Profile, Residual, RmsNormDescriptor,
    Statistics, gpu,
};

/// Cases for tensors that lie where they like.
fn placed() -> Vec<Case> {
    let rows = Case::new(LayerNormDescriptor::new(&[64]), &[5, 64]);
    let images = Case::new(BatchNormDescriptor::new(3), &[2, 3, 35]);
    let odd = last(Case::new(BatchNormDescriptor::new(5), &[3, 5, 4, 4]));
    let mixed = Case { input: DType::F16, output: DType::F32, ..rows.clone() };
    let mixed_odd = Case { input: DType::F32, output: DType::F16, ..images.clone() };
    let single = |c| Case::new(BatchNormDescriptor::new(c), &[5, c]);
    let frozen = |case| Case { statistics: Statistics::Running, ..fused(Residual::After, false, case) };
    let heads = Case::new(RmsNormDescriptor::new(&[16]), &[5, 3, 16]);
    let odd_heads = Case::new(LayerNormDescriptor::new(&[7]), &[5, 3, 7]);
    // Software drivers take these in parts.
    let parts = Case::new(LayerNormDescriptor::new(&[67]), &[5, 67]);
    let group = Case::new(GroupNormDescriptor::new(2, 6), &[3, 6, 35]);
    let fours = fused(Residual::Before, true, last(Case::new(BatchNormDescriptor::new(8), &[3, 8, 3, 5])));
    vec![
        rows.clone(),
        fused(Residual::Before, false, rows.clone()),
        images.clone(),
        fused(Residual::After, true, odd.clone()),
        half(DType::F16, rows),
        fused(Residual::Before, false, heads.clone()),
        half(DType::BF16, heads),
        odd_heads.clone(),
        half(DType::F16, fused(Residual::After, true, odd_heads)),
        half(DType::F16, fused(Residual::After, true, images.clone())),
        half(DType::BF16, odd.clone()),
        half(DType::F16, fours.clone()),
        fours,
        mixed,
        mixed_odd,
        single(8),
        half(DType::F16, single(5)),
        half(DType::F16, parts.clone()),
        half(DType::BF16, fused(Residual::Before, false, parts)),
        group.clone(),
        half(DType::F16, group),
        // And what a frozen layer writes over its residual.
        frozen(images),
        half(DType::F16, frozen(odd)),
        // By samples; see `images_go_by_samples`.
        half(DType::F16, frozen(four_channels(3, 35))),
        fused(Residual::Before, true, half(DType::BF16, frozen(four_channels(3, 35)))),
        Case { input: DType::F32, output: DType::F16, ..frozen(four_channels(2, 7)) },
        // By columns of samples, which may be apart.
        half(DType::F16, fused(Residual::After, true, four_channels(5, 35))),
        frozen(four_channels(5, 35)),
    ]
}

fn everywhere(check: impl Fn(&Gpu, &gpu::Context, &Case, &Data)) {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let own = *gpu::Context::new(&gpu.device).unwrap().profile();
        type Serves = fn(&Pass) -> bool;
        let profiles: [(Profile, Serves); 3] = [
            (Profile { abreast: 1, ..own }, |pass| pass.geometry.abreast == 1),
            (Profile { abreast: 4, ..own }, |pass| pass.geometry.abreast == 4),
            // On a software driver one lane has a row; on a GPU lanes that are neighbours share its words.
            (backends::of_a_gpu(own), |pass| pass.geometry.tree.lanes > 1),
        ];
        for (profile, serves) in profiles {
            let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
            let takes = |case: &Case| plans(case, &profile).unwrap().iter().flat_map(|p| &p.passes).any(serves);
            for case in placed().into_iter().filter(takes) {
                check(gpu, &context, &case, &Data::new(&case));
            }
        }
    }
}

fn placed_at(gpu: &Gpu, context: &gpu::Context, case: &Case, data: &Data, place: Placement) -> Placed {
    placed_on_gpu::run(gpu, context, case, data, place).unwrap_or_else(|error| panic!("{}: {error}", case.name()))
}

#[test]
fn any_offset() {
    everywhere(|gpu, context, case, data| {
        let aligned = placed_at(gpu, context, case, data, Placement::PLAIN);
        for shift in [1, 64] {
            for shared in [false, true] {
                let moved = placed_at(gpu, context, case, data, Placement { shift, shared, ..Placement::PLAIN });
                assert_eq!(moved, aligned, "{}: {} {shift} elements on, shared: {shared}", gpu.name, case.name());
            }
        }
    });
}

#[test]
fn in_place() {
    everywhere(|gpu, context, case, data| {
        if case.input != case.output {
            return;
        }
        let apart = placed_at(gpu, context, case, data, Placement::PLAIN);
        for over in [Over::X, Over::Residual] {
            if over == Over::Residual && !case.has_residual() {
                continue;
            }
            for shift in [0, 1] {
                let place = Placement { shift, shared: shift == 1, over: Some(over), ..Placement::PLAIN };
                let on_top = placed_at(gpu, context, case, data, place);
                assert_eq!(on_top.evaluated, apart.evaluated, "{}: {} {place:?}", gpu.name, case.name());
                assert_eq!(on_top.trained, apart.trained, "{}: {} {place:?}", gpu.name, case.name());
            }
        }
        if !case.has_sum() {
            return;
        }
        for (over, sum_over) in
            [(Some(Over::X), Over::Residual), (Some(Over::Residual), Over::X), (None, Over::Residual), (None, Over::X)]
        {
            let shift = usize::from(over.is_some());
            let place = Placement { shift, over, sum_over: Some(sum_over), ..Placement::PLAIN };
            let on_top = placed_at(gpu, context, case, data, place);
            assert_eq!(on_top, apart, "{}: {} {place:?}", gpu.name, case.name());
        }
    });
}

/// Gradients over what the pass reads, whatever its passes are.
#[test]
fn gradients_in_place() {
    /// What passes may be like: one that holds what it writes, or not, windows, and weights' sums by themselves.
    fn kinds(plan: &Plan) -> [bool; 4] {
        let any = |of: fn(&Pass) -> bool| plan.passes.iter().any(of);
        [
            any(|pass| pass.kernel == Kernel::Rows),
            any(|pass| pass.kernel == Kernel::Apply && !pass.writes.is_empty()),
            any(|pass| pass.dispatches.len() > 1 && !pass.writes.is_empty()),
            any(|pass| pass.over == plan::Over::Affine && !pass.reads.is_empty()),
        ]
    }
    // Channels of a group that are too small for sums of their own.
    let small = Case::new(GroupNormDescriptor::new(2, 6), &[40, 6, 3]);
    let cases: Vec<Case> = [table(), placed(), vec![small]].concat();
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        let own = *gpu::Context::new(&gpu.device).unwrap().profile();
        let mut reached = [false; 4];
        // Each case with one of these, as new bindings are new pipelines.
        let kinds_of_profiles = [(own, 1), (backends::of_a_gpu(own), 1), (own, 3)].into_iter().cycle();
        for (i, (case, (sizes, parts))) in cases.iter().zip(kinds_of_profiles).enumerate() {
            let bytes = case.tensor().size().unwrap() / parts + own.offset_alignment;
            let max_binding_size = if parts == 1 { own.max_binding_size } else { bytes / 4 * 4 };
            let profile = Profile { max_binding_size, ..sizes };
            let Some([_, backward]) = plans(case, &profile) else { continue };
            let context = gpu::Context::with_profile(&gpu.device, profile, None).unwrap();
            let data = Data::new(case);
            let placed = |place| placed_on_gpu::run(gpu, &context, case, &data, place);
            // The vectors of the state need their bytes in one binding, too.
            let Ok(apart) = placed(Placement::PLAIN) else { continue };
            let of = |read: &Read| match read {
                Read::X => true,
                Read::Dy => case.input == case.output,
                Read::Residual => case.fusion == Fusion { residual: Residual::After, relu: true },
                Read::Dsum => case.has_sum(),
            };
            let has_second = case.fusion.residual == Residual::After;
            let usual = if i % 2 == 0 { Read::X } else { Read::Dy };
            for dx in [usual, Read::Residual, Read::Dsum].into_iter().filter(of) {
                let second = if dx == Read::Dy { Read::X } else { Read::Dy };
                let second = Some(second).filter(|second| has_second && of(second));
                let gradients_over = [Some(dx), second];
                let place = Placement { gradients_over, shared: parts > 1, ..Placement::PLAIN };
                let on_top = placed(place).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
                // y, and the sum, which may be gone.
                let before = if case.has_sum() { 2 } else { 1 };
                let is_same = on_top.trained[before..] == apart.trained[before..];
                assert!(is_same, "{}: {} {place:?} {profile:?}", gpu.name, case.name());
            }
            reached.iter_mut().zip(kinds(&backward)).for_each(|(reached, now)| *reached |= now);
        }
        assert_eq!(reached, [true; 4], "{}", gpu.name);
    }
}

/// Slices of larger tensors, and of one: what lies in the gaps is not touched.
#[test]
fn any_pitch() {
    everywhere(|gpu, context, case, data| {
        let dense = placed_at(gpu, context, case, data, Placement::PLAIN);
        // Of samples that are one row the last two are the same.
        let has_rows = case.descriptor.layout(&case.tensor()).unwrap().memory.rows > 1;
        let growing = [(Gaps::Growing(3), 1), (Gaps::Growing(4), 0), (Gaps::Concatenated, 0)];
        for (gaps, shift) in growing.into_iter().chain(has_rows.then_some((Gaps::Fused, 0))) {
            let place = Placement { gaps, shift, ..Placement::PLAIN };
            let strided = placed_at(gpu, context, case, data, place);
            assert_eq!(strided, dense, "{}: {} {place:?}", gpu.name, case.name());
        }
        let place = Placement { gaps: Gaps::Growing(4), over: Some(Over::X), ..Placement::PLAIN };
        if case.input == case.output {
            let on_top = placed_at(gpu, context, case, data, place);
            assert_eq!(on_top.evaluated, dense.evaluated, "{}: {} {place:?}", gpu.name, case.name());
        }
    });
}
