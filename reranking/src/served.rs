//! What was shown lately and not chosen makes way.

use crate::rules::HideServed;
use crate::slate::Slate;

/// Multiplies the relevance of each item by `1 - strength` for each time that it was shown, as far as that has not faded.
pub(crate) fn apply(rule: &HideServed, slate: &Slate<'_>, relevance: &mut [f32]) {
    let Some(served) = slate.served else { return };
    for (relevance, times) in relevance.iter_mut().zip(served) {
        *relevance *= (1.0 - rule.strength).powf(*times);
    }
}
