//! Why an item is in an answer: codes with data.

use std::sync::Arc;

use engine::pipeline::Pipeline;
use featurestore::store::UserState;
use featurestore::{ItemId, Span};
use retrieval::sources::{Source, SourceKind};
use serde::Serialize;

/// One reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub(super) enum Reason {
    /// Nothing is known about the user.
    ColdUser,
    /// It is shown to learn about it.
    Exploration,
    /// It is like an item of the user's history, or of the request.
    SimilarTo {
        /// That item.
        item: String,
    },
    /// The user did this with it, and may do it again.
    BecauseYou {
        /// What he did.
        event: String,
        /// With which item.
        item: String,
    },
    /// Many did something with it lately.
    Trending {
        /// Within about this time.
        window: Span,
    },
    /// Many do something with it.
    Popular,
    /// It has not been there for long.
    New,
}

/// Of how many of the user's latest events the most similar item is looked for.
const SIMILAR_TO: usize = 20;

/// Finds the reasons of one answer's items.
pub(super) struct Reasons<'a> {
    pipeline: &'a Pipeline,
    sources: &'a [Source],
    user: Arc<UserState>,
    /// What an item may be said to be like.
    likened: Vec<ItemId>,
}

impl<'a> Reasons<'a> {
    /// Those of an answer by `sources` to a user of whom `user` is known. `asked`: the items that it was asked about; if
    /// there are none, items are likened to the user's latest.
    pub(super) fn new(
        pipeline: &'a Pipeline,
        sources: &'a [Source],
        user: Arc<UserState>,
        asked: &[ItemId],
    ) -> Self {
        let latest = user.recent.iter().rev().take(SIMILAR_TO).map(|recent| recent.item);
        let likened = if asked.is_empty() { latest.collect() } else { asked.to_vec() };
        Self { pipeline, sources, user, likened }
    }

    /// Why `item` is there, which the sources at these places proposed.
    pub(super) fn of(&self, item: ItemId, sources: &[usize]) -> Vec<Reason> {
        let mut reasons: Vec<Reason> = Vec::new();
        let sources = sources.iter().map(|source| &self.sources[*source]);
        for reason in sources.filter_map(|source| self.by_source(item, source)) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        reasons
    }

    fn by_source(&self, item: ItemId, source: &Source) -> Option<Reason> {
        match source.kind {
            SourceKind::Embedding | SourceKind::ItemItem => self.similar_to(item),
            SourceKind::OwnHistory => self.because_you(item),
            SourceKind::Trending => {
                source.half_life.map(|window| Reason::Trending { window }).or(Some(Reason::Popular))
            }
            SourceKind::Popular | SourceKind::PopularInField => Some(Reason::Popular),
            SourceKind::NewItems => Some(Reason::New),
        }
    }

    /// The item among the likened whose vector is most like that of `item`.
    fn similar_to(&self, item: ItemId) -> Option<Reason> {
        let models = &self.pipeline.release().models;
        let known = |item: &ItemId| item.index() < models.n_items();
        if !known(&item) {
            return None;
        }
        let others = self.likened.iter().copied();
        let others = others.filter(|other| known(other) && *other != item);
        let similar = others.map(|other| (models.cosine_of(item, other), other));
        let (_, other) =
            similar.filter(|(cosine, _)| *cosine > 0.0).max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(Reason::SimilarTo { item: self.name(other)? })
    }

    /// What the user did with `item` last.
    fn because_you(&self, item: ItemId) -> Option<Reason> {
        let plan = self.pipeline.plan();
        let record = self.user.items.get(item, &plan.user_item)?;
        let times = plan.last_by_type(record).enumerate().filter(|(_, time)| !time.is_nan());
        let (kind, _) = times.max_by(|a, b| a.1.total_cmp(&b.1))?;
        let event = self.pipeline.release().config.events.keys().nth(kind)?.clone();
        Some(Reason::BecauseYou { event, item: self.name(item)? })
    }

    fn name(&self, item: ItemId) -> Option<String> {
        self.pipeline.store().view(|view| view.items().names().name(item.0).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_a_code_with_its_data() {
        let json = |reason: Reason| serde_json::to_string(&reason).unwrap();
        assert_eq!(json(Reason::ColdUser), r#"{"code":"cold_user"}"#);
        let window = Span::days(1);
        assert_eq!(json(Reason::Trending { window }), r#"{"code":"trending","window":"1d"}"#);
        let item = "a".to_owned();
        assert_eq!(json(Reason::SimilarTo { item }), r#"{"code":"similar_to","item":"a"}"#);
    }
}
