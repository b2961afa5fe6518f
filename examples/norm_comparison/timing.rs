//! Time of a forward pass.

use super::{CHANNELS, Place, SIDE, cli, normal, norms};
use indicatif::ProgressBar;
use std::time::Instant;
use wgpu_norm::{Commit, Error, Fusion, NormDescriptor, State, TensorDescriptor, cpu, gpu, host::Backend};

const BATCHES: [usize; 2] = [2, 64];
/// Above this many seconds a pass is not repeated as often as asked: software drivers would take minutes.
const SLOW: f64 = 0.5;
const SLOW_PASSES: usize = 20;
/// Seconds of work in one submission: systems reset a GPU that is busy for longer than about two.
const SUBMISSION: f64 = 0.1;

pub fn show(places: &[Place], passes: usize) -> Result<(), Error> {
    println!(
        "Time of a forward pass in training, milliseconds: [N, {CHANNELS}, {SIDE}, {SIDE}] in f32, mean of {passes}"
    );
    print!("backend         N");
    norms(SIDE).iter().for_each(|norm| print!("  {:>14}", norm.name()));
    println!("    memory");
    let bar = cli::progress((places.len() * BATCHES.len() * 4 * passes) as u64);
    let mut fewer = false;
    for place in places {
        for n in BATCHES {
            let mut line = format!("{:<12} {n:>4}", place.name);
            let shape = [n, CHANNELS, SIDE, SIDE];
            for norm in norms(SIDE) {
                bar.set_message(format!("{} on {}, {n} images", norm.name(), place.name));
                let (seconds, done) = time(&place.backend, norm, &shape, passes, &bar)?;
                let mark = if done < passes { "*" } else { " " };
                fewer |= done < passes;
                line += &format!("  {:>13.3}{mark}", seconds * 1e3);
            }
            let megabytes = (n * CHANNELS * SIDE * SIDE * 4) as f64 / 1e6;
            bar.suspend(|| println!("{line}   {megabytes:>4.1} MB in, as much out"));
        }
    }
    bar.finish_and_clear();
    if fewer {
        println!("* of {SLOW_PASSES} passes, as one takes more than {:.0} ms", SLOW * 1e3);
    }
    println!("On a GPU the tensors stay there; a time includes recording and submitting the pass.\n");
    Ok(())
}

/// Seconds of one pass, and how many were done.
fn time(
    backend: &Backend,
    norm: NormDescriptor,
    shape: &[usize],
    passes: usize,
    bar: &ProgressBar,
) -> Result<(f64, usize), Error> {
    let tensor = TensorDescriptor::new(shape);
    let x = normal(5, shape.iter().product());
    let state = State::new(&norm)?;
    match backend {
        Backend::Gpu { context, queue } => {
            let device = context.device();
            let buffer = |label| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size: x.len() as u64 * 4,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            };
            let (input, output) = (buffer("x"), buffer("y"));
            queue.write_buffer(&input, 0, bytemuck::cast_slice(&x));
            let layer = gpu::Norm::with_state(context, norm, &state)?;
            let io = gpu::Forward::new(input.as_entire_buffer_binding(), output.as_entire_buffer_binding());
            measure(passes, bar, |count| {
                let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for _ in 0..count {
                    // No backward pass follows.
                    let _saved = layer.forward_train(&mut encoder, &tensor, Fusion::default(), &io, Commit::Update)?;
                }
                queue.submit([encoder.finish()]);
                device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| Error::Readback(e.to_string()))?;
                Ok(())
            })
        }
        _ => {
            let mut layer = cpu::Norm::with_state(norm, state)?;
            let mut y = vec![0.0f32; x.len()];
            measure(passes, bar, |count| {
                for _ in 0..count {
                    let io = cpu::Forward::new(&x, &mut y);
                    let _saved = layer.forward_train(&tensor, Fusion::default(), io, Commit::Update)?;
                }
                Ok(())
            })
        }
    }
}

/// Runs passes in batches that are not too long, after two to warm up.
fn measure(
    asked: usize,
    bar: &ProgressBar,
    mut run: impl FnMut(usize) -> Result<(), Error>,
) -> Result<(f64, usize), Error> {
    run(1)?;
    let start = Instant::now();
    run(1)?;
    let one = start.elapsed().as_secs_f64();
    let passes = if one > SLOW { asked.min(SLOW_PASSES) } else { asked };
    bar.inc((asked - passes) as u64);
    let together = ((SUBMISSION / one) as usize).clamp(1, passes);
    let start = Instant::now();
    let mut done = 0;
    while done < passes {
        let count = together.min(passes - done);
        run(count)?;
        done += count;
        bar.inc(count as u64);
    }
    Ok((start.elapsed().as_secs_f64() / passes as f64, passes))
}
