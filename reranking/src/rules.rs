//! What re-ranking does, in the ids and codes of one release. `RerankConfig::resolve` makes it from a configuration, and
//! a request may change its copy.

use featurestore::{ItemId, Span};
use serde::{Deserialize, Serialize};

/// All rules; the default is to do nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Weight of diversity against relevance: 0 is off, 1 only looks at diversity.
    pub diversity: f32,
    /// How diversity is weighed.
    pub method: Method,
    /// An item is compared with so many shown before it, at least 1.
    pub diversity_window: usize,
    /// Limits on equal categories near each other.
    pub caps: Vec<Cap>,
    /// Whether newly published items gain.
    pub freshness: Option<Freshness>,
    /// Whether items make way that were shown and not chosen.
    pub hide_served: Option<HideServed>,
    /// Whether some places show newcomers at random.
    pub explore: Option<Explore>,
    /// Items in fixed places.
    pub pins: Vec<Pin>,
    /// Categories that gain or lose.
    pub boosts: Vec<Boost>,
    /// Places that an item may be moved up or down at most, not counting the places that pins and exploration take.
    pub max_displacement: Option<usize>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            diversity: 0.0,
            method: Method::default(),
            diversity_window: DIVERSITY_WINDOW,
            caps: Vec::new(),
            freshness: None,
            hide_served: None,
            explore: None,
            pins: Vec::new(),
            boosts: Vec::new(),
            max_displacement: None,
        }
    }
}

/// About what is seen at once. A window also keeps diversity going where items are alike in few ways: after one item of
/// each of five categories, nothing would be new any more.
pub(crate) const DIVERSITY_WINDOW: usize = 10;

/// How diversity is weighed against relevance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By the item that is most alike: maximal marginal relevance.
    Mmr,
    /// By all items together: a determinantal point process, greedily. Live at YouTube it gained where caps and penalties
    /// lost (CIKM 2018, table 1).
    #[default]
    Dpp,
}

/// At most so many items of one value of `field` within any so many consecutive positions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    /// A category field. Items without a value are not capped.
    pub field: String,
    /// Items of one value, at least 1.
    pub at_most: usize,
    /// Consecutive positions, at least 1.
    pub within: usize,
}

/// A boost that halves with age.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// A time field: when the item was published.
    pub field: String,
    /// After this time the boost is half.
    pub half_life: Span,
    /// The relevance of an item published now is multiplied by `1 + boost`.
    pub boost: f32,
}

/// Items that were shown to a user and not chosen lose relevance, the less the longer ago that was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HideServed {
    /// The relevance of an item shown just now is multiplied by `1 - strength`, from 0 to 1.
    pub strength: f32,
    /// After this time it counts half.
    pub half_life: Span,
}

/// Places that show newcomers at random.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explore {
    /// How many places.
    pub slots: usize,
    /// Which items.
    pub from: ExploreFrom,
}

/// Where newcomers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExploreFrom {
    /// The items that are newest in the catalogue.
    NewItems,
}

/// An item in a fixed place. It must be in the slate, so that the filters hold for it as for every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The item.
    pub item: ItemId,
    /// Its position, from 0.
    pub position: usize,
}

/// A factor on the relevance of the items with one of some values.
#[derive(Clone, Debug, PartialEq)]
pub struct Boost {
    /// A category field.
    pub field: String,
    /// The values, by their codes.
    pub codes: Vec<u32>,
    /// At least 0; above 1 they gain, below they lose.
    pub factor: f32,
}
