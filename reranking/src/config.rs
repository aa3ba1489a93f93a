//! `[scenarios.*.rerank]` of the configuration.

use featurestore::{ItemId, Span};
use serde::{Deserialize, Serialize};

use crate::rules::{
    Boost, Cap, DIVERSITY_WINDOW, Explore, Freshness, HideServed, Method, Pin, Rules,
};

/// How a scenario re-ranks, as it is written. The default is to do nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RerankConfig {
    /// Weight of diversity against relevance: 0 is off, 1 only looks at diversity.
    pub diversity: f32,
    /// `dpp` or `mmr`.
    pub method: Method,
    /// An item is compared with so many shown before it.
    pub diversity_window: usize,
    /// Limits on equal categories near each other.
    pub caps: Vec<Cap>,
    /// Whether newly published items gain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// Whether some places show newcomers at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explore: Option<Explore>,
    /// Which items a user is not shown again. The filter before ranking applies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hide_seen: Option<HideSeen>,
    /// Whether items make way that were shown to the user and not chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hide_served: Option<HideServed>,
    /// Items in fixed places.
    pub pinned: Vec<PinnedItem>,
    /// Categories that gain or lose.
    pub boosts: Vec<BoostedValues>,
    /// Places that an item may be moved at most, not counting the places that pins and exploration take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_displacement: Option<usize>,
}

/// Items that the user acted on are hidden from him.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HideSeen {
    /// By events of these types.
    pub events: Vec<String>,
    /// For so long; without it, for ever.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
}

/// An item in a fixed place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedItem {
    /// The item's id.
    pub item: String,
    /// Its position, from 0.
    pub position: usize,
}

/// A factor on the relevance of the items with one of some values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoostedValues {
    /// A category field.
    pub field: String,
    /// Its values.
    #[serde(rename = "in")]
    pub values: Vec<String>,
    /// At least 0; above 1 they gain, below they lose.
    pub factor: f32,
}

impl Default for RerankConfig {
    fn default() -> Self {
        Self {
            diversity: 0.0,
            method: Method::default(),
            diversity_window: DIVERSITY_WINDOW,
            caps: Vec::new(),
            freshness: None,
            explore: None,
            hide_seen: None,
            hide_served: None,
            pinned: Vec::new(),
            boosts: Vec::new(),
            max_displacement: None,
        }
    }
}

/// What a configuration may name.
#[derive(Clone, Copy, Debug)]
pub struct KnownFields<'a> {
    /// Fields of items that are categories.
    pub categories: &'a [&'a str],
    /// Fields of items that are times.
    pub times: &'a [&'a str],
    /// Types of events.
    pub events: &'a [&'a str],
}

/// Why a configuration cannot be used. `key` is where, below `rerank`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidRerank {
    /// A number is out of its range, or NaN.
    #[error("{key} is {value}, but must be {range}")]
    OutOfRange {
        /// Where.
        key: String,
        /// The number.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// No such field or event type.
    #[error("{key} names {name:?}, which is no {kind}")]
    Unknown {
        /// Where.
        key: String,
        /// The name.
        name: String,
        /// What it should be the name of.
        kind: &'static str,
    },
    /// An item or a position is pinned twice.
    #[error("{key} repeats an item or a position")]
    PinnedTwice {
        /// Where.
        key: String,
    },
}

/// How the names of a configuration are found in a release.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// An item by its id.
    pub item: &'a dyn Fn(&str) -> Option<ItemId>,
    /// The code of a value by field and value.
    pub code: &'a dyn Fn(&str, &str) -> Option<u32>,
}

impl RerankConfig {
    /// Checks every number and name.
    ///
    /// # Errors
    /// The first that is out of range or unknown.
    pub fn validate(&self, known: &KnownFields<'_>) -> Result<(), InvalidRerank> {
        let within = (0.0..=1.0).contains(&self.diversity);
        in_range(within, "diversity", f64::from(self.diversity), "from 0 to 1")?;
        let window = self.diversity_window;
        in_range(window > 0, "diversity_window", window as f64, "at least 1")?;
        for (i, cap) in self.caps.iter().enumerate() {
            let key = |name| format!("caps[{i}].{name}");
            in_range(cap.at_most > 0, key("at_most"), cap.at_most as f64, "at least 1")?;
            in_range(cap.within > 0, key("within"), cap.within as f64, "at least 1")?;
            is_known(known.categories, key("field"), &cap.field, "category field")?;
        }
        if let Some(Freshness { field, boost, .. }) = &self.freshness {
            let finite = boost.is_finite() && *boost >= 0.0;
            in_range(finite, "freshness.boost", f64::from(*boost), "at least 0")?;
            is_known(known.times, "freshness.field", field, "time field")?;
        }
        if let Some(HideServed { strength, .. }) = &self.hide_served {
            let within = (0.0..=1.0).contains(strength);
            in_range(within, "hide_served.strength", f64::from(*strength), "from 0 to 1")?;
        }
        for (i, event) in self.hide_seen.iter().flat_map(|hide| &hide.events).enumerate() {
            is_known(known.events, format!("hide_seen.events[{i}]"), event, "type of events")?;
        }
        for (i, boosted) in self.boosts.iter().enumerate() {
            let finite = boosted.factor.is_finite() && boosted.factor >= 0.0;
            let factor = f64::from(boosted.factor);
            in_range(finite, format!("boosts[{i}].factor"), factor, "at least 0")?;
            is_known(
                known.categories,
                format!("boosts[{i}].field"),
                &boosted.field,
                "category field",
            )?;
        }
        self.pinned_once()
    }

    /// The rules in the ids of a release, and the pinned items and boosted values that it does not know, which are left
    /// out: a catalogue changes under a configuration.
    pub fn resolve(&self, lookup: Lookup<'_>) -> (Rules, Vec<String>) {
        let mut unknown = Vec::new();
        let mut found = |name: &str, id: Option<u32>| {
            if id.is_none() {
                unknown.push(name.to_owned());
            }
            id
        };
        let mut pins = Vec::new();
        for PinnedItem { item, position } in &self.pinned {
            let id = found(item, (lookup.item)(item).map(|item| item.0));
            pins.extend(id.map(|id| Pin { item: ItemId(id), position: *position }));
        }
        let mut boosts = Vec::new();
        for BoostedValues { field, values, factor } in &self.boosts {
            let code = |value: &String| found(value, (lookup.code)(field, value));
            let codes = values.iter().filter_map(code).collect();
            boosts.push(Boost { field: field.clone(), codes, factor: *factor });
        }
        let rules = Rules {
            diversity: self.diversity,
            method: self.method,
            diversity_window: self.diversity_window,
            caps: self.caps.clone(),
            freshness: self.freshness.clone(),
            hide_served: self.hide_served.clone(),
            explore: self.explore.clone(),
            pins,
            boosts,
            max_displacement: self.max_displacement,
        };
        (rules, unknown)
    }

    fn pinned_once(&self) -> Result<(), InvalidRerank> {
        for (i, pin) in self.pinned.iter().enumerate() {
            let equal = |p: &PinnedItem| p.item == pin.item || p.position == pin.position;
            if self.pinned[..i].iter().any(equal) {
                return Err(InvalidRerank::PinnedTwice { key: format!("pinned[{i}]") });
            }
        }
        Ok(())
    }
}

fn in_range(
    holds: bool,
    key: impl Into<String>,
    value: f64,
    range: &'static str,
) -> Result<(), InvalidRerank> {
    if holds { Ok(()) } else { Err(InvalidRerank::OutOfRange { key: key.into(), value, range }) }
}

fn is_known(
    known: &[&str],
    key: impl Into<String>,
    name: &str,
    kind: &'static str,
) -> Result<(), InvalidRerank> {
    if known.contains(&name) {
        return Ok(());
    }
    Err(InvalidRerank::Unknown { key: key.into(), name: name.to_owned(), kind })
}
