//! Rows that are written while others are reduced: see [`Meanwhile`].

use super::apply::{clamp, projected};
use super::grid::Cursor;
use super::lanes::{Span, V};
use super::leaf::{Gradient, Meanwhile, Same, normalise};
use super::memory::{Destination, Tile};
use super::source::{GradientTile, Owner, Params};
use super::stream::{Sink, by_strides};
use fearless_simd::{Simd, SimdBase};
use std::marker::PhantomData;

/// y of rows, made while others are reduced.
pub(crate) struct ForwardRows<'a, O, const RELU: bool> {
    pub x: Tile<'a>,
    pub y: Destination<'a>,
    pub params: &'a Params<'a>,
    pub cursor: Cursor,
    pub at: usize,
    pub owner: PhantomData<O>,
}

impl<S: Simd, O: Owner, const RELU: bool> Meanwhile<S> for ForwardRows<'_, O, RELU> {
    #[inline(always)]
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(usize) {
        let row = self.cursor.next();
        let Sink::Stream(y) = self.y.row(k) else { unreachable!("asked for rows that go around the caches") };
        let (x, at, Params { stats, affine, .. }) = (self.x.row(k), self.at, self.params);
        let stats = stats.stats_same(simd, row);
        by_strides(
            simd,
            y,
            #[inline(always)]
            move |from, len| {
                let (x, weights) = (&x[from..][..len], O::weights(simd, affine, row, at + from, len));
                #[inline(always)]
                move |span: Span| {
                    let v = normalise(simd, span.load(simd, x), span, stats, weights);
                    if RELU { clamp(simd, v) } else { v }
                }
            },
        )
    }
}

/// dx of rows, made while others are reduced.
pub(crate) struct BackwardRows<'a, O, const MASK: u8> {
    pub gradient: GradientTile<'a>,
    pub dx: Destination<'a>,
    pub params: &'a Params<'a>,
    pub cursor: Cursor,
    pub at: usize,
    pub centred: bool,
    pub owner: PhantomData<O>,
}

impl<S: Simd, O: Owner, const MASK: u8> Meanwhile<S> for BackwardRows<'_, O, MASK> {
    #[inline(always)]
    fn row(&mut self, simd: S, k: usize) -> impl FnMut(usize) {
        let row = self.cursor.next();
        let Sink::Stream(dx) = self.dx.row(k) else { unreachable!("asked for rows that go around the caches") };
        let (gradient, at, Params { stats, affine, .. }) = (self.gradient.row(k), self.at, self.params);
        let mean_g = if self.centred { stats.same(simd, row, 3) } else { Same(V::splat(simd, 0.0)) };
        let (gx, stats) = (stats.same(simd, row, 4), stats.stats_same(simd, row));
        by_strides(
            simd,
            dx,
            #[inline(always)]
            move |from, len| {
                let gradient = Gradient { x: &gradient.x[from..], dy: &gradient.dy[from..], ..gradient }.of_len(len);
                let weights = O::weights(simd, affine, row, at + from, len);
                #[inline(always)]
                move |span: Span| projected::<S, MASK>(simd, gradient, span, stats, weights, mean_g, gx)
            },
        )
    }
}
