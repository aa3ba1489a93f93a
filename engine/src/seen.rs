//! Which items a user has seen enough of.

use featurestore::{Schema, Timestamp};
use reranking::config::HideSeen;

/// For each event type the time after such an event for which the item is hidden from the user.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenRule {
    hidden_for_ms: Vec<Option<f64>>,
}

impl SeenRule {
    /// The rule that the configuration describes; without a length of time an item stays hidden.
    pub fn new(rule: &HideSeen, schema: &Schema) -> Self {
        let span = rule.span.map_or(f64::INFINITY, |span| span.0 as f64);
        let hides = |name: &String| rule.events.is_empty() || rule.events.contains(name);
        Self {
            hidden_for_ms: schema.events.keys().map(|name| hides(name).then_some(span)).collect(),
        }
    }

    /// Whether an item is hidden at `now`. `last_by_type`: time of the user's last event of each type with it.
    pub fn hides(&self, last_by_type: impl Iterator<Item = f64>, now: Timestamp) -> bool {
        let mut ages = last_by_type.map(|last| now.0 as f64 - last).zip(&self.hidden_for_ms);
        // The age is NaN, and the comparison false, where there was no such event.
        ages.any(|(age, hidden_for)| hidden_for.is_some_and(|span| age <= span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_hidden_for_the_time_that_the_rule_says() {
        let rule = SeenRule { hidden_for_ms: vec![Some(10.0), None] };
        let hides =
            |first: f64, second: f64| rule.hides([first, second].into_iter(), Timestamp(100));
        assert!(hides(90.0, f64::NAN) && hides(95.0, 1.0));
        assert!(!hides(89.0, f64::NAN) && !hides(f64::NAN, 100.0));
    }
}
