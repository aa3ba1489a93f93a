//! The features that do not come from events and fields: those of retrieval and of the request.

use featurestore::Timestamp;
use featurestore::schema::{Aggregate, FeatureKind, RequestConstant, SimilarityBy, TimePart};
use featurestore::store::UserView;
use featurestore::time::DAY_MS;
use retrieval::merge::Candidates;
use retrieval::sources::SourceScratch;
use retrieval::vectors::{Direction, dot};

use super::Query;
use crate::release::{Release, ScenarioPlan};

/// The features that retrieval and the request bring along.
pub(super) struct RequestFeatures<'a> {
    pub(super) release: &'a Release,
    pub(super) scenario: &'a ScenarioPlan,
    pub(super) candidates: &'a Candidates,
    pub(super) sources: &'a SourceScratch,
    pub(super) user: &'a UserView,
    pub(super) query: &'a Query,
}

impl RequestFeatures<'_> {
    /// Fills the column of `kind`; those that come from events and fields are left alone.
    pub(super) fn column(&self, kind: &FeatureKind, out: &mut [f32]) {
        match kind {
            FeatureKind::Similarity { by, aggregate } => self.similarity(*by, *aggregate, out),
            FeatureKind::SourceScore { source } => {
                self.source(source, &self.candidates.scores, out)
            }
            FeatureKind::SourceRank { source } => self.source(source, &self.candidates.ranks, out),
            FeatureKind::SourceCount => self.source_count(out),
            FeatureKind::LocalTime { part, utc_offset_minutes } => {
                out.fill(local_time(self.query.now, *part, *utc_offset_minutes));
            }
            FeatureKind::Request { constant } => out.fill(match constant {
                RequestConstant::Candidates => self.candidates.items.len() as f32,
                RequestConstant::HistoryItems => self.user.state.items.len() as f32,
            }),
            _ => {}
        }
    }

    fn source(&self, name: &str, columns: &[f32], out: &mut [f32]) {
        // A source of another scenario proposes nothing here: its column stays missing.
        if let Some(i) = self.scenario.sources.iter().position(|source| source.name == name) {
            out.copy_from_slice(&columns[i * out.len()..(i + 1) * out.len()]);
        }
    }

    fn source_count(&self, out: &mut [f32]) {
        out.fill(0.0);
        for ranks in self.candidates.ranks.chunks_exact(out.len()) {
            for (count, rank) in out.iter_mut().zip(ranks) {
                *count += f32::from(u8::from(!rank.is_nan()));
            }
        }
    }

    fn similarity(&self, by: SimilarityBy, aggregate: Aggregate, out: &mut [f32]) {
        let scratch = match by {
            SimilarityBy::CoVisitation => &self.sources.co_visitation,
            SimilarityBy::Cosine => &self.sources.cosine,
            SimilarityBy::Embedding => return self.embedding(aggregate, out),
        };
        if self.sources.history.latest.is_empty() {
            return;
        }
        for (item, out) in self.candidates.items.iter().zip(out) {
            *out = match aggregate {
                Aggregate::Sum => scratch.sum(*item),
                Aggregate::Max => scratch.max(*item),
                Aggregate::Last => scratch.last(*item),
            };
        }
    }

    /// Those of the latest items of the user that the largest, or the last, similarity by embedding is about.
    fn latest_directions(&self, aggregate: Aggregate) -> Vec<Direction<'_>> {
        let n = match aggregate {
            Aggregate::Sum => 0,
            Aggregate::Last => 1,
            Aggregate::Max => EMBEDDING_MAX_OVER,
        };
        let latest = self.sources.history.latest.iter().take(n);
        latest.map(|(item, _)| Direction::new(self.release.models.vectors().row(*item))).collect()
    }

    fn embedding(&self, aggregate: Aggregate, out: &mut [f32]) {
        let (user, latest) = (&self.sources.user_vector, self.latest_directions(aggregate));
        // The vectors of later items propose them; the ranker was trained without, and would take them for those of items
        // that it knows.
        self.release.models.vectors().look_at(&self.candidates.items, |i, vector| {
            let of = |vector: &[f32]| match aggregate {
                Aggregate::Sum if user.is_empty() => f32::NAN,
                Aggregate::Sum => dot(user, vector),
                Aggregate::Last | Aggregate::Max => {
                    let this = Direction::new(vector);
                    latest.iter().map(|other| other.cosine(&this)).fold(f32::NAN, f32::max)
                }
            };
            out[i] = vector.map_or(f32::NAN, of);
        });
    }
}

/// Over how many of the latest items the largest similarity by embedding is taken.
const EMBEDDING_MAX_OVER: usize = 10;

fn local_time(now: Timestamp, part: TimePart, utc_offset_minutes: i32) -> f32 {
    let local = now.0 + i64::from(utc_offset_minutes) * 60_000;
    let day = local.div_euclid(DAY_MS);
    match part {
        TimePart::Hour => (local.rem_euclid(DAY_MS) / 3_600_000) as f32,
        // 1970-01-01 was a Thursday.
        TimePart::Weekday => (day + 3).rem_euclid(7) as f32,
        TimePart::MonthDay => month_day(day) as f32,
    }
}

/// Day of the month of the day so many days after 1970-01-01.
/// Source: "Date algorithms", <https://howardhinnant.github.io/date_algorithms.html>, `civil_from_days`.
fn month_day(day: i64) -> i64 {
    let of_era = (day + 719_468).rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    of_year - (153 * month + 2) / 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_local_time_are_those_of_the_calendar() {
        let now = Timestamp::parse("2024-02-29T23:30:00Z").unwrap();
        let parts = [TimePart::Hour, TimePart::Weekday, TimePart::MonthDay];
        assert_eq!(parts.map(|part| local_time(now, part, 0)), [23.0, 3.0, 29.0]);
        assert_eq!(parts.map(|part| local_time(now, part, 60)), [0.0, 4.0, 1.0]);
    }
}
