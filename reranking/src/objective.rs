//! What the next item is chosen by.

use crate::dpp::Dpp;
use crate::journal::{Rule, Unmet};
use crate::mmr::Mmr;
use crate::relevance::key;
use crate::rules::{Method, Rules};
use crate::similarity::Similarity;
use crate::slate::Slate;

/// The value of a candidate, given those chosen before it. The first of equal candidates is chosen.
pub(crate) enum Objective<'a> {
    /// All are equal: the order stays.
    Order,
    Mmr(Mmr<'a>),
    Dpp(Dpp<'a>),
}

impl<'a> Objective<'a> {
    pub(crate) fn of(
        rules: &Rules,
        slate: &Slate<'a>,
        relevance: &'a [f32],
        unmet: &mut Vec<Unmet>,
    ) -> Self {
        let (diversity, window) = (rules.diversity, rules.diversity_window);
        if diversity.is_nan() || diversity <= 0.0 {
            return Self::Order;
        }
        let diversity = diversity.min(1.0);
        match (Similarity::of(slate), rules.method) {
            (Some(alike), Method::Mmr) => Self::Mmr(Mmr::new(diversity, window, relevance, alike)),
            (Some(alike), Method::Dpp) => Self::Dpp(Dpp::new(diversity, window, relevance, alike)),
            (None, _) => {
                unmet.push(Unmet::NoColumn { rule: Rule::Diversity, field: String::new() });
                Self::Order
            }
        }
    }

    pub(crate) fn is_order(&self) -> bool {
        matches!(self, Self::Order)
    }

    /// Minus infinity for a candidate whose score is NaN.
    pub(crate) fn value(&self, rank: usize) -> f32 {
        match self {
            Self::Order => 0.0,
            Self::Mmr(mmr) => key(mmr.value(rank)),
            Self::Dpp(dpp) => key(dpp.value(rank)),
        }
    }

    pub(crate) fn choose(&mut self, rank: usize) {
        match self {
            Self::Order => {}
            Self::Mmr(mmr) => mmr.choose(rank),
            Self::Dpp(dpp) => dpp.choose(rank),
        }
    }
}
