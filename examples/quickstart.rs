//! Batch normalisation of one batch, on the best device here, compared with PyTorch and with the reference.
//!
//! `cargo run --release --example quickstart`

#[path = "common/cli.rs"]
mod cli;
#[path = "../tests/common/golden.rs"]
mod golden;

use std::process::ExitCode;
use wgpu_norm::{Commit, Error, Fusion, TensorDescriptor, host, reference};

const USAGE: &str = "\
Normalises a (32, 16) batch in training and in evaluation, and says how exact the result is.

cargo run --release --example quickstart -- [--backend cpu|gpu]

  --backend cpu|gpu   where to run; the default is the best GPU, and the CPU if there is none
  WGPU_BACKEND=vulkan|metal|dx12|gl and WGPU_ADAPTER_NAME=part-of-a-name choose among GPUs";

/// Inputs, and what PyTorch computed from them in double precision.
const GOLDEN: &[u8] = include_bytes!("../tests/data/pytorch_golden.safetensors");
/// Channels that are printed.
const SHOWN: usize = 4;

fn main() -> ExitCode {
    let mut choice = cli::Choice::Best;
    cli::parse(USAGE, |option, parser| {
        use lexopt::ValueExt;
        if option == "backend" {
            choice = parser.value()?.parse()?;
        }
        Ok(option == "backend")
    });
    cli::end(run(choice))
}

fn run(choice: cli::Choice) -> Result<(), String> {
    let backend = choice.open()?;
    println!("Runs on {}.\n", backend.name());
    let case = golden::parse(GOLDEN)?.into_iter().find(|case| case.name == "article_bn1d_32x16");
    let case = case.ok_or("the golden file has no case article_bn1d_32x16: take it from the repository again")?;
    let allowed = if matches!(backend, host::Backend::Cpu) { 5e-7 } else { 1e-6 };
    let worst = pollster::block_on(normalise(&backend, &case, allowed)).map_err(|e| e.to_string())?;
    if worst <= 1.0 {
        return Ok(());
    }
    let name = backend.name();
    Err(format!("{name} is less exact than it must be. Please report it with the output of --example conformance"))
}

/// Returns the largest difference as a multiple of what is allowed.
async fn normalise(backend: &host::Backend, case: &golden::Case, allowed: f64) -> Result<f64, Error> {
    let step = &case.steps[0];
    let (rows, channels) = (step.shape[0], step.shape[1]);
    let batch = TensorDescriptor::new(&step.shape);
    let x = narrow(&step.x);
    let (weight, bias) = (case.weight.clone().unwrap_or_default(), case.bias.clone().unwrap_or_default());
    let (mean, var) = case.running.clone().unwrap_or_default();
    let mut state = wgpu_norm::State::new(&case.descriptor)?;
    (state.weight, state.bias) = (Some(narrow(&weight)), Some(narrow(&bias)));
    if let Some(running) = &mut state.running {
        (running.running_mean, running.running_var) = (narrow(&mean), narrow(&var));
    }

    // This is all that it takes.
    let mut norm = host::Norm::with_state(backend, case.descriptor.clone(), state)?;
    let (trained, saved) = norm.forward_train::<f32, f32>(&batch, Fusion::default(), &x, None, Commit::Update).await?;
    let evaluated = norm.forward_eval::<f32, f32>(&batch, Fusion::default(), &x, None).await?;
    let one = TensorDescriptor::new(&[1, 16]);
    let alone = norm.forward_eval::<f32, f32>(&one, Fusion::default(), &x[..channels], None).await?;
    let refused = norm.forward_train::<f32, f32>(&one, Fusion::default(), &x[..channels], None, Commit::Update).await;

    println!("Training, a ({rows}, {channels}) batch with mean 3 and standard deviation 5");
    println!("              before              after          asked for");
    println!("channel     mean    std       mean    std      bias  weight");
    let computed = norm.statistics(&saved).await?;
    for c in 0..SHOWN {
        let (m, s) = (computed[c].mean, computed[c].var.sqrt());
        let (after_m, after_s) = mean_and_std(trained.y.iter().skip(c).step_by(channels));
        println!("{c:>7} {m:>8.3} {s:>6.3}   {after_m:>8.3} {after_s:>6.3}   {:>7.3} {:>7.3}", bias[c], weight[c]);
    }
    println!("      … and {} more\n", channels - SHOWN);

    let running = norm.state().await?.running.unwrap_or_default();
    println!("Running statistics, which take in a tenth of each batch ({} so far)", running.num_batches_tracked());
    println!("channel     mean            variance");
    for c in 0..SHOWN {
        let (new_mean, new_var) = (running.running_mean[c], running.running_var[c]);
        println!("{c:>7} {:>8.3} -> {new_mean:>6.3} {:>6.3} -> {new_var:>6.3}", mean[c], var[c]);
    }

    // The reference begins with the same numbers and shares no code.
    let inputs = reference::Inputs { x: &step.x, weight: Some(&weight), bias: Some(&bias), ..Default::default() };
    let expected = reference::forward(&case.descriptor, &batch, &inputs)?;
    let (after_mean, after_var) = (wide(&running.running_mean), wide(&running.running_var));
    let inputs = reference::Inputs { running: Some((&after_mean, &after_var)), ..inputs };
    let expected_eval = reference::forward(&case.descriptor, &batch, &inputs)?;
    let (pytorch_mean, pytorch_var) = case.running_after.clone().unwrap_or_default();

    println!("\nLargest difference                            found  allowed");
    let mut worst: f64 = 0.0;
    let mut compare = |what: &str, actual: &[f32], expected: &[f64]| {
        let scale = expected.iter().fold(1.0, |scale: f64, e| scale.max(e.abs()));
        let error = golden::error(&wide(actual), expected);
        worst = worst.max(error / allowed);
        println!("{what:<42} {:>8.1e} {:>8.1e}", error * scale, allowed * scale);
    };
    compare("training, from the reference", &trained.y, &expected.y);
    compare("training, from PyTorch in float64", &trained.y, &step.expected.y);
    compare("running mean, from PyTorch in float64", &running.running_mean, &pytorch_mean);
    compare("running variance, from PyTorch in float64", &running.running_var, &pytorch_var);
    compare("evaluation, from the reference", &evaluated.y, &expected_eval.y);
    compare("evaluation of one row, from the reference", &alone.y, &expected_eval.y[..channels]);

    let same = if alone.y == evaluated.y[..channels] { "the same bits as" } else { "not the bits that it has" };
    println!("\nA row alone, in evaluation: {same} among {rows}.");
    match refused {
        Err(error) => println!("A row alone, in training: refused, \"{error}\"."),
        Ok(_) => println!("A row alone, in training: not refused, which is a bug. Please report it."),
    }
    Ok(worst)
}

fn mean_and_std<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(|&v| f64::from(v)).sum::<f64>() / count;
    let var = values.map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    (mean, var.sqrt())
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}
