//! What is known about users and items, and when.
//!
//! State is a fold over the event log: a store reads a user, reads a batch of items and applies an event. Live and in
//! replay the same code computes the same features.

mod handover;
pub mod ids;
pub mod time;
pub mod value;

pub mod event;
pub mod schema;

pub mod entities;
pub mod history;
pub mod infer;
pub mod log;
pub mod readers;

pub mod board;
pub mod newcomers;
pub mod plan;
pub mod record;
pub mod redis;
pub mod replay;
pub mod store;

pub use entities::Entities;
pub use event::{Event, EventTypeId, Interaction, NO_SESSION, NamedEvent};
pub use history::{History, Question};
pub use ids::{ItemId, Names, Scored, UserId, best_first, keep_best};
pub use plan::{FeaturePlan, PlanBuilder};
pub use schema::Schema;
pub use store::{EmbeddedStore, FeatureStore, Freshness};
pub use time::{Span, Timestamp};
pub use value::{Fields, Value};
