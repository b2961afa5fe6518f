//! Descriptors of layers and of tensors.

use super::bench::*;
use wgpu_norm::{
    BatchNormDescriptor, Error, Format, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor, Momentum,
    NormDescriptor, RmsNormDescriptor, TensorDescriptor, gpu, host,
};

#[test]
fn shapes() {
    each_gpu(|gpu| {
        let bench = Bench::new(gpu, BatchNormDescriptor::new(4));
        let train = |shape: &[usize]| bench.train(&TensorDescriptor::new(shape), PLAIN, &bench.io());
        let eval = |shape: &[usize]| bench.eval(&TensorDescriptor::new(shape), PLAIN, &bench.io());
        fails!(train(&[4]), Error::Rank { .. }, ["BatchNorm", "[4]", "has 1"]);
        fails!(eval(&[]), Error::Rank { .. }, ["has 0"]);
        fails!(train(&[1, 4, 1, 1, 1, 2]), Error::Rank { .. }, ["has 6"]);
        fails!(train(&[2, 5, 8]), Error::Axis { expected: 4, actual: 5, .. }, ["[2, 5, 8]", "is 5", "for 4"]);
        fails!(train(&[0, 4, 8]), Error::Empty { .. }, ["N is 0"]);
        fails!(eval(&[2, 4, 0]), Error::Empty { .. }, ["spatial axis 2 is 0"]);
        fails!(train(&[1, 4]), Error::TooFewValues { count: 1, .. }, ["more than 1 value", "[1, 4]", "evaluation"]);
        fails!(train(&[1, 4, 1, 1]), Error::TooFewValues { .. }, ["larger batch", "GroupNorm"]);
        assert!(bench.eval(&TensorDescriptor::new(&[1, 4]), PLAIN, &bench.io()).is_ok());
        // 257 elements in 256 words; the largest of shapes.
        fails!(eval(&[65, 4]), Error::BufferTooSmall { .. }, ["x needs 1040", "has 1024"]);
        for n in [1 << 30, 1 << 32, 1 << 40, 1 << 60, usize::MAX / 4, usize::MAX] {
            for shape in [&[n, 4][..], &[1, 4, n], &[n, 4, n], &[n, 4, 1, n, n], &[2, n, 2]] {
                let variant = train(shape).expect_err("no such buffer");
                let known = matches!(
                    variant,
                    Error::TooLarge { .. } | Error::BufferTooSmall { .. } | Error::Axis { .. } | Error::Rank { .. }
                );
                assert!(known, "{shape:?}: {variant:?}");
                eval(shape).expect_err("no such buffer");
            }
        }
        let instance = Bench::new(gpu, InstanceNormDescriptor::new(4));
        let one = TensorDescriptor::new(&[16, 4, 1]);
        fails!(instance.train(&one, PLAIN, &instance.io()), Error::TooFewValues { .. }, ["[16, 4, 1]"]);
        let layer = Bench::new(gpu, LayerNormDescriptor::new(&[8]));
        let last = TensorDescriptor { format: Format::ChannelsLast, ..TensorDescriptor::new(&SHAPE) };
        fails!(layer.train(&last, PLAIN, &layer.io()), Error::Unexpected { .. }, ["ChannelsLast"]);
        fails!(
            layer.nothing_written(|norm, e| norm.forward_frozen(e, &TensorDescriptor::new(&SHAPE), PLAIN, &layer.io())),
            Error::Missing { .. },
            ["running statistics"]
        );
    });
}

#[test]
fn descriptors() {
    let bn = BatchNormDescriptor::new;
    each_gpu(|gpu| {
        let context = gpu::Context::new(&gpu.device).unwrap();
        let made = |d: NormDescriptor| gpu::Norm::new(&context, d);
        let cpu = |d: NormDescriptor| host::Norm::new(&host::Backend::Cpu, d);
        macro_rules! both {
            ($descriptor:expr, $variant:pat, $words:expr) => {{
                fails!(made($descriptor.into()), $variant, $words);
                fails!(cpu($descriptor.into()), $variant, $words);
            }};
        }
        both!(bn(0), Error::Empty { .. }, ["num_features is 0"]);
        both!(GroupNormDescriptor::new(3, 8), Error::Groups { .. }, ["8 channels", "3 equal"]);
        both!(GroupNormDescriptor::new(0, 8), Error::Groups { .. }, ["0 equal"]);
        both!(LayerNormDescriptor::new(&[]), Error::Empty { .. }, ["normalized_shape"]);
        both!(RmsNormDescriptor::new(&[3, 0]), Error::Empty { .. }, ["normalized_shape"]);
        for (eps, text) in [(0.0, "is 0,"), (1e-38, "0.0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            both!(BatchNormDescriptor { eps, ..bn(4) }, Error::Parameter { name: "eps", .. }, [text, "positive"]);
        }
        for (m, text) in [(-0.1, "-0.1"), (1.1, "1.1"), (f32::NAN, "NaN")] {
            let descriptor = || BatchNormDescriptor { momentum: Momentum::Exponential(m), ..bn(4) };
            both!(descriptor(), Error::Parameter { name: "momentum", .. }, [text, "0..=1"]);
        }
        for absurd in [1 << 40, usize::MAX / 8, usize::MAX] {
            both!(bn(absurd), Error::TooLarge { .. }, ["needed, the limit is"]);
            both!(LayerNormDescriptor::new(&[absurd]), Error::TooLarge { .. }, ["needed, the limit is"]);
            both!(LayerNormDescriptor::new(&[absurd, absurd]), Error::TooLarge { .. }, ["needed, the limit is"]);
        }
    });
}
