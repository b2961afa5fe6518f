//! What each norm leaves of a batch whose channels differ.

use super::{CHANNELS, Place, SIDE, mean_and_std, normal, norms};
use pollster::block_on;
use wgpu_norm::{Commit, Error, Fusion, NormDescriptor, State, TensorDescriptor, host, reference};

const SHAPE: [usize; 4] = [4, CHANNELS, SIDE, SIDE];
const AREA: usize = SIDE * SIDE;

/// Means from -3 to 3 and standard deviations from 0.5 to 5 over the channels.
fn batch() -> Vec<f32> {
    let mut x = normal(3, SHAPE.iter().product());
    for (i, map) in x.chunks_mut(AREA).enumerate() {
        let along = (i % CHANNELS) as f32 / (CHANNELS - 1) as f32;
        map.iter_mut().for_each(|v| *v = (-3.0 + 6.0 * along) + (0.5 + 4.5 * along) * *v);
    }
    x
}

/// Over which axes it takes its statistics, and what it is for.
fn advice(norm: &NormDescriptor) -> (&'static str, &'static str) {
    match norm {
        NormDescriptor::Batch(_) => ("N, H, W", "convolutional networks, batches of 16 up"),
        NormDescriptor::Layer(_) => ("C, H, W", "transformers; a batch of one works too"),
        NormDescriptor::Group(_) => ("C/32, H, W", "detection, segmentation at 2 to 4 images"),
        NormDescriptor::Instance(_) => ("H, W", "style transfer: takes an image's look away"),
        _ => ("–", "–"),
    }
}

pub fn show(places: &[Place]) -> Result<(), Error> {
    let x = batch();
    println!("A {SHAPE:?} batch: channel means -3 to 3, standard deviations 0.5 to 5");
    println!("              statistics                   channels' means   channels' stds");
    println!("              over          mean    std   from     to       from    to     use it for");
    row("input", "–", "", &x);
    let tensor = TensorDescriptor::new(&SHAPE);
    let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let mut worst = vec![0.0; places.len()];
    for norm in norms(SIDE) {
        let state = State::new(&norm)?;
        let [weight, bias] =
            [&state.weight, &state.bias].map(|v| v.as_ref().map(|v| v.iter().map(|&v| v.into()).collect::<Vec<f64>>()));
        let inputs =
            reference::Inputs { x: &wide, weight: weight.as_deref(), bias: bias.as_deref(), ..Default::default() };
        let expected = reference::forward(&norm, &tensor, &inputs)?.y;
        for (i, place) in places.iter().enumerate() {
            let mut layer = host::Norm::new(&place.backend, norm.clone())?;
            let pass = layer.forward_train::<f32, f32>(&tensor, Fusion::default(), &x, None, Commit::Update);
            let y = block_on(pass)?.0.y;
            let difference = y.iter().zip(&expected).map(|(&y, e)| (f64::from(y) - e).abs());
            worst[i] = difference.fold(worst[i], f64::max);
            if i == 0 {
                let (over, advice) = advice(&norm);
                row(norm.name(), over, advice, &y);
            }
        }
    }
    let worst = places.iter().zip(&worst).map(|(place, worst)| format!("{} {worst:.1e}", place.name));
    println!("The images are alike, so batch and instance norm leave the same. C/32: GroupNorm has 32 groups.");
    println!("Largest difference from the reference: {}\n", worst.collect::<Vec<_>>().join(", "));
    Ok(())
}

fn row(name: &str, over: &str, advice: &str, y: &[f32]) {
    let (mean, std) = mean_and_std(y.iter().map(|&v| v.into()));
    let channels = (0..CHANNELS).map(|c| {
        let maps = y.chunks(AREA).skip(c).step_by(CHANNELS);
        mean_and_std(maps.flatten().map(|&v| v.into()))
    });
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        format!("{:>5}  {:>5}", two(low), two(high))
    };
    let (means, stds) = (range(&mut channels.clone().map(|c| c.0)), range(&mut channels.map(|c| c.1)));
    let line = format!("{name:<13} {over:<11} {:>6} {:>6}  {means}      {stds}     {advice}", two(mean), two(std));
    println!("{}", line.trim_end());
}

/// Two digits, and no minus before a zero.
fn two(value: f64) -> String {
    format!("{:.2}", (value * 100.0).round() / 100.0 + 0.0)
}
