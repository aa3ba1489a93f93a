//! From a hundred ranked items to the tens that are shown: rules, caps, diversity, freshness, exploration.
//!
//! A [`Slate`] is what the ranker hands over; [`Rules`] say what to do with it; [`rerank`] returns what is shown, with the
//! propensity of every item, and what each rule moved or dropped. With every rule off the slate's head is shown as it is.
//!
//! ```
//! use featurestore::{ItemId, Scored, Timestamp};
//! use reranking::{Cap, CategoryColumn, Rule, Rules, Slate, rerank};
//!
//! let items = [(7, 0.9), (3, 0.8), (5, 0.7), (1, 0.1)]
//!     .map(|(item, score)| Scored { item: ItemId(item), score });
//! let slate = Slate {
//!     items: &items,
//!     columns: &[CategoryColumn { field: "category", codes: &[0, 0, 0, 1] }],
//!     vectors: None,
//!     published: None,
//!     served: None,
//!     newcomers: &[],
//!     now: Timestamp(0),
//! };
//! let cap = Cap { field: "category".into(), at_most: 2, within: 3 };
//! let reranked = rerank(&slate, &Rules { caps: vec![cap], ..Rules::default() }, 3, 42);
//!
//! let shown: Vec<u32> = reranked.shown.iter().map(|shown| shown.item.0).collect();
//! assert_eq!(shown, [7, 3, 1]);
//! assert_eq!((reranked.dropped[0].item, reranked.dropped[0].rule), (ItemId(5), Rule::Caps));
//! ```
//!
//! The order of the rules is fixed: boosts and freshness change relevance and sort anew; then the list is filled from
//! the top, pins in their places, diversity choosing under the caps and the bound on displacement; exploration comes last.

pub mod config;
pub mod propensity;
pub mod rerank;
pub mod rules;
pub mod slate;

mod boosts;
mod caps;
mod displacement;
mod dpp;
mod explore;
mod freshness;
mod journal;
mod mmr;
mod objective;
mod pins;
mod relevance;
mod selection;
mod served;
mod similarity;

pub use config::{BoostedValues, InvalidRerank, KnownFields, Lookup, RerankConfig};
pub use journal::{Dropped, Move, Rule, Unmet};
pub use propensity::{InvalidPropensity, Propensity};
pub use rerank::{Reranked, Shown, rerank};
pub use rules::{Boost, Cap, Explore, ExploreFrom, Freshness, HideServed, Method, Pin, Rules};
pub use slate::{CategoryColumn, MISSING, Slate, Vectors};
