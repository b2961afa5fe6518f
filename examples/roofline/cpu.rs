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

/// A copy as the calls on large tensors write: the line that is written is not read first.
#[cfg(target_arch = "x86_64")]
fn stream<T: Element>(to: &mut [T], from: &[T]) {
    use std::arch::x86_64::{__m128i, _mm_sfence, _mm_stream_si128};
    let (head, vectors, tail) = bytemuck::pod_align_to_mut::<T, __m128i>(to);
    let (first, rest) = from.split_at(head.len());
    let (middle, last) = rest.split_at(rest.len() - tail.len());
    head.copy_from_slice(first);
    tail.copy_from_slice(last);
    let words = bytemuck::cast_slice(middle).chunks_exact(size_of::<__m128i>());
    // SAFETY: every x86-64 processor has SSE2; a reference is valid for writes and aligned.
    unsafe {
        vectors.iter_mut().zip(words).for_each(|(to, from)| _mm_stream_si128(to, bytemuck::pod_read_unaligned(from)));
        _mm_sfence();
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn stream<T: Element>(to: &mut [T], from: &[T]) {
    to.copy_from_slice(from);
}

impl<T: Element> Runner for Cpu<T> {
    fn copies(&self) -> Vec<String> {
        let threads = rayon::current_num_threads();
        let streaming = cfg!(target_arch = "x86_64").then(|| format!("{threads} threads, stores around the caches"));
        ["1 thread, memcpy".into(), format!("{threads} threads, memcpy")].into_iter().chain(streaming).collect()
    }

    fn copy(&mut self, way: usize) -> Result<f64, Error> {
        let piece = if way == 0 { self.x.len() } else { self.x.len().div_ceil(rayon::current_num_threads()) };
        let copy = if way == 2 { stream::<T> } else { <[T]>::copy_from_slice };
        let start = Instant::now();
        if way == 0 {
            copy(&mut self.out, &self.x);
        } else {
            self.out.par_chunks_mut(piece).zip(self.x.par_chunks(piece)).for_each(|(to, from)| copy(to, from));
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
                let saved = norm.forward_train::<T, T>(&tensor, fusion, forward(out), Commit::Update)?;
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
                let saved = norm.forward_train::<T, T>(&tensor, fusion, forward(out), Commit::Update)?;
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

    fn affine_gradients(&mut self) -> Result<[Vec<f32>; 2], Error> {
        Ok([self.dweight.clone(), self.dbias.clone()])
    }

    fn clock(&self) -> &'static str {
        "wall clock"
    }

    fn tolerance(&self) -> f64 {
        5e-7
    }
}
