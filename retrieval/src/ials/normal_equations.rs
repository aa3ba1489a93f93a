//! Weighted ridge regression of one row: small dense systems, set up and solved in place.

use crate::kernels::{Kernel, LANES, Simd, block, block_mut, dispatch, dot_lanes};

/// Observations whose outer products are summed up in registers before they are added to the matrix: 16 KiB at 64
/// dimensions, which stays in L1.
const BLOCK_ROWS: usize = 64;

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
    weighted: Vec<f32>,
}

impl NormalEquations {
    pub(super) fn new(stride: usize) -> Self {
        Self {
            stride,
            matrix: vec![0.0; stride * stride],
            solution: vec![0.0; stride],
            weighted: Vec::with_capacity(BLOCK_ROWS * stride),
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
        self.solve_near(&[], base, ridge, observations)
    }

    /// As [`solve`](Self::solve), but of `(base + ridge I + sum w h h^T) (x - prior) = sum w (1 - <h, prior>) h`: without
    /// observations the solution is `prior`, which has `stride` values, or none for zeros.
    pub(super) fn solve_near<'a>(
        &mut self,
        prior: &[f32],
        base: &[f32],
        ridge: f32,
        observations: impl Iterator<Item = (&'a [f32], f32)>,
    ) -> Option<&[f32]> {
        let solve = Solve { equations: self, prior, base, ridge, observations };
        dispatch(solve).then_some(&self.solution)
    }
}

/// Sets up and solves one system; whether it could be solved.
struct Solve<'a, O> {
    equations: &'a mut NormalEquations,
    prior: &'a [f32],
    base: &'a [f32],
    ridge: f32,
    observations: O,
}

impl<'h, O: Iterator<Item = (&'h [f32], f32)>> Kernel for Solve<'_, O> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Simd>(self) -> bool {
        let Self { equations, prior, base, ridge, observations } = self;
        let NormalEquations { stride, matrix, solution, weighted } = equations;
        let stride = *stride;
        matrix.copy_from_slice(base);
        matrix.iter_mut().step_by(stride + 1).for_each(|diagonal| *diagonal += ridge);
        solution.fill(0.0);
        weighted.clear();
        for (observed, weight) in observations {
            let root = weight.sqrt();
            weighted.extend(observed.iter().map(|value| value * root));
            weighted.resize(weighted.len().next_multiple_of(stride), 0.0);
            let row = &weighted[weighted.len() - stride..];
            let explained = if prior.is_empty() { 0.0 } else { dot_lanes::<V>(row, prior) };
            add_multiple::<V>(solution, row, root - explained, 0);
            if weighted.len() == BLOCK_ROWS * stride {
                add_outer_products::<V>(matrix, weighted, stride);
                weighted.clear();
            }
        }
        add_outer_products::<V>(matrix, weighted, stride);
        let is_definite = factorise::<V>(matrix, stride);
        if is_definite {
            substitute::<V>(matrix, solution, stride);
            solution.iter_mut().zip(prior).for_each(|(value, prior)| *value += prior);
        }
        is_definite
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
    fn run<V: Simd>(self) {
        for rows in self.rows.chunks(BLOCK_ROWS * self.stride) {
            add_outer_products::<V>(self.matrix, rows, self.stride);
        }
    }
}

/// Adds the outer product of each of `rows` with itself to the upper triangle of `matrix`.
#[inline(always)]
fn add_outer_products<V: Simd>(matrix: &mut [f32], rows: &[f32], stride: usize) {
    if V::N_KEPT >= 16 {
        add_by_tiles::<V, 16>(matrix, rows, stride);
    } else {
        add_by_tiles::<V, 4>(matrix, rows, stride);
    }
}

/// `HEIGHT` rows of the matrix are summed up at once, in registers; it divides `LANES`.
#[inline(always)]
fn add_by_tiles<V: Simd, const HEIGHT: usize>(matrix: &mut [f32], rows: &[f32], stride: usize) {
    for top in (0..stride).step_by(HEIGHT) {
        for left in (top / LANES * LANES..stride).step_by(LANES) {
            let mut tile = [V::splat(0.0); HEIGHT];
            for row in rows.chunks_exact(stride) {
                let across = V::load(block(row, left));
                let down: &[f32; HEIGHT] =
                    row[top..top + HEIGHT].try_into().expect("HEIGHT elements");
                for i in 0..HEIGHT {
                    tile[i] = across.mul_add(V::splat(down[i]), tile[i]);
                }
            }
            for (i, sum) in tile.into_iter().enumerate() {
                let target = block_mut(matrix, (top + i) * stride + left);
                V::load(target).add(sum).store(target);
            }
        }
    }
}

/// `target += factor * row`, from the block of `start` on. Both are made of whole blocks.
#[inline(always)]
fn add_multiple<V: Simd>(target: &mut [f32], row: &[f32], factor: f32, start: usize) {
    let factor = V::splat(factor);
    for left in (start / LANES * LANES..row.len()).step_by(LANES) {
        let target = block_mut(target, left);
        V::load(block(row, left)).mul_add(factor, V::load(target)).store(target);
    }
}

/// Replaces `matrix`, given by its upper triangle, by its Cholesky factor; whether there is one.
#[inline(always)]
fn factorise<V: Simd>(matrix: &mut [f32], stride: usize) -> bool {
    for top in (0..stride).step_by(PANEL_ROWS) {
        let (panel, rest) = matrix[top * stride..].split_at_mut(PANEL_ROWS * stride);
        if !factorise_panel::<V>(panel, top, stride) {
            return false;
        }
        for (i, row) in rest.chunks_exact_mut(stride).enumerate() {
            subtract_panel::<V>(row, panel, top + PANEL_ROWS + i, stride);
        }
    }
    true
}

/// Factorises the rows `top..top + PANEL_ROWS`, from which all rows above were subtracted.
#[inline(always)]
fn factorise_panel<V: Simd>(panel: &mut [f32], top: usize, stride: usize) -> bool {
    for k in 0..PANEL_ROWS {
        let (above, below) = panel.split_at_mut(k * stride);
        let row = &mut below[..stride];
        for done in above.chunks_exact(stride) {
            add_multiple::<V>(row, done, -done[top + k], top);
        }
        let pivot = row[top + k];
        if pivot.is_nan() || pivot <= 0.0 {
            return false;
        }
        // Zeros before the diagonal, so that rows can be handled in whole blocks from here on.
        row[..top + k].fill(0.0);
        let scale = V::splat(1.0 / pivot.sqrt());
        for left in (top / LANES * LANES..stride).step_by(LANES) {
            let target = block_mut(row, left);
            V::load(target).mul(scale).store(target);
        }
    }
    true
}

/// Subtracts the rows of a factorised panel from row `i`, from the block of the diagonal on.
#[inline(always)]
fn subtract_panel<V: Simd>(row: &mut [f32], panel: &[f32], i: usize, stride: usize) {
    let mut factors = [V::splat(0.0); PANEL_ROWS];
    for (k, factor) in factors.iter_mut().enumerate() {
        *factor = V::splat(-panel[k * stride + i]);
    }
    for left in (i / LANES * LANES..stride).step_by(LANES) {
        let target = block_mut(row, left);
        let mut sum = V::load(target);
        for (k, factor) in factors.into_iter().enumerate() {
            sum = V::load(block(panel, k * stride + left)).mul_add(factor, sum);
        }
        sum.store(target);
    }
}

/// Replaces the right-hand side in `solution` by the solution of `U^T U x = solution`.
#[inline(always)]
fn substitute<V: Simd>(factor: &[f32], solution: &mut [f32], stride: usize) {
    for (k, row) in factor.chunks_exact(stride).enumerate() {
        let value = solution[k] / row[k];
        add_multiple::<V>(solution, row, -value, k);
        solution[k] = value;
    }
    for (k, row) in factor.chunks_exact(stride).enumerate().rev() {
        let right = std::mem::take(&mut solution[k]);
        let start = k / LANES * LANES;
        solution[k] = (right - dot_lanes::<V>(&row[start..], &solution[start..])) / row[k];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::run_with_each;
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

    struct SolveOnce {
        base: Vec<f32>,
        observations: Vec<(Vec<f32>, f32)>,
    }

    impl Kernel for SolveOnce {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run<V: Simd>(self) -> Vec<u32> {
            let mut equations = NormalEquations::new(self.base.len().isqrt());
            let observations = self.observations.iter().map(|(h, weight)| (h.as_slice(), *weight));
            let (base, prior) = (&self.base, &[][..]);
            Solve { equations: &mut equations, prior, base, ridge: 0.5, observations }.run::<V>();
            equations.solution.iter().map(|value| value.to_bits()).collect()
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let value = |i: usize| (i as f32 * 0.731).sin();
        let rows = |n: usize| (0..n * 64).map(value).collect::<Vec<f32>>();
        for n in [0, 1, 63, 64, 200] {
            let observations = rows(n).chunks(64).map(|h| (h.to_vec(), 1.5)).collect::<Vec<_>>();
            let solutions = run_with_each(|| SolveOnce {
                base: gram(&rows(100), 64),
                observations: observations.clone(),
            });
            assert!(solutions.iter().all(|solution| *solution == solutions[0]), "{n} rows");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_refused() {
        let mut equations = NormalEquations::new(LANES);
        assert!(equations.solve(&[0.0; LANES * LANES], 0.0, std::iter::empty()).is_none());
        assert!(equations.solve(&[f32::NAN; LANES * LANES], 1.0, std::iter::empty()).is_none());
    }
}
