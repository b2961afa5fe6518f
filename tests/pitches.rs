//! Distances between rows and samples that are refused, and slices that may go on behind a tensor's last element.

use wgpu_norm::plan::Problem;
use wgpu_norm::{
    BackwardPitches, BatchNormDescriptor, Commit, Error, Format, ForwardPitches, Fusion, LayerNormDescriptor,
    NormDescriptor, Op, Pitch, RmsNormDescriptor, Statistics, TensorDescriptor, cpu,
};

fn with_pitch(
    norm: &NormDescriptor,
    tensor: &TensorDescriptor,
    row: Option<u64>,
    sample: Option<u64>,
) -> Result<(), Error> {
    let problem = Problem::new(norm, tensor, Statistics::Batch, Fusion::default(), Op::Forward).unwrap();
    let x = Pitch { row, sample };
    problem.with_forward_pitches(&ForwardPitches { x, ..Default::default() }).map(|_| ())
}

#[test]
fn rows_and_samples_must_not_overlap() {
    let (norm, shape) = (BatchNormDescriptor::new(3).into(), [2, 3, 5]);
    let tensor = TensorDescriptor::new(&shape);
    let last = TensorDescriptor { format: Format::ChannelsLast, ..tensor };
    let refused = |tensor, row, sample, words: [&str; 2]| {
        let error = with_pitch(&norm, tensor, row, sample).unwrap_err();
        assert!(matches!(error, Error::Pitch { name: "x", .. }), "{error:?}");
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    assert!(with_pitch(&norm, &tensor, None, Some(15)).is_ok());
    refused(&tensor, None, Some(14), ["14", "15"]);
    refused(&tensor, Some(14), None, ["14", "15"]);
    // Channels-last: five rows of three.
    assert!(with_pitch(&norm, &last, Some(3), Some(15)).is_ok());
    refused(&last, Some(2), None, ["2", "3"]);
    refused(&last, Some(7), Some(30), ["30", "31"]);
    assert!(with_pitch(&norm, &last, Some(7), Some(31)).is_ok());
    for far in [u64::MAX, u64::MAX / 4] {
        let error = with_pitch(&norm, &last, Some(far), None).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    }
}

/// Where a sample is one row there is one distance. Channels-last, rows are positions, of which a sample may have a single one.
#[test]
fn rows_that_are_samples_have_one_distance() {
    let refused = |norm: &NormDescriptor, tensor: &TensorDescriptor, row: u64| {
        let error = with_pitch(norm, tensor, Some(row), Some(2 * row)).unwrap_err();
        assert!(matches!(error, Error::Unexpected { .. }), "{tensor:?}: {error:?}");
        assert!(with_pitch(norm, tensor, Some(2 * row), Some(2 * row)).is_ok());
    };
    let last = |shape: &[usize]| {
        let (norm, tensor) = (BatchNormDescriptor::new(shape[1]).into(), TensorDescriptor::new(shape));
        let last = TensorDescriptor { format: Format::ChannelsLast, ..tensor };
        let (width, len) = (shape[1] as u64, tensor.len().unwrap() / shape[0] as u64);
        assert!(with_pitch(&norm, &last, Some(width), Some(2 * len)).is_ok(), "{shape:?}");
    };
    for shape in [vec![4, 8], vec![4, 8, 1, 1], vec![4, 8, 3]] {
        let tensor = TensorDescriptor::new(&shape);
        refused(&BatchNormDescriptor::new(8).into(), &tensor, tensor.len().unwrap() / shape[0] as u64);
        last(&shape);
    }
    last(&[4, 1]);
    for rows in [1, 2] {
        refused(&LayerNormDescriptor::new(&[8]).into(), &TensorDescriptor::new(&[rows, 8]), 8);
    }
}

/// Rows of layer norm are the last leading axis's, in samples of the axes before.
#[test]
fn rows_of_layer_norm_lie_in_samples() {
    let norm = LayerNormDescriptor::new(&[4]).into();
    for shape in [&[2, 3, 4][..], &[2, 1, 3, 4], &[1, 2, 3, 4]] {
        let with = |row, sample| with_pitch(&norm, &TensorDescriptor::new(shape), row, sample);
        for (row, sample) in [(Some(6), None), (None, Some(20)), (Some(4), Some(12)), (Some(6), Some(16))] {
            with(row, sample).unwrap();
        }
        for (row, sample, words) in [(None, Some(11), ["11", "12"]), (Some(6), Some(15), ["15", "16"])] {
            let error = with(row, sample).unwrap_err();
            assert!(matches!(error, Error::Pitch { what: "sample", .. }), "{error:?}");
            assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        }
    }
    for shape in [&[6, 4][..], &[6, 1, 4], &[4]] {
        assert!(with_pitch(&norm, &TensorDescriptor::new(shape), None, Some(6)).is_ok(), "{shape:?}");
    }
    let (of_one, single) = (LayerNormDescriptor::new(&[1]).into(), TensorDescriptor::new(&[2, 3, 1]));
    assert!(with_pitch(&of_one, &single, Some(6), None).is_ok());
    let error = with_pitch(&of_one, &single, None, Some(6)).unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }) && error.to_string().contains("Pitch::row"), "{error:?}");
}

/// Some heads of a fused query, key and value, in one call and in one a head; few tokens, and so many that results go around
/// the caches.
#[test]
fn heads_are_rows_of_their_token() {
    const HEADS: usize = 3;
    const ALL: usize = 5;
    const LEN: usize = 60;
    for tokens in [1, 7, 25_000] {
        let fused: Vec<f32> = (0..tokens * ALL * LEN).map(|i| ((i * 37 % 1009) as f32 - 500.0) / 64.0).collect();
        let dy: Vec<f32> = (0..tokens * ALL * LEN).map(|i| ((i * 53 % 997) as f32 - 400.0) / 64.0).collect();
        let run = |shape: &[usize], pitch: Pitch, at: usize, [y, dx]: [&mut [f32]; 2]| {
            let mut layer = cpu::Norm::new(RmsNormDescriptor::new(&[LEN])).unwrap();
            let tensor = TensorDescriptor::new(shape);
            let pitches = ForwardPitches { x: pitch, y: pitch, ..Default::default() };
            let io = cpu::Forward { pitches, ..cpu::Forward::new(&fused[at..], &mut y[at..]) };
            let saved = layer.forward_train(&tensor, Fusion::default(), io, Commit::Skip).unwrap();
            let pitches = BackwardPitches { x: pitch, dy: pitch, dx: pitch, ..Default::default() };
            let dx = Some(&mut dx[at..]);
            layer
                .backward(saved, cpu::Backward { dx, pitches, ..cpu::Backward::new(&fused[at..], &dy[at..]) })
                .unwrap();
        };
        let poisoned = || [(); 2].map(|()| vec![f32::NAN; fused.len()]);
        let (mut together, mut apart) = (poisoned(), poisoned());
        let pitch = Pitch { sample: Some((ALL * LEN) as u64), row: None };
        run(&[tokens, HEADS, LEN], pitch, LEN, together.each_mut().map(|v| &mut v[..]));
        for head in 0..HEADS {
            run(&[tokens, LEN], pitch, (1 + head) * LEN, apart.each_mut().map(|v| &mut v[..]));
        }
        let bits = |of: [Vec<f32>; 2]| of.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        assert!(apart[1].iter().filter(|v| !v.is_nan()).count() == tokens * HEADS * LEN, "{tokens} tokens");
        assert!(bits(together) == bits(apart), "{tokens} tokens");
    }
}

/// With a pitch, a slice of a larger tensor may be longer than the call needs; without one, it is a mistake.
#[test]
fn slices_reach_to_the_last_element_or_further() {
    for samples in [1, 2] {
        let shape = [samples, 3, 2];
        let layer = cpu::Norm::new(BatchNormDescriptor::new(3)).unwrap();
        let run = |len: usize, pitch: Option<u64>| {
            let (x, mut y) = (vec![0.5f32; len], vec![f32::NAN; samples * 6]);
            let pitches = ForwardPitches { x: Pitch { row: None, sample: pitch }, ..Default::default() };
            let io = cpu::Forward { pitches, ..cpu::Forward::new(&x, &mut y) };
            let result = layer.forward_eval(&TensorDescriptor::new(&shape), Fusion::default(), io);
            result.map(|()| assert!(y.iter().all(|y| (y - 0.5).abs() < 1e-4), "{y:?}"))
        };
        let last = (samples - 1) * 12 + 6;
        for len in [last, last + 1, 40] {
            run(len, Some(12)).unwrap();
        }
        for (len, pitch) in [(last - 1, Some(12)), (6 * samples + 1, None), (6 * samples - 1, None)] {
            let error = run(len, pitch).unwrap_err();
            assert!(matches!(error, Error::Length { name: "x", .. }), "{samples} samples, {len}: {error:?}");
        }
    }
}
