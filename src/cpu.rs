//! Stub.
#![allow(missing_docs, dead_code, unused)]
use crate::*;
#[derive(Debug)]
pub struct Norm {
    d: NormDescriptor,
    s: State,
}
#[derive(Debug)]
pub struct Saved;
impl Saved {
    pub fn len(&self) -> usize {
        0
    }
    pub fn mean(&self, i: usize) -> f64 {
        0.0
    }
    pub fn var(&self, i: usize) -> f64 {
        0.0
    }
    pub fn rstd(&self, i: usize) -> f64 {
        0.0
    }
}
pub enum Source<'a, T> {
    From(&'a [T]),
    InPlace,
}
pub struct Forward<'a, I, O> {
    pub x: Source<'a, I>,
    pub residual: Option<Source<'a, I>>,
    pub y: &'a mut [O],
    pub sum: Option<&'a mut [I]>,
}
pub struct Backward<'a, I, O> {
    pub x: &'a [I],
    pub residual: Option<&'a [I]>,
    pub dy: &'a [O],
    pub dsum: Option<&'a [I]>,
    pub dx: Option<&'a mut [I]>,
    pub dresidual: Option<&'a mut [I]>,
    pub dweight: Option<&'a mut [f32]>,
    pub dbias: Option<&'a mut [f32]>,
}
impl Norm {
    pub fn with_state(d: impl Into<NormDescriptor>, s: State) -> Result<Norm, Error> {
        Ok(Norm { d: d.into(), s })
    }
    pub fn descriptor(&self) -> &NormDescriptor {
        &self.d
    }
    pub fn state(&self) -> &State {
        &self.s
    }
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.s
    }
    pub fn forward_train<I: Element, O: Element>(
        &mut self,
        t: &TensorDescriptor,
        f: Fusion,
        io: Forward<'_, I, O>,
        c: Commit,
    ) -> Result<Saved, Error> {
        Err(Error::Empty { what: "cpu" })
    }
    pub fn forward_eval<I: Element, O: Element>(
        &self,
        t: &TensorDescriptor,
        f: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<(), Error> {
        Err(Error::Empty { what: "cpu" })
    }
    pub fn forward_frozen<I: Element, O: Element>(
        &self,
        t: &TensorDescriptor,
        f: Fusion,
        io: Forward<'_, I, O>,
    ) -> Result<Saved, Error> {
        Err(Error::Empty { what: "cpu" })
    }
    pub fn backward<I: Element, O: Element>(&self, s: Saved, io: Backward<'_, I, O>) -> Result<(), Error> {
        Err(Error::Empty { what: "cpu" })
    }
}
