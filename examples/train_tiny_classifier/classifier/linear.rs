//! A linear layer, forward and backward, on `matrixmultiply`.

use super::Rng;
use rand::RngExt;

/// `y = x · weightᵀ + bias`.
pub struct Linear {
    inputs: usize,
    outputs: usize,
    /// Rows of `inputs`, one an output.
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

pub struct LinearGradients {
    pub dx: Vec<f32>,
    pub dweight: Vec<f32>,
    pub dbias: Vec<f32>,
}

impl Linear {
    /// PyTorch's initial values: uniform within ±1/sqrt(inputs).
    pub fn new(inputs: usize, outputs: usize, rng: &mut Rng) -> Linear {
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut uniform = |len| (0..len).map(|_| rng.random_range(-bound..bound)).collect();
        Linear { inputs, outputs, weight: uniform(inputs * outputs), bias: uniform(outputs) }
    }

    /// x has rows of `inputs`, the result rows of `outputs`.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let x = Matrix::new(x, rows, self.inputs);
        let mut y = self.bias.repeat(rows);
        multiply(x, Matrix::new(&self.weight, self.outputs, self.inputs).transposed(), &mut y);
        y
    }

    /// Gradients from that of y.
    pub fn backward(&self, x: &[f32], dy: &[f32]) -> LinearGradients {
        let rows = x.len() / self.inputs;
        let (x, dy_matrix) = (Matrix::new(x, rows, self.inputs), Matrix::new(dy, rows, self.outputs));
        let mut dx = vec![0.0; rows * self.inputs];
        multiply(dy_matrix, Matrix::new(&self.weight, self.outputs, self.inputs), &mut dx);
        let mut dweight = vec![0.0; self.weight.len()];
        multiply(dy_matrix.transposed(), x, &mut dweight);
        let dbias = (0..self.outputs).map(|o| dy.iter().skip(o).step_by(self.outputs).sum()).collect();
        LinearGradients { dx, dweight, dbias }
    }
}

/// A view of a slice.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    fn new(data: &'a [f32], rows: usize, columns: usize) -> Matrix<'a> {
        assert_eq!(data.len(), rows * columns);
        Matrix { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `sum += a · b`.
fn multiply(a: Matrix, b: Matrix, sum: &mut [f32]) {
    assert!(a.columns == b.rows && sum.len() == a.rows * b.columns);
    // SAFETY: a `Matrix` covers its slice exactly, transposed or not, and `sum` has a row of `b.columns` for each
    // of `a`'s rows.
    unsafe {
        matrixmultiply::sgemm(
            a.rows,
            a.columns,
            b.columns,
            1.0,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.column_stride as isize,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.column_stride as isize,
            1.0,
            sum.as_mut_ptr(),
            b.columns as isize,
            1,
        );
    }
}
