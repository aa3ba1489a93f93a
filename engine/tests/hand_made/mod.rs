//! A release that was not trained: its item vectors are given, and it has no ranker.

use std::collections::BTreeMap;

use engine::config::Config;
use engine::release::{DataSpan, FORMAT, Layout, Manifest, Release};
use featurestore::{History, Timestamp};
use retrieval::embedding::{EmbeddingConfig, ImportedVectors};
use retrieval::models::{Models, ModelsConfig};
use retrieval::vectors::Vectors;

/// A release for `history` as of `now`, without a ranker. `vectors`: one for each item, zeros for none.
pub(crate) fn release(
    config: &Config,
    history: &History,
    vectors: Vectors,
    now: Timestamp,
) -> Release {
    let users = Vectors::new(Vec::new(), vectors.dim()).unwrap();
    let interactions = history.interactions(now, &config.schema());
    let models = ModelsConfig {
        embedding: EmbeddingConfig::Imported(ImportedVectors::new(vectors, users)),
        index: None,
        co_visitation: config.training.co_visitation.clone(),
        cosine: config.training.cosine.clone(),
    };
    let (n_users, n_items) = (history.users.len(), history.items.len());
    Release {
        manifest: Manifest {
            format: FORMAT,
            id: String::new(),
            data: DataSpan {
                from: Timestamp(1),
                until: now,
                n_events: history.events.len(),
                n_items,
                n_users,
                items_digest: String::new(),
            },
            features: Vec::new(),
            seed: 7,
            metrics: BTreeMap::new(),
            files: BTreeMap::new(),
        },
        config: config.clone(),
        layout: Layout::new(config),
        models: Models::fit(&interactions, n_users, n_items, now, &models, |_| {}).unwrap(),
        ranker: None,
        ranker_text: None,
        calibration: None,
        objectives: BTreeMap::new(),
    }
}
