//! What the re-ranker sees of the ranked items: columns of their fields and vectors.

use featurestore::{EmbeddedStore, ItemId, Scored, Timestamp};
use reranking::{CategoryColumn, MISSING, Rules, Slate, Vectors};

use crate::release::Release;

/// How many of the newest items exploration chooses from.
const NEWCOMERS: usize = 100;

/// Columns of the ranked items, aligned with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlateColumns {
    categories: Vec<(String, Vec<u32>)>,
    vectors: Vec<f32>,
    dim: usize,
    published: Vec<Timestamp>,
    newcomers: Vec<ItemId>,
    /// How often each was shown lately and not chosen; empty where that does not matter.
    pub(crate) served: Vec<f32>,
}

impl SlateColumns {
    /// Reads what `rules` look at of the items in `ranked`. `accept`: which newcomers may be shown.
    pub(crate) fn read(
        release: &Release,
        store: &EmbeddedStore,
        rules: &Rules,
        now: Timestamp,
        ranked: &[Scored],
        accept: impl Fn(ItemId) -> bool,
    ) -> Self {
        let mut columns = Self::default();
        let fields = rules.caps.iter().map(|cap| &cap.field);
        let fields = fields.chain(rules.boosts.iter().map(|boost| &boost.field));
        store.view(|view| {
            let items = view.items();
            for name in fields {
                let Some(position) = items.field(name) else { continue };
                let code =
                    |s: &Scored| items.column(position).codes(s.item.0).next().unwrap_or(MISSING);
                columns.categories.push((name.clone(), ranked.iter().map(code).collect()));
            }
            if let Some(freshness) = &rules.freshness {
                let field = items.field(&freshness.field).map(|position| items.column(position));
                let time = |s: &Scored| {
                    let of_field = field.map(|column| column.number(s.item.0));
                    let of_field = of_field.filter(|time| !time.is_nan());
                    let time = of_field.map(|time| Timestamp(time as i64));
                    time.or(items.published(s.item.0)).unwrap_or(Timestamp::MIN)
                };
                columns.published = ranked.iter().map(time).collect();
            }
            if rules.explore.is_some() {
                let newest = view.newest(NEWCOMERS, now).into_iter().map(|scored| scored.item);
                let shown = |item: &ItemId| accept(*item) && items.is_available(item.0, now);
                columns.newcomers = newest.filter(shown).collect();
            }
        });
        if rules.diversity > 0.0 {
            columns.read_vectors(release, ranked);
        }
        columns
    }

    /// Unit vectors; zero for items without one, which are then unlike every other.
    fn read_vectors(&mut self, release: &Release, ranked: &[Scored]) {
        let vectors = release.models.vectors();
        self.dim = vectors.dim();
        for scored in ranked {
            let start = self.vectors.len();
            if scored.item.index() < vectors.n_items() {
                self.vectors.extend_from_slice(vectors.row(scored.item));
            }
            self.vectors.resize(start + self.dim, 0.0);
            let norm = self.vectors[start..].iter().map(|x| x * x).sum::<f32>().sqrt();
            if norm > 0.0 {
                self.vectors[start..].iter_mut().for_each(|x| *x /= norm);
            }
        }
    }

    /// Calls `look` with the input of the rules.
    pub(crate) fn slate<R>(
        &self,
        ranked: &[Scored],
        now: Timestamp,
        look: impl FnOnce(&Slate<'_>) -> R,
    ) -> R {
        let columns: Vec<CategoryColumn<'_>> =
            self.categories.iter().map(|(field, codes)| CategoryColumn { field, codes }).collect();
        look(&Slate {
            items: ranked,
            columns: &columns,
            vectors: (self.dim > 0).then_some(Vectors { values: &self.vectors, dim: self.dim }),
            published: (!self.published.is_empty()).then_some(&self.published[..]),
            served: (!self.served.is_empty()).then_some(&self.served[..]),
            newcomers: &self.newcomers,
            now,
        })
    }
}
