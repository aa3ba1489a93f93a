//! Everything that retrieval trains, fitted and stored together.

use std::collections::BTreeMap;
use std::path::Path;

use featurestore::{Entities, Interaction, ItemId, Timestamp, UserId};

use crate::embedding::{Embedding, EmbeddingConfig};
use crate::field_vectors::FieldVectors;
use crate::hnsw::{BuildIndexError, HnswConfig, SearchScratch, VectorIndex, recall_against_exact};
use crate::ials::{FitIalsError, FoldInScratch, PreferenceWeighting, Preferences};
use crate::item_item::{CoVisitation, CosineItems};
use crate::mapped::OpenError;
use crate::sparse::ItemRows;
use crate::vectors::{Vectors, cosine, has_direction};

/// How the models are fitted.
#[derive(Clone, Debug)]
pub struct ModelsConfig {
    /// The embedding.
    pub embedding: EmbeddingConfig,
    /// Its index; `None`: the exact scan, for models that are asked for a few minutes only.
    pub index: Option<HnswConfig>,
    /// What is done together.
    pub co_visitation: CoVisitation,
    /// What is done by the same users.
    pub cosine: CosineItems,
}

/// The trained models of a release. Items are numbered `0..n_items`; later ones are unknown to them.
pub struct Models {
    /// Item vectors, and what gives users theirs.
    pub embedding: Embedding,
    /// Finds the items whose vectors fit best.
    pub index: VectorIndex,
    /// What the index finds of what an exact scan finds, for a sample of users; `None` if it is an exact scan.
    pub index_recall: Option<f64>,
    /// Neighbours by co-visitation.
    pub co_visitation: ItemRows,
    /// Neighbours by cosine.
    pub cosine: ItemRows,
    /// Vectors of later items, from their fields; `None` in models that are asked about these items alone.
    pub field_vectors: Option<FieldVectors>,
}

const VECTORS: &str = "vectors.bin";
const GRAPH: &str = "graph.bin";
const CO_VISITATION: &str = "co_visitation.bin";
const COSINE: &str = "cosine.bin";
const FIELD_VECTORS: &str = "field_vectors.bin";

impl Models {
    /// Fits all models on `interactions`, sorted by time, as of `now`. `stage` is told what is fitted next.
    ///
    /// # Errors
    /// If the embedding does not come out finite.
    pub fn fit(
        interactions: &[Interaction],
        n_users: usize,
        n_items: usize,
        now: Timestamp,
        config: &ModelsConfig,
        mut stage: impl FnMut(&str),
    ) -> Result<Self, FitModelsError> {
        stage("co-visitation");
        let co_visitation = config.co_visitation.fit(interactions, n_items, now);
        stage("cosine");
        let cosine = config.cosine.fit(interactions, n_items, now);
        stage("embedding");
        let weighting = PreferenceWeighting { half_life: None, now, log1p: true };
        let embedding = config
            .embedding
            .fit(|| Preferences::from_interactions(interactions, n_users, n_items, weighting))?;
        assert_eq!(embedding.items().n_items(), n_items, "each item has a row, if only of zeros");
        stage("index");
        let index = match &config.index {
            Some(index) => VectorIndex::build(embedding.items(), index)?,
            None => VectorIndex::Exact,
        };
        let index_recall = match &index {
            VectorIndex::Exact => None,
            VectorIndex::Hnsw(_) => Some(sampled_recall(&index, &embedding, interactions)),
        };
        let field_vectors = None;
        Ok(Self { embedding, index, index_recall, co_visitation, cosine, field_vectors })
    }

    /// Fits what gives later items a vector, from the fields of `items`.
    pub fn fit_field_vectors(&mut self, items: &Entities) {
        self.field_vectors = Some(FieldVectors::fit(self.vectors(), items));
    }

    /// Item vectors, `[n_items, dim]`; zeros for items without one.
    pub fn vectors(&self) -> &Vectors {
        self.embedding.items()
    }

    /// For each item that the models know, whether it has a vector: `[n_items]`.
    pub fn settled(&self) -> Vec<bool> {
        self.vectors().iter().map(|(_, row)| has_direction(row)).collect()
    }

    /// How many items the models know.
    pub fn n_items(&self) -> usize {
        self.vectors().n_items()
    }

    /// Cosine of the vectors of two items, in `[-1, 1]`; NaN if one has none, or one too short to have a direction.
    pub fn cosine_of(&self, a: ItemId, b: ItemId) -> f32 {
        cosine(self.vectors().row(a), self.vectors().row(b))
    }

    /// Writes the models into files of `folder`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> std::io::Result<()> {
        self.vectors().save(&folder.join(VECTORS))?;
        self.index.save(&folder.join(GRAPH))?;
        self.embedding.save(folder)?;
        self.co_visitation.save(&folder.join(CO_VISITATION))?;
        if let Some(field_vectors) = &self.field_vectors {
            field_vectors.save(&folder.join(FIELD_VECTORS))?;
        }
        self.cosine.save(&folder.join(COSINE))
    }

    /// Opens the models in `folder` by memory map.
    ///
    /// # Errors
    /// If a file cannot be read, or contradicts itself or the others.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let vectors = Vectors::open(&folder.join(VECTORS))?;
        let index = VectorIndex::open(&folder.join(GRAPH), &vectors)?;
        let embedding = Embedding::open(folder, &vectors)?;
        let co_visitation = ItemRows::open(&folder.join(CO_VISITATION))?;
        let cosine = ItemRows::open(&folder.join(COSINE))?;
        // Releases that were made before there were any do not have them.
        let path = folder.join(FIELD_VECTORS);
        let fields = path.exists().then(|| FieldVectors::open(&path, vectors.dim())).transpose()?;
        Ok(Self {
            embedding,
            index,
            index_recall: None,
            co_visitation,
            cosine,
            field_vectors: fields,
        })
    }
}

/// Users whose recall is measured.
const RECALL_USERS: usize = 200;
/// Items that they ask for.
const RECALL_ITEMS: usize = 250;

/// Recall of `index` for the vectors of users with their interactions, evenly spread over the data.
fn sampled_recall(index: &VectorIndex, embedding: &Embedding, interactions: &[Interaction]) -> f64 {
    let mut histories: BTreeMap<UserId, Vec<(ItemId, f32)>> = BTreeMap::new();
    for interaction in interactions {
        histories.entry(interaction.user).or_default().push((interaction.item, 1.0));
    }
    let step = histories.len().div_ceil(RECALL_USERS).max(1);
    let mut scratch = FoldInScratch::default();
    let users = histories.iter().step_by(step);
    let queries: Vec<Vec<f32>> = users
        .filter_map(|(user, history)| embedding.user(Some(*user), history, &mut scratch))
        .collect();
    let queries = queries.iter().map(Vec::as_slice);
    let (vectors, mut room) = (embedding.items(), SearchScratch::default());
    recall_against_exact(vectors, queries, RECALL_ITEMS, |query| {
        index.search(vectors, query, RECALL_ITEMS, |_| true, &mut room)
    })
}

/// Why models cannot be fitted.
#[derive(Debug, thiserror::Error)]
pub enum FitModelsError {
    /// The embedding.
    #[error(transparent)]
    Embedding(#[from] FitIalsError),
    /// Its index.
    #[error(transparent)]
    Index(#[from] BuildIndexError),
}
