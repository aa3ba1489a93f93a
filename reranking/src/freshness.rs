//! The gain of newly published items.

use crate::journal::{Rule, Unmet};
use crate::rules::Freshness;
use crate::slate::Slate;

/// Multiplies each relevance by `1 + boost * 0.5^(age / half_life)`. An item of the future counts as published now,
/// one without a time is old.
pub(crate) fn apply(
    freshness: &Freshness,
    slate: &Slate<'_>,
    relevance: &mut [f32],
    unmet: &mut Vec<Unmet>,
) {
    let Some(published) = slate.published else {
        unmet.push(Unmet::NoColumn { rule: Rule::Freshness, field: freshness.field.clone() });
        return;
    };
    for (relevance, &time) in relevance.iter_mut().zip(published) {
        let half_lives = slate.now.seconds_since(time).max(0.0) / freshness.half_life.seconds();
        *relevance *= 1.0 + freshness.boost * (-half_lives).exp2() as f32;
    }
}
