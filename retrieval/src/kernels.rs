//! Loops over floats, compiled once for each instruction set, the best of which is chosen at run time.
//!
//! Every set gives the same bits, so that a model does not depend on the machine that trained it: the loops state their
//! lanes and their fused multiply-adds, and compilers keep the order of floating-point operations.

/// Floats that one AVX-512 register holds. Rows that are padded are padded to a multiple of it.
pub(crate) const LANES: usize = 16;

/// A loop to be compiled for each instruction set.
///
/// `run`, and every function in it that should be vectorised, must be `#[inline(always)]`: a function that stays outside is
/// compiled for the oldest processor.
pub(crate) trait Kernel {
    type Output;

    fn run(self) -> Self::Output;
}

/// Runs `kernel` with the best instruction set of this processor.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            return unsafe { run_avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { run_avx2(kernel) };
        }
    }
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// Independent sums of the inner product: enough to hide the latency of a fused multiply-add.
const N_SUMS: usize = 4;

/// Inner product of two rows of one length, for use inside a kernel. Zeros appended to both do not change it.
#[inline(always)]
pub(crate) fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [[0.0; LANES]; N_SUMS];
    let (mut a_blocks, mut b_blocks) =
        (a.chunks_exact(LANES * N_SUMS), b.chunks_exact(LANES * N_SUMS));
    for (x, y) in (&mut a_blocks).zip(&mut b_blocks) {
        for (k, sum) in sums.iter_mut().enumerate() {
            multiply_add(sum, &x[k * LANES..][..LANES], &y[k * LANES..][..LANES]);
        }
    }
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for ((sum, x), y) in sums.iter_mut().zip(a_rest.chunks(LANES)).zip(b_rest.chunks(LANES)) {
        multiply_add(sum, x, y);
    }
    total(sums)
}

#[inline(always)]
fn multiply_add(sum: &mut [f32; LANES], x: &[f32], y: &[f32]) {
    for ((sum, x), y) in sum.iter_mut().zip(x).zip(y) {
        *sum = x.mul_add(*y, *sum);
    }
}

/// All lanes of all sums, added pairwise.
#[inline(always)]
fn total(sums: [[f32; LANES]; N_SUMS]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (l, lane) in lanes.iter_mut().enumerate() {
        *lane = (sums[0][l] + sums[1][l]) + (sums[2][l] + sums[3][l]);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The inner product of two rows.
pub(crate) struct Dot<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        dot_lanes(self.a, self.b)
    }
}

/// The inner products of a query with consecutive rows: `products[i] = query . rows[i]`.
pub(crate) struct Products<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) rows: &'a [f32],
    pub(crate) products: &'a mut [f32],
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (row, product) in self.rows.chunks_exact(self.query.len()).zip(self.products) {
            *product = dot_lanes(self.query, row);
        }
    }
}

/// Starts loading the cache lines of `row`, which will be needed soon.
#[inline(always)]
pub(crate) fn prefetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE_BYTES: usize = 64;
        let start = row.as_ptr().cast::<i8>();
        for offset in (0..size_of_val(row)).step_by(LINE_BYTES) {
            // SAFETY: the address lies within `row`; a prefetch reads nothing that the program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_inner_product(
            pairs in proptest::collection::vec((-10f32..10.0, -10f32..10.0), 0..300),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let portable = Dot { a: &a, b: &b }.run();
            prop_assert_eq!(dispatch(Dot { a: &a, b: &b }).to_bits(), portable.to_bits());
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has AVX2 and FMA.
                let avx2 = unsafe { run_avx2(Dot { a: &a, b: &b }) };
                prop_assert_eq!(avx2.to_bits(), portable.to_bits());
            }
        }

        #[test]
        fn the_inner_product_is_that_of_double_precision(
            pairs in proptest::collection::vec((-10f32..10.0, -10f32..10.0), 0..300),
        ) {
            let exact: f64 = pairs.iter().map(|&(a, b)| f64::from(a) * f64::from(b)).sum();
            let size: f64 = pairs.iter().map(|&(a, b)| f64::from(a * b).abs()).sum();
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let found = f64::from(dispatch(Dot { a: &a, b: &b }));
            prop_assert!((found - exact).abs() <= 1e-5 * size);
        }

        #[test]
        fn padding_does_not_change_the_inner_product(row in proptest::collection::vec(-10f32..10.0, 0..200)) {
            let mut padded = row.clone();
            padded.resize(row.len().next_multiple_of(LANES), 0.0);
            let (plain, padded) = (Dot { a: &row, b: &row }, Dot { a: &padded, b: &padded });
            prop_assert_eq!(dispatch(plain), dispatch(padded));
        }
    }
}
