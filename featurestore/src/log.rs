//! (being written) The durable event log.
use crate::{Fields, NamedEvent, Timestamp};
use serde::{Deserialize, Serialize};
/// x
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// x
    Event(NamedEvent),
    /// x
    Item(ItemRecord),
    /// x
    User(UserRecord),
    /// x
    DeleteItem {
        /// x
        id: Box<str>,
    },
    /// x
    DeleteUser {
        /// x
        id: Box<str>,
    },
}
/// x
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// x
    pub id: Box<str>,
    /// x
    pub fields: Fields,
    /// x
    pub published_at: Option<Timestamp>,
    /// x
    pub expires_at: Option<Timestamp>,
    /// x
    pub hidden: bool,
}
/// x
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserRecord {
    /// x
    pub id: Box<str>,
    /// x
    pub fields: Fields,
}
