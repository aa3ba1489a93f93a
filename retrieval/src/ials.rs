//! The embedding: implicit alternating least squares, and the exact fold-in of users.
//!
//! A user's and an item's vector multiply to 1 for a preference and to 0 for everything else, each pair weighted:
//!
//! ```text
//! loss = sum over preferences w (<u, i> - 1)^2 + alpha0 sum over all pairs <u, i>^2
//!      + sum over users reg_u |u|^2 + sum over items reg_i |i|^2
//! reg_u = lambda (sum of the user's w + alpha0 n_items)^nu, and reg_i likewise
//! ```
//!
//! With the vectors of the other side fixed, a row is the solution of a small linear system, which is solved exactly. A live
//! user is one more such row. Source: "Revisiting the performance of iALS on item recommendation benchmarks", RecSys 2022.

mod normal_equations;
mod preferences;

use std::f64::consts::TAU;
use std::io;
use std::path::Path;
use std::sync::Arc;

use featurestore::ItemId;
use rayon::prelude::*;

use crate::kernels::LANES;
use crate::mapped::{Array, Flaw, Mapped, OpenError, write_sections};
use crate::vectors::{Vectors, VectorsError};
use normal_equations::{NormalEquations, gram};
use preferences::SparseRows;
pub use preferences::{PreferenceWeighting, Preferences};

const KIND: &[u8; 8] = b"ials    ";

/// Rows whose Gram matrix is summed up by one thread. Fixed, so that the order of the sums is too.
const GRAM_ROWS: usize = 4_096;

/// Rows that a thread solves at least before another one may take over.
const MIN_ROWS_OF_A_THREAD: usize = 16;

/// How an embedding is fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IalsConfig {
    /// Length of a vector: 1 to 4,096.
    pub dim: usize,
    /// Passes over all users and items.
    pub n_epochs: usize,
    /// Weight of a pair that is not a preference, at least 0.
    pub alpha0: f64,
    /// Strength of the regularisation, above 0.
    pub lambda: f64,
    /// How much the regularisation grows with what is known of a user or an item: 0 not at all, 1 in proportion.
    pub nu: f64,
    /// Of the item vectors before the first pass.
    pub seed: u64,
}

impl Default for IalsConfig {
    /// The published settings for MovieLens 20M, at a dimension that suits a thousand candidates.
    fn default() -> Self {
        Self { dim: 64, n_epochs: 16, alpha0: 0.1, lambda: 0.003, nu: 1.0, seed: 0 }
    }
}

/// Why an embedding cannot be fitted.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FitIalsError {
    /// A setting is out of range.
    #[error("{name} is {value}, but must be {range}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// A row has no solution in single precision, or one that is not finite.
    #[error("the regularisation is too weak for the weights: {0} systems could not be solved")]
    Unsolvable(usize),
    /// The vectors are not finite.
    #[error(transparent)]
    Vectors(#[from] VectorsError),
}

/// An embedding: item vectors, and what it takes to fold users in.
#[derive(Debug)]
pub struct Ials {
    items: Vectors,
    /// `alpha0` times the sum of `h h^T` over all items, upper triangle: `[stride, stride]`.
    base: Array<f32>,
    regularisation: Regularisation,
    /// What it takes to fold items in.
    of_items: Option<Side>,
}

/// What the vectors of the other side add to the system of a row.
#[derive(Debug)]
struct Side {
    /// `alpha0` times the sum of `h h^T` over all vectors of the other side, upper triangle: `[stride, stride]`.
    base: Array<f32>,
    regularisation: Regularisation,
}

/// `reg(w) = lambda (w + unobserved)^nu` for a row whose weights sum up to `w`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Regularisation {
    lambda: f64,
    nu: f64,
    /// `alpha0` times the number of rows on the other side.
    unobserved: f64,
}

impl Regularisation {
    fn to_bits(self) -> [u64; 3] {
        [self.lambda, self.nu, self.unobserved].map(f64::to_bits)
    }

    fn from_bits([lambda, nu, unobserved]: [u64; 3]) -> Self {
        let [lambda, nu, unobserved] = [lambda, nu, unobserved].map(f64::from_bits);
        Self { lambda, nu, unobserved }
    }

    fn of(&self, sum_of_weights: f64) -> f32 {
        (self.lambda * (sum_of_weights + self.unobserved).powf(self.nu)) as f32
    }
}

/// Memory of a fold-in, kept from one to the next by each thread. It fits every embedding.
#[derive(Debug, Default)]
pub struct FoldInScratch {
    equations: Option<NormalEquations>,
}

impl FoldInScratch {
    fn equations(&mut self, stride: usize) -> &mut NormalEquations {
        if self.equations.as_ref().is_none_or(|equations| equations.stride() != stride) {
            self.equations = None;
        }
        self.equations.get_or_insert_with(|| NormalEquations::new(stride))
    }
}

impl Ials {
    /// Fits an embedding. The same preferences and seed give the same bytes on any number of threads, those of the current
    /// rayon pool. Items that nobody prefers get no vector.
    ///
    /// Cost: `n_epochs` times (`n_pairs dim^2` + rows `dim^3 / 6`) multiplications.
    ///
    /// # Errors
    /// If a setting is out of range, or too weak a regularisation leaves a system without a solution.
    pub fn fit(preferences: &Preferences, config: &IalsConfig) -> Result<Self, FitIalsError> {
        config.check()?;
        let stride = config.dim.next_multiple_of(LANES);
        let by_user = &preferences.by_user;
        let by_item = by_user.transposed(preferences.n_items());
        let user_regularisation = config.regularisation(by_item.n_filled_rows());
        let item_regularisation = config.regularisation(by_user.n_filled_rows());
        let mut items = first_vectors(&by_item, stride, config);
        let mut users = vec![0.0; by_user.n_rows() * stride];
        let mut of_items = vec![0.0; stride * stride];
        for _ in 0..config.n_epochs {
            let base = scaled_gram(&items, stride, config.alpha0);
            solve_rows(by_user, &items, &base, user_regularisation, &mut users)?;
            of_items = scaled_gram(&users, stride, config.alpha0);
            solve_rows(&by_item, &users, &of_items, item_regularisation, &mut items)?;
        }
        let of_items = Side { base: Array::owned(of_items), regularisation: item_regularisation };
        Ok(Self {
            base: Array::owned(scaled_gram(&items, stride, config.alpha0)),
            items: Vectors::new(without_padding(&items, stride, config.dim), config.dim)?,
            regularisation: user_regularisation,
            of_items: Some(of_items),
        })
    }

    /// The item vectors: zeros for items that nobody prefers.
    pub fn items(&self) -> &Vectors {
        &self.items
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.items.dim()
    }

    /// The vector of a user who prefers the items of `history`, each with a weight as in `Preferences`: what one more pass of
    /// training would give. Items without a vector, and weights that are not positive and finite, say nothing.
    /// `None` if nothing is left. Cost: as a row of training; at 64 dimensions 8 us for 10 items and 35 us for 200.
    pub fn fold_in(
        &self,
        history: &[(ItemId, f32)],
        scratch: &mut FoldInScratch,
    ) -> Option<Vec<f32>> {
        let equations = scratch.equations(self.dim().next_multiple_of(LANES));
        let known = history.iter().filter_map(|&(item, weight)| {
            let usable = weight > 0.0 && weight.is_finite();
            usable.then(|| self.items.get(item)).flatten().map(|row| (row, weight))
        });
        let sum_of_weights: f64 = known.clone().map(|(_, weight)| f64::from(weight)).sum();
        if sum_of_weights == 0.0 {
            return None;
        }
        let ridge = self.regularisation.of(sum_of_weights);
        let solution = equations.solve(self.base.as_slice(), ridge, known)?;
        let user = &solution[..self.dim()];
        user.iter().all(|value| value.is_finite()).then(|| user.to_vec())
    }

    /// The vector of an item that training did not know, and that `users`, given by their vectors, prefer, each with a weight
    /// as in `Preferences`: the row that training would have solved, except that without users it is `prior`, what is thought
    /// of the item before anybody has done anything with it. `None` if there is neither, or the file of the embedding was
    /// made before it had what this takes. Cost: as [`fold_in`](Self::fold_in).
    pub fn fold_in_item(
        &self,
        prior: Option<&[f32]>,
        users: &[(Vec<f32>, f32)],
        scratch: &mut FoldInScratch,
    ) -> Option<Vec<f32>> {
        let Side { base, regularisation } = self.of_items.as_ref()?;
        let stride = self.dim().next_multiple_of(LANES);
        let sum_of_weights: f64 = users.iter().map(|(_, weight)| f64::from(*weight)).sum();
        if sum_of_weights == 0.0 {
            return prior.map(<[f32]>::to_vec);
        }
        let mut near = prior.map(<[f32]>::to_vec).unwrap_or_default();
        near.resize(if near.is_empty() { 0 } else { stride }, 0.0);
        let (ridge, equations) = (regularisation.of(sum_of_weights), scratch.equations(stride));
        let users = users.iter().map(|(vector, weight)| (vector.as_slice(), *weight));
        let solution = equations.solve_near(&near, base.as_slice(), ridge, users)?;
        let item = &solution[..self.dim()];
        item.iter().all(|value| value.is_finite()).then(|| item.to_vec())
    }

    /// Writes what it takes to fold users and items in to a file; the item vectors have their own.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let of_users = (&self.base, self.regularisation);
        let of_items = self.of_items.as_ref().map(|side| (&side.base, side.regularisation));
        let sides: Vec<_> = std::iter::once(of_users).chain(of_items).collect();
        let numbers: Vec<[u64; 3]> = sides.iter().map(|(_, reg)| reg.to_bits()).collect();
        let mut sections: Vec<&[u8]> = Vec::new();
        for ((base, _), numbers) in sides.iter().zip(&numbers) {
            sections.push(bytemuck::cast_slice(numbers));
            sections.push(bytemuck::cast_slice(base.as_slice()));
        }
        write_sections(path, KIND, &sections)
    }

    /// Opens a file that `save` wrote, by memory map. `items` are the vectors that were fitted together with it.
    ///
    /// # Errors
    /// If the file cannot be read, is of another kind, or does not fit the dimension of `items`.
    pub fn open(path: &Path, items: &Vectors) -> Result<Self, OpenError> {
        let stride = items.dim().next_multiple_of(LANES);
        // Those that were made before items could be folded in have one side only.
        let (file, n_sides) = match Mapped::open(path, KIND, 4) {
            Err(OpenError::Malformed { flaw: Flaw::SectionCount { found: 2, .. }, .. }) => {
                (Mapped::open(path, KIND, 2)?, 1)
            }
            file => (file?, 2),
        };
        let file = Arc::new(file);
        let side = |i: usize| {
            let Ok(numbers) = file.u64s(2 * i)?.try_into() else {
                let what = "its regularisation is not made of three numbers";
                return Err(file.contradiction(what));
            };
            let base = Array::<f32>::mapped(&file, 2 * i + 1)?;
            if base.as_slice().len() != stride * stride {
                let what = "its matrix does not have the dimension of the item vectors";
                return Err(file.contradiction(what));
            }
            Ok(Side { base, regularisation: Regularisation::from_bits(numbers) })
        };
        let Side { base, regularisation } = side(0)?;
        let of_items = if n_sides == 2 { Some(side(1)?) } else { None };
        Ok(Self { items: items.clone(), base, regularisation, of_items })
    }
}

impl IalsConfig {
    fn check(&self) -> Result<(), FitIalsError> {
        let settings = [
            ("dim", self.dim as f64, (1..=4_096).contains(&self.dim), "1 to 4,096"),
            ("alpha0", self.alpha0, self.alpha0 >= 0.0 && self.alpha0.is_finite(), "at least 0"),
            ("lambda", self.lambda, self.lambda > 0.0 && self.lambda.is_finite(), "above 0"),
            ("nu", self.nu, (0.0..=2.0).contains(&self.nu), "0 to 2"),
        ];
        match settings.into_iter().find(|(.., is_valid, _)| !is_valid) {
            Some((name, value, _, range)) => Err(FitIalsError::Setting { name, value, range }),
            None => Ok(()),
        }
    }

    fn regularisation(&self, n_others: usize) -> Regularisation {
        let Self { alpha0, lambda, nu, .. } = *self;
        Regularisation { lambda, nu, unobserved: alpha0 * n_others as f64 }
    }
}

/// Solves every row of `observed` that has an entry, with the vectors of its columns fixed. `others` and `solved` are
/// `[.., stride]`. Rows do not depend on each other, so it does not matter which thread solves which.
fn solve_rows(
    observed: &SparseRows,
    others: &[f32],
    base: &[f32],
    regularisation: Regularisation,
    solved: &mut [f32],
) -> Result<(), FitIalsError> {
    let stride = base.len().isqrt();
    let rows = solved.par_chunks_exact_mut(stride).enumerate().with_min_len(MIN_ROWS_OF_A_THREAD);
    let solve = |equations: &mut NormalEquations, (row, target): (usize, &mut [f32])| {
        let entries = observed.row(row);
        if entries.len() == 0 {
            return 0;
        }
        let sum_of_weights: f64 = observed.row(row).map(|(_, weight)| f64::from(weight)).sum();
        let ridge = regularisation.of(sum_of_weights);
        let observations = entries.map(|(column, weight)| (row_of(others, stride, column), weight));
        match equations.solve(base, ridge, observations) {
            Some(solution) => target.copy_from_slice(solution),
            None => return 1,
        }
        0
    };
    match rows.map_init(|| NormalEquations::new(stride), solve).sum() {
        0 => Ok(()),
        n_unsolvable => Err(FitIalsError::Unsolvable(n_unsolvable)),
    }
}

#[inline(always)]
fn row_of(rows: &[f32], stride: usize, row: u32) -> &[f32] {
    &rows[row as usize * stride..][..stride]
}

/// `alpha0` times the sum of `h h^T` over `rows`, upper triangle. The order of the sums does not depend on the threads.
fn scaled_gram(rows: &[f32], stride: usize, alpha0: f64) -> Vec<f32> {
    let parts: Vec<Vec<f32>> =
        rows.par_chunks(GRAM_ROWS * stride).map(|rows| gram(rows, stride)).collect();
    let mut sum = vec![0.0; stride * stride];
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += f64::from(value));
    }
    sum.into_iter().map(|value| (value * alpha0) as f32).collect()
}

/// Item vectors to begin with: each value from N(0, 0.01 / dim); zeros for items without an entry.
fn first_vectors(by_item: &SparseRows, stride: usize, config: &IalsConfig) -> Vec<f32> {
    let deviation = 0.1 / (config.dim as f64).sqrt();
    let mut random = SplitMix64(config.seed);
    let mut vectors = vec![0.0; by_item.n_rows() * stride];
    for (item, vector) in vectors.chunks_exact_mut(stride).enumerate() {
        if by_item.row(item).len() > 0 {
            vector[..config.dim].fill_with(|| (deviation * random.normal()) as f32);
        }
    }
    vectors
}

fn without_padding(rows: &[f32], stride: usize, dim: usize) -> Vec<f32> {
    rows.chunks_exact(stride).flat_map(|row| &row[..dim]).copied().collect()
}

/// A small random generator whose numbers stay the same from one version to the next.
/// Source: "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// From N(0, 1), by the transform of Box and Muller.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featurestore::UserId;

    /// Two tastes: users prefer items of their own parity.
    fn two_tastes(n_users: u32, n_items: u32) -> Preferences {
        let mut random = SplitMix64(3);
        let mut pairs = Vec::new();
        for user in 0..n_users {
            for item in (0..n_items).filter(|item| item % 2 == user % 2) {
                if random.uniform() < 0.3 {
                    pairs.push((UserId(user), ItemId(item), 0.5 + random.uniform() as f32));
                }
            }
        }
        Preferences::from_pairs(&pairs, n_users as usize, n_items as usize + 1)
    }

    fn config() -> IalsConfig {
        IalsConfig { dim: 20, n_epochs: 5, ..IalsConfig::default() }
    }

    #[test]
    fn a_user_scores_unseen_items_of_the_own_taste_above_the_others() {
        let preferences = two_tastes(200, 60);
        let ials = Ials::fit(&preferences, &IalsConfig { dim: 2, ..config() }).unwrap();
        let user = ials
            .fold_in(&[(ItemId(2), 1.0), (ItemId(4), 1.0)], &mut FoldInScratch::default())
            .unwrap();
        let score = |item: u32| crate::vectors::dot(&user, ials.items().row(ItemId(item)));
        let worst_own = (0..60).step_by(2).map(score).fold(f32::INFINITY, f32::min);
        let best_other = (1..60).step_by(2).map(score).fold(f32::NEG_INFINITY, f32::max);
        assert!(worst_own > best_other, "{worst_own} is not above {best_other}");
    }

    #[test]
    fn one_thread_and_two_give_the_same_bytes() {
        let preferences = two_tastes(300, 80);
        let fit = |n_threads| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            threads.install(|| Ials::fit(&preferences, &config()).unwrap())
        };
        let (one, two) = (fit(1), fit(2));
        assert_eq!(one.items().as_slice(), two.items().as_slice());
        assert_eq!(one.base.as_slice(), two.base.as_slice());
    }

    #[test]
    fn folding_in_equals_the_row_that_training_solves() {
        let preferences = two_tastes(50, 40);
        let ials = Ials::fit(&preferences, &config()).unwrap();
        let stride = 20usize.next_multiple_of(LANES);
        let mut items = Vec::new();
        for (_, row) in ials.items().iter() {
            items.extend_from_slice(row);
            items.resize(items.len().next_multiple_of(stride), 0.0);
        }
        let mut users = vec![0.0; 50 * stride];
        let base = scaled_gram(&items, stride, config().alpha0);
        solve_rows(&preferences.by_user, &items, &base, ials.regularisation, &mut users).unwrap();
        let mut scratch = FoldInScratch::default();
        for (user, trained) in users.chunks_exact(stride).enumerate() {
            let history: Vec<(ItemId, f32)> = preferences.of_user(UserId(user as u32)).collect();
            assert_eq!(ials.fold_in(&history, &mut scratch).unwrap(), trained[..20]);
        }
    }

    #[test]
    fn each_epoch_lowers_the_loss() {
        let preferences = two_tastes(80, 40);
        let losses: Vec<f64> = [1, 2, 4, 8]
            .map(|n_epochs| {
                let config = IalsConfig { n_epochs, ..config() };
                loss(&preferences, &Ials::fit(&preferences, &config).unwrap(), &config)
            })
            .to_vec();
        assert!(losses.is_sorted_by(|earlier, later| earlier > later), "{losses:?}");
    }

    /// The objective of the module's doc, pair by pair, with each user folded in.
    fn loss(preferences: &Preferences, ials: &Ials, config: &IalsConfig) -> f64 {
        let mut scratch = FoldInScratch::default();
        let squared = |row: &[f32]| f64::from(crate::vectors::dot(row, row));
        let by_item = preferences.by_user.transposed(preferences.n_items());
        let item_regularisation = config.regularisation(preferences.by_user.n_filled_rows());
        let mut loss = 0.0;
        for (item, row) in ials.items().iter() {
            let weights: f64 = by_item.row(item.index()).map(|(_, weight)| f64::from(weight)).sum();
            loss += f64::from(item_regularisation.of(weights)) * squared(row);
        }
        for user in 0..preferences.n_users() {
            let history: Vec<(ItemId, f32)> = preferences.of_user(UserId(user as u32)).collect();
            let vector = ials.fold_in(&history, &mut scratch).unwrap();
            let score =
                |item: ItemId| f64::from(crate::vectors::dot(&vector, ials.items().row(item)));
            let weights: f64 = history.iter().map(|(_, weight)| f64::from(*weight)).sum();
            loss += f64::from(ials.regularisation.of(weights)) * squared(&vector);
            loss += history
                .iter()
                .map(|&(item, w)| f64::from(w) * (score(item) - 1.0).powi(2))
                .sum::<f64>();
            let all = (0..preferences.n_items() as u32).map(|item| score(ItemId(item)).powi(2));
            loss += config.alpha0 * all.sum::<f64>();
        }
        loss
    }

    #[test]
    fn saving_and_opening_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ials");
        let ials = Ials::fit(&two_tastes(50, 40), &config()).unwrap();
        ials.save(&path).unwrap();
        let opened = Ials::open(&path, ials.items()).unwrap();
        let history = [(ItemId(1), 1.0), (ItemId(5), 2.0)];
        let mut scratch = FoldInScratch::default();
        assert_eq!(opened.fold_in(&history, &mut scratch), ials.fold_in(&history, &mut scratch));
        let users = [(vec![0.5; 20], 1.0), (vec![-0.25; 20], 2.0)];
        let prior = Some(&[0.125; 20][..]);
        let folded = opened.fold_in_item(prior, &users, &mut scratch);
        assert_eq!(folded, ials.fold_in_item(prior, &users, &mut scratch));
        assert!(folded.is_some());
        assert!(Ials::open(&path, &Vectors::new(vec![1.0; 64], 64).unwrap()).is_err());
    }

    #[test]
    fn an_item_that_is_folded_in_is_near_the_row_that_training_solves() {
        let preferences = two_tastes(200, 40);
        let ials = Ials::fit(&preferences, &IalsConfig { n_epochs: 30, ..config() }).unwrap();
        let mut scratch = FoldInScratch::default();
        let by_item = preferences.by_user.transposed(preferences.n_items());
        for item in 0..40 {
            let user = |(user, weight): (u32, f32)| {
                let history: Vec<_> = preferences.of_user(UserId(user)).collect();
                Some((ials.fold_in(&history, &mut FoldInScratch::default())?, weight))
            };
            let users: Vec<(Vec<f32>, f32)> = by_item.row(item).filter_map(user).collect();
            let folded = ials.fold_in_item(None, &users, &mut scratch).unwrap();
            let trained = ials.items().row(ItemId(item as u32));
            let cosine = crate::vectors::cosine(&folded, trained);
            assert!(cosine > 0.99, "item {item}: {cosine}");
            // What is thought before stays without users, and gives way to them.
            let prior: Vec<f32> = trained.iter().map(|value| -value).collect();
            assert_eq!(ials.fold_in_item(Some(&prior), &[], &mut scratch), Some(prior.clone()));
            let one = ials.fold_in_item(Some(&prior), &users[..1], &mut scratch).unwrap();
            let all = ials.fold_in_item(Some(&prior), &users, &mut scratch).unwrap();
            let near = |vector: &[f32]| crate::vectors::cosine(vector, trained);
            assert!(near(&prior) < near(&one) && near(&one) < near(&all), "item {item}");
        }
    }

    #[test]
    fn a_history_that_says_nothing_has_no_vector() {
        let ials = Ials::fit(&two_tastes(50, 40), &config()).unwrap();
        let mut scratch = FoldInScratch::default();
        assert_eq!(ials.fold_in(&[], &mut scratch), None);
        let (nobodys, newer, known) = (ItemId(40), ItemId(999), ItemId(0));
        let history = [(nobodys, 1.0), (newer, 1.0), (known, -1.0), (known, f32::NAN)];
        assert_eq!(ials.fold_in(&history, &mut scratch), None);
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let error =
            Ials::fit(&two_tastes(2, 2), &IalsConfig { lambda: 0.0, ..config() }).unwrap_err();
        assert_eq!(error, FitIalsError::Setting { name: "lambda", value: 0.0, range: "above 0" });
    }
}
