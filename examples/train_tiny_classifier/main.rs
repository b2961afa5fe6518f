//! A small classifier with and without batch normalisation, and three ways to use it wrongly.
//!
//! `cargo run --release --example train_tiny_classifier`

#[path = "../common/chart.rs"]
mod chart;
mod classifier;
#[path = "../common/cli.rs"]
mod cli;
mod gotchas;

use chart::{BLUE, Chart, Line, ORANGE, SKY, SeriesLabelPosition, VERMILION};
use classifier::{BATCH, LEARNING_RATE, Problem, Trained, Units, final_loss, train};
use std::path::PathBuf;
use std::process::ExitCode;
use wgpu_norm::host::Backend;

const USAGE: &str = "\
Trains Linear(8, 32) -> BatchNorm -> ReLU -> Linear(32, 2), and the same net without BatchNorm.

cargo run --release --example train_tiny_classifier -- [options]

  --backend cpu|gpu   where BatchNorm runs; the default is the best GPU, and the CPU if there is none
  --steps N           training steps of 64 samples (200)
  --seeds N           trainings that a result is the mean of (3)
  --plot PATH         where to write the loss curves (target/train_tiny_classifier.svg)";

/// What the features are measured in. Standard deviations are 0.6 times the scale.
const UNITS: [Units; 4] = [
    Units::PLAIN,
    Units { scale: 1.0, offset: 3.0 },
    Units { scale: 0.05, offset: 0.0 },
    Units { scale: 20.0, offset: 0.0 },
];
/// Of these, the ones that are plotted.
const PLOTTED: usize = 2;

struct Options {
    choice: cli::Choice,
    steps: usize,
    seeds: u64,
    plot: PathBuf,
}

fn main() -> ExitCode {
    let plot = PathBuf::from("target/train_tiny_classifier.svg");
    let mut options = Options { choice: cli::Choice::Best, steps: 200, seeds: 3, plot };
    cli::parse(USAGE, |option, parser| {
        use lexopt::ValueExt;
        match option {
            "backend" => options.choice = parser.value()?.parse()?,
            "steps" => options.steps = parser.value()?.parse_with(cli::positive)?,
            "seeds" => options.seeds = parser.value()?.parse_with(cli::positive)? as u64,
            "plot" => options.plot = parser.value()?.into(),
            _ => return Ok(false),
        }
        Ok(true)
    });
    cli::end(run(&options))
}

/// Trainings that differ in their seed only.
struct Runs(Vec<Trained>);

impl Runs {
    /// Loss of every step, the mean over seeds.
    fn losses(&self) -> Vec<f32> {
        let steps = self.0[0].losses.len();
        (0..steps).map(|step| self.mean(|run| run.losses[step].into()) as f32).collect()
    }

    fn mean(&self, value: impl Fn(&Trained) -> f64) -> f64 {
        self.0.iter().map(value).sum::<f64>() / self.0.len() as f64
    }
}

/// The same problem, with and without.
struct Pair {
    units: Units,
    with: Runs,
    without: Runs,
}

fn run(options: &Options) -> Result<(), String> {
    let &Options { choice, steps, seeds, .. } = options;
    let backend = choice.open()?;
    println!("BatchNorm runs on {}.", backend.name());
    println!("Training: {steps} steps of {BATCH} samples, Adam at {LEARNING_RATE}, cross-entropy, {seeds} seeds.");
    println!("Problem: exclusive or, turned in 8 dimensions, with noise. A linear classifier gets 50 %.\n");
    let mut pairs = trainings(&backend, steps, seeds).map_err(|e| e.to_string())?;

    curves(&pairs[..PLOTTED]);
    plot(&pairs[..PLOTTED], options)?;
    results(&pairs);
    // The gotchas need one network that is trained.
    let trained = &mut pairs[0].with.0[0];
    gotchas::show(&mut trained.network, &Problem::new(Units::PLAIN)).map_err(|e| e.to_string())
}

fn trainings(backend: &Backend, steps: usize, seeds: u64) -> Result<Vec<Pair>, wgpu_norm::Error> {
    let bar = cli::progress(UNITS.len() as u64 * 2 * seeds * steps as u64);
    let runs = |units: Units, backend: Option<&Backend>| {
        let place = if backend.is_some() { "with" } else { "without" };
        bar.set_message(format!("{} {place} BatchNorm", name(units)));
        let problem = Problem::new(units);
        let runs = (0..seeds).map(|seed| train(backend, &problem, seed, steps, || bar.inc(1)));
        runs.collect::<Result<Vec<_>, _>>().map(Runs)
    };
    let pair = |&units: &Units| Ok(Pair { units, with: runs(units, Some(backend))?, without: runs(units, None)? });
    let pairs = UNITS.iter().map(pair).collect();
    bar.finish_and_clear();
    pairs
}

fn name(Units { scale, offset }: Units) -> String {
    format!("scale {scale}, offset {offset}")
}

/// Both nets' losses on each problem, in the order in which they are shown.
fn labelled(pairs: &[Pair]) -> Vec<(String, &Runs)> {
    let each = |pair: &Pair, place: &str| format!("{place} BatchNorm, {}", name(pair.units));
    pairs.iter().flat_map(|pair| [(each(pair, "with"), &pair.with), (each(pair, "without"), &pair.without)]).collect()
}

/// Loss curves as lines of text, all on one scale.
fn curves(pairs: &[Pair]) {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const WIDTH: usize = 40;
    let labelled: Vec<(String, Vec<f32>)> = labelled(pairs).into_iter().map(|(l, runs)| (l, runs.losses())).collect();
    let top = labelled.iter().flat_map(|(_, losses)| losses).copied().fold(0.0, f32::max);
    println!("Training loss (a full bar is {top:.2})              {:width$} first    last 20", "", width = WIDTH - 8);
    for (label, losses) in &labelled {
        let bars = losses.chunks(losses.len().div_ceil(WIDTH)).map(|part| {
            let mean = part.iter().sum::<f32>() / part.len() as f32;
            BARS[((mean / top * 8.0) as usize).min(7)]
        });
        let bars: String = bars.collect();
        println!("{label:<42} {bars:<WIDTH$} {:>6.2} {:>10.2}", losses[0], final_loss(losses));
    }
}

fn plot(pairs: &[Pair], options: &Options) -> Result<(), String> {
    let line = |(i, (label, runs)): (usize, (String, &Runs))| Line {
        points: smooth(&runs.losses()),
        label,
        colour: [SKY, ORANGE, BLUE, VERMILION][i],
        dashed: i >= 2,
    };
    let chart = Chart {
        title: "Training loss with and without batch normalisation",
        x_label: "training step (64 samples each)",
        y_label: "cross-entropy (nats)",
        x_doubles: false,
        legend: SeriesLabelPosition::LowerLeft,
        lines: labelled(pairs).into_iter().enumerate().map(line).collect(),
    };
    chart.write(&options.plot)?;
    println!("Plot: {} (mean of {} seeds and of 5 neighbouring steps)\n", options.plot.display(), options.seeds);
    Ok(())
}

/// The mean of each step and its two neighbours on either side.
fn smooth(losses: &[f32]) -> Vec<(f64, f64)> {
    let around = |i: usize| &losses[i.saturating_sub(2)..(i + 3).min(losses.len())];
    let mean = |part: &[f32]| f64::from(part.iter().sum::<f32>()) / part.len() as f64;
    (0..losses.len()).map(|i| ((i + 1) as f64, mean(around(i)))).collect()
}

/// What was measured, for better or worse.
fn results(pairs: &[Pair]) {
    println!("The same features in other units      with BatchNorm        without");
    println!("     scale    offset                  loss   accuracy       loss   accuracy   lower loss");
    let loss = |runs: &Runs| runs.mean(|run| final_loss(&run.losses).into());
    let accuracy = |runs: &Runs| runs.mean(|run| run.accuracy) * 100.0;
    for Pair { units, with, without } in pairs {
        let (a, b) = (loss(with), loss(without));
        println!(
            "{:>10} {:>9}                 {a:>5.2}     {:>5.1} %      {b:>5.2}     {:>5.1} %   {}",
            units.scale,
            units.offset,
            accuracy(with),
            accuracy(without),
            if a < b { "with" } else { "without" }
        );
    }
    let range = |runs: fn(&Pair) -> &Runs| {
        let all = pairs.iter().map(|pair| accuracy(runs(pair)));
        all.fold((f64::MAX, f64::MIN), |(low, high), a| (low.min(a), high.max(a)))
    };
    let ((low, high), (low_without, high_without)) = (range(|p| &p.with), range(|p| &p.without));
    println!("Accuracy is of evaluation on 4000 samples that training did not see, the loss of the last 20 steps.");
    println!(
        "Over all units the accuracy is {low:.1} to {high:.1} % with BatchNorm, {low_without:.1} to {high_without:.1} \
         % without.\n"
    );
}
