//! From millions of items to about a thousand candidates.
//!
//! [`models`] are fitted on what users did: an embedding with its index, and neighbours of items. [`sources`] ask them
//! and the live counts of the store what to propose to a user, and [`merge`] makes one set of candidates of it.

pub mod mapped;

pub mod embedding;
pub mod field_vectors;
pub mod ials;
pub mod vectors;

mod codes;
pub mod exact;
pub mod hnsw;
mod kernels;

pub mod item_item;
pub mod sparse;

pub mod import;
pub mod models;

pub mod sources;

pub mod item_set;
pub mod merge;
