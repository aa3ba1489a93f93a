//! Loops over floats, compiled once for each instruction set, the best of which is chosen at run time.
//!
//! Every set gives the same bits, so that a model does not depend on the machine that trained it: the loops are written in
//! vectors of 16 floats, whatever the width of the registers, and each operation rounds once on all of them.

/// Floats of one vector. Rows that are padded are padded to a multiple of it.
pub(crate) const LANES: usize = 16;

/// A vector of 16 floats, in the registers of one instruction set.
pub(crate) trait Simd: Copy {
    /// Vectors that can be kept in registers at once, beside a few operands.
    const N_KEPT: usize;

    fn splat(value: f32) -> Self;
    fn load(values: &[f32; LANES]) -> Self;
    fn store(self, values: &mut [f32; LANES]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The sum of the lanes: of the two halves, then of their halves, and so on.
    fn sum(self) -> f32;
    /// The inner product of integers, of rows whose length is a multiple of `LANES`; what is longer in one is left out. It must
    /// fit into 32 bits.
    fn dot_integers(a: &[i16], b: &[i8]) -> i32;
}

/// A loop to be compiled for each instruction set.
///
/// `run`, and every function in it that takes vectors, must be `#[inline(always)]`: a function that stays outside is compiled
/// for the oldest processor.
pub(crate) trait Kernel {
    type Output;

    fn run<V: Simd>(self) -> Self::Output;
}

/// Runs `kernel` with the best instruction set of this processor.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            return unsafe { x86::run_avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { x86::run_avx2(kernel) };
        }
    }
    kernel.run::<Portable>()
}

/// Any processor. Slow where there is no fused multiply-add.
#[derive(Clone, Copy)]
struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|l| operation(self.0[l], other.0[l])))
    }
}

impl Simd for Portable {
    const N_KEPT: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Self(*values)
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        *values = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(std::array::from_fn(|l| self.0[l].mul_add(factor.0[l], term.0[l])))
    }

    #[inline(always)]
    fn dot_integers(a: &[i16], b: &[i8]) -> i32 {
        let blocks = a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0);
        let pairs = blocks.flat_map(|(a, b)| a.iter().zip(b));
        pairs.fold(0, |sum, (a, b)| sum.wrapping_add(i32::from(*a) * i32::from(*b)))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.0;
        for width in [8, 4, 2, 1] {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
        }
        lanes[0]
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, LANES, Simd};

    #[target_feature(enable = "avx512f")]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx512>()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }

    /// One register of 512 bits. Named by `run_avx512` alone, so that a value means that the processor has AVX-512F.
    #[derive(Clone, Copy)]
    struct Avx512(__m512);

    impl Simd for Avx512 {
        const N_KEPT: usize = 24;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the processor has AVX-512F; see the type.
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        fn load(values: &[f32; LANES]) -> Self {
            // SAFETY: the processor has AVX-512F; see the type. All 16 floats are read, aligned or not.
            Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, values: &mut [f32; LANES]) {
            // SAFETY: the processor has AVX-512F; see the type. All 16 floats are written, aligned or not.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: the processor has AVX-512F; see the type.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: the processor has AVX-512F; see the type.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: the processor has AVX-512F; see the type.
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: the processor has AVX-512F; see the type.
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
        }

        #[inline(always)]
        fn dot_integers(a: &[i16], b: &[i8]) -> i32 {
            // SAFETY: `run_avx512` alone names the type, and AVX-512F includes AVX2.
            unsafe { dot_integers(a, b) }
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: the processor has AVX-512F, which includes AVX; see the type.
            unsafe {
                let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0)));
                sum_of_eight(_mm256_add_ps(_mm512_castps512_ps256(self.0), high))
            }
        }
    }

    /// Two registers of 256 bits. Named by `run_avx2` alone, so that a value means that the processor has AVX2 and FMA.
    #[derive(Clone, Copy)]
    struct Avx2(__m256, __m256);

    impl Simd for Avx2 {
        const N_KEPT: usize = 6;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the processor has AVX2; see the type.
            let half = unsafe { _mm256_set1_ps(value) };
            Self(half, half)
        }

        #[inline(always)]
        fn load(values: &[f32; LANES]) -> Self {
            let start = values.as_ptr();
            // SAFETY: the processor has AVX2; see the type. All 16 floats are read, aligned or not.
            unsafe { Self(_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(8))) }
        }

        #[inline(always)]
        fn store(self, values: &mut [f32; LANES]) {
            let start = values.as_mut_ptr();
            // SAFETY: the processor has AVX2; see the type. All 16 floats are written, aligned or not.
            unsafe {
                _mm256_storeu_ps(start, self.0);
                _mm256_storeu_ps(start.add(8), self.1);
            }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2; see the type.
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2; see the type.
            unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2; see the type.
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: the processor has FMA; see the type.
            unsafe {
                let low = _mm256_fmadd_ps(self.0, factor.0, term.0);
                Self(low, _mm256_fmadd_ps(self.1, factor.1, term.1))
            }
        }

        #[inline(always)]
        fn dot_integers(a: &[i16], b: &[i8]) -> i32 {
            // SAFETY: `run_avx2` alone names the type.
            unsafe { dot_integers(a, b) }
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: the processor has AVX2; see the type.
            unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
        }
    }

    /// # Safety
    /// The processor must have AVX2.
    #[inline(always)]
    unsafe fn dot_integers(a: &[i16], b: &[i8]) -> i32 {
        // SAFETY: the caller has made sure of AVX2. Of each block all 16 integers are read, aligned or not.
        unsafe {
            let mut sums = _mm256_setzero_si256();
            for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
                let a = _mm256_loadu_si256(a.as_ptr().cast());
                let b = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.as_ptr().cast()));
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
            }
            let high = _mm256_extracti128_si256::<1>(sums);
            let four = _mm_add_epi32(_mm256_castsi256_si128(sums), high);
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b_00_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b_00_00_00_01>(two)))
        }
    }

    /// # Safety
    /// The processor must have AVX.
    #[inline(always)]
    unsafe fn sum_of_eight(lanes: __m256) -> f32 {
        // SAFETY: the caller has made sure of AVX.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

/// The block of `LANES` floats that starts at `start`.
#[inline(always)]
pub(crate) fn block(row: &[f32], start: usize) -> &[f32; LANES] {
    row[start..start + LANES].try_into().expect("the range has 16 elements")
}

/// The block of `LANES` floats that starts at `start`, to be written.
#[inline(always)]
pub(crate) fn block_mut(row: &mut [f32], start: usize) -> &mut [f32; LANES] {
    (&mut row[start..start + LANES]).try_into().expect("the range has 16 elements")
}

/// The fewer than `LANES` floats at the end of a row, filled up with zeros.
#[inline(always)]
fn last_block(rest: &[f32]) -> [f32; LANES] {
    let mut block = [0.0; LANES];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// Independent sums of the inner product: enough to hide the latency of a fused multiply-add.
const N_SUMS: usize = 4;

/// Inner product of two rows of one length, for use inside a kernel. Zeros appended to both do not change it.
#[inline(always)]
pub(crate) fn dot_lanes<V: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [V::splat(0.0); N_SUMS];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let (a_groups, a_blocks) = a_blocks.as_chunks::<N_SUMS>();
    let (b_groups, b_blocks) = b_blocks.as_chunks::<N_SUMS>();
    for (x, y) in a_groups.iter().zip(b_groups) {
        for k in 0..N_SUMS {
            sums[k] = V::load(&x[k]).mul_add(V::load(&y[k]), sums[k]);
        }
    }
    for (k, (x, y)) in a_blocks.iter().zip(b_blocks).enumerate() {
        sums[k] = V::load(x).mul_add(V::load(y), sums[k]);
    }
    if !a_rest.is_empty() {
        let (x, y) = (V::load(&last_block(a_rest)), V::load(&last_block(b_rest)));
        sums[a_blocks.len()] = x.mul_add(y, sums[a_blocks.len()]);
    }
    sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
}

/// The inner product of two rows.
pub(crate) struct Dot<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Simd>(self) -> f32 {
        dot_lanes::<V>(self.a, self.b)
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
    fn run<V: Simd>(self) {
        for (row, product) in self.rows.chunks_exact(self.query.len()).zip(self.products) {
            *product = dot_lanes::<V>(self.query, row);
        }
    }
}

/// The squared length of `a - b`, two rows whose length is a multiple of `LANES`.
pub(crate) struct SquaredDistance<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
}

impl Kernel for SquaredDistance<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Simd>(self) -> f32 {
        let (mut even, mut odd) = (V::splat(0.0), V::splat(0.0));
        for (x, y) in self.a.as_chunks::<LANES>().0.iter().zip(self.b.as_chunks::<LANES>().0) {
            let difference = V::load(x).sub(V::load(y));
            (even, odd) = (odd, difference.mul_add(difference, even));
        }
        even.add(odd).sum()
    }
}

/// Of rows that lie apart, those whose loading is under way while one is looked at.
pub(crate) const ROWS_AHEAD: usize = 8;

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

/// Runs `kernel` with each instruction set that this processor has, for tests that they agree.
#[cfg(test)]
pub(crate) fn run_with_each<K: Kernel>(kernel: impl Fn() -> K) -> Vec<K::Output> {
    let mut outputs = vec![kernel().run::<Portable>()];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            outputs.push(unsafe { x86::run_avx2(kernel()) });
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            outputs.push(unsafe { x86::run_avx512(kernel()) });
        }
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs() -> impl Strategy<Value = Vec<(f32, f32)>> {
        proptest::collection::vec((-10f32..10.0, -10f32..10.0), 0..300)
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(pairs in pairs()) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let products = run_with_each(|| Dot { a: &a, b: &b });
            prop_assert!(products.iter().all(|p| p.to_bits() == products[0].to_bits()), "{products:?}");
            let n = a.len() / LANES * LANES;
            let distances = run_with_each(|| SquaredDistance { a: &a[..n], b: &b[..n] });
            prop_assert!(distances.iter().all(|d| d.to_bits() == distances[0].to_bits()), "{distances:?}");
        }

        #[test]
        fn products_and_distances_are_those_of_double_precision(pairs in pairs()) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let pairs: Vec<(f64, f64)> = pairs.iter().map(|&(a, b)| (a.into(), b.into())).collect();
            let product: f64 = pairs.iter().map(|(a, b)| a * b).sum();
            let size: f64 = pairs.iter().map(|(a, b)| (a * b).abs()).sum();
            let found = f64::from(dispatch(Dot { a: &a, b: &b }));
            prop_assert!((found - product).abs() <= 1e-5 * size);
            let n = a.len() / LANES * LANES;
            let distance: f64 = pairs[..n].iter().map(|(a, b)| (a - b).powi(2)).sum();
            let found = f64::from(dispatch(SquaredDistance { a: &a[..n], b: &b[..n] }));
            prop_assert!((found - distance).abs() <= 1e-5 * distance);
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
