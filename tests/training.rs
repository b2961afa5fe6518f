//! A network with a BatchNorm in it trains, and to the same end on every backend.

#[path = "common/adapters.rs"]
mod adapters;
#[path = "common/backends.rs"]
mod backends;
#[path = "../examples/train_tiny_classifier/classifier/mod.rs"]
mod classifier;

use classifier::{Problem, Trained, Units, final_loss, train};
use wgpu_norm::host::Backend;

const STEPS: usize = 200;

fn trained(backend: &Backend) -> Trained {
    train(Some(backend), &Problem::new(Units { scale: 1.0, offset: 3.0 }), 0, STEPS, || ()).expect("training runs")
}

fn check(name: &str, trained: &Trained) {
    let (loss, accuracy) = (final_loss(&trained.losses), trained.accuracy);
    assert!(trained.losses[0] > 0.6, "{name}: nothing to learn, the loss begins at {}", trained.losses[0]);
    assert!(loss < 0.25, "{name}: the loss ends at {loss}");
    assert!(accuracy > 0.96, "{name}: {accuracy} of the answers are right");
    let running = trained.network.running().expect("the state can be read");
    assert_eq!(running.num_batches_tracked(), STEPS as u32, "{name}");
}

#[test]
fn loss_falls_on_the_cpu() {
    check("cpu", &trained(&Backend::Cpu));
}

#[test]
fn loss_falls_on_every_adapter_as_on_the_cpu() {
    let cpu = trained(&Backend::Cpu);
    for (gpu, backend) in backends::gpus() {
        let _turn = gpu.turn();
        let trained = trained(backend);
        check(&gpu.name, &trained);
        // Rounding differs, and 200 steps amplify it; a wrong gradient would be seen within a few.
        for (step, (a, b)) in trained.losses.iter().zip(&cpu.losses).enumerate() {
            assert!((a - b).abs() < 0.01, "{}: the loss of step {step} is {a}, {b} on the CPU", gpu.name);
        }
    }
}
