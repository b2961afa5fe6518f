//! Rows that are written while others are reduced: see [`Meanwhile`].

use super::formula::{Gradient, Line, OfY, clamp, mask, projected};
use super::grid::Cursor;
use super::lanes::Span;
use super::leaf::Meanwhile;
use super::memory::{Destination, Tile};
use super::params::{Owner, RowParams};
use super::source::GradientTile;
use super::stream::{Sink, by_strides};
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
    #[inline(always)]
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(usize) {
        let row = self.cursor.next();
        let Sink::Stream(y) = self.y.row(k) else { unreachable!("asked for rows that go around the caches") };
        let (x, at, params) = (self.x.row(k), self.at, self.params);
        let of_stats = params.of_stats(simd, row);
        by_strides(
            simd,
            y,
            #[inline(always)]
            move |from, len| {
                let x = &x[from..][..len];
                let of = of_stats.with(O::weights(simd, params.affine, row, at + from, len));
                #[inline(always)]
                move |span: Span| {
                    let v = of.y().at(simd, span.load(simd, x), span);
                    if MASK == mask::RELU { clamp(simd, v) } else { v }
                }
            },
        )
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
    #[inline(always)]
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(usize) {
        let row = self.cursor.next();
        let Sink::Stream(dx) = self.dx.row(k) else { unreachable!("asked for rows that go around the caches") };
        let (gradient, at, params) = (self.gradient.row(k), self.at, self.params);
        let of_stats = params.of_stats(simd, row);
        by_strides(
            simd,
            dx,
            #[inline(always)]
            move |from, len| {
                let gradient = Gradient { x: &gradient.x[from..], dy: &gradient.dy[from..], ..gradient }.of_len(len);
                let of = of_stats.with(O::weights(simd, params.affine, row, at + from, len));
                #[inline(always)]
                move |span: Span| projected::<S, _, MASK>(simd, gradient, span, of)
            },
        )
    }
}
