//! The event log in dense ids and in time order: what trainers read and what replay applies.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::entities::Entities;
use crate::event::{Event, EventTypeId, Interaction, NO_SESSION, NamedEvent};
use crate::ids::{ItemId, Names, UserId};
use crate::log::Record;
use crate::schema::Schema;
use crate::time::Timestamp;

/// Prefix of the user that stands for a session without one. Ids from outside cannot hold it.
pub const SESSION_USER: char = '\u{0}';

/// The name under which the user of `event` is known: its own, or the session's.
pub fn user_name(event: &NamedEvent) -> Option<String> {
    match (&event.user, &event.session) {
        (Some(user), _) => Some(user.to_string()),
        (None, Some(session)) => Some(format!("{SESSION_USER}{session}")),
        (None, None) => None,
    }
}

/// Everything that the log says, ids numbered in the order of the log, events in the order of their times.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Items with their fields as they were last put.
    pub items: Entities,
    /// Users with their fields as they were last put.
    pub users: Entities,
    /// By time; at equal times in the order of the log.
    pub events: Vec<Event>,
    /// Events of types that the schema does not have, by type: they are left out.
    pub unknown_types: BTreeMap<String, usize>,
    /// Events with neither user nor session: they are left out.
    pub n_anonymous: usize,
}

/// Folds records into a [`History`], in the order of the log.
pub struct HistoryBuilder<'a> {
    schema: &'a Schema,
    sessions: Names,
    history: History,
    /// For each user that was deleted, and those who stood for one, how many events there were then.
    deleted: FxHashMap<UserId, usize>,
}

impl<'a> HistoryBuilder<'a> {
    /// Nothing yet.
    pub fn new(schema: &'a Schema) -> Self {
        let history = History {
            items: Entities::new(&schema.item_fields),
            users: Entities::new(&schema.user_fields),
            ..History::default()
        };
        Self { schema, sessions: Names::default(), history, deleted: FxHashMap::default() }
    }

    /// Adds the next record of the log.
    pub fn push(&mut self, record: &Record) {
        let history = &mut self.history;
        match record {
            Record::Event(event) => self.push_event(event),
            other => {
                if let Record::DeleteUser { id } = other
                    && let Some(user) = history.users.find(id)
                {
                    let names = std::iter::once(user).chain(history.users.merged_into(user));
                    let n_before = history.events.len();
                    self.deleted.extend(names.map(|name| (UserId(name), n_before)));
                }
                put_record(&mut history.items, &mut history.users, other);
            }
        }
    }

    fn push_event(&mut self, event: &NamedEvent) {
        let history = &mut self.history;
        let Some(user) = user_name(event) else {
            history.n_anonymous += 1;
            return;
        };
        // Ids are numbered also for events that are left out, so that they do not depend on the schema.
        let user = UserId(history.users.intern(&user));
        let item = ItemId(history.items.intern(&event.item));
        let Some(kind) = self.schema.event_type(&event.kind) else {
            *history.unknown_types.entry(event.kind.to_string()).or_default() += 1;
            return;
        };
        let session = event.session.as_ref().map_or(NO_SESSION, |name| self.sessions.intern(name));
        let numbers = self.schema.numbers_of(event);
        history.events.push(Event { time: event.time, user, item, session, kind, numbers });
    }

    /// The history, its events sorted by time.
    pub fn build(mut self) -> History {
        let (deleted, users, mut i) = (self.deleted, &self.history.users, 0);
        self.history.events.retain_mut(|event| {
            i += 1;
            let is_kept = deleted.get(&event.user).is_none_or(|n_before| i > *n_before);
            event.user = UserId(users.resolve(event.user.0));
            is_kept
        });
        self.history.events.sort_by_key(|event| event.time);
        self.history
    }
}

/// Folds a record of the catalogue into items and users; events are left alone.
pub fn put_record(items: &mut Entities, users: &mut Entities, record: &Record) {
    match record {
        Record::Event(_) | Record::Followed { .. } => {}
        Record::Item(item) => {
            let id = items.intern(&item.id);
            items.put(id, &item.fields);
            items.put_availability(id, item.published_at, item.expires_at, item.hidden);
        }
        Record::User(user) => {
            let id = users.intern(&user.id);
            users.put(users.resolve(id), &user.fields);
        }
        Record::DeleteItem { id } => {
            let id = items.intern(id);
            items.delete(id);
            items.put_availability(id, None, None, true);
        }
        Record::DeleteUser { id } => {
            let id = users.intern(id);
            users.delete(users.resolve(id));
        }
        Record::SetItemFields { id, fields } => items.set(id, fields),
        Record::SetUserFields { id, fields } => users.set(id, fields),
        Record::MergeUser { from, into } => {
            let (from, into) = (users.intern(from), users.intern(into));
            users.merge(from, into);
        }
    }
}

impl History {
    /// Index of the first event at `time` or later.
    pub fn first_at(&self, time: Timestamp) -> usize {
        self.events.partition_point(|event| event.time < time)
    }

    /// The time from the first to the last event, if there is one.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.events.first()?.time, self.events.last()?.time))
    }

    /// The events before `until` as trainers take them; those whose type weighs nothing are left out.
    pub fn interactions(&self, until: Timestamp, schema: &Schema) -> Vec<Interaction> {
        let weights = schema.weights();
        let weight = |event: &Event| weights[usize::from(event.kind.0)];
        let events = self.events[..self.first_at(until)].iter();
        events.filter(|e| weight(e) > 0.0).map(|e| Interaction::new(e, weight(e))).collect()
    }

    /// Forgets the events from `until` on.
    pub fn truncate(&mut self, until: Timestamp) {
        self.events.truncate(self.first_at(until));
    }
}

/// What one query group is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// All positive events of one session; events without a session are groups of their own.
    Session,
    /// Each positive event.
    Event,
}

/// One question to the engine with its known answer: what did this user do from that moment on?
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Who asks.
    pub user: UserId,
    /// When: the time of the first event of the group.
    pub time: Timestamp,
    /// Index of that event: the events before it are known when the question is asked.
    pub first_event: usize,
    /// The distinct items of the positive events with their highest gain level, in the order of the events.
    pub relevant: Vec<(ItemId, u8)>,
    /// The types of the positive events of each of them, as bits.
    pub kinds: Vec<u64>,
}

impl Question {
    /// The same question, to which only the items are relevant that had an event of type `kind`; maybe none.
    pub fn about(&self, kind: EventTypeId) -> Self {
        let had = |kinds: u64| kinds & bit(kind) != 0;
        let items = self.relevant.iter().zip(&self.kinds).filter(|(_, kinds)| had(**kinds));
        let (relevant, kinds) = items.map(|(item, kinds)| (*item, *kinds)).unzip();
        Self { relevant, kinds, ..*self }
    }

    fn add(&mut self, event: &Event, label: u8) {
        let known = self.relevant.iter().position(|(item, _)| *item == event.item);
        let i = known.unwrap_or_else(|| {
            self.relevant.push((event.item, label));
            self.kinds.push(0);
            self.kinds.len() - 1
        });
        self.relevant[i].1 = label.max(self.relevant[i].1);
        self.kinds[i] |= bit(event.kind);
    }
}

/// A schema has at most 64 types.
fn bit(kind: EventTypeId) -> u64 {
    1 << kind.0
}

/// The questions that the events from `from` until before `until` answer, in the order of their first events.
/// `labels`: gain level of each event type; only events above 0 are positive.
pub fn questions(
    history: &History,
    labels: &[u8],
    group_by: GroupBy,
    from: Timestamp,
    until: Timestamp,
) -> Vec<Question> {
    let mut questions: Vec<Question> = Vec::new();
    let mut open: FxHashMap<(UserId, u32), usize> = FxHashMap::default();
    let (start, end) = (history.first_at(from), history.first_at(until));
    for (i, event) in history.events.iter().enumerate().take(end).skip(start) {
        let key = (event.user, event.session);
        let grouped = group_by == GroupBy::Session && event.session != NO_SESSION;
        let known = if grouped { open.get(&key).copied() } else { None };
        let position = known.unwrap_or_else(|| {
            questions.push(Question {
                user: event.user,
                time: event.time,
                first_event: i,
                relevant: Vec::new(),
                kinds: Vec::new(),
            });
            open.insert(key, questions.len() - 1);
            questions.len() - 1
        });
        let label = labels[usize::from(event.kind.0)];
        if label > 0 {
            questions[position].add(event, label);
        }
    }
    questions.retain(|question| !question.relevant.is_empty());
    questions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::EventType;

    fn schema() -> Schema {
        let events = [
            ("buy".to_owned(), EventType { weight: 1.0, label: 2 }),
            ("view".to_owned(), EventType { weight: 0.5, label: 0 }),
        ];
        Schema { events: events.into(), ..Schema::default() }
    }

    fn event(kind: &str, user: &str, session: Option<&str>, item: &str, time: i64) -> Record {
        Record::Event(NamedEvent {
            kind: kind.into(),
            user: Some(user.into()),
            session: session.map(Into::into),
            item: item.into(),
            time: Timestamp(time),
            ..NamedEvent::default()
        })
    }

    fn history(records: &[Record]) -> History {
        let schema = schema();
        let mut builder = HistoryBuilder::new(&schema);
        records.iter().for_each(|record| builder.push(record));
        builder.build()
    }

    #[test]
    fn a_session_is_one_question_asked_at_its_first_event() {
        let history = history(&[
            event("buy", "u", Some("s"), "a", 10),
            event("view", "u", Some("s"), "b", 11),
            event("buy", "v", Some("t"), "a", 12),
            event("buy", "u", Some("s"), "c", 13),
            event("buy", "u", Some("s"), "a", 14),
        ]);
        let asked =
            questions(&history, &schema().labels(), GroupBy::Session, Timestamp(0), Timestamp(99));
        let relevant = |items: &[u32]| items.iter().map(|i| (ItemId(*i), 2)).collect::<Vec<_>>();
        assert_eq!(asked.len(), 2);
        assert_eq!((asked[0].first_event, &asked[0].relevant), (0, &relevant(&[0, 2])));
        assert_eq!((asked[1].first_event, &asked[1].relevant), (2, &relevant(&[0])));
    }

    #[test]
    fn a_question_about_one_type_keeps_the_items_that_had_it() {
        let history = history(&[
            event("view", "u", Some("s"), "a", 10),
            event("view", "u", Some("s"), "b", 11),
            event("buy", "u", Some("s"), "b", 12),
            event("buy", "u", Some("s"), "c", 13),
        ]);
        // `buy` is type 0, `view` type 1.
        let asked = questions(&history, &[3, 1], GroupBy::Session, Timestamp(0), Timestamp(99));
        assert_eq!(asked[0].relevant, [(ItemId(0), 1), (ItemId(1), 3), (ItemId(2), 3)]);
        let about = |kind| asked[0].about(EventTypeId(kind)).relevant;
        assert_eq!(about(0), [(ItemId(1), 3), (ItemId(2), 3)]);
        assert_eq!(about(1), [(ItemId(0), 1), (ItemId(1), 3)]);
        assert_eq!(about(5), []);
    }

    #[test]
    fn what_is_done_under_a_name_after_the_one_it_stood_for_was_deleted_is_its_own() {
        let merge =
            |from: &str, into: &str| Record::MergeUser { from: from.into(), into: into.into() };
        let history = history(&[
            event("buy", "s", None, "a", 10),
            event("buy", "t", None, "b", 11),
            merge("s", "u"),
            event("buy", "s", None, "c", 12),
            // By any of the names that lead there.
            Record::DeleteUser { id: "s".into() },
            event("buy", "s", None, "d", 13),
            merge("t", "u"),
            event("buy", "u", None, "e", 14),
        ]);
        let (names, items) = (history.users.names(), history.items.names());
        let named = |event: &Event| (names.name(event.user.0), items.name(event.item.0));
        let known: Vec<_> = history.events.iter().map(named).collect();
        let expected = [("u", "b"), ("s", "d"), ("u", "e")];
        assert_eq!(known, expected.map(|(user, item)| (Some(user), Some(item))));
    }

    #[test]
    fn ids_follow_the_log_and_events_follow_time() {
        let history = history(&[
            event("buy", "u", None, "late", 20),
            event("jump", "u", None, "unknown", 5),
            event("buy", "u", None, "early", 10),
        ]);
        let order: Vec<u32> = history.events.iter().map(|event| event.item.0).collect();
        assert_eq!(order, [2, 0]);
        assert_eq!(history.unknown_types, [("jump".to_owned(), 1)].into());
    }
}
