//! What is known about event types by their names.

use super::columns;
use super::profile::Table;
use crate::schema::EventType;

/// A group of names, and what they say.
struct Group {
    names: &'static [&'static str],
    weight: f32,
    label: u8,
    reason: &'static str,
}

/// By stages of a decision, in the manner of graded relevance: the ranker's gain grows with the label, the weight of the retrieval
/// models less so, since what is rare and strong is only a few events.
const GROUPS: [Group; 6] = [
    Group {
        names: &[
            "purchase",
            "order",
            "transaction",
            "buy",
            "checkout",
            "conversion",
            "sale",
            "pay",
            "payment",
            "subscribe",
            "book",
            "booking",
        ],
        weight: 4.0,
        label: 3,
        reason: "a purchase says most",
    },
    Group {
        names: &["cart", "addtocart", "addcart", "basket", "addtobasket", "atc"],
        weight: 3.0,
        label: 2,
        reason: "nearly a purchase",
    },
    Group {
        names: &[
            "wishlist",
            "addtowishlist",
            "favorite",
            "favourite",
            "fav",
            "bookmark",
            "save",
            "like",
            "share",
            "follow",
            "upvote",
        ],
        weight: 2.0,
        label: 2,
        reason: "a deliberate choice",
    },
    Group {
        names: &[
            "view",
            "pageview",
            "detailview",
            "viewitem",
            "productview",
            "pv",
            "click",
            "open",
            "play",
            "watch",
            "read",
            "listen",
            "stream",
            "rating",
            "rate",
            "review",
            "interaction",
        ],
        weight: 1.0,
        label: 1,
        reason: "some interest",
    },
    Group {
        names: &["impression", "show", "exposure", "search", "searchview"],
        weight: 0.0,
        label: 0,
        reason: "was shown, which is no choice",
    },
    Group {
        names: &[
            "removefromcart",
            "unlike",
            "dislike",
            "skip",
            "downvote",
            "return",
            "refund",
            "remove",
            "cancel",
        ],
        weight: 0.0,
        label: 0,
        reason: "a choice against it",
    },
];

/// What the event type called `name` says, and why.
pub(super) fn known(name: &str) -> (EventType, String) {
    let bare = columns::bare(name);
    let group = GROUPS.iter().find(|group| group.names.contains(&bare.as_str()));
    match group {
        Some(group) => {
            let event_type = EventType { weight: group.weight, label: group.label };
            (event_type, group.reason.to_owned())
        }
        None => (EventType { weight: 1.0, label: 1 }, "an unknown name: weigh it yourself".into()),
    }
}

/// Names of columns that only purchases have.
const OF_PURCHASES: [&str; 12] = [
    "price",
    "salesvalue",
    "amount",
    "revenue",
    "total",
    "quantity",
    "qty",
    "basketid",
    "basket",
    "orderid",
    "invoiceid",
    "invoiceno",
];

/// The type of events that do not name theirs, and why.
pub(super) fn unnamed(table: &Table) -> (&'static str, String) {
    let is_of = |names: &[&str], name: &&str| names.contains(&columns::bare(name).as_str());
    let no_types = "there is no column of event types";
    if let Some(column) = table.names().find(|name| is_of(&OF_PURCHASES, name)) {
        return ("purchase", format!("{no_types}, and {column} is what purchases have"));
    }
    if let Some(column) = table.names().find(|name| is_of(&["rating", "score"], name)) {
        return ("rating", format!("{no_types}, and there is {column}"));
    }
    ("interaction", no_types.to_owned())
}
