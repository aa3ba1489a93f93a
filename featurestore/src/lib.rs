//! What is known about users and items, and when.
//!
//! State is a fold over the event log: a store reads a user, reads a batch of items and applies an event. Live and in
//! replay the same code computes the same features.

pub mod event;
pub mod ids;
pub mod time;
pub mod value;

pub use event::{Event, EventTypeId, Interaction, NO_SESSION, NamedEvent};
pub use ids::{ItemId, Names, Scored, UserId, best_first, keep_best};
pub use time::{Span, Timestamp};
pub use value::{Fields, Value};
