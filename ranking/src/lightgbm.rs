//! Training with LightGBM, through its C interface.
//!
//! The `lightgbm3` crate knows no query groups and hides the handles, so this stands on
//! `lightgbm3-sys`. Everything is checked before C++ sees it, and nothing comes back but the text
//! of a model. The same groups, configuration and seed give the same text, on any number of
//! threads.

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_int};
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use lightgbm3_sys as sys;
use serde::{Deserialize, Serialize};

use crate::forest::{Forest, MAX_LEAVES};
use crate::groups::{Groups, InvalidGroups};
use crate::model_text::{self, ParseModelError};
use crate::validation;

/// What training makes small or large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The order within a group, by gradients of NDCG; the score has no scale. Validated by NDCG.
    LambdaRank,
    /// The log-odds that the label is above 0. Validated by the logarithmic loss.
    Binary,
}

/// How to train. The defaults suit some 10,000 to 1,000,000 rows of 20 to 100 features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LightGbmConfig {
    /// What is optimised.
    pub objective: Objective,
    /// Trees at most.
    pub n_trees: u32,
    /// Shrinkage of each tree.
    pub learning_rate: f64,
    /// Leaves of a tree at most. Up to 64 are scored fastest.
    pub n_leaves: u32,
    /// Rows in a leaf at least.
    pub min_data_in_leaf: u32,
    /// Sum of second derivatives in a leaf at least.
    pub min_sum_hessian_in_leaf: f64,
    /// Part of the features that each tree may use.
    pub feature_fraction: f64,
    /// Part of the rows that trees are grown from.
    pub bagging_fraction: f64,
    /// Every so many trees the rows are drawn anew; 0 for all rows always.
    pub bagging_freq: u32,
    /// L1 penalty of leaf values.
    pub lambda_l1: f64,
    /// L2 penalty of leaf values.
    pub lambda_l2: f64,
    /// Values that a feature is told apart by.
    pub max_bin: u32,
    /// LambdaRank looks at pairs with one of them above this position: a little more than what is
    /// shown.
    pub truncation_level: u32,
    /// Stops after so many trees without a better validation, and keeps the best. Needs a
    /// validation set.
    pub early_stopping_rounds: Option<u32>,
    /// LambdaRank is validated by NDCG at this position.
    pub eval_at: u32,
    /// Times the weight of every positive row, in training alone.
    pub positive_weight: f64,
    /// Features whose values are categories: integers from 0, or NaN.
    pub categorical: Vec<usize>,
    /// Threads; 0 for as many as there are cores.
    pub n_threads: u32,
    /// All that is drawn, is drawn from this.
    pub seed: u64,
}

impl Default for LightGbmConfig {
    fn default() -> Self {
        Self {
            objective: Objective::LambdaRank,
            n_trees: 300,
            learning_rate: 0.05,
            n_leaves: 31,
            min_data_in_leaf: 20,
            min_sum_hessian_in_leaf: 1e-3,
            feature_fraction: 0.8,
            bagging_fraction: 0.8,
            bagging_freq: 1,
            lambda_l1: 0.0,
            lambda_l2: 1.0,
            max_bin: 255,
            truncation_level: 20,
            early_stopping_rounds: Some(50),
            eval_at: 10,
            positive_weight: 1.0,
            categorical: Vec::new(),
            n_threads: 0,
            seed: 7,
        }
    }
}

/// One tree was grown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Iteration {
    /// Its number, from 1.
    pub n_trees: u32,
    /// NDCG (higher is better) or logarithmic loss (lower is better) on the validation set, if
    /// there is one.
    pub validation: Option<f64>,
}

/// What training gives.
#[derive(Clone, Debug, PartialEq)]
pub struct LightGbmModel {
    /// LightGBM's own text format, without the parameters. Characters it does not take in names are
    /// `_` there.
    pub text: String,
    /// Names of the features, as they were given.
    pub names: Vec<String>,
    /// Trees in `text`.
    pub n_trees: u32,
    /// The tree with the best validation, from 1; the last one without a validation set.
    pub best_iteration: u32,
    /// NDCG or logarithmic loss on the validation set after each tree, those behind the best one
    /// included.
    pub validation: Vec<f64>,
}

impl LightGbmModel {
    /// The model as it is served.
    ///
    /// # Errors
    /// If LightGBM wrote what our parser does not know.
    pub fn forest(&self) -> Result<Forest, ParseModelError> {
        let mut forest = model_text::parse(&self.text)?;
        forest.rename(self.names.clone());
        Ok(forest)
    }
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The groups to train on are not sound.
    #[error("the training groups cannot be used")]
    Train(#[source] InvalidGroups),
    /// The groups to validate on are not sound.
    #[error("the validation groups cannot be used")]
    Validation(#[source] InvalidGroups),
    /// Training and validation have other features.
    #[error("the validation groups have other features than the training groups")]
    Features,
    /// A setting is out of its range.
    #[error("{name} is {value}, but must be {allowed}")]
    Setting {
        /// The field of [`LightGbmConfig`].
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        allowed: &'static str,
    },
    /// A categorical feature has a value that is no category.
    #[error("feature {feature} is categorical, but {value} in row {row} is no integer below 2^31")]
    Category {
        /// Name of the feature.
        feature: String,
        /// The row.
        row: usize,
        /// The value.
        value: f32,
    },
    /// LightGBM itself failed.
    #[error("LightGBM: {0}")]
    LightGbm(String),
}

/// LightGBM keeps its table of gains and its number of threads in globals: one training at a time.
static TRAINING: Mutex<()> = Mutex::new(());

/// Trains on `train`; `progress` hears of every tree.
///
/// # Errors
/// Bad groups or settings are refused before training starts; LightGBM's own errors are passed on.
pub fn fit(
    train: &Groups,
    validation: Option<&Groups>,
    config: &LightGbmConfig,
    progress: &mut dyn FnMut(Iteration),
) -> Result<LightGbmModel, FitError> {
    check_config(config, train.n_features)?;
    train.check().map_err(FitError::Train)?;
    check_categories(train, config)?;
    if let Some(validation) = validation {
        validation.check().map_err(FitError::Validation)?;
        check_categories(validation, config)?;
        if validation.names != train.names {
            return Err(FitError::Features);
        }
    }
    let _alone = TRAINING.lock().unwrap_or_else(PoisonError::into_inner);
    let parameters = parameters(config);
    let train_data = Dataset::new(train, config, None, &parameters)?;
    let validation_data = match validation {
        Some(groups) => Some(Dataset::new(groups, config, Some(&train_data), &parameters)?),
        None => None,
    };
    let mut booster = Booster::new(&train_data, &parameters)?;
    if let Some(data) = &validation_data {
        booster.add_validation(data)?;
    }
    let grown = grow(&mut booster, validation, config, progress)?;
    Ok(LightGbmModel {
        text: without_parameters(booster.text(grown.n_kept)?),
        names: train.names.clone(),
        n_trees: grown.n_kept,
        best_iteration: grown.best,
        validation: grown.validation,
    })
}

struct Grown {
    n_kept: u32,
    best: u32,
    validation: Vec<f64>,
}

/// Grows trees until they are enough, no more can be grown, or validation has not become better for
/// long.
fn grow(
    booster: &mut Booster<'_>,
    validation: Option<&Groups>,
    config: &LightGbmConfig,
    progress: &mut dyn FnMut(Iteration),
) -> Result<Grown, FitError> {
    let patience = config.early_stopping_rounds.filter(|_| validation.is_some());
    let (mut values, mut best, mut n_trees) = (Vec::new(), 0u32, 0u32);
    while n_trees < config.n_trees {
        // A tree without a split is dropped again, unless it is the first one.
        let is_last = booster.grow_one()?;
        if is_last && n_trees > 0 {
            break;
        }
        n_trees += 1;
        let value = match validation {
            Some(groups) => {
                Some(evaluate(groups, &booster.validation_scores(groups.n_rows())?, config))
            }
            None => None,
        };
        progress(Iteration { n_trees, validation: value });
        values.extend(value);
        if value.is_none_or(|value| {
            best == 0 || is_better(value, values[best as usize - 1], config.objective)
        }) {
            best = n_trees;
        }
        if is_last || patience.is_some_and(|rounds| n_trees - best >= rounds) {
            break;
        }
    }
    Ok(Grown { n_kept: if patience.is_some() { best } else { n_trees }, best, validation: values })
}

fn evaluate(groups: &Groups, scores: &[f64], config: &LightGbmConfig) -> f64 {
    match config.objective {
        Objective::LambdaRank => validation::ndcg(groups, scores, config.eval_at as usize),
        Objective::Binary => validation::log_loss(groups, scores),
    }
}

fn is_better(value: f64, than: f64, objective: Objective) -> bool {
    match objective {
        Objective::LambdaRank => value > than,
        Objective::Binary => value < than,
    }
}

fn check_config(config: &LightGbmConfig, n_features: usize) -> Result<(), FitError> {
    let ranges = [
        ("n_trees", f64::from(config.n_trees), 1.0, 100_000.0, "1 to 100000"),
        ("learning_rate", config.learning_rate, f64::MIN_POSITIVE, 10.0, "above 0, at most 10"),
        ("n_leaves", f64::from(config.n_leaves), 2.0, MAX_LEAVES as f64, "2 to 65536"),
        ("min_data_in_leaf", f64::from(config.min_data_in_leaf), 0.0, 2e9, "0 to 2e9"),
        ("min_sum_hessian_in_leaf", config.min_sum_hessian_in_leaf, 0.0, f64::MAX, "at least 0"),
        ("feature_fraction", config.feature_fraction, f64::MIN_POSITIVE, 1.0, "above 0, at most 1"),
        ("bagging_fraction", config.bagging_fraction, f64::MIN_POSITIVE, 1.0, "above 0, at most 1"),
        ("bagging_freq", f64::from(config.bagging_freq), 0.0, 1e9, "0 to 1e9"),
        ("lambda_l1", config.lambda_l1, 0.0, f64::MAX, "at least 0"),
        ("lambda_l2", config.lambda_l2, 0.0, f64::MAX, "at least 0"),
        ("max_bin", f64::from(config.max_bin), 2.0, 65_535.0, "2 to 65535"),
        ("truncation_level", f64::from(config.truncation_level), 1.0, 10_000.0, "1 to 10000"),
        (
            "early_stopping_rounds",
            f64::from(config.early_stopping_rounds.unwrap_or(1)),
            1.0,
            1e9,
            "1 to 1e9",
        ),
        ("eval_at", f64::from(config.eval_at), 1.0, 10_000.0, "1 to 10000"),
        ("positive_weight", config.positive_weight, f64::MIN_POSITIVE, 1e6, "above 0, at most 1e6"),
        ("n_threads", f64::from(config.n_threads), 0.0, 1_024.0, "0 to 1024"),
    ];
    let categorical = config.categorical.iter().map(|&feature| {
        ("categorical", feature as f64, 0.0, n_features as f64 - 1.0, "the number of a feature")
    });
    match ranges
        .into_iter()
        .chain(categorical)
        .find(|&(_, value, min, max, _)| !(min..=max).contains(&value))
    {
        Some((name, value, _, _, allowed)) => Err(FitError::Setting { name, value, allowed }),
        None => Ok(()),
    }
}

fn check_categories(groups: &Groups, config: &LightGbmConfig) -> Result<(), FitError> {
    // 2^31, the first value that LightGBM's integers do not hold.
    let is_category = |value: f32| {
        value.is_nan() || ((0.0..2_147_483_648.0).contains(&value) && value.fract() == 0.0)
    };
    for &feature in &config.categorical {
        for row in 0..groups.n_rows() {
            let value = groups.row(row)[feature];
            if !is_category(value) {
                return Err(FitError::Category {
                    feature: groups.names[feature].clone(),
                    row,
                    value,
                });
            }
        }
    }
    Ok(())
}

/// LightGBM's own parameters.
///
/// Histograms that are made row by row, as those of sparse features always are, are added up thread
/// by thread. Made column by column from dense features, and with `deterministic`, no sum depends
/// on the number of threads.
fn parameters(config: &LightGbmConfig) -> CString {
    let objective = match config.objective {
        Objective::LambdaRank => "objective=lambdarank metric=ndcg",
        Objective::Binary => "objective=binary metric=binary_logloss",
    };
    let categorical: Vec<_> = config.categorical.iter().map(usize::to_string).collect();
    // LightGBM's seeds are non-negative 32-bit integers.
    let seed = config.seed % (i32::MAX as u64);
    let mut text = format!(
        "{objective} verbosity=-1 deterministic=true force_col_wise=true is_enable_sparse=false \
         feature_pre_filter=false"
    );
    for (name, value) in [
        ("learning_rate", config.learning_rate),
        ("min_sum_hessian_in_leaf", config.min_sum_hessian_in_leaf),
        ("feature_fraction", config.feature_fraction),
        ("bagging_fraction", config.bagging_fraction),
        ("lambda_l1", config.lambda_l1),
        ("lambda_l2", config.lambda_l2),
    ] {
        text += &format!(" {name}={value:e}");
    }
    for (name, value) in [
        ("num_leaves", config.n_leaves),
        ("min_data_in_leaf", config.min_data_in_leaf),
        ("bagging_freq", config.bagging_freq),
        ("max_bin", config.max_bin),
        ("lambdarank_truncation_level", config.truncation_level),
        ("num_threads", config.n_threads),
    ] {
        text += &format!(" {name}={value}");
    }
    for name in [
        "seed",
        "data_random_seed",
        "bagging_seed",
        "feature_fraction_seed",
        "extra_seed",
        "objective_seed",
    ] {
        text += &format!(" {name}={seed}");
    }
    if !categorical.is_empty() {
        text += &format!(" categorical_feature={}", categorical.join(","));
    }
    c_string(&text)
}

/// Names that LightGBM takes: no blanks, no signs of JSON, no `=`, each once.
fn column_names(names: &[String]) -> Vec<CString> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.+*/@<>".contains(c);
    let mut taken = HashSet::new();
    let mut column_name = |(column, name): (usize, &String)| {
        let mut plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        while plain.is_empty() || !taken.insert(plain.clone()) {
            plain = format!("{plain}_{column}");
        }
        c_string(&plain)
    };
    names.iter().enumerate().map(&mut column_name).collect()
}

/// The parameters name the number of threads, which changes nothing else.
fn without_parameters(mut text: String) -> String {
    if let Some(start) = text.find("\nparameters:\n") {
        text.truncate(start);
    }
    text
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("the text is made of names and numbers without NUL")
}

/// Turns a return code into a result.
fn check(code: c_int) -> Result<(), FitError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: LightGBM returns a NUL-terminated string that lives until the next error of this
    // thread.
    let message = unsafe { CStr::from_ptr(sys::LGBM_GetLastError()) };
    Err(FitError::LightGbm(message.to_string_lossy().into_owned()))
}

/// A checked length. Groups have fewer than 2^31 rows, and a row has far fewer features.
fn c_len(len: usize) -> c_int {
    c_int::try_from(len).expect("the groups were checked for their number of rows")
}

/// A LightGBM data set, freed when dropped.
struct Dataset {
    handle: sys::DatasetHandle,
}

impl Dataset {
    /// A validation set takes the bins of its training set (`reference`), and no class weights.
    fn new(
        groups: &Groups,
        config: &LightGbmConfig,
        reference: Option<&Self>,
        parameters: &CStr,
    ) -> Result<Self, FitError> {
        let mut dataset = Self { handle: ptr::null_mut() };
        // SAFETY: `features` holds `n_rows * n_features` values, as `Groups::check` has seen;
        // LightGBM copies them. The reference is null or a live data set, and the handle is written
        // by the call.
        check(unsafe {
            sys::LGBM_DatasetCreateFromMat(
                groups.features.as_ptr().cast(),
                sys::C_API_DTYPE_FLOAT32 as c_int,
                c_len(groups.n_rows()),
                c_len(groups.n_features),
                1,
                parameters.as_ptr(),
                reference.map_or(ptr::null_mut(), |dataset| dataset.handle),
                &mut dataset.handle,
            )
        })?;
        dataset.set_field(c"label", &groups.labels, sys::C_API_DTYPE_FLOAT32)?;
        dataset.set_field(c"group", &groups.sizes, sys::C_API_DTYPE_INT32)?;
        match reference {
            Some(_) => dataset.set_field(c"weight", &groups.weights, sys::C_API_DTYPE_FLOAT32)?,
            None => {
                dataset.set_weights(groups, config.positive_weight)?;
                dataset.set_names(&groups.names)?;
            }
        }
        Ok(dataset)
    }

    /// Weights of 1 are left out: LightGBM is faster without any.
    fn set_weights(&mut self, groups: &Groups, positive_weight: f64) -> Result<(), FitError> {
        let weight = |(&weight, &label): (&f32, &f32)| {
            if label > 0.0 { (f64::from(weight) * positive_weight) as f32 } else { weight }
        };
        let weights: Vec<f32> = groups.weights.iter().zip(&groups.labels).map(weight).collect();
        if weights.iter().all(|&weight| weight == 1.0) {
            return Ok(());
        }
        self.set_field(c"weight", &weights, sys::C_API_DTYPE_FLOAT32)
    }

    /// `T` is what `kind` says: `f32`, or `u32` with values below 2^31.
    fn set_field<T: bytemuck::Pod>(
        &mut self,
        name: &CStr,
        values: &[T],
        kind: u32,
    ) -> Result<(), FitError> {
        assert_eq!(size_of::<T>(), 4, "both kinds of field have four bytes");
        // SAFETY: the data set is live, `values` holds as many four-byte values as said, and
        // LightGBM copies them.
        check(unsafe {
            sys::LGBM_DatasetSetField(
                self.handle,
                name.as_ptr(),
                values.as_ptr().cast(),
                c_len(values.len()),
                kind as c_int,
            )
        })
    }

    fn set_names(&mut self, names: &[String]) -> Result<(), FitError> {
        let names = column_names(names);
        let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the data set is live, and the pointers are to as many NUL-terminated strings,
        // which LightGBM copies.
        check(unsafe {
            sys::LGBM_DatasetSetFeatureNames(
                self.handle,
                pointers.as_mut_ptr(),
                c_len(pointers.len()),
            )
        })
    }
}

impl Drop for Dataset {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the handle was made by LightGBM, is freed once, and boosters that use it are
            // dropped before.
            unsafe { sys::LGBM_DatasetFree(self.handle) };
        }
    }
}

/// A LightGBM booster, freed when dropped; it points into its data sets.
struct Booster<'a> {
    handle: sys::BoosterHandle,
    datasets: PhantomData<&'a Dataset>,
}

impl<'a> Booster<'a> {
    fn new(train: &'a Dataset, parameters: &CStr) -> Result<Self, FitError> {
        let mut booster = Self { handle: ptr::null_mut(), datasets: PhantomData };
        // SAFETY: the data set is live and outlives the booster; the handle is written by the call.
        check(unsafe {
            sys::LGBM_BoosterCreate(train.handle, parameters.as_ptr(), &mut booster.handle)
        })?;
        Ok(booster)
    }

    fn add_validation(&mut self, data: &'a Dataset) -> Result<(), FitError> {
        // SAFETY: both handles are live, and the data set outlives the booster.
        check(unsafe { sys::LGBM_BoosterAddValidData(self.handle, data.handle) })
    }

    /// Grows one tree; whether it has no split, so that there is nothing more to learn.
    fn grow_one(&mut self) -> Result<bool, FitError> {
        let mut is_last: c_int = 0;
        // SAFETY: the booster is live; the flag is written by the call.
        check(unsafe { sys::LGBM_BoosterUpdateOneIter(self.handle, &mut is_last) })?;
        Ok(is_last != 0)
    }

    /// Scores of the validation rows, or their probabilities for a binary objective.
    fn validation_scores(&mut self, n_rows: usize) -> Result<Vec<f64>, FitError> {
        // The training set is number 0.
        const VALIDATION: c_int = 1;
        let (mut len, mut scores) = (0, vec![0.0; n_rows]);
        // SAFETY: the booster is live and has a validation set of `n_rows` rows, for each of which
        // it writes one score.
        check(unsafe {
            sys::LGBM_BoosterGetPredict(self.handle, VALIDATION, &mut len, scores.as_mut_ptr())
        })?;
        assert_eq!(
            usize::try_from(len),
            Ok(n_rows),
            "one score for each row of the validation set"
        );
        Ok(scores)
    }

    /// The first `n_trees` trees as LightGBM's text.
    fn text(&mut self, n_trees: u32) -> Result<String, FitError> {
        // Asked for with no room first, LightGBM says how much it needs.
        let mut len = 0;
        self.write_text(n_trees, &mut [], &mut len)?;
        let mut buffer = vec![0u8; usize::try_from(len).expect("a length is not negative")];
        self.write_text(n_trees, &mut buffer, &mut len)?;
        let text = CStr::from_bytes_until_nul(&buffer).expect("LightGBM ends its text with NUL");
        Ok(text.to_string_lossy().into_owned())
    }

    fn write_text(
        &mut self,
        n_trees: u32,
        buffer: &mut [u8],
        len: &mut i64,
    ) -> Result<(), FitError> {
        const FIRST: c_int = 0;
        // SAFETY: the booster is live, and LightGBM writes at most `buffer.len()` bytes.
        check(unsafe {
            sys::LGBM_BoosterSaveModelToString(
                self.handle,
                FIRST,
                c_len(n_trees as usize),
                sys::C_API_FEATURE_IMPORTANCE_GAIN as c_int,
                buffer.len() as i64,
                len,
                buffer.as_mut_ptr().cast(),
            )
        })
    }
}

impl Drop for Booster<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the handle was made by LightGBM and is freed once.
            unsafe { sys::LGBM_BoosterFree(self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_plain_and_stay_apart() {
        let names = ["rate(a, 7d)", "rate[a, 7d]", "ok", ""].map(String::from);
        let plain: Vec<String> =
            column_names(&names).into_iter().map(|name| name.into_string().unwrap()).collect();
        assert_eq!(plain, ["rate_a__7d_", "rate_a__7d__1", "ok", "_3"]);
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let config = LightGbmConfig { learning_rate: f64::NAN, ..LightGbmConfig::default() };
        assert!(matches!(
            check_config(&config, 3),
            Err(FitError::Setting { name: "learning_rate", .. })
        ));
        let config = LightGbmConfig { categorical: vec![3], ..LightGbmConfig::default() };
        assert!(matches!(
            check_config(&config, 3),
            Err(FitError::Setting { name: "categorical", .. })
        ));
        assert!(check_config(&LightGbmConfig::default(), 3).is_ok());
    }
}
