//! From millions of items to about a thousand candidates.

pub mod mapped;
pub mod sparse;
pub mod item_item;
pub mod merge;
pub mod exact;
pub mod hnsw;
mod kernels;
pub mod vectors;
pub mod ials;
pub mod models;
pub mod sources;
pub mod import;
