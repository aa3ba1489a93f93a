//! Points in time and lengths of time, as they are written in files and configurations.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: milliseconds since 1970-01-01T00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Milliseconds in a day.
pub const DAY_MS: i64 = 86_400_000;

impl Timestamp {
    /// Before every event.
    pub const MIN: Self = Self(i64::MIN / 4);
    /// After every event.
    pub const MAX: Self = Self(i64::MAX / 4);

    /// Seconds from `earlier` to here; negative if `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0) as f64 / 1_000.0
    }

    /// This time moved by `span`.
    pub fn plus(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// This time moved back by `span`.
    pub fn minus(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// Reads an RFC 3339 time, a date with or without a time (taken as UTC), or a number: seconds since 1970 if it
    /// is below 10^11 in size, milliseconds below 10^14, else microseconds.
    ///
    /// # Errors
    /// If `text` is none of these.
    pub fn parse(text: &str) -> Result<Self, ParseTimeError> {
        let text = text.trim();
        let error = || ParseTimeError { text: text.chars().take(64).collect() };
        if let Ok(number) = text.parse::<f64>() {
            return Self::from_number(number).ok_or_else(error);
        }
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(instant.as_millisecond()));
        }
        let civil = text.parse::<jiff::civil::DateTime>().map_err(|_| error())?;
        let instant = jiff::tz::TimeZone::UTC.to_timestamp(civil).map_err(|_| error())?;
        Ok(Self(instant.as_millisecond()))
    }

    /// Seconds, milliseconds or microseconds since 1970, told apart by size. `None` if not finite or out of range.
    pub fn from_number(number: f64) -> Option<Self> {
        let size = number.abs();
        let milliseconds = match size {
            _ if size < 1e11 => number * 1e3,
            _ if size < 1e14 => number,
            _ if size < 1e17 => number / 1e3,
            _ => return None,
        };
        Some(Self(milliseconds.round() as i64))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        if !deserializer.is_human_readable() {
            return i64::deserialize(deserializer).map(Self);
        }
        let parsed = match Written::deserialize(deserializer)? {
            Written::Number(number) => {
                Self::from_number(number).ok_or_else(|| ParseTimeError { text: number.to_string() })
            }
            Written::Text(text) => Self::parse(&text),
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

/// Text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a time (RFC 3339, a date, or epoch seconds, milliseconds or microseconds)"
)]
pub struct ParseTimeError {
    text: String,
}

/// A length of time in milliseconds, written as `90s`, `15m`, `12h`, `7d` or `8w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub i64);

impl Span {
    /// `n` days.
    pub const fn days(n: i64) -> Self {
        Self(n * DAY_MS)
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}

const UNITS: [(&str, i64); 6] =
    [("ms", 1), ("w", 7 * DAY_MS), ("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// Text that is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a length of time above 0, as 90s, 15m, 12h, 7d or 8w")]
pub struct ParseSpanError {
    text: String,
}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let error = || ParseSpanError { text: text.chars().take(64).collect() };
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, ms)| text.trim().strip_suffix(name).map(|digits| (digits, *ms)))
            .ok_or_else(error)?;
        let number: f64 = digits.trim().parse().map_err(|_| error())?;
        let ms = number * unit as f64;
        if !(1.0..=1e15).contains(&ms) {
            return Err(error());
        }
        Ok(Self(ms.round() as i64))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS
            .iter()
            .filter(|(name, unit)| *name != "w" && self.0 % unit == 0)
            .max_by_key(|(_, unit)| *unit)
            .unwrap_or(&("ms", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_every_form_that_files_use() {
        let expected = Timestamp(1_512_345_600_000);
        for text in [
            "2017-12-04T00:00:00Z",
            "2017-12-04T01:00:00+01:00",
            "2017-12-04",
            "2017-12-04 00:00:00",
            "1512345600",
            "1512345600000",
            "1512345600000000",
        ] {
            assert_eq!(Timestamp::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "NaN", "yesterday", "1e30", "2017-13-01"] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
        assert_eq!(expected.to_string(), "2017-12-04T00:00:00Z");
    }

    #[test]
    fn a_span_is_printed_as_it_was_written() {
        for text in ["90s", "15m", "12h", "7d", "250ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["", "d", "0d", "-1d", "7", "7 parsecs", "NaNd", "1e300d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
