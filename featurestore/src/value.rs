//! The value of a field, of any of the types that catalogues have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A field's value. Missing is not zero: a field without a value is absent or `Null`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// True or false.
    Bool(bool),
    /// A finite number.
    Number(f64),
    /// Text: a category, or a time in RFC 3339.
    Text(Box<str>),
    /// Several categories.
    Texts(Vec<Box<str>>),
    /// A vector of finite numbers.
    Vector(Vec<f32>),
}

/// Values by field name, in the order of the names.
pub type Fields = BTreeMap<Box<str>, Value>;

impl Value {
    /// As a number: numbers, booleans as 0 and 1, and text that reads as a finite number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Bool(flag) => Some(f64::from(u8::from(*flag))),
            Self::Text(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            Self::Null | Self::Texts(_) | Self::Vector(_) => None,
        }
    }
}

/// How a value is written in binary formats, which cannot tell types apart by looking.
#[derive(Serialize, Deserialize)]
enum Tagged {
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    Texts(Vec<Box<str>>),
    Vector(Vec<f32>),
}

/// How a value is written in JSON and TOML.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Plain {
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    Vector(Vec<f32>),
    Texts(Vec<Box<str>>),
    Null(()),
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = self.clone();
        if serializer.is_human_readable() {
            match value {
                Self::Null => Plain::Null(()),
                Self::Bool(flag) => Plain::Bool(flag),
                Self::Number(number) => Plain::Number(number),
                Self::Text(text) => Plain::Text(text),
                Self::Texts(texts) => Plain::Texts(texts),
                Self::Vector(vector) => Plain::Vector(vector),
            }
            .serialize(serializer)
        } else {
            match value {
                Self::Null => Tagged::Null,
                Self::Bool(flag) => Tagged::Bool(flag),
                Self::Number(number) => Tagged::Number(number),
                Self::Text(text) => Tagged::Text(text),
                Self::Texts(texts) => Tagged::Texts(texts),
                Self::Vector(vector) => Tagged::Vector(vector),
            }
            .serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(if deserializer.is_human_readable() {
            match Plain::deserialize(deserializer)? {
                Plain::Null(()) => Self::Null,
                Plain::Bool(flag) => Self::Bool(flag),
                Plain::Number(number) => Self::Number(number),
                Plain::Text(text) => Self::Text(text),
                Plain::Texts(texts) => Self::Texts(texts),
                Plain::Vector(vector) => Self::Vector(vector),
            }
        } else {
            match Tagged::deserialize(deserializer)? {
                Tagged::Null => Self::Null,
                Tagged::Bool(flag) => Self::Bool(flag),
                Tagged::Number(number) => Self::Number(number),
                Tagged::Text(text) => Self::Text(text),
                Tagged::Texts(texts) => Self::Texts(texts),
                Tagged::Vector(vector) => Self::Vector(vector),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_json_and_binary() {
        let json = r#"[null,true,1.5,"a",["a","b"],[1.0,2.0]]"#;
        let values: Vec<Value> = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&values).unwrap(), json);
        let bytes = postcard::to_stdvec(&values).unwrap();
        assert_eq!(postcard::from_bytes::<Vec<Value>>(&bytes).unwrap(), values);
    }
}
