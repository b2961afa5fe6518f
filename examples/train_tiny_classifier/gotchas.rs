//! What goes wrong with a trained network, in numbers.

use crate::classifier::data::Batch;
use crate::classifier::network::share_of_right;
use crate::classifier::{Network, Problem, Rng, SeedableRng};
use wgpu_norm::{Commit, Error, Running};

/// Requests that are served, and samples in one.
const REQUESTS: usize = 100;
const REQUEST: usize = 4;
/// Channels that are printed.
const SHOWN: usize = 4;

pub fn show(network: &mut Network, problem: &Problem) -> Result<(), Error> {
    one_sample(network, problem)?;
    drift(network, problem)
}

fn one_sample(network: &mut Network, problem: &Problem) -> Result<(), Error> {
    println!("One sample");
    let mut rng = Rng::seed_from_u64(3);
    let sample = problem.batch(&mut rng, 1);
    let alone = network.infer(&sample.x)?;
    println!("  evaluation, alone            {:.6} {:.6}", alone[0], alone[1]);
    let others = problem.batch(&mut rng, 7);
    let among = network.infer(&[sample.x.clone(), others.x].concat())?;
    println!("  evaluation, among 8          {:.6} {:.6}", among[0], among[1]);
    for _ in 0..2 {
        let others = problem.batch(&mut rng, 3);
        let among = network.infer_in_training_mode(&[sample.x.clone(), others.x].concat(), Commit::Skip)?;
        println!("  training mode, among 4       {:.6} {:.6}   depends on the others", among[0], among[1]);
    }
    match network.infer_in_training_mode(&sample.x, Commit::Update) {
        Err(error @ Error::TooFewValues { .. }) => println!("  training mode, alone         refused: {error}\n"),
        Err(error) => return Err(error),
        Ok(_) => println!("  training mode, alone         not refused, which is a bug: please report it\n"),
    }
    Ok(())
}

/// How a stream of requests is drawn, and which pass answers them.
struct Stream {
    name: &'static str,
    draw: fn(&Problem, &mut Rng, usize) -> Batch,
    answer: fn(&mut Network, &[f32]) -> Result<Vec<f32>, Error>,
}

const EVALUATE: fn(&mut Network, &[f32]) -> Result<Vec<f32>, Error> = Network::infer;
const STREAMS: [Stream; 4] = [
    Stream { name: "mixed, forward_eval", draw: Problem::batch, answer: EVALUATE },
    Stream {
        name: "mixed, training pass",
        draw: Problem::batch,
        answer: |n, x| n.infer_in_training_mode(x, Commit::Update),
    },
    Stream {
        name: "bursts, training pass",
        draw: Problem::burst,
        answer: |n, x| n.infer_in_training_mode(x, Commit::Update),
    },
    Stream {
        name: "bursts, training pass, Skip",
        draw: Problem::burst,
        answer: |n, x| n.infer_in_training_mode(x, Commit::Skip),
    },
];

/// Serves requests with the training pass.
fn drift(network: &mut Network, problem: &Problem) -> Result<(), Error> {
    let held_out = problem.held_out();
    let Some(state) = network.state()? else { return Ok(()) };
    println!("{REQUESTS} requests of {REQUEST} samples, mixed or in bursts of one kind, and what they leave behind");
    println!("                                 right    accuracy   running mean,              running variance,");
    println!(
        "                               answers  afterwards   channels 0 to {}            channels 0 to {0}",
        SHOWN - 1
    );
    print_row("before", None, network.accuracy(&held_out)?, &network.running()?);
    for Stream { name, draw, answer } in STREAMS {
        network.restore(state.clone())?;
        let mut rng = Rng::seed_from_u64(2);
        let mut right = 0.0;
        for _ in 0..REQUESTS {
            let request = draw(problem, &mut rng, REQUEST);
            right += share_of_right(&answer(network, &request.x)?, &request.labels) / REQUESTS as f64;
        }
        print_row(name, Some(right), network.accuracy(&held_out)?, &network.running()?);
    }
    network.restore(state)?;
    println!("Infer with forward_eval: a sample gets the same answer in any company, and the layer stays as it is.");
    Ok(())
}

fn print_row(name: &str, right: Option<f64>, accuracy: f64, running: &Running) {
    let shown = |values: &[f32]| values.iter().take(SHOWN).map(|v| format!("{v:>6.2}")).collect::<String>();
    let right = right.map_or("–".into(), |right| format!("{:.1} %", right * 100.0));
    let (mean, var) = (shown(&running.running_mean), shown(&running.running_var));
    println!("  {name:<28} {right:>7}    {:>5.1} %  {mean}   {var}", accuracy * 100.0);
}
