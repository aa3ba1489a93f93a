//! Replay: the log in time order, with questions asked in between, each as of its own time.

use crate::history::{History, Question};
use crate::store::EmbeddedStore;

/// Applies the events of `history` up to index `until` to `store`, and before each question's first event calls
/// `ask` with the question: the store then knows what was known at that moment, and nothing later.
/// `questions` must be in the order of their first events; those at `until` or later are not asked.
pub fn replay<'q>(
    history: &History,
    until: usize,
    store: &EmbeddedStore,
    questions: &'q [Question],
    mut ask: impl FnMut(&'q Question),
) {
    let mut waiting = questions.iter().peekable();
    for (i, event) in history.events.iter().enumerate().take(until) {
        while let Some(question) = waiting.next_if(|question| question.first_event <= i) {
            ask(question);
        }
        store.apply(event);
    }
}
