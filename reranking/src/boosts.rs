//! Factors on the relevance of some categories.

use crate::journal::{Rule, Unmet};
use crate::rules::Boost;
use crate::slate::Slate;

/// Multiplies the relevance of the items that a boost names; of several boosts, all count.
pub(crate) fn apply(
    boosts: &[Boost],
    slate: &Slate<'_>,
    relevance: &mut [f32],
    unmet: &mut Vec<Unmet>,
) {
    for boost in boosts {
        let Some(codes) = slate.codes(&boost.field) else {
            unmet.push(Unmet::NoColumn { rule: Rule::Boosts, field: boost.field.clone() });
            continue;
        };
        for (relevance, code) in relevance.iter_mut().zip(codes) {
            if boost.codes.contains(code) {
                *relevance *= boost.factor;
            }
        }
    }
}
