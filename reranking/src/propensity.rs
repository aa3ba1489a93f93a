//! How likely an item was shown where it was shown: what off-policy estimators divide by.

use serde::{Deserialize, Serialize};

/// Probability, in `(0, 1]`, that this item was shown at this position, given the slate and the rules.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Propensity(f64);

/// A number that is no propensity.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{value} is not a probability above 0")]
pub struct InvalidPropensity {
    value: f64,
}

impl Propensity {
    /// Of what is always shown there.
    pub const CERTAIN: Self = Self(1.0);

    /// A propensity of `value`.
    ///
    /// # Errors
    /// If `value` is NaN, 0 or less, or above 1.
    pub fn new(value: f64) -> Result<Self, InvalidPropensity> {
        if value > 0.0 && value <= 1.0 { Ok(Self(value)) } else { Err(InvalidPropensity { value }) }
    }

    /// As a number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Propensity {
    type Error = InvalidPropensity;

    fn try_from(value: f64) -> Result<Self, InvalidPropensity> {
        Self::new(value)
    }
}

impl From<Propensity> for f64 {
    fn from(propensity: Propensity) -> Self {
        propensity.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probabilities_above_0_are_propensities() {
        for value in [f64::MIN_POSITIVE, 0.5, 1.0] {
            assert_eq!(Propensity::new(value).map(Propensity::get), Ok(value));
        }
        for value in [0.0, -0.0, -1.0, 1.0 + f64::EPSILON, f64::NAN, f64::INFINITY] {
            assert!(Propensity::new(value).is_err(), "{value}");
        }
    }
}
