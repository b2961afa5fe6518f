//! Runs a case on the CPU, in memory that is there already.

use super::cases::{Call, Case};
use super::data::Data;
use super::measure::Runner;
use rayon::prelude::*;
use std::time::Instant;
use wgpu_norm::{Commit, DType, Element, Error, Fusion, cpu, half};

struct Cpu<T> {
    case: Case,
    norm: cpu::Norm,
    x: Vec<T>,
    dy: Vec<T>,
    out: Vec<T>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

/// A runner for the case's element type.
pub fn runner(case: &Case, data: &Data) -> Result<Box<dyn Runner>, Error> {
    Ok(match case.dtype {
        DType::F32 => Box::new(Cpu::<f32>::new(case, data)?),
        DType::F16 => Box::new(Cpu::<half::f16>::new(case, data)?),
        DType::BF16 => Box::new(Cpu::<half::bf16>::new(case, data)?),
        _ => unreachable!("a new element type needs a line here"),
    })
}

impl<T: Element> Cpu<T> {
    fn new(case: &Case, data: &Data) -> Result<Cpu<T>, Error> {
        let narrow = |values: &[f32]| values.iter().map(|&v| T::from_f32(v)).collect::<Vec<T>>();
        let weights = case.norm.affine_len() as usize;
        Ok(Cpu {
            case: case.clone(),
            norm: cpu::Norm::with_state(case.norm.clone(), data.state.clone())?,
            x: narrow(&data.x),
            dy: narrow(&data.dy),
            out: vec![T::from_f32(f32::NAN); data.x.len()],
            dweight: vec![f32::NAN; weights],
            dbias: vec![f32::NAN; weights],
        })
    }
}

impl<T: Element> Runner for Cpu<T> {
    fn copy(&mut self) -> Result<f64, Error> {
        let start = Instant::now();
        let piece = self.x.len().div_ceil(rayon::current_num_threads());
        // As few pieces as there are threads; small tensors on one.
        if self.x.len() < 1 << 15 {
            self.out.copy_from_slice(&self.x);
        } else {
            let pieces = self.x.par_chunks(piece).zip(self.out.par_chunks_mut(piece));
            pieces.for_each(|(from, to)| to.copy_from_slice(from));
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn run(&mut self) -> Result<f64, Error> {
        let Cpu { case, norm, x, dy, out, dweight, dbias } = self;
        let (tensor, fusion) = (case.tensor(), Fusion::default());
        let forward = |out| cpu::Forward::new(x, out);
        match case.call {
            Call::Train => {
                let start = Instant::now();
                let saved = norm.forward_train::<T, T>(&tensor, fusion, forward(out), Commit::Skip)?;
                let seconds = start.elapsed().as_secs_f64();
                drop(saved);
                Ok(seconds)
            }
            Call::Eval => {
                let start = Instant::now();
                norm.forward_eval::<T, T>(&tensor, fusion, forward(out))?;
                Ok(start.elapsed().as_secs_f64())
            }
            Call::Backward => {
                let saved = norm.forward_train::<T, T>(&tensor, fusion, forward(out), Commit::Skip)?;
                let affine = case.norm.affine();
                let io = cpu::Backward {
                    dx: Some(out),
                    dweight: affine.weight.then_some(dweight),
                    dbias: affine.bias.then_some(dbias),
                    ..cpu::Backward::new(x, dy)
                };
                let start = Instant::now();
                norm.backward::<T, T>(saved, io)?;
                Ok(start.elapsed().as_secs_f64())
            }
        }
    }

    fn output(&mut self) -> Result<Vec<f32>, Error> {
        Ok(self.out.iter().map(|v| v.to_f32()).collect())
    }

    fn clock(&self) -> &'static str {
        "wall clock"
    }

    fn tolerance(&self) -> f64 {
        5e-7
    }
}
