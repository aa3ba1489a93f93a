//! Where relevant items are lost on their way to the user.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// How many of the test's relevant items are still there after each stage, summed over query groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waterfall {
    /// Relevant items of all groups.
    pub relevant: u64,
    /// Those among the candidates that retrieval brought.
    pub retrieved: u64,
    /// Those that the filters let pass.
    pub after_filter: u64,
    /// Those among the best that the ranker hands on.
    pub top_ranked: u64,
    /// Those in the list as shown.
    pub shown: u64,
}

/// What is left after one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Name of the stage, as a report prints it.
    pub name: &'static str,
    /// Relevant items left after it.
    pub left: u64,
    /// Relevant items that it lost.
    pub lost: u64,
    /// Share of all relevant items that is left, in `[0, 1]`; 0 if there are none.
    pub rate: f64,
}

impl Waterfall {
    /// The stages in their order, beginning with all relevant items. Cost: O(1).
    pub fn steps(&self) -> [Step; 5] {
        let stages = [
            ("relevant", self.relevant),
            ("retrieved", self.retrieved),
            ("after filter", self.after_filter),
            ("top ranked", self.top_ranked),
            ("shown", self.shown),
        ];
        let mut before = self.relevant;
        stages.map(|(name, left)| {
            let lost = before.saturating_sub(left);
            before = left;
            Step { name, left, lost, rate: left as f64 / self.relevant.max(1) as f64 }
        })
    }
}

impl AddAssign for Waterfall {
    fn add_assign(&mut self, other: Self) {
        self.relevant += other.relevant;
        self.retrieved += other.retrieved;
        self.after_filter += other.after_filter;
        self.top_ranked += other.top_ranked;
        self.shown += other.shown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_says_what_it_lost() {
        let group =
            Waterfall { relevant: 4, retrieved: 3, after_filter: 3, top_ranked: 2, shown: 1 };
        let mut both = group;
        both += group;
        let steps = both.steps();
        assert_eq!(steps.map(|step| step.left), [8, 6, 6, 4, 2]);
        assert_eq!(steps.map(|step| step.lost), [0, 2, 0, 2, 2]);
        assert_eq!(steps.map(|step| step.rate), [1.0, 0.75, 0.75, 0.5, 0.25]);
        assert_eq!(Waterfall::default().steps().map(|step| step.rate), [0.0; 5]);
    }
}
