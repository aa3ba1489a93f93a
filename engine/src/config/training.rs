//! How a release is trained: what of `[training]` is written, over defaults that were chosen together.

use featurestore::Span;
use ranking::lightgbm::LightGbmConfig;
use retrieval::item_item::{CoVisitation, CosineItems};
use serde::{Deserialize, Serialize};

use crate::embedding_import::EmbeddingImport;

/// How a release is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Start of every random sequence.
    pub seed: u64,
    /// Length of the latest part of the data, by which the gate judges.
    pub gate: Span,
    /// Length of the part before it, by which the ranker's number of trees is chosen.
    pub early_stop: Span,
    /// Length of the part before that, from which the ranker learns.
    pub labels: Span,
    /// A part is made longer until it has so many questions, but never above a sixth of all events.
    pub min_questions: usize,
    /// Most questions that the ranker learns from; of more, an even sample is taken.
    pub max_questions: usize,
    /// Negatives for each positive, 4 to 10.
    pub negatives: usize,
    /// Share of the negatives that are taken from the candidates that a small pilot ranker puts first; the others are
    /// taken from the rest, and each weighs as many candidates as it stands for.
    pub hard_share: f64,
    /// Dimensions of the embedding.
    pub dim: usize,
    /// Rounds of the embedding's training.
    pub embedding_epochs: usize,
    /// Weight of what was not observed, against 1 for what was.
    pub embedding_alpha: f64,
    /// Strength of the embedding's regularisation.
    pub embedding_lambda: f64,
    /// Files of vectors to take instead of training the embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_import: Option<EmbeddingImport>,
    /// What is done together.
    pub co_visitation: CoVisitation,
    /// What is done by the same users.
    pub cosine: CosineItems,
    /// The ranker.
    pub ranker: LightGbmConfig,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            seed: 7,
            gate: Span::days(7),
            early_stop: Span::days(7),
            labels: Span::days(28),
            min_questions: 1_500,
            max_questions: 12_000,
            negatives: 10,
            hard_share: 0.8,
            dim: 64,
            embedding_epochs: 12,
            embedding_alpha: 0.1,
            embedding_lambda: 0.003,
            embedding_import: None,
            co_visitation: CoVisitation {
                window: Span::days(14),
                max_steps: 4,
                half_life: Some(Span::days(120)),
                ..CoVisitation::default()
            },
            cosine: CosineItems { half_life: Some(Span::days(180)), ..CosineItems::default() },
            ranker: LightGbmConfig {
                n_trees: 500,
                learning_rate: 0.06,
                n_leaves: 31,
                min_data_in_leaf: 50,
                feature_fraction: 0.6,
                bagging_fraction: 0.8,
                bagging_freq: 1,
                lambda_l2: 5.0,
                early_stopping_rounds: Some(40),
                eval_at: 10,
                truncation_level: 20,
                ..LightGbmConfig::default()
            },
        }
    }
}

impl Training {
    /// The defaults with what was `written` over them, key by key: a table of `[training]` that says something of one
    /// key leaves the others as they were chosen together here, and not as the crate it belongs to has them.
    ///
    /// # Panics
    /// If `written` cannot be read as a `Training` by itself.
    pub(super) fn over_defaults(written: &toml::Table) -> Self {
        let mut table = toml::Table::try_from(Self::default()).expect("the defaults are TOML");
        lay_over(&mut table, written);
        table.try_into().expect("each key was read before, and none depends on another")
    }
}

/// Puts the values of `written` into `table`, going down where both have a table.
fn lay_over(table: &mut toml::Table, written: &toml::Table) {
    for (key, value) in written {
        match (table.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(written)) => {
                lay_over(below, written);
            }
            _ => drop(table.insert(key.clone(), value.clone())),
        }
    }
}
