//! Weighted ridge regression of one row: small dense systems, set up and solved in place.

use crate::kernels::{Kernel, LANES, dispatch, dot_lanes};

/// Observations whose outer products are summed up in registers before they are added to the matrix: 16 KiB at 64
/// dimensions, which stays in L1.
const BLOCK_ROWS: usize = 64;

/// Rows of the matrix that are summed up at once: with one register each there are enough to hide the latency of an addition.
const TILE_ROWS: usize = 8;

/// Rows of the factor that are subtracted from the rest at once.
const PANEL_ROWS: usize = 4;

/// The system `(base + ridge I + sum w h h^T) x = sum w h` of one row, and the memory to solve it in.
///
/// Rows are `stride` long, a multiple of `LANES`, and filled up with zeros.
#[derive(Debug)]
pub(super) struct NormalEquations {
    stride: usize,
    /// Upper triangle of the matrix, later of its Cholesky factor `U`, `matrix = U^T U`: `[stride, stride]`.
    matrix: Vec<f32>,
    /// The right-hand side, later the solution.
    solution: Vec<f32>,
    /// Observations that are not yet in the matrix, times the roots of their weights: up to `[BLOCK_ROWS, stride]`.
    block: Vec<f32>,
}

impl NormalEquations {
    pub(super) fn new(stride: usize) -> Self {
        Self {
            stride,
            matrix: vec![0.0; stride * stride],
            solution: vec![0.0; stride],
            block: Vec::with_capacity(BLOCK_ROWS * stride),
        }
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The `x` of the observations `(h, w)`, which may be shorter than `stride`; `base` is an upper triangle
    /// `[stride, stride]`. `None` if the matrix is not positive definite within rounding.
    /// Cost: `stride^2` multiplications for every two observations, and `stride^3 / 6`.
    pub(super) fn solve<'a>(
        &mut self,
        base: &[f32],
        ridge: f32,
        observations: impl Iterator<Item = (&'a [f32], f32)>,
    ) -> Option<&[f32]> {
        dispatch(Solve { equations: self, base, ridge, observations }).then_some(&self.solution)
    }
}

/// Sets up and solves one system; whether it could be solved.
struct Solve<'a, O> {
    equations: &'a mut NormalEquations,
    base: &'a [f32],
    ridge: f32,
    observations: O,
}

impl<'h, O: Iterator<Item = (&'h [f32], f32)>> Kernel for Solve<'_, O> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { equations, base, ridge, observations } = self;
        let NormalEquations { stride, matrix, solution, block } = equations;
        let stride = *stride;
        matrix.copy_from_slice(base);
        matrix.iter_mut().step_by(stride + 1).for_each(|diagonal| *diagonal += ridge);
        solution.fill(0.0);
        block.clear();
        for (observed, weight) in observations {
            let root = weight.sqrt();
            block.extend(observed.iter().map(|value| value * root));
            block.resize(block.len().next_multiple_of(stride), 0.0);
            add_multiple(solution, observed, weight);
            if block.len() == BLOCK_ROWS * stride {
                add_outer_products(matrix, block, stride);
                block.clear();
            }
        }
        add_outer_products(matrix, block, stride);
        factorise(matrix, stride) && {
            substitute(matrix, solution, stride);
            true
        }
    }
}

/// The upper triangle of `sum h h^T` over `rows`: `[n, stride]` to `[stride, stride]`.
pub(super) fn gram(rows: &[f32], stride: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; stride * stride];
    dispatch(Gram { rows, stride, matrix: &mut matrix });
    matrix
}

struct Gram<'a> {
    rows: &'a [f32],
    stride: usize,
    matrix: &'a mut [f32],
}

impl Kernel for Gram<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for block in self.rows.chunks(BLOCK_ROWS * self.stride) {
            add_outer_products(self.matrix, block, self.stride);
        }
    }
}

/// Adds the outer product of each row of `block` with itself to the upper triangle of `matrix`.
#[inline(always)]
fn add_outer_products(matrix: &mut [f32], block: &[f32], stride: usize) {
    for top in (0..stride).step_by(TILE_ROWS) {
        for left in (top / LANES * LANES..stride).step_by(LANES) {
            let mut tile = [[0.0; LANES]; TILE_ROWS];
            for row in block.chunks_exact(stride) {
                let (down, across) = (lanes::<TILE_ROWS>(row, top), lanes::<LANES>(row, left));
                for (sums, &factor) in tile.iter_mut().zip(down) {
                    for (sum, &value) in sums.iter_mut().zip(across) {
                        *sum = value.mul_add(factor, *sum);
                    }
                }
            }
            for (i, sums) in tile.iter().enumerate() {
                let target = &mut matrix[(top + i) * stride + left..][..LANES];
                target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum);
            }
        }
    }
}

#[inline(always)]
fn lanes<const N: usize>(row: &[f32], start: usize) -> &[f32; N] {
    row[start..start + N].try_into().expect("the range has N elements")
}

/// `target += factor * row`; the shorter of the two decides.
#[inline(always)]
fn add_multiple(target: &mut [f32], row: &[f32], factor: f32) {
    for (target, &value) in target.iter_mut().zip(row) {
        *target = value.mul_add(factor, *target);
    }
}

/// Replaces the upper triangle of `matrix` by its Cholesky factor; whether there is one.
///
/// What lies below the diagonal changes too, and means nothing.
#[inline(always)]
fn factorise(matrix: &mut [f32], stride: usize) -> bool {
    for top in (0..stride).step_by(PANEL_ROWS) {
        let (panel, rest) = matrix[top * stride..].split_at_mut(PANEL_ROWS * stride);
        if !factorise_panel(panel, top, stride) {
            return false;
        }
        for (i, row) in rest.chunks_exact_mut(stride).enumerate() {
            subtract_panel(row, panel, top + PANEL_ROWS + i, stride);
        }
    }
    true
}

/// Factorises the rows `top..top + PANEL_ROWS`, from which all rows above were subtracted.
#[inline(always)]
fn factorise_panel(panel: &mut [f32], top: usize, stride: usize) -> bool {
    let start = top / LANES * LANES;
    for k in 0..PANEL_ROWS {
        let (above, below) = panel.split_at_mut(k * stride);
        let row = &mut below[..stride];
        for done in above.chunks_exact(stride) {
            let factor = -done[top + k];
            add_multiple(&mut row[start..], &done[start..], factor);
        }
        let pivot = row[top + k];
        if pivot.is_nan() || pivot <= 0.0 {
            return false;
        }
        let scale = 1.0 / pivot.sqrt();
        row[start..].iter_mut().for_each(|value| *value *= scale);
    }
    true
}

/// Subtracts the rows of a factorised panel from row `i`, in whole registers from the one of the diagonal on.
#[inline(always)]
fn subtract_panel(row: &mut [f32], panel: &[f32], i: usize, stride: usize) {
    let start = i / LANES * LANES;
    let (a, rest) = panel.split_at(stride);
    let (b, rest) = rest.split_at(stride);
    let (c, d) = rest.split_at(stride);
    let (fa, fb, fc, fd) = (-a[i], -b[i], -c[i], -d[i]);
    for left in (start..stride).step_by(LANES) {
        let target = &mut row[left..left + LANES];
        let (a, b) = (lanes::<LANES>(a, left), lanes::<LANES>(b, left));
        let (c, d) = (lanes::<LANES>(c, left), lanes::<LANES>(d, left));
        for (l, target) in target.iter_mut().enumerate() {
            let sum = b[l].mul_add(fb, a[l].mul_add(fa, *target));
            *target = d[l].mul_add(fd, c[l].mul_add(fc, sum));
        }
    }
}

/// Replaces the right-hand side in `solution` by the solution of `U^T U x = solution`.
#[inline(always)]
fn substitute(factor: &[f32], solution: &mut [f32], stride: usize) {
    for (k, row) in factor.chunks_exact(stride).enumerate() {
        let value = solution[k] / row[k];
        solution[k] = value;
        add_multiple(&mut solution[k + 1..], &row[k + 1..], -value);
    }
    for (k, row) in factor.chunks_exact(stride).enumerate().rev() {
        let known = dot_lanes(&row[k + 1..], &solution[k + 1..]);
        solution[k] = (solution[k] - known) / row[k];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The system in double precision, solved by Gaussian elimination.
    fn solve_slowly(
        base: &[f32],
        ridge: f32,
        observations: &[(Vec<f32>, f32)],
        dim: usize,
    ) -> Vec<f64> {
        let mut rows = vec![vec![0.0; dim + 1]; dim];
        for i in 0..dim {
            for j in 0..dim {
                rows[i][j] = f64::from(base[i.min(j) * dim + i.max(j)]);
                for (h, weight) in observations {
                    rows[i][j] += f64::from(*weight) * f64::from(h[i]) * f64::from(h[j]);
                }
            }
            rows[i][i] += f64::from(ridge);
            rows[i][dim] = observations.iter().map(|(h, w)| f64::from(*w) * f64::from(h[i])).sum();
        }
        for k in 0..dim {
            let pivot = rows[k].clone();
            for (i, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != k) {
                let factor = row[k] / pivot[k];
                row.iter_mut().zip(&pivot).for_each(|(value, p)| *value -= factor * p);
                assert!(i < dim);
            }
        }
        (0..dim).map(|k| rows[k][dim] / rows[k][k]).collect()
    }

    proptest! {
        #[test]
        fn the_solution_is_that_of_double_precision(
            n in 0usize..150,
            n_registers in 1usize..5,
            ridge in 0.5f32..3.0,
            seed in 0u64..1_000,
        ) {
            let dim = n_registers * LANES;
            let value = |i: usize| ((i as f32 + seed as f32) * 0.731).sin();
            let observations: Vec<(Vec<f32>, f32)> = (0..n)
                .map(|row| ((0..dim).map(|k| value(row * 67 + k * k)).collect(), value(row).abs()))
                .collect();
            let items: Vec<f32> = (0..3 * dim).map(value).collect();
            let base = gram(&items, dim);
            let mut equations = NormalEquations::new(dim);
            let given = observations.iter().map(|(h, weight)| (h.as_slice(), *weight));
            let found = equations.solve(&base, ridge, given).expect("a ridge makes it definite").to_vec();
            for (found, expected) in found.iter().zip(solve_slowly(&base, ridge, &observations, dim)) {
                prop_assert!((f64::from(*found) - expected).abs() < 2e-4, "{found} is not {expected}");
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_refused() {
        let mut equations = NormalEquations::new(LANES);
        assert!(equations.solve(&[0.0; LANES * LANES], 0.0, std::iter::empty()).is_none());
        assert!(equations.solve(&[f32::NAN; LANES * LANES], 1.0, std::iter::empty()).is_none());
    }
}
