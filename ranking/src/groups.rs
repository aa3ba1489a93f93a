//! Query groups: the rows that rankers are trained on, and which of a request's negatives are kept.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The highest gain level of a label: LightGBM's default gains are `2^level - 1` for these.
pub const MAX_LABEL: f32 = 31.0;

/// The most rows of one group: LightGBM knows no discount for a position beyond.
pub const MAX_GROUP_ROWS: usize = 10_000;

/// The rows of many requests, group after group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    /// Names of the features, `n_features` of them.
    pub names: Vec<String>,
    /// `[n_rows, n_features]`, row-major; NaN is missing.
    pub features: Vec<f32>,
    /// `[n_rows]`, gain levels: integers in `0..=31`, 0 for a negative.
    pub labels: Vec<f32>,
    /// `[n_rows]`, positive; 1 unless the caller changes it.
    pub weights: Vec<f32>,
    /// `[n_groups]`, rows of each group.
    pub sizes: Vec<u32>,
    /// Features of a row.
    pub n_features: usize,
}

/// Why groups cannot be trained on.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InvalidGroups {
    /// There is nothing to learn from.
    #[error("there are no rows")]
    Empty,
    /// All labels are 0.
    #[error("no row has a label above 0")]
    NoPositive,
    /// A column has not as many values as it must have.
    #[error("{column} has {found} values, but {expected} are needed")]
    Length {
        /// The field of `Groups`.
        column: &'static str,
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A name stands twice.
    #[error("two features are named {0:?}")]
    Name(String),
    /// A label is not a gain level.
    #[error("row {row} has label {label}, which is no integer from 0 to {MAX_LABEL}")]
    Label {
        /// The row.
        row: usize,
        /// Its label.
        label: f32,
    },
    /// A weight is not a positive number.
    #[error("row {row} has weight {weight}, which is not above 0 and finite")]
    Weight {
        /// The row.
        row: usize,
        /// Its weight.
        weight: f32,
    },
    /// A group is empty or longer than [`MAX_GROUP_ROWS`].
    #[error("group {group} has {rows} rows; 1 to {MAX_GROUP_ROWS} are allowed")]
    Size {
        /// The group.
        group: usize,
        /// Its rows.
        rows: u32,
    },
    /// There are more rows than LightGBM can number.
    #[error("{0} rows are more than LightGBM can number")]
    TooMany(usize),
}

impl Groups {
    /// No groups yet, with features of these names.
    pub fn new(names: Vec<String>) -> Self {
        Self { n_features: names.len(), names, ..Self::default() }
    }

    /// Adds one group with weights of 1; nothing for no rows.
    ///
    /// `rows` is `[labels.len(), n_features]`, row-major.
    ///
    /// # Panics
    /// If `rows` has another length.
    pub fn push_group(&mut self, rows: &[f32], labels: &[f32]) {
        self.push_weighted_group(rows, labels, &vec![1.0; labels.len()]);
    }

    /// Adds one group; nothing for no rows.
    ///
    /// `rows` is `[labels.len(), n_features]`, row-major.
    ///
    /// # Panics
    /// If `rows` or `weights` has another length.
    pub fn push_weighted_group(&mut self, rows: &[f32], labels: &[f32], weights: &[f32]) {
        assert_eq!(
            rows.len(),
            labels.len() * self.n_features,
            "a label for each row of {} features",
            self.n_features
        );
        assert_eq!(weights.len(), labels.len(), "a weight for each row");
        if labels.is_empty() {
            return;
        }
        self.features.extend_from_slice(rows);
        self.labels.extend_from_slice(labels);
        self.weights.extend_from_slice(weights);
        self.sizes
            .push(u32::try_from(labels.len()).expect("a request has fewer than 2^32 candidates"));
    }

    /// Adds the groups of `other` behind these.
    ///
    /// # Panics
    /// If the features have other names.
    pub fn extend(&mut self, other: &Self) {
        assert_eq!(self.names, other.names, "groups are joined with groups of the same features");
        self.features.extend_from_slice(&other.features);
        self.labels.extend_from_slice(&other.labels);
        self.weights.extend_from_slice(&other.weights);
        self.sizes.extend_from_slice(&other.sizes);
    }

    /// Rows of all groups.
    pub fn n_rows(&self) -> usize {
        self.labels.len()
    }

    /// How many groups there are.
    pub fn n_groups(&self) -> usize {
        self.sizes.len()
    }

    /// The features of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.features[row * self.n_features..][..self.n_features]
    }

    /// The rows of each group, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.sizes.iter().scan(0, |start, &size| {
            let range = *start..*start + size as usize;
            *start = range.end;
            Some(range)
        })
    }

    /// The features as the rankers score them: `[n_features, n_rows]`, column-major.
    pub fn columns(&self) -> Vec<f32> {
        let column = |feature| self.features.iter().skip(feature).step_by(self.n_features).copied();
        (0..self.n_features).flat_map(column).collect()
    }

    /// Whether a ranker can be trained on these.
    ///
    /// # Errors
    /// Names the first thing that is off.
    pub fn check(&self) -> Result<(), InvalidGroups> {
        self.check_shape()?;
        self.check_rows()?;
        let size = |rows: u32| (1..=MAX_GROUP_ROWS).contains(&(rows as usize));
        if let Some((group, &rows)) = self.sizes.iter().enumerate().find(|&(_, &rows)| !size(rows))
        {
            return Err(InvalidGroups::Size { group, rows });
        }
        match self.labels.iter().any(|&label| label > 0.0) {
            true => Ok(()),
            false => Err(InvalidGroups::NoPositive),
        }
    }

    fn check_shape(&self) -> Result<(), InvalidGroups> {
        if self.labels.is_empty() || self.n_features == 0 {
            return Err(InvalidGroups::Empty);
        }
        if i32::try_from(self.labels.len()).is_err() {
            return Err(InvalidGroups::TooMany(self.labels.len()));
        }
        let n_grouped = self.sizes.iter().map(|&size| size as usize).sum();
        for (column, expected, found) in [
            ("names", self.n_features, self.names.len()),
            ("features", self.n_rows() * self.n_features, self.features.len()),
            ("weights", self.n_rows(), self.weights.len()),
            ("sizes, summed", self.n_rows(), n_grouped),
        ] {
            if expected != found {
                return Err(InvalidGroups::Length { column, expected, found });
            }
        }
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(InvalidGroups::Name(pair[0].clone())),
            None => Ok(()),
        }
    }

    fn check_rows(&self) -> Result<(), InvalidGroups> {
        let level = |label: f32| (0.0..=MAX_LABEL).contains(&label) && label.fract() == 0.0;
        if let Some((row, &label)) =
            self.labels.iter().enumerate().find(|&(_, &label)| !level(label))
        {
            return Err(InvalidGroups::Label { row, label });
        }
        let positive = |weight: f32| weight > 0.0 && weight.is_finite();
        match self.weights.iter().enumerate().find(|&(_, &weight)| !positive(weight)) {
            Some((row, &weight)) => Err(InvalidGroups::Weight { row, weight }),
            None => Ok(()),
        }
    }
}

/// Which negatives of a request are trained on.
///
/// All of them would be mostly easy ones, and a hundred for each positive. The negatives are divided into a hard part,
/// which the first stage ranked best and where a mistake is seen, and an easy part. Each part is sampled evenly, the
/// hard one more densely, and a sampled row weighs as many rows as it stands for: without the weights a ranker would
/// learn that what the first stage ranks best is less often wanted than it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NegativeSampling {
    /// Negatives for each positive; 4 to 10 are usual.
    pub per_positive: u32,
    /// At least so many in a group.
    pub min: u32,
    /// At most so many in a group.
    pub max: u32,
    /// The part of the sample that is taken from the hard negatives, in `[0, 1]`.
    pub hard_share: f64,
    /// The part of a request's negatives that is hard, in `[0, 1]`.
    pub hard_part: f64,
}

impl Default for NegativeSampling {
    fn default() -> Self {
        Self { per_positive: 10, min: 30, max: 5_000, hard_share: 0.8, hard_part: 0.2 }
    }
}

impl NegativeSampling {
    /// Every negative, unless they are too many for one group.
    pub fn all() -> Self {
        let per_positive = u32::MAX;
        Self { per_positive, hard_share: 0.0, hard_part: 0.0, ..Self::default() }
    }
}

/// A row that is trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledRow {
    /// Its place among the rows of its request.
    pub row: usize,
    /// How many rows it stands for; 1 for a positive.
    pub weight: f32,
}

/// The rows of one request to train on: every positive and some negatives, in their order; none if there is no
/// positive.
///
/// `first_stage_rank` says where retrieval put each row, 0 being the best; ties go to the lower
/// row. Same seed, same rows. Cost: O(n log n).
///
/// # Panics
/// If the two slices differ in length.
pub fn sample_rows(
    labels: &[f32],
    first_stage_rank: &[u32],
    sampling: &NegativeSampling,
    seed: u64,
) -> Vec<SampledRow> {
    assert_eq!(labels.len(), first_stage_rank.len(), "a rank for each row");
    let (positives, mut negatives): (Vec<usize>, Vec<usize>) =
        (0..labels.len()).partition(|&row| labels[row] > 0.0);
    if positives.is_empty() {
        return Vec::new();
    }
    let wanted = positives.len().saturating_mul(sampling.per_positive as usize);
    let wanted = wanted.max(sampling.min as usize).min(sampling.max as usize).min(negatives.len());
    let part = |n: usize, share: f64| (n as f64 * share.clamp(0.0, 1.0)).round() as usize;
    negatives.sort_by_key(|&row| (first_stage_rank[row], row));
    let hardest = part(negatives.len(), sampling.hard_part);
    let (hard, easy) = negatives.split_at_mut(hardest);
    // What one part does not have, the other one gives.
    let n_hard =
        part(wanted, sampling.hard_share).min(hard.len()).max(wanted.saturating_sub(easy.len()));
    let mut rows: Vec<SampledRow> =
        positives.into_iter().map(|row| SampledRow { row, weight: 1.0 }).collect();
    let mut state = seed;
    for (part, n) in [(hard, n_hard), (easy, wanted - n_hard)] {
        shuffle_head(part, n, &mut state);
        let weight = part.len() as f32 / n as f32;
        rows.extend(part[..n].iter().map(|&row| SampledRow { row, weight }));
    }
    rows.sort_unstable_by_key(|sampled| sampled.row);
    rows
}

/// Moves a uniform sample of `n` rows to the front: Fisher and Yates, stopped early.
fn shuffle_head(rows: &mut [usize], n: usize, state: &mut u64) {
    for place in 0..n {
        // The high half of a product is uniform enough for fewer than 2^32 rows.
        let below = (rows.len() - place) as u128;
        let offset = (u128::from(splitmix(state)) * below) >> 64;
        rows.swap(place, place + offset as usize);
    }
}

/// The next number of a SplitMix64 generator. Source: "Fast splittable pseudorandom number
/// generators", OOPSLA 2014.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLING: NegativeSampling =
        NegativeSampling { per_positive: 4, min: 0, max: 100, hard_share: 0.5, hard_part: 0.1 };

    fn two_groups() -> Groups {
        let mut groups = Groups::new(vec!["a".into(), "b".into()]);
        groups.push_group(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0]);
        groups.push_group(&[5.0, f32::NAN], &[2.0]);
        groups
    }

    #[test]
    fn sampling_keeps_positives_and_weighs_negatives_by_what_they_stand_for() {
        let labels: Vec<f32> = (0..100).map(|row| f32::from(row % 50 == 7)).collect();
        let ranks: Vec<u32> = (0..100).rev().collect();
        let rows = sample_rows(&labels, &ranks, &SAMPLING, 3);
        assert_eq!(rows.len(), 2 + 8);
        assert!(rows.is_sorted_by_key(|sampled| sampled.row));
        let weights = |of: fn(usize) -> bool| {
            rows.iter().filter(|s| of(s.row)).map(|s| s.weight).collect::<Vec<_>>()
        };
        // Of 98 negatives the 10 in the last rows are hard.
        assert_eq!(weights(|row| row % 50 == 7), [1.0; 2]);
        assert_eq!(weights(|row| row >= 90), [10.0 / 4.0; 4]);
        assert_eq!(weights(|row| row < 90 && row % 50 != 7), [88.0 / 4.0; 4]);
        assert_eq!(rows, sample_rows(&labels, &ranks, &SAMPLING, 3));
        assert_ne!(rows, sample_rows(&labels, &ranks, &SAMPLING, 4));
    }

    #[test]
    fn the_weights_make_a_sample_as_heavy_as_all_rows() {
        let labels: Vec<f32> = (0..500).map(|row| f32::from(row % 97 == 3)).collect();
        let ranks: Vec<u32> = (0..500).map(|row| row * 7 % 500).collect();
        for sampling in [SAMPLING, NegativeSampling::default(), NegativeSampling::all()] {
            let weight: f32 =
                sample_rows(&labels, &ranks, &sampling, 1).iter().map(|s| s.weight).sum();
            assert!((weight - 500.0).abs() < 1e-2, "{weight} with {sampling:?}");
        }
    }

    #[test]
    fn every_negative_of_a_part_is_equally_likely() {
        let mut labels = vec![0.0; 41];
        labels[0] = 1.0;
        let ranks: Vec<u32> = (0..41).collect();
        let mut seen = [0u32; 41];
        let even = NegativeSampling { hard_share: 0.0, hard_part: 0.0, ..SAMPLING };
        for seed in 0..4_000 {
            for sampled in sample_rows(&labels, &ranks, &even, seed) {
                seen[sampled.row] += 1;
            }
        }
        assert_eq!(seen[0], 4_000);
        // 400 expected of each, standard deviation 19.
        assert!(seen[1..].iter().all(|&n| (300..500).contains(&n)), "{seen:?}");
    }

    #[test]
    fn a_group_without_a_positive_gives_no_rows() {
        assert_eq!(sample_rows(&[0.0, 0.0], &[0, 1], &SAMPLING, 1), []);
    }

    #[test]
    fn a_small_group_is_kept_whole() {
        let wide = NegativeSampling { per_positive: u32::MAX, hard_share: 2.0, ..SAMPLING };
        let rows = sample_rows(&[0.0, 1.0, 0.0], &[0, 1, 2], &wide, 1);
        assert_eq!(rows, [0, 1, 2].map(|row| SampledRow { row, weight: 1.0 }));
    }

    #[test]
    fn a_group_has_at_most_so_many_negatives() {
        let labels: Vec<f32> = (0..300).map(|row| f32::from(row < 100)).collect();
        let ranks: Vec<u32> = (0..300).collect();
        assert_eq!(sample_rows(&labels, &ranks, &SAMPLING, 1).len(), 200);
    }

    #[test]
    fn columns_are_the_transposed_rows() {
        let mut groups = two_groups();
        groups.features[5] = 6.0;
        assert_eq!(groups.columns(), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        assert_eq!(groups.ranges().collect::<Vec<_>>(), [0..2, 2..3]);
        assert_eq!(groups.row(1), [3.0, 4.0]);
    }

    #[test]
    fn joined_groups_follow_each_other() {
        let mut groups = two_groups();
        groups.extend(&two_groups());
        assert_eq!((groups.n_groups(), groups.n_rows()), (4, 6));
        assert_eq!(groups.check(), Ok(()));
    }

    #[test]
    fn bad_groups_are_refused_with_their_place() {
        let broken = |change: fn(&mut Groups)| {
            let mut groups = two_groups();
            change(&mut groups);
            groups.check().unwrap_err()
        };
        assert_eq!(Groups::new(vec!["a".into()]).check(), Err(InvalidGroups::Empty));
        assert_eq!(broken(|g| g.labels[1] = 1.5), InvalidGroups::Label { row: 1, label: 1.5 });
        assert!(matches!(broken(|g| g.labels[1] = f32::NAN), InvalidGroups::Label { row: 1, .. }));
        assert_eq!(broken(|g| g.weights[2] = 0.0), InvalidGroups::Weight { row: 2, weight: 0.0 });
        assert_eq!(
            broken(|g| g.sizes[0] = 3),
            InvalidGroups::Length { column: "sizes, summed", expected: 3, found: 4 }
        );
        assert_eq!(broken(|g| g.sizes.insert(1, 0)), InvalidGroups::Size { group: 1, rows: 0 });
        assert_eq!(broken(|g| g.names[1] = "a".into()), InvalidGroups::Name("a".into()));
        assert_eq!(broken(|g| g.labels.fill(0.0)), InvalidGroups::NoPositive);
    }
}
