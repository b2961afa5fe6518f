//! Batch, layer, group and instance normalisation side by side: what they do, how fast, and when to use which.
//!
//! `cargo run --release --example norm_comparison`

#[path = "../../tests/common/adapters.rs"]
mod adapters;
#[path = "../common/chart.rs"]
mod chart;
#[path = "../common/cli.rs"]
mod cli;
mod effect;
mod spread;
mod timing;

use std::path::PathBuf;
use std::process::ExitCode;
use wgpu_norm::{
    BatchNormDescriptor, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor, NormDescriptor,
    host::Backend,
};

const USAGE: &str = "\
Compares batch, layer, group and instance normalisation on the CPU and on every GPU.

cargo run --release --example norm_comparison -- [options]

  --backend NAME   only this one: cpu, or (part of) an adapter's name; may be repeated
  --passes N       forward passes that a time is the mean of (500)
  --plot PATH      where to write the plot (target/norm_comparison.svg)";

/// Sizes of the feature maps that are timed and looked at.
const CHANNELS: usize = 64;
const SIDE: usize = 28;
const GROUPS: usize = 32;

/// Something that runs norms, and what tables call it.
struct Place {
    name: String,
    backend: Backend,
}

struct Options {
    backends: Vec<String>,
    passes: usize,
    plot: PathBuf,
}

fn main() -> ExitCode {
    let plot = PathBuf::from("target/norm_comparison.svg");
    let mut options = Options { backends: Vec::new(), passes: 500, plot };
    cli::parse(USAGE, |option, parser| {
        use lexopt::ValueExt;
        match option {
            "backend" => options.backends.push(parser.value()?.string()?.to_lowercase()),
            "passes" => options.passes = parser.value()?.parse_with(cli::positive)?,
            "plot" => options.plot = parser.value()?.into(),
            _ => return Ok(false),
        }
        Ok(true)
    });
    cli::end(run(&options))
}

fn run(options: &Options) -> Result<(), String> {
    let places = places(&options.backends)?;
    effect::show(&places).map_err(|e| e.to_string())?;
    timing::show(&places, options.passes).map_err(|e| e.to_string())?;
    spread::show(&options.plot)
}

/// The CPU and every adapter that opens; of these the ones that were asked for.
fn places(asked: &[String]) -> Result<Vec<Place>, String> {
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|part| name.to_lowercase().contains(part));
    let mut places = vec![Place { name: "cpu".into(), backend: Backend::Cpu }];
    let (found, skipped) = adapters::enumerate();
    for skipped in skipped {
        eprintln!("skipped adapter {skipped}");
    }
    for adapter in found.iter().filter(|a| wanted(&a.name)) {
        match pollster::block_on(Backend::open(&adapter.adapter)) {
            Ok(backend) => places.push(Place { name: adapter.name.clone(), backend }),
            Err(error) => eprintln!("skipped adapter {}: {error}", adapter.name),
        }
    }
    places.retain(|place| wanted(&place.name));
    if places.is_empty() {
        let names: Vec<&str> = found.iter().map(|a| a.name.as_str()).collect();
        let asked = asked.join(", ");
        return Err(format!("no backend is called {asked}; there are cpu, {}", names.join(", ")));
    }
    println!("Backends");
    for place in &places {
        println!("  {:<12} {}", place.name, place.backend.name());
    }
    println!();
    Ok(places)
}

/// The four norms of a (N, [`CHANNELS`], side, side) map, with PyTorch's defaults.
fn norms(side: usize) -> [NormDescriptor; 4] {
    [
        BatchNormDescriptor::new(CHANNELS).into(),
        LayerNormDescriptor::new(&[CHANNELS, side, side]).into(),
        GroupNormDescriptor::new(GROUPS, CHANNELS).into(),
        InstanceNormDescriptor::new(CHANNELS).into(),
    ]
}

/// Standard normal numbers, the same every time.
fn normal(seed: u64, len: usize) -> Vec<f32> {
    use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
    Xoshiro256PlusPlus::seed_from_u64(seed).sample_iter(rand_distr::StandardNormal).take(len).collect()
}

/// Mean and standard deviation.
fn mean_and_std(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let var = values.map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, var.sqrt())
}
