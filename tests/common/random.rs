//! Calls drawn at random: the same number draws the same call again.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use rand::seq::IndexedRandom;
use rand::{RngExt, rngs::Xoshiro256PlusPlus as Rng};
use std::ops::Range;
use wgpu_norm::{
    BatchNormDescriptor, DType, Format, Fusion, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor,
    Momentum, NonFinite, NormDescriptor, Profile, Residual, RmsNormDescriptor,
};

/// Which calls are asked for.
pub fn asked() -> Option<Range<u64>> {
    let asked = std::env::var("WGPU_NORM_CALLS").ok()?;
    let range = asked.split_once("..").and_then(|(a, b)| Some(a.trim().parse().ok()?..b.trim().parse().ok()?));
    Some(range.unwrap_or_else(|| panic!("WGPU_NORM_CALLS is {asked}, which is no range like 100..200")))
}

pub fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    *all.choose(rng).expect("a choice")
}

/// A size up to `most`: on either side of a power of two, as boundaries are.
pub fn size(rng: &mut Rng, most: usize) -> usize {
    let power = 1usize << rng.random_range(0..=most.ilog2());
    (power + rng.random_range(0..3)).saturating_sub(1).clamp(1, most)
}

/// A norm, and the shape of what it is given: `most` elements at the most.
pub fn norm(rng: &mut Rng, most: usize) -> (NormDescriptor, Vec<usize>) {
    let channels = size(rng, 600);
    let samples = size(rng, most / channels / 2);
    let mut shape = vec![samples, channels];
    for _ in 0..rng.random_range(0..3) {
        shape.push(size(rng, most / shape.iter().product::<usize>()));
    }
    let of_last = &shape[shape.len() - rng.random_range(1..shape.len())..];
    let groups = one_of(rng, &(1..=channels).filter(|groups| channels.is_multiple_of(*groups)).collect::<Vec<_>>());
    let (affine, track_running_stats) = (rng.random_bool(0.8), rng.random_bool(0.8));
    let norm = match rng.random_range(0..5) {
        0 => BatchNormDescriptor { affine, track_running_stats, ..BatchNormDescriptor::new(channels) }.into(),
        1 => GroupNormDescriptor { affine, ..GroupNormDescriptor::new(groups, channels) }.into(),
        2 => InstanceNormDescriptor { affine, track_running_stats, ..InstanceNormDescriptor::new(channels) }.into(),
        3 => LayerNormDescriptor { weight: affine, bias: affine, ..LayerNormDescriptor::new(of_last) }.into(),
        _ => RmsNormDescriptor { weight: affine, ..RmsNormDescriptor::new(of_last) }.into(),
    };
    (norm, shape)
}

/// Other numbers than the defaults.
pub fn vary(rng: &mut Rng, descriptor: &mut NormDescriptor) {
    let any_eps = one_of(rng, &[1e-5, 1e-3, 1e-12]);
    let any_momentum = one_of(rng, &[Momentum::Exponential(0.1), Momentum::Exponential(1.0), Momentum::Cumulative]);
    let any_policy = one_of(rng, &[NonFinite::Skip, NonFinite::Poison]);
    match descriptor {
        NormDescriptor::Batch(d) => (d.eps, d.momentum, d.non_finite) = (any_eps, any_momentum, any_policy),
        NormDescriptor::Instance(d) => (d.eps, d.momentum, d.non_finite) = (any_eps, any_momentum, any_policy),
        NormDescriptor::Group(d) => d.eps = any_eps,
        NormDescriptor::Layer(d) => d.eps = any_eps,
        NormDescriptor::Rms(d) => d.eps = any_eps,
        _ => {}
    }
}

pub fn dtype(rng: &mut Rng) -> DType {
    one_of(rng, &[DType::F32, DType::F16, DType::BF16])
}

pub fn format(rng: &mut Rng, norm: &NormDescriptor) -> Format {
    let has_channels = !matches!(norm, NormDescriptor::Layer(_) | NormDescriptor::Rms(_));
    if has_channels && rng.random() { Format::ChannelsLast } else { Format::ChannelsFirst }
}

pub fn fusion(rng: &mut Rng) -> Fusion {
    let residual = one_of(rng, &[Residual::None, Residual::None, Residual::After, Residual::Before]);
    Fusion { residual, relu: rng.random_bool(0.3) }
}

/// Few lanes, so that everything takes several of something.
pub const FEW_LANES: Profile = Profile {
    workgroup: 8,
    max_units: 2,
    max_units_in_parts: 6,
    max_units_beside_columns: 1,
    min_lanes: 4,
    min_element_lanes: 8,
    max_lanes: 8,
    target_lanes: 4,
    busy_workgroups: 3,
    ..Profile::GPU
};
