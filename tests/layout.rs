//! Layouts against coordinates: every walk visits every element once, with the right statistic and weight.

use wgpu_norm::layout::{IndexMap, Walk};
use wgpu_norm::{
    BatchNormDescriptor, Format, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor, NormDescriptor,
    RmsNormDescriptor, TensorDescriptor,
};

/// A statistic and a weight.
type Pair = (u64, u64);

/// (statistic, weight) of each element of an (N, C, positions) tensor, in memory order, for groups of channels
/// that share a statistic: `None`, the samples do as well.
fn channel_owners(shape: &[usize], format: Format, groups: Option<usize>) -> Vec<Pair> {
    let (samples, channels, positions) = (shape[0], shape[1], shape[2..].iter().product::<usize>());
    let mut owners = vec![None; samples * channels * positions];
    for n in 0..samples {
        for c in 0..channels {
            for position in 0..positions {
                let offset = match format {
                    Format::ChannelsFirst => (n * channels + c) * positions + position,
                    Format::ChannelsLast => (n * positions + position) * channels + c,
                };
                let statistic = groups.map_or(c, |groups| n * groups + c * groups / channels);
                owners[offset] = Some((statistic as u64, c as u64));
            }
        }
    }
    owners.into_iter().map(Option::unwrap).collect()
}

fn row_owners(rows: u64, columns: u64) -> Vec<Pair> {
    (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).collect()
}

/// For each element in memory order: the walk's target, and what the map says of it.
fn visit(walk: &Walk, map: &IndexMap, elements: usize, case: &str) -> Vec<Pair> {
    let mut visited = vec![None; elements];
    for target in 0..walk.targets() {
        for segment in 0..walk.segments {
            for position in 0..walk.len {
                let offset = walk.offset(target, segment, position) as usize;
                let other = map.index(target % walk.inner, segment, position);
                assert!(offset < elements, "{case}: {offset} is outside");
                let before = visited[offset].replace((target, other));
                assert_eq!(before, None, "{case}: {offset} is visited twice");
            }
        }
    }
    visited.into_iter().map(|pair| pair.unwrap_or_else(|| panic!("{case}: an element is not visited"))).collect()
}

fn check(descriptor: &NormDescriptor, tensor: &TensorDescriptor, owners: &[Pair]) {
    let case = format!("{} {tensor:?}", descriptor.name());
    let layout = descriptor.layout(tensor).unwrap();
    assert_eq!(layout.elements as usize, owners.len(), "{case}");
    assert_eq!(layout.stats.targets() * layout.stats.count(), layout.elements, "{case}");
    assert_eq!(layout.affine.targets() * layout.affine.count(), layout.elements, "{case}");
    assert_eq!(layout.affine.targets(), descriptor.affine_len(), "{case}");

    let by_statistic = visit(&layout.stats, &layout.affine_of_stats, owners.len(), &case);
    assert_eq!(by_statistic, owners, "{case}: walk over statistics");
    let by_weight = visit(&layout.affine, &layout.stat_of_affine, owners.len(), &case);
    let by_weight: Vec<Pair> = by_weight.into_iter().map(|(weight, statistic)| (statistic, weight)).collect();
    assert_eq!(by_weight, owners, "{case}: walk over weights");
    if layout.is_per_channel() {
        assert!(owners.iter().all(|(statistic, weight)| statistic == weight), "{case}");
    }
}

#[test]
fn channel_norms_walk_every_element_once() {
    let shapes: [&[usize]; 9] = [
        &[3, 6],
        &[1, 6],
        &[2, 6, 1],
        &[1, 6, 1],
        &[2, 6, 5],
        &[3, 1, 7],
        &[2, 12, 3, 5],
        &[2, 4, 1, 1],
        &[2, 6, 2, 3, 5],
    ];
    for shape in shapes {
        let channels = shape[1];
        for format in [Format::ChannelsFirst, Format::ChannelsLast] {
            let tensor = TensorDescriptor { format, ..TensorDescriptor::new(shape) };
            let batch = BatchNormDescriptor::new(channels).into();
            check(&batch, &tensor, &channel_owners(shape, format, None));
            assert!(batch.layout(&tensor).unwrap().is_per_channel());
            let instance = InstanceNormDescriptor::new(channels).into();
            check(&instance, &tensor, &channel_owners(shape, format, Some(channels)));
            for groups in (1..=channels).filter(|groups| channels.is_multiple_of(*groups)) {
                let group = GroupNormDescriptor::new(groups, channels).into();
                check(&group, &tensor, &channel_owners(shape, format, Some(groups)));
            }
        }
    }
}

#[test]
fn row_norms_walk_every_element_once() {
    let cases: [(&[usize], &[usize], u64, u64); 6] = [
        (&[7], &[7], 1, 7),
        (&[5, 7], &[7], 5, 7),
        (&[5, 1], &[1], 5, 1),
        (&[2, 3, 4], &[4], 6, 4),
        (&[2, 3, 4], &[3, 4], 2, 12),
        (&[2, 3, 4], &[2, 3, 4], 1, 24),
    ];
    for (shape, normalized_shape, rows, columns) in cases {
        let tensor = TensorDescriptor::new(shape);
        check(&LayerNormDescriptor::new(normalized_shape).into(), &tensor, &row_owners(rows, columns));
        check(&RmsNormDescriptor::new(normalized_shape).into(), &tensor, &row_owners(rows, columns));
    }
}
