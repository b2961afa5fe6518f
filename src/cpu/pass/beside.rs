//! Rows that are written while others are reduced: see [`Meanwhile`].

use super::apply::{Dx, Y};
use super::params::{Owner, RowParams};
use crate::cpu::grid::Cursor;
use crate::cpu::memory::input::Tile;
use crate::cpu::memory::output::Destination;
use crate::cpu::memory::sink::{Sink, Values};
use crate::cpu::memory::stream::ByLines;
use crate::cpu::reduce::leaf::Meanwhile;
use crate::cpu::reduce::source::GradientTile;
use crate::cpu::simd::lanes::Span;
use fearless_simd::Simd;
use std::marker::PhantomData;

/// y of rows, made while others are reduced.
pub(crate) struct ForwardRows<'a, O, const MASK: u8> {
    pub x: Tile<'a>,
    pub y: Destination<'a>,
    pub params: &'a RowParams<'a>,
    pub cursor: Cursor,
    pub at: usize,
    pub owner: PhantomData<O>,
}

impl<S: Simd, O: Owner, const MASK: u8> Meanwhile<S> for ForwardRows<'_, O, MASK> {
    const SHORT: Option<bool> = Some(false);

    #[inline(always)]
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(Span) {
        let row = self.cursor.next();
        let Sink::Stream(y) = self.y.row(k) else { unreachable!("asked for rows that go around the caches") };
        let (x, params) = (self.x.row(k), self.params);
        let weights = O::weights(simd, params.affine, row, self.at, x.len());
        let of = params.of_stats(simd, row).with(weights);
        let mut y = ByLines::new(simd, y, Y::<_, _, MASK> { x, residual: None, relu: false, of });
        #[inline(always)]
        move |span| y.beside(span)
    }
}

/// A strip (see [`super::strip`]), a stride for each row that is reduced. Rows are shorter than a stride, so there are fewer
/// strides than rows, and what is behind them has its turn, too.
pub(crate) struct Strip<'a, S, F>(pub ByLines<'a, S, F>);

impl<S: Simd, F: Values<S>> Meanwhile<S> for Strip<'_, S, F> {
    const SHORT: Option<bool> = Some(true);

    #[inline(always)]
    fn row(&mut self, _: S, k: usize) -> impl FnMut(Span) {
        #[inline(always)]
        move |_| self.0.stride(k)
    }
}

/// dx of rows, made while others are reduced.
pub(crate) struct BackwardRows<'a, O, const MASK: u8> {
    pub gradient: GradientTile<'a>,
    pub dx: Destination<'a>,
    pub params: &'a RowParams<'a>,
    pub cursor: Cursor,
    pub at: usize,
    pub owner: PhantomData<O>,
}

impl<S: Simd, O: Owner, const MASK: u8> Meanwhile<S> for BackwardRows<'_, O, MASK> {
    const SHORT: Option<bool> = Some(false);

    #[inline(always)]
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(Span) {
        let row = self.cursor.next();
        let Sink::Stream(dx) = self.dx.row(k) else { unreachable!("asked for rows that go around the caches") };
        let (gradient, params) = (self.gradient.row(k), self.params);
        let weights = O::weights(simd, params.affine, row, self.at, gradient.x.len());
        let of = params.of_stats(simd, row).with(weights);
        let mut dx = ByLines::new(simd, dx, Dx::<_, _, MASK> { gradient, of });
        #[inline(always)]
        move |span| dx.beside(span)
    }
}
