//! Slices and states, on the CPU and on every adapter.

use super::bench::*;
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Error, Gradients, NormDescriptor, Residual, Running, State, TensorDescriptor,
    half, host,
};

/// Vectors of the wrong length, given to both kinds of layer.
#[test]
fn states() {
    let descriptor = || NormDescriptor::from(BatchNormDescriptor::new(4));
    let bare = NormDescriptor::from(BatchNormDescriptor {
        affine: false,
        track_running_stats: false,
        ..BatchNormDescriptor::new(4)
    });
    let good = State::new(descriptor()).unwrap();
    let running = good.running.clone().unwrap();
    let wrong: [(&str, State); 7] = [
        ("weight has 3", State { weight: Some(vec![1.0; 3]), ..good.clone() }),
        ("weight is missing", State { weight: None, ..good.clone() }),
        ("bias has 5", State { bias: Some(vec![1.0; 5]), ..good.clone() }),
        ("running_mean is missing", State { running: None, ..good.clone() }),
        (
            "running_var has 1",
            State { running: Some(Running { running_var: vec![1.0], ..running.clone() }), ..good.clone() },
        ),
        ("tracked has 6", State { running: Some(Running { tracked: vec![0; 6], ..running.clone() }), ..good.clone() }),
        ("skipped has 0", State { running: Some(Running { skipped: vec![], ..running }), ..good.clone() }),
    ];
    let check = |backend: &host::Backend| {
        for (words, state) in &wrong {
            let words = [*words, if words.ends_with("missing") { "was made with it" } else { "needs 4" }];
            let made = host::Norm::with_state(backend, descriptor(), state.clone());
            fails!(made, Error::Length { .. } | Error::Missing { .. }, words);
            let mut norm = host::Norm::new(backend, descriptor()).unwrap();
            fails!(norm.set_state(state.clone()), Error::Length { .. } | Error::Missing { .. }, words);
            assert_eq!(pollster::block_on(norm.state()).unwrap(), good);
        }
        let running = good.running.clone().unwrap();
        let running = Running { running_var: vec![1.0, f32::NAN, 0.0, -0.5], ..running };
        let negative = State { running: Some(running), ..good.clone() };
        fails!(
            host::Norm::with_state(backend, descriptor(), negative),
            Error::Parameter { .. },
            ["running_var", "-0.5"]
        );
        let empty = State { weight: Some(Vec::new()), ..State::new(&bare).unwrap() };
        for state in [good.clone(), empty] {
            fails!(host::Norm::with_state(backend, bare.clone(), state), Error::Unexpected { .. }, ["weight", "None"]);
        }
    };
    check(&host::Backend::Cpu);
    each_gpu(|gpu| {
        check(&host::Backend::from_device(&gpu.device, &gpu.queue).unwrap());
        let norm = Bench::new(gpu, BatchNormDescriptor::new(4)).norm;
        for bytes in [0, 1, 100, 6 * 64 * 4 - 1, 6 * 64 * 4 + 1, 6 * 128 * 4] {
            let words = ["bytes", "1536", &bytes.to_string()];
            fails!(norm.parse_state(&vec![0; bytes]), Error::Length { expected: 1536, .. }, words);
        }
    });
}

/// Slices, on the CPU and on every adapter.
#[test]
fn slices() {
    use half::f16;
    async fn check(backend: &host::Backend) {
        let mut norm = host::Norm::new(backend, BatchNormDescriptor::new(4)).unwrap();
        let state = norm.state().await.unwrap();
        let (tensor, x) = (TensorDescriptor::new(&SHAPE), vec![1.0f32; 64]);
        let half = TensorDescriptor { dtype: DType::F16, ..tensor };
        macro_rules! train {
            ($tensor:expr, $fusion:expr, $x:expr, $residual:expr) => {
                norm.forward_train::<_, f32>(&$tensor, $fusion, $x, $residual, Commit::Update).await
            };
        }
        let (short, long, halves) = (vec![0f32; 63], vec![0f32; 65], vec![f16::ONE; 64]);
        fails!(train!(tensor, PLAIN, &short, None), Error::Length { expected: 64, actual: 63, .. }, ["x has 63", "64"]);
        fails!(train!(tensor, PLAIN, &long, None), Error::Length { .. }, ["65", "64"]);
        fails!(train!(tensor, AFTER, &x, Some(&short[..])), Error::Length { .. }, ["residual has 63"]);
        fails!(train!(tensor, AFTER, &x, None), Error::Missing { name: "residual", .. }, ["residual"]);
        fails!(train!(tensor, PLAIN, &x, Some(&x[..])), Error::Unexpected { name: "residual", .. }, ["residual"]);
        fails!(train!(half, PLAIN, &x, None), Error::DType { .. }, ["x is F32", "F16"]);
        fails!(train!(tensor, PLAIN, &halves, None), Error::DType { .. }, ["x is F16", "F32"]);
        let none: &[f32] = &[];
        fails!(train!(TensorDescriptor::new(&[0, 4]), PLAIN, none, None), Error::Empty { .. }, ["N is 0"]);
        fails!(train!(TensorDescriptor::new(&[2, 4, 0]), PLAIN, none, None), Error::Empty { .. }, ["axis 2 is 0"]);
        fails!(train!(TensorDescriptor::new(&[]), PLAIN, &x[..1], None), Error::Rank { .. }, ["has 0"]);
        fails!(train!(TensorDescriptor::new(&[]), PLAIN, none, None), Error::Length { .. }, ["x has 0"]);
        fails!(train!(TensorDescriptor::new(&[16, 4, 2]), PLAIN, &x, None), Error::Length { .. }, ["128"]);
        fails!(train!(TensorDescriptor::new(&[8, 8]), PLAIN, &x, None), Error::Axis { .. }, ["is 8", "for 4"]);
        fails!(train!(TensorDescriptor::new(&[64]), PLAIN, &x, None), Error::Rank { .. }, ["[64]"]);
        fails!(train!(TensorDescriptor::new(&[1, 4]), PLAIN, &x[..4], None), Error::TooFewValues { .. }, ["[1, 4]"]);
        for n in [1 << 31, 1 << 40, usize::MAX / 4, usize::MAX] {
            for shape in [&[n, 4][..], &[n, n], &[n, 4, n], &[4, 4, n, n, n]] {
                assert!(train!(TensorDescriptor::new(shape), PLAIN, &x, None).is_err());
                assert!(train!(TensorDescriptor::new(shape), PLAIN, none, None).is_err());
            }
        }

        assert_eq!(norm.state().await.unwrap(), state, "a call that failed has committed");
        let all = Gradients { dx: true, dresidual: false, affine: true };
        macro_rules! backward {
            ($forward:expr, $x:expr, $residual:expr, $dy:expr, $dsum:expr, $wanted:expr) => {{
                let residual = ($forward.residual != Residual::None).then_some(&x[..]);
                let saved = train!(tensor, $forward, &x, residual).unwrap().1;
                {
                    let io = host::Backward { x: $x, residual: $residual, dy: $dy, dsum: $dsum };
                    norm.backward(saved, io, $wanted).await
                }
            }};
        }
        let result = backward!(PLAIN, &short, None, &x, None, all);
        fails!(result, Error::Length { name: "x", .. }, ["x has 63", "64"]);
        let result = backward!(PLAIN, &x, None, &long, None, all);
        fails!(result, Error::Length { name: "dy", .. }, ["dy has 65", "64"]);
        let result = backward!(PLAIN, &x[..12], None, &x[..12], None, all);
        fails!(result, Error::Length { name: "x", expected: 64, actual: 12 }, ["x has 12", "64"]);
        let result = backward!(PLAIN, &x, None, &halves, None, all);
        fails!(result, Error::DType { name: "dy", .. }, ["dy is F16", "F32"]);
        let result = backward!(PLAIN, &halves, None, &x, None, all);
        fails!(result, Error::DType { name: "x", .. }, ["x is F16", "F32"]);
        let result = backward!(PLAIN, &x, Some(&x[..]), &x, None, all);
        fails!(result, Error::Unexpected { name: "residual", .. }, ["residual"]);
        let result = backward!(PLAIN, &x, None, &x, Some(&x[..]), all);
        fails!(result, Error::Unexpected { name: "dsum", .. }, ["dsum"]);
        let result = backward!(AFTER_RELU, &x, None, &x, None, all);
        fails!(result, Error::Missing { name: "residual", .. }, ["mask"]);
        let dresidual = Gradients { dresidual: true, ..all };
        let result = backward!(PLAIN, &x, None, &x, None, dresidual);
        fails!(result, Error::Unexpected { name: "dresidual", .. }, ["dresidual"]);
        let result = backward!(BEFORE, &x, None, &x, None, dresidual);
        fails!(result, Error::Unexpected { name: "dresidual", .. }, ["dresidual"]);

        let untracked = BatchNormDescriptor { track_running_stats: false, ..BatchNormDescriptor::new(4) };
        let untracked = host::Norm::new(backend, untracked).unwrap();
        let result = untracked.forward_frozen::<f32, f32>(&tensor, PLAIN, &x, None).await;
        fails!(result, Error::Missing { .. }, ["running statistics"]);

        let mut other = host::Norm::new(backend, BatchNormDescriptor::new(4)).unwrap();
        let passed = other.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip).await;
        let result = norm.backward(passed.unwrap().1, host::Backward::new(&x, &x), all).await;
        fails!(result, Error::Foreign { .. }, ["another layer"]);
        let mut other = host::Norm::new(&host::Backend::Cpu, BatchNormDescriptor::new(4)).unwrap();
        let passed = other.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip).await;
        let result = norm.backward(passed.unwrap().1, host::Backward::new(&x, &x), all).await;
        fails!(result, Error::Foreign { .. }, ["another"]);
    }
    pollster::block_on(check(&host::Backend::Cpu));
    each_gpu(|gpu| pollster::block_on(check(&host::Backend::from_device(&gpu.device, &gpu.queue).unwrap())));
}
