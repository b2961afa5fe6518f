//! y where x or the residual was, on the CPU: what is refused, and that nothing has been written then. (A GPU's calls: see
//! errors/buffers.rs and bits/places.rs.)

use wgpu_norm::{BatchNormDescriptor, Commit, Error, Fusion, Residual, TensorDescriptor, cpu, half::f16};

const AFTER: Fusion = Fusion { residual: Residual::After, relu: false };
const AFTER_RELU: Fusion = Fusion { relu: true, ..AFTER };

/// x, the residual, and whether the pass trains.
fn run(fusion: Fusion, x: Option<&[f32]>, residual: Option<cpu::Source<'_, f32>>, trains: bool) -> Result<(), Error> {
    let mut layer = cpu::Norm::new(BatchNormDescriptor::new(2)).unwrap();
    let before = layer.state().clone();
    let (tensor, mut y) = (TensorDescriptor::new(&[2, 2]), [1.0, 2.0, 3.0, 5.0]);
    let io = cpu::Forward {
        x: x.map_or(cpu::Source::InPlace, cpu::Source::From),
        residual,
        ..cpu::Forward::new(&[], &mut y)
    };
    let result = if trains {
        layer.forward_train::<f32, f32>(&tensor, fusion, io, Commit::Update).map(drop)
    } else {
        layer.forward_eval::<f32, f32>(&tensor, fusion, io)
    };
    assert_eq!(result.is_err(), y == [1.0, 2.0, 3.0, 5.0], "{result:?}: {y:?}");
    assert!(result.is_ok() || *layer.state() == before);
    result
}

#[test]
fn training_keeps_what_backward_reads() {
    use cpu::Source::{From, InPlace};
    let other = [4.0, 0.5, -1.0, 2.0];
    let overlap = |result: Result<(), Error>, first: &str, words: &str| {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Overlap { second: "y", .. }), "{error:?}");
        assert!(error.to_string().contains(first) && error.to_string().contains(words), "{error}");
    };
    run(Fusion::default(), None, None, false).unwrap();
    overlap(run(Fusion::default(), None, None, true), "x", "backward pass needs x");
    run(AFTER, Some(&other), Some(InPlace), true).unwrap();
    run(AFTER_RELU, Some(&other), Some(InPlace), false).unwrap();
    overlap(run(AFTER_RELU, Some(&other), Some(InPlace), true), "residual", "mask the ReLU");
    overlap(run(AFTER, None, Some(InPlace), false), "x and residual", "only one of them");
    run(AFTER, None, Some(From(&other)), false).unwrap();
}

/// Backward reads the sum of x and the residual, so both may be where anything goes.
#[test]
fn the_sum_may_be_where_an_input_was() {
    use cpu::Source::{From, InPlace, InSum};
    const BEFORE: Fusion = Fusion { residual: Residual::Before, relu: false };
    let (x, residual) = ([4.0, 0.5, -1.0, 2.0], [1.0, 2.0, 3.0, 5.0]);
    // What y and the sum hold, and hold then.
    let run = |x, residual, mut y: [f32; 4], sum: Option<[f32; 4]>| {
        let mut layer = cpu::Norm::new(BatchNormDescriptor::new(2)).unwrap();
        let before = layer.state().clone();
        let mut written = sum;
        let io = cpu::Forward {
            x,
            residual: Some(residual),
            sum: written.as_mut().map(|sum| &mut sum[..]),
            ..cpu::Forward::new(&[], &mut y)
        };
        let trained = layer.forward_train::<f32, f32>(&TensorDescriptor::new(&[2, 2]), BEFORE, io, Commit::Update);
        assert!(trained.is_ok() || (*layer.state() == before && written == sum));
        trained.map(|_| (y, written.unwrap()))
    };
    let poison = [f32::NAN; 4];
    let apart = run(From(&x), From(&residual), poison, Some(poison)).unwrap();
    assert_eq!(apart.1, [5.0, 2.5, 2.0, 7.0]);
    assert_eq!(run(From(&x), InSum, poison, Some(residual)), Ok(apart));
    assert_eq!(run(InSum, From(&residual), poison, Some(x)), Ok(apart));
    assert_eq!(run(InPlace, InSum, x, Some(residual)), Ok(apart));
    assert_eq!(run(InSum, InPlace, residual, Some(x)), Ok(apart));
    assert_eq!(run(InPlace, From(&residual), x, Some(poison)), Ok(apart));

    let both = run(InSum, InSum, poison, Some([1.0; 4])).unwrap_err();
    assert!(matches!(both, Error::Overlap { first: "x and residual", second: "sum", .. }), "{both:?}");
    let none = run(From(&x), InSum, [0.0; 4], None).unwrap_err();
    assert!(matches!(none, Error::Missing { name: "sum", .. }), "{none:?}");
    let mut layer = cpu::Norm::new(BatchNormDescriptor::new(2)).unwrap();
    let mut y = [0.0; 4];
    let io = cpu::Forward { residual: Some(InSum), ..cpu::Forward::new(&x, &mut y) };
    let error = layer.forward_train::<f32, f32>(&TensorDescriptor::new(&[2, 2]), AFTER, io, Commit::Update);
    assert!(matches!(error, Err(Error::Missing { name: "sum", .. })), "{error:?}");
}

#[test]
fn elements_that_lie_in_place_keep_their_type() {
    let layer = cpu::Norm::new(BatchNormDescriptor::new(2)).unwrap();
    let (tensor, mut y) = (TensorDescriptor::new(&[1, 2]), [f16::ONE; 2]);
    let io = cpu::Forward { x: cpu::Source::InPlace, ..cpu::Forward::<f32, f16>::new(&[], &mut y) };
    let error = layer.forward_eval::<f32, f16>(&tensor, Fusion::default(), io).unwrap_err();
    assert!(matches!(error, Error::DType { name: "y", .. }), "{error:?}");
    assert_eq!(y, [f16::ONE; 2]);
}
