//! Which column plays which role, by its name.

use std::path::Path;

use super::InferError;
use super::profile::{Profile, Table};
use crate::schema::MAX_EVENT_TYPES;

/// What a column may be.
pub(super) struct Role {
    /// As messages say it.
    called: &'static str,
    /// Names without case, spaces and punctuation, the most telling first.
    names: &'static [&'static str],
    /// How such a column is best called.
    expected: &'static str,
    /// Whether the values of a column can play the role.
    fits: fn(&Profile) -> bool,
}

pub(super) const USER: Role = Role {
    called: "the user",
    names: &[
        "userid",
        "user",
        "householdid",
        "customerid",
        "visitorid",
        "uid",
        "memberid",
        "clientid",
        "accountid",
        "reviewerid",
        "customer",
        "visitor",
        "household",
        "member",
    ],
    expected: "user_id",
    fits: Profile::has_values,
};

pub(super) const ITEM: Role = Role {
    called: "the item",
    names: &[
        "itemid",
        "productid",
        "movieid",
        "sku",
        "articleid",
        "bookid",
        "songid",
        "trackid",
        "contentid",
        "asin",
        "item",
        "product",
        "article",
        "movie",
    ],
    expected: "item_id",
    fits: Profile::has_values,
};

pub(super) const SESSION: Role = Role {
    called: "the session",
    names: &[
        "sessionid",
        "basketid",
        "orderid",
        "visitid",
        "usersession",
        "invoiceid",
        "invoiceno",
        "session",
        "basket",
        "visit",
    ],
    expected: "session_id",
    fits: Profile::has_values,
};

pub(super) const TIME: Role = Role {
    called: "the time",
    names: &[
        "timestamp",
        "transactiontimestamp",
        "eventtime",
        "eventtimestamp",
        "time",
        "ts",
        "datetime",
        "createdat",
        "date",
        "tdat",
        "invoicedate",
        "day",
    ],
    expected: "timestamp",
    fits: Profile::is_mostly_times,
};

pub(super) const KIND: Role = Role {
    called: "the event type",
    names: &[
        "eventtype",
        "event",
        "type",
        "action",
        "behavior",
        "behaviour",
        "behaviortype",
        "interactiontype",
        "eventname",
    ],
    expected: "event_type",
    fits: |profile| profile.has_values() && profile.n_distinct() <= MAX_EVENT_TYPES,
};

/// Those before `quantity` are sums, which say more than a number of pieces.
pub(super) const VALUE: Role = Role {
    called: "the value",
    names: &[
        "value",
        "price",
        "salesvalue",
        "amount",
        "revenue",
        "total",
        "rating",
        "score",
        "quantity",
        "qty",
    ],
    expected: "value",
    fits: Profile::is_mostly_numbers,
};

pub(super) const EVENT_ID: Role = Role {
    called: "the event's id",
    names: &["eventid", "eventuuid"],
    expected: "event_id",
    fits: Profile::has_values,
};

pub(super) const PUBLISHED_AT: Role = Role {
    called: "the time of publication",
    names: &[
        "publishedat",
        "published",
        "publishdate",
        "publicationdate",
        "releasedat",
        "releasedate",
        "availablefrom",
        "launchdate",
        "firstseen",
        "createdat",
    ],
    expected: "published_at",
    fits: Profile::is_mostly_times,
};

pub(super) const EXPIRES_AT: Role = Role {
    called: "the time of expiry",
    names: &["expiresat", "expires", "expirydate", "availableuntil", "validuntil", "enddate"],
    expected: "expires_at",
    fits: Profile::is_mostly_times,
};

pub(super) const HIDDEN: Role = Role {
    called: "the mark of hidden items",
    names: &["hidden", "ishidden", "disabled", "deleted", "isdeleted"],
    expected: "hidden",
    fits: Profile::is_mostly_booleans,
};

const IDENTITY: Role = Role { names: &["id"], ..ITEM };

/// Whether a column called `name` counts the calendar: what it says, the time says too.
pub(super) fn is_calendar(name: &str) -> bool {
    let names =
        ["year", "quarter", "month", "week", "weekno", "weekday", "day", "dayofweek", "hour"];
    names.contains(&bare(name).as_str())
}

/// A column that may play a role.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) name: String,
    reason: String,
}

impl Found {
    fn by_name(name: &str, role: &Role) -> Self {
        Self { name: name.into(), reason: format!("{}, by its name", role.called) }
    }

    /// Why it was taken.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }
}

/// `name` without case, spaces and punctuation.
pub(super) fn bare(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The columns whose names are known for `role`, the most telling first.
pub(super) fn all(role: &Role, table: &Table) -> Vec<Found> {
    let rank = |name: &&str| role.names.iter().position(|known| *known == bare(name));
    let mut found: Vec<(usize, &str)> =
        table.names().filter_map(|name| Some((rank(&name)?, name))).collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, name)| Found::by_name(name, role)).collect()
}

/// The most telling column for `role` whose values can play it.
pub(super) fn find(role: &Role, table: &Table) -> Option<Found> {
    all(role, table).into_iter().find(|column| (role.fits)(table.profile(&column.name)))
}

/// The one column for `role`.
///
/// # Errors
/// If there is none, or several.
pub(super) fn need(role: &Role, table: &Table, path: &Path) -> Result<Found, InferError> {
    let mut found = all(role, table);
    found.retain(|column| (role.fits)(table.profile(&column.name)));
    match found.len() {
        0 => Err(missing(role, table, path)),
        1 => Ok(found.remove(0)),
        _ => Err(InferError::Ambiguous {
            path: path.into(),
            role: role.called,
            columns: found.into_iter().map(|column| column.name).collect(),
        }),
    }
}

/// That there is no column for `role`.
pub(super) fn missing(role: &Role, table: &Table, path: &Path) -> InferError {
    InferError::NoColumn {
        path: path.into(),
        role: role.called,
        expected: role.expected,
        columns: table.names().map(str::to_owned).collect(),
    }
}

/// The column of the ids of a catalogue: called as in the events, else as `role` is, else `id`.
///
/// # Errors
/// If there is none, or several.
pub(super) fn need_id(
    role: &Role,
    in_events: &str,
    table: &Table,
    path: &Path,
) -> Result<Found, InferError> {
    let same = table.names().find(|name| bare(name) == bare(in_events));
    if let Some(name) = same {
        return Ok(Found { name: name.into(), reason: "called as in the events".into() });
    }
    match need(role, table, path) {
        Err(error @ InferError::NoColumn { .. }) => find(&IDENTITY, table).ok_or(error),
        found => found,
    }
}
