//! Host-side layers: what their own calls promise, on every backend.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;

use wgpu_norm::{
    BatchNormDescriptor, Commit, Error, Fusion, Gradients, LayerNormDescriptor, Running, State, TensorDescriptor, host,
};

#[test]
fn set_affine_replaces_what_it_is_given_and_nothing_else() {
    backends::everywhere(|name, backend| {
        let state = State {
            weight: Some(vec![1.0, 2.0, 3.0]),
            bias: Some(vec![4.0, 5.0, 6.0]),
            running: Some(Running {
                running_mean: vec![7.0, 8.0, 9.0],
                running_var: vec![0.1, 0.2, 0.3],
                tracked: vec![5, 4, 5],
                skipped: vec![0, 1, 0],
            }),
        };
        let mut norm = host::Norm::with_state(backend, BatchNormDescriptor::new(3), state.clone()).unwrap();
        let (weight, bias) = (vec![-1.0, -2.0, -3.0], vec![0.5; 3]);
        norm.set_affine(Some(&weight), None).unwrap();
        let expected = State { weight: Some(weight), ..state };
        assert_eq!(pollster::block_on(norm.state()).unwrap(), expected, "{name}");
        norm.set_affine(None, Some(&bias)).unwrap();
        let expected = State { bias: Some(bias), ..expected };
        assert_eq!(pollster::block_on(norm.state()).unwrap(), expected, "{name}");

        // Of two vectors one of which is wrong, neither is taken.
        let error = norm.set_affine(Some(&[0.0; 3]), Some(&[0.0; 2])).unwrap_err();
        assert_eq!(error, Error::Length { name: "bias", expected: 3, actual: 2 }, "{name}");
        assert_eq!(pollster::block_on(norm.state()).unwrap(), expected, "{name}");

        let plain = BatchNormDescriptor { affine: false, ..BatchNormDescriptor::new(3) };
        let error = host::Norm::new(backend, plain).unwrap().set_affine(Some(&[0.0; 3]), None).unwrap_err();
        assert!(matches!(error, Error::Unexpected { name: "weight", .. }), "{name}: {error}");
    });
}

/// A frozen pass has none of its own.
#[test]
fn statistics_are_those_of_the_batch() {
    backends::everywhere(|name, backend| {
        let tensor = TensorDescriptor::new(&[2, 3]);
        let (x, plain) = ([-1.0, 0.0, 4.0, 1.0, 0.0, 8.0f32], Fusion::default());
        let mut norm = host::Norm::new(backend, BatchNormDescriptor::new(3)).unwrap();
        let [of_batch, of_frozen] = pollster::block_on(async {
            let (_, trained) = norm.forward_train::<f32, f32>(&tensor, plain, &x, None, Commit::Skip).await.unwrap();
            let (_, frozen) = norm.forward_frozen::<f32, f32>(&tensor, plain, &x, None).await.unwrap();
            [norm.statistics(&trained).await.unwrap(), norm.statistics(&frozen).await.unwrap()]
        });
        let means_and_variances: Vec<_> = of_batch.iter().map(|s| (s.mean, s.var)).collect();
        assert_eq!(means_and_variances, [(0.0, 1.0), (0.0, 0.0), (6.0, 4.0)], "{name}");
        assert_eq!(of_frozen, [], "{name}");
    });
}

/// A call's tensors are of no use to another, so a layer does not keep them.
#[test]
fn calls_leave_no_tensors_behind() {
    for found in adapters::enumerate().0 {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let of = pollster::block_on(instance.enumerate_adapters(found.info.backend.into()));
        let adapter = of.into_iter().find(|adapter| adapter.get_info() == found.info).expect("the same adapters");
        let backend = match pollster::block_on(host::Backend::open(&adapter)) {
            Ok(backend) => backend,
            Err(error) => {
                adapters::say(format_args!("skipped calls_leave_no_tensors_behind on {}: {error}", found.name));
                continue;
            }
        };
        let buffers = || {
            let host::Backend::Gpu { context, .. } = &backend else { unreachable!() };
            context.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
            instance.generate_report().map(|report| report.hub_report().buffers.num_allocated).unwrap()
        };
        let mut norm = host::Norm::new(&backend, BatchNormDescriptor::new(4)).unwrap();
        let (tensor, x) = (TensorDescriptor::new(&[8, 4]), [1.0f32; 32]);
        let mut after = Vec::new();
        for _ in 0..4 {
            pollster::block_on(async {
                let pass = norm.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Update);
                let (_, saved) = pass.await.unwrap();
                let wanted = Gradients { dx: true, dresidual: false, affine: true };
                norm.backward(saved, host::Backward::new(&x, &x), wanted).await.unwrap();
            });
            after.push(buffers());
        }
        assert_eq!(after, [after[0]; 4], "{}", found.name);
    }
}

/// A backward pass keeps its statistics until it is submitted, whatever another thread does with the layer meanwhile.
#[test]
fn threads_share_a_layer() {
    const ROUNDS: usize = 200;
    backends::everywhere(|name, backend| {
        if name == "gl" {
            adapters::say(format_args!(
                "skipped threads_share_a_layer on {name}: wgpu's OpenGL is for one thread at a time"
            ));
            return;
        }
        let tensor = TensorDescriptor::new(&[4, 8]);
        let plain = Fusion::default();
        let x: Vec<f32> = (0..32).map(|i| (i * i % 11) as f32).collect();
        let far: Vec<f32> = x.iter().map(|x| 100.0 - 7.0 * x).collect();
        let dy: Vec<f32> = (0..32).map(|i| (i % 5) as f32).collect();
        let wanted = Gradients { dx: true, dresidual: false, affine: true };
        let mut norm = host::Norm::new(backend, LayerNormDescriptor::new(&[8])).unwrap();
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            let pass = norm.forward_train::<f32, f32>(&tensor, plain, &x, None, Commit::Skip);
            all.push(pollster::block_on(pass).unwrap().1);
        }
        let norm = &norm;
        let backward = |saved| pollster::block_on(norm.backward(saved, host::Backward::new(&x, &dy), wanted)).unwrap();
        let expected = backward(all.pop().unwrap());
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                for _ in 0..ROUNDS {
                    pollster::block_on(norm.forward_eval::<f32, f32>(&tensor, plain, &far, None)).unwrap();
                }
            });
            for (i, saved) in all.into_iter().enumerate() {
                assert_eq!(backward(saved), expected, "{name}: backward pass {i}");
            }
            others.join().unwrap();
        });
    });
}
