//! How far statistics of a batch are from those of all images, by the size of the batch.

use super::chart::{BLUE, Chart, Line, ORANGE, SKY, SeriesLabelPosition, VERMILION};
use super::{CHANNELS, GROUPS, cli, mean_and_std, normal};
use pollster::block_on;
use rand::seq::index::sample;
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use std::path::Path;
use wgpu_norm::{
    BatchNormDescriptor, Commit, Error, Fusion, GroupNormDescriptor, Momentum, NormDescriptor, TensorDescriptor, host,
};

const IMAGES: usize = 256;
const SIDE: usize = 14;
const IMAGE: usize = CHANNELS * SIDE * SIDE;
const SIZES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Random batches of each size.
const DRAWS: usize = 100;

/// What is measured of one norm at one batch size, in standard deviations of the input.
#[derive(Clone, Copy)]
struct Spread {
    /// Standard deviation, over batches, of the mean that is subtracted.
    mean: f64,
    /// Standard deviation, over batches, of the standard deviation that is divided by.
    std: f64,
    /// Root mean square of training output minus evaluation output.
    mismatch: f64,
}

/// Images that differ from one another as photographs do: every channel of an image has a brightness (standard
/// deviation 0.5) and a contrast (within a factor of about 1.5) of its own.
fn images() -> Vec<f32> {
    let mut pixels = normal(6, IMAGES * IMAGE);
    let looks = normal(7, IMAGES * CHANNELS * 2);
    for (channel, look) in pixels.chunks_mut(SIDE * SIDE).zip(looks.chunks(2)) {
        channel.iter_mut().for_each(|v| *v = 0.5 * look[0] + (0.4 * look[1]).exp() * *v);
    }
    pixels
}

pub fn show(plot: &Path) -> Result<(), String> {
    println!("Statistics against batch size, on the CPU: {DRAWS} random batches of each size, from {IMAGES} images of");
    println!(
        "[{CHANNELS}, {SIDE}, {SIDE}] that differ in brightness and contrast. In standard deviations of the input."
    );
    let bar = cli::progress((2 * SIZES.len() * DRAWS) as u64);
    let images = images();
    // Momentum 1 makes the running statistics those of the one batch of all images.
    let batch = BatchNormDescriptor { momentum: Momentum::Exponential(1.0), ..BatchNormDescriptor::new(CHANNELS) };
    let measured = measure(&images, batch, &bar)
        .and_then(|batch| Ok((batch, measure(&images, GroupNormDescriptor::new(GROUPS, CHANNELS), &bar)?)));
    bar.finish_and_clear();
    let (batch, group) = measured.map_err(|e| e.to_string())?;

    println!("        BatchNorm: spread of           GroupNorm: spread of");
    println!("batch   mean    std   train - eval     mean    std   train - eval   use");
    for ((size, b), g) in SIZES.iter().zip(&batch).zip(&group) {
        let part = |s: &Spread| format!("{:>6.3} {:>6.3} {:>14.3}", s.mean, s.std, s.mismatch);
        println!("{size:>5} {}   {}   {}", part(b), part(g), advice(*size));
    }
    println!(
        "BatchNorm's spread is noise from the company that a sample happens to have, and evaluation has none of it."
    );
    println!("GroupNorm's is how images differ: it does not move with the batch, and evaluation computes the same.");
    let line = |norm: &str, values: &[Spread], colour, dashed| Line {
        label: format!(
            "{norm}, {}",
            if dashed { "training minus evaluation output (RMS)" } else { "spread of the mean" }
        ),
        points: SIZES.iter().zip(values).map(|(&n, s)| (n as f64, if dashed { s.mismatch } else { s.mean })).collect(),
        colour,
        dashed,
    };
    let chart = Chart {
        title: "What normalises a sample, by the size of its batch",
        x_label: "batch size (images)",
        y_label: "standard deviations of the input",
        x_doubles: true,
        legend: SeriesLabelPosition::UpperRight,
        lines: vec![
            line("BatchNorm", &batch, SKY, false),
            line("BatchNorm", &batch, BLUE, true),
            line("GroupNorm", &group, ORANGE, false),
            line("GroupNorm", &group, VERMILION, true),
        ],
    };
    chart.write(plot)?;
    println!("Plot: {}", plot.display());
    Ok(())
}

fn advice(size: usize) -> &'static str {
    match size {
        1 => "GroupNorm or LayerNorm: BatchNorm cannot evaluate as it trained",
        2..=4 => "GroupNorm, or BatchNorm synchronised over devices",
        5..=15 => "GroupNorm, or a frozen BatchNorm when fine-tuning",
        _ => "BatchNorm",
    }
}

fn measure(
    images: &[f32],
    norm: impl Into<NormDescriptor>,
    bar: &indicatif::ProgressBar,
) -> Result<Vec<Spread>, Error> {
    let norm = norm.into();
    bar.set_message(format!("{} against batch size", norm.name()));
    let fusion = Fusion::default();
    let mut layer = host::Norm::new(&host::Backend::Cpu, norm)?;
    let all = [IMAGES, CHANNELS, SIDE, SIDE];
    let (_, saved) =
        block_on(layer.forward_train::<f32, f32>(&TensorDescriptor::new(&all), fusion, images, None, Commit::Update))?;
    let unit = block_on(layer.statistics(&saved))?;
    let unit = (unit.iter().map(|s| s.var + s.mean * s.mean).sum::<f64>() / unit.len() as f64).sqrt();

    let mut rng = Xoshiro256PlusPlus::seed_from_u64(9);
    let mut x = Vec::new();
    SIZES
        .iter()
        .map(|&size| {
            let shape = [size, CHANNELS, SIDE, SIDE];
            let tensor = TensorDescriptor::new(&shape);
            let (mut statistics, mut squares) = (Vec::new(), 0.0);
            for _ in 0..DRAWS {
                x.clear();
                for image in sample(&mut rng, IMAGES, size) {
                    x.extend_from_slice(&images[image * IMAGE..][..IMAGE]);
                }
                let pass = layer.forward_train::<f32, f32>(&tensor, fusion, &x, None, Commit::Skip);
                let (trained, saved) = block_on(pass)?;
                statistics.extend(block_on(layer.statistics(&saved))?);
                let evaluated = block_on(layer.forward_eval::<f32, f32>(&tensor, fusion, &x, None))?;
                let square = trained.y.iter().zip(&evaluated.y).map(|(a, b)| f64::from(a - b).powi(2));
                squares += square.sum::<f64>() / (x.len() * DRAWS) as f64;
                bar.inc(1);
            }
            // Channels (or groups) are alike, so all of them are draws of one statistic.
            Ok(Spread {
                mean: mean_and_std(statistics.iter().map(|s| s.mean)).1 / unit,
                std: mean_and_std(statistics.iter().map(|s| s.var.sqrt())).1 / unit,
                mismatch: squares.sqrt(),
            })
        })
        .collect()
}
