//! What needs no model: counting. Every release is measured against these.

use std::collections::VecDeque;

use featurestore::time::DAY_MS;
use featurestore::{Event, History, ItemId, NO_SESSION, Question, Span, Timestamp, UserId};
use rustc_hash::{FxHashMap, FxHashSet};

/// The lists of the counting baselines for one question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BaselineLists {
    /// By the number of sessions with the item in the 7 days before; ties by first appearance in the log.
    pub popular_7d: Vec<ItemId>,
    /// By the number of the user's earlier sessions with the item; ties by the most recent; then `popular_7d`.
    pub own_frequency: Vec<ItemId>,
    /// The same, each session weighing `0.5^(age / 60 d)`.
    pub own_frequency_60d: Vec<ItemId>,
}

impl BaselineLists {
    /// The lists with their names.
    pub fn named(&self) -> [(&'static str, &[ItemId]); 3] {
        [
            ("popular_7d", &self.popular_7d),
            ("own_frequency", &self.own_frequency),
            ("own_frequency_60d", &self.own_frequency_60d),
        ]
    }
}

const WINDOW: Span = Span::days(7);
const HALF_LIFE_MS: f64 = 60.0 * DAY_MS as f64;

/// What one user did with one item.
#[derive(Clone, Copy, Debug)]
struct Own {
    sessions: u32,
    faded: f64,
    last: Timestamp,
}

/// Counts that follow the log.
struct Counts {
    in_window: Vec<u32>,
    window: VecDeque<(Timestamp, ItemId)>,
    popular: FxHashSet<ItemId>,
    first_seen: Vec<u32>,
    n_seen: u32,
    own: FxHashMap<UserId, FxHashMap<ItemId, Own>>,
    counted: FxHashSet<(u32, ItemId)>,
}

/// The baselines' lists of `n` items for each of `questions`, which are in the order of their first events: each as of
/// its own time. Only events of types with a label in `labels` count, an item once per session. `refused(user, item,
/// now)`: what the rules of the scenario keep out.
pub fn baseline_lists(
    history: &History,
    questions: &[Question],
    labels: &[u8],
    n: usize,
    mut refused: impl FnMut(&Question, ItemId) -> bool,
) -> Vec<BaselineLists> {
    let mut counts = Counts::new(history);
    let mut lists = Vec::with_capacity(questions.len());
    let mut waiting = questions.iter().peekable();
    for (i, event) in history.events.iter().enumerate() {
        while let Some(question) = waiting.next_if(|question| question.first_event <= i) {
            lists.push(counts.answer(question, n, &mut refused));
        }
        if waiting.peek().is_none() {
            break;
        }
        if labels[usize::from(event.kind.0)] > 0 {
            counts.apply(event);
        }
    }
    lists
}

impl Counts {
    fn new(history: &History) -> Self {
        Self {
            in_window: vec![0; history.items.len()],
            window: VecDeque::new(),
            popular: FxHashSet::default(),
            first_seen: vec![u32::MAX; history.items.len()],
            n_seen: 0,
            own: FxHashMap::default(),
            counted: FxHashSet::default(),
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event { time, user, item, session, .. } = *event;
        if self.first_seen[item.index()] == u32::MAX {
            self.first_seen[item.index()] = self.n_seen;
            self.n_seen += 1;
        }
        if session != NO_SESSION && !self.counted.insert((session, item)) {
            return;
        }
        self.in_window[item.index()] += 1;
        self.popular.insert(item);
        self.window.push_back((time, item));
        let own = self.own.entry(user).or_default().entry(item);
        let own = own.or_insert(Own { sessions: 0, faded: 0.0, last: time });
        own.faded = own.faded * fade(time, own.last) + 1.0;
        own.sessions += 1;
        own.last = time;
    }

    fn answer(
        &mut self,
        question: &Question,
        n: usize,
        refused: &mut impl FnMut(&Question, ItemId) -> bool,
    ) -> BaselineLists {
        self.leave_window(question.time.minus(WINDOW));
        let mut refused = |item: ItemId| refused(question, item);
        let popular_7d = self.popular(n, &mut refused);
        let mut own_list = |score: &dyn Fn(&Own) -> f64| {
            let mut list = self.own_items(question.user, n, score, &mut refused);
            let more = popular_7d.iter().filter(|item| !list.contains(item)).copied();
            let more: Vec<ItemId> = more.take(n - list.len()).collect();
            list.extend(more);
            list
        };
        BaselineLists {
            own_frequency: own_list(&|own| f64::from(own.sessions)),
            own_frequency_60d: own_list(&|own| own.faded * fade(question.time, own.last)),
            popular_7d,
        }
    }

    fn leave_window(&mut self, start: Timestamp) {
        while let Some((_, item)) = self.window.pop_front_if(|(time, _)| *time < start) {
            self.in_window[item.index()] -= 1;
            if self.in_window[item.index()] == 0 {
                self.popular.remove(&item);
            }
        }
    }

    fn popular(&self, n: usize, refused: &mut impl FnMut(ItemId) -> bool) -> Vec<ItemId> {
        let allowed = self.popular.iter().filter(|item| !refused(**item));
        let mut items: Vec<(u32, u32, ItemId)> = allowed
            .map(|item| {
                (u32::MAX - self.in_window[item.index()], self.first_seen[item.index()], *item)
            })
            .collect();
        if items.len() > n {
            items.select_nth_unstable(n);
            items.truncate(n);
        }
        items.sort_unstable();
        items.into_iter().map(|(_, _, item)| item).collect()
    }

    fn own_items(
        &self,
        user: UserId,
        n: usize,
        score: &dyn Fn(&Own) -> f64,
        refused: &mut impl FnMut(ItemId) -> bool,
    ) -> Vec<ItemId> {
        let own = self.own.get(&user).into_iter().flatten();
        let mut items: Vec<(f64, Timestamp, ItemId)> = own
            .filter(|(item, _)| !refused(**item))
            .map(|(item, own)| (score(own), own.last, *item))
            .collect();
        items.sort_unstable_by(|a, b| {
            b.0.total_cmp(&a.0)
                .then(b.1.cmp(&a.1))
                .then(self.first_seen[a.2.index()].cmp(&self.first_seen[b.2.index()]))
        });
        items.into_iter().take(n).map(|(_, _, item)| item).collect()
    }
}

fn fade(now: Timestamp, last: Timestamp) -> f64 {
    (-(now.0 - last.0) as f64 / HALF_LIFE_MS).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use featurestore::event::MAX_EVENT_NUMBERS;
    use featurestore::history::{GroupBy, questions};
    use featurestore::{Entities, EventTypeId};

    /// (day, user, item, session)
    fn history(events: &[(i64, u32, u32, u32)]) -> History {
        let fields = std::collections::BTreeMap::new();
        let mut items = Entities::new(&fields);
        for i in 0..10 {
            items.intern(&i.to_string());
        }
        let event = |&(day, user, item, session): &(i64, u32, u32, u32)| Event {
            time: Timestamp(day * DAY_MS),
            user: UserId(user),
            item: ItemId(item),
            session,
            kind: EventTypeId(0),
            numbers: [f32::NAN; MAX_EVENT_NUMBERS],
        };
        History { items, events: events.iter().map(event).collect(), ..History::default() }
    }

    fn last_lists(events: &[(i64, u32, u32, u32)]) -> BaselineLists {
        let history = history(events);
        let asked = questions(&history, &[1], GroupBy::Session, Timestamp::MIN, Timestamp::MAX);
        baseline_lists(&history, &asked, &[1], 3, |_, _| false).pop().unwrap()
    }

    fn ids(items: &[u32]) -> Vec<ItemId> {
        items.iter().map(|item| ItemId(*item)).collect()
    }

    #[test]
    fn popularity_counts_sessions_of_the_last_seven_days() {
        // Item 9 is a week and a day old; 5 is twice in one session, and 4 in two.
        let lists = last_lists(&[
            (1, 0, 9, 0),
            (1, 1, 9, 1),
            (3, 0, 5, 2),
            (3, 0, 5, 2),
            (4, 1, 4, 3),
            (5, 0, 4, 4),
            (9, 2, 1, 5),
        ]);
        assert_eq!(lists.popular_7d, ids(&[4, 5]));
    }

    #[test]
    fn own_frequency_is_filled_up_with_what_is_popular() {
        let lists =
            last_lists(&[(1, 0, 7, 0), (2, 0, 7, 1), (2, 0, 3, 1), (3, 1, 8, 2), (4, 0, 1, 3)]);
        assert_eq!(lists.own_frequency, ids(&[7, 3, 8]));
    }

    #[test]
    fn a_recent_session_outweighs_two_old_ones_when_counts_fade() {
        let lists = last_lists(&[(1, 0, 7, 0), (2, 0, 7, 1), (200, 0, 3, 2), (201, 0, 1, 3)]);
        assert_eq!(lists.own_frequency[..2], ids(&[7, 3]));
        assert_eq!(lists.own_frequency_60d[..2], ids(&[3, 7]));
    }
}
