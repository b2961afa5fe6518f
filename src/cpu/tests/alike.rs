//! Calls that come to the same by other ways, one by hand, and one that is too large.

use super::{elements, noise};
use crate::cpu::{Backward, Forward, Norm, Source};
use crate::*;
use ::half::{bf16, f16};

/// A gradient that is wanted besides dx changes the way that dx is made, but not dx.
#[test]
fn dx_alone_has_the_bits_of_dx_among_others() {
    fn check<T: Element + PartialEq>(shape: [usize; 3], format: Format) {
        let len = shape.iter().product();
        let tensor = TensorDescriptor { dtype: T::DTYPE, format, ..TensorDescriptor::new(&shape) };
        let fusion = Fusion { residual: Residual::After, relu: true };
        let [x, residual, dy] = [1, 2, 3].map(|seed| elements::<T>(noise(seed, len)));
        let mut norm = Norm::new(BatchNormDescriptor::new(shape[1])).unwrap();
        let mut dx = |dresidual: Option<&mut [T]>| {
            let [mut y, mut dx] = [(); 2].map(|()| vec![T::from_f32(f32::NAN); len]);
            let io = Forward { residual: Some(Source::From(&residual)), ..Forward::new(&x, &mut y) };
            let saved = norm.forward_train::<T, T>(&tensor, fusion, io, Commit::Skip).unwrap();
            let io = Backward::new(&x, &dy);
            let io = Backward { residual: Some(&residual), dx: Some(&mut dx), dresidual, ..io };
            norm.backward::<T, T>(saved, io).unwrap();
            dx
        };
        let among_others = dx(Some(&mut vec![T::from_f32(f32::NAN); len]));
        assert!(dx(None) == among_others, "{:?} {shape:?} {format:?}", T::DTYPE);
    }
    for shape in [[3, 32, 49], [300, 4, 7], [2, 3, 4097]] {
        for format in [Format::ChannelsFirst, Format::ChannelsLast] {
            check::<f32>(shape, format);
            check::<f16>(shape, format);
            check::<bf16>(shape, format);
        }
    }
}

#[test]
fn in_place_gives_the_bits_of_tensors_apart() {
    fn check<T: Element + PartialEq>(shape: [usize; 3], format: Format, track_running_stats: bool) {
        let len = shape.iter().product();
        let tensor = TensorDescriptor { dtype: T::DTYPE, format, ..TensorDescriptor::new(&shape) };
        let [x, residual] = [1, 2].map(|seed| elements::<T>(noise(seed, len)));
        let mut norm =
            Norm::new(BatchNormDescriptor { track_running_stats, ..BatchNormDescriptor::new(shape[1]) }).unwrap();
        if let Some(running) = &mut norm.state_mut().running {
            running.running_mean = elements(noise(3, shape[1]));
        }
        let [none, after] = [Residual::None, Residual::After].map(|residual| Fusion { residual, relu: true });
        let eval = |fusion, io: Forward<'_, T, T>| norm.forward_eval::<T, T>(&tensor, fusion, io).unwrap();
        let case = format!("{:?} {shape:?} {format:?} {track_running_stats}", T::DTYPE);

        let (mut apart, mut place) = (vec![T::from_f32(f32::NAN); len], x.clone());
        eval(none, Forward::new(&x, &mut apart));
        eval(none, Forward { x: Source::InPlace, ..Forward::new(&[], &mut place) });
        assert!(apart == place, "x, {case}");
        let (mut apart, mut place) = (vec![T::from_f32(f32::NAN); len], residual.clone());
        eval(after, Forward { residual: Some(Source::From(&residual)), ..Forward::new(&x, &mut apart) });
        eval(after, Forward { residual: Some(Source::InPlace), ..Forward::new(&x, &mut place) });
        assert!(apart == place, "residual, {case}");
    }
    for shape in [[3, 32, 49], [300, 4, 7], [2, 3, 5000]] {
        for format in [Format::ChannelsFirst, Format::ChannelsLast] {
            for tracks in [false, true] {
                check::<f32>(shape, format, tracks);
                check::<f16>(shape, format, tracks);
                check::<bf16>(shape, format, tracks);
            }
        }
    }
}

/// The residual stream of a transformer: the sum over what it is the sum of.
#[test]
fn sums_in_place_have_the_bits_of_sums_apart() {
    fn check<T: Element + PartialEq>(descriptor: impl Into<NormDescriptor>, shape: &[usize], format: Format) {
        let len = shape.iter().product();
        let tensor = TensorDescriptor { dtype: T::DTYPE, format, ..TensorDescriptor::new(shape) };
        let [x, residual] = [1, 2].map(|seed| elements::<T>(noise(seed, len)));
        let mut norm = Norm::new(descriptor).unwrap();
        let case = format!("{:?} of {:?} {shape:?} {format:?}", norm.descriptor(), T::DTYPE);
        let mut train = |x, residual, mut y: Vec<T>, mut sum: Vec<T>| {
            let io = Forward { x, residual: Some(residual), sum: Some(&mut sum), ..Forward::new(&[], &mut y) };
            let fusion = Fusion { residual: Residual::Before, relu: true };
            drop(norm.forward_train::<T, T>(&tensor, fusion, io, Commit::Skip).unwrap());
            [y, sum]
        };
        let poison = || vec![T::from_f32(f32::NAN); len];
        let apart = train(Source::From(&x), Source::From(&residual), poison(), poison());
        assert!(train(Source::From(&x), Source::InSum, poison(), residual.clone()) == apart, "residual, {case}");
        assert!(train(Source::InSum, Source::From(&residual), poison(), x.clone()) == apart, "x, {case}");
        assert!(train(Source::InPlace, Source::InSum, x.clone(), residual.clone()) == apart, "both, {case}");
        let [y, sum] = apart;
        let expected: Vec<T> = x.iter().zip(&residual).map(|(x, r)| T::from_f32(x.to_f32() + r.to_f32())).collect();
        assert!(sum == expected, "sum, {case}");
        let (mut of_sum, relu) = (poison(), Fusion { relu: true, ..Fusion::default() });
        drop(norm.forward_train::<T, T>(&tensor, relu, Forward::new(&sum, &mut of_sum), Commit::Skip).unwrap());
        assert!(y == of_sum, "y, {case}");
    }
    use Format::{ChannelsFirst as First, ChannelsLast as Last};
    // Blocks of channels, whose rows are long, short and very short; tensors that are read twice; rows; groups.
    for (shape, format) in [
        ([42, 64, 784], First),
        ([66, 640, 49], First),
        ([300, 4, 7], First),
        ([9, 600, 2], Last),
        ([40, 64, 784], Last),
    ] {
        check::<f32>(BatchNormDescriptor::new(shape[1]), &shape, format);
        check::<bf16>(BatchNormDescriptor::new(shape[1]), &shape, format);
    }
    for rows in [[4120, 520], [4120, 521], [2000, 2112], [3, 5000], [1001, 16]] {
        check::<f32>(LayerNormDescriptor::new(&rows[1..]), &rows, First);
        check::<f16>(RmsNormDescriptor::new(&rows[1..]), &rows, First);
        check::<bf16>(LayerNormDescriptor::new(&rows[1..]), &rows, First);
    }
    check::<f32>(GroupNormDescriptor::new(2, 6), &[352, 6, 1028], First);
    check::<f16>(GroupNormDescriptor::new(2, 4), &[1152, 4, 1032], First);
}

/// RMS norm of rows of one element: dx is nearly nothing, and what rounding leaves grows with 1/rms.
#[test]
fn rows_of_one_element() {
    for rows in [1, 16, 17, 300] {
        let (x, dy) = (elements::<f32>(noise(1, rows)), elements::<f32>(noise(2, rows)));
        let shape = [rows, 1];
        let mut norm = Norm::new(RmsNormDescriptor { eps: 1e-5, ..RmsNormDescriptor::new(&[1]) }).unwrap();
        let (mut y, mut dx, mut dweight) = (vec![f32::NAN; rows], vec![f32::NAN; rows], [f32::NAN]);
        let (tensor, io) = (TensorDescriptor::new(&shape), Forward::new(&x, &mut y));
        let saved = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), io, Commit::Skip).unwrap();
        let wanted = Backward { dx: Some(&mut dx), dweight: Some(&mut dweight), ..Backward::new(&x, &dy) };
        norm.backward::<f32, f32>(saved, wanted).unwrap();
        let mut sum = 0.0;
        for k in 0..rows {
            let (x, dy) = (f64::from(x[k]), f64::from(dy[k]));
            let rstd = (x * x + 1e-5).sqrt().recip();
            sum += dy * x * rstd;
            let error = (f64::from(dx[k]) - dy * 1e-5 * rstd.powi(3)).abs();
            assert!(error <= 4e-7 * rstd, "row {k} of {rows}: {error}");
        }
        assert!((f64::from(dweight[0]) - sum).abs() <= 1e-6 * rows as f64, "{rows}: {} {sum}", dweight[0]);
    }
}

/// Statistics are counted by 32 bits.
#[test]
fn more_statistics_than_are_counted() {
    let norm = Norm::new(LayerNormDescriptor::new(&[1])).unwrap();
    let shape = [5_000_000_000, 1];
    let result =
        norm.forward_eval::<f32, f32>(&TensorDescriptor::new(&shape), Fusion::default(), Forward::new(&[], &mut []));
    assert!(matches!(result, Err(Error::TooLarge { required: 5_000_000_000, .. })), "{result:?}");
}
