//! What users do, as it comes from outside and as it is used inside.

use serde::{Deserialize, Serialize};

use crate::ids::{ItemId, UserId};
use crate::time::Timestamp;
use crate::value::Fields;

/// Something that a user did, with names, as files and the HTTP API bring it and the event log keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedEvent {
    /// Makes the event count once, however often it is sent.
    pub event_id: Option<Box<str>>,
    /// What was done: a name under `[events]` in the configuration.
    pub kind: Box<str>,
    /// Who did it: a known user, or else the session stands for one.
    pub user: Option<Box<str>>,
    /// The visit or basket that the event belongs to.
    pub session: Option<Box<str>>,
    /// What it was done to.
    pub item: Box<str>,
    /// When.
    pub time: Timestamp,
    /// An amount: a price, a rating, a duration.
    pub value: Option<f64>,
    /// The answer of Cascade that led to it.
    pub recommendation_id: Option<Box<str>>,
    /// Position in that answer, from 0.
    pub position: Option<u32>,
    /// Whatever else the sender knows.
    pub properties: Fields,
}

/// Position of an event type in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventTypeId(pub u8);

/// An event in dense ids: what stores fold and trainers read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// When it happened.
    pub time: Timestamp,
    /// Who did it.
    pub user: UserId,
    /// What it was done to.
    pub item: ItemId,
    /// Dense number of the session; `NO_SESSION` if none was given.
    pub session: u32,
    /// What was done.
    pub kind: EventTypeId,
    /// Its value and its fields, by [`Schema::event_number`](crate::Schema::event_number); NaN if not given.
    pub numbers: EventNumbers,
}

/// Most numbers that an event has: its value and its fields.
pub const MAX_EVENT_NUMBERS: usize = 8;

/// The numbers of an event.
pub type EventNumbers = [f32; MAX_EVENT_NUMBERS];

/// Position of an event's value among its numbers.
pub const VALUE: u8 = 0;

/// The session of events that came without one.
pub const NO_SESSION: u32 = u32::MAX;

/// A user's preference for an item, as the trainers of retrieval models take it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interaction {
    /// Who.
    pub user: UserId,
    /// What.
    pub item: ItemId,
    /// When.
    pub time: Timestamp,
    /// Dense number of the session; `NO_SESSION` if none was given.
    pub session: u32,
    /// How much it says: the weight of its event type.
    pub weight: f32,
}

impl Interaction {
    /// `event`, saying as much as `weight`.
    pub fn new(event: &Event, weight: f32) -> Self {
        let Event { user, item, time, session, .. } = *event;
        Self { user, item, time, session, weight }
    }
}
