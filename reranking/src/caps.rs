//! At most so many items of one category within any so many consecutive positions.

use featurestore::ItemId;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::journal::{Rule, Unmet};
use crate::rules::Cap;
use crate::slate::{MISSING, Slate};

/// Longer than any list, and far from overflow.
const LONGEST_WINDOW: usize = u32::MAX as usize;

/// All caps over a list that is being filled. Some positions may be filled before those in front of them.
pub(crate) struct Caps<'a> {
    caps: Vec<CapState<'a>>,
}

struct CapState<'a> {
    field: &'a str,
    at_most: usize,
    within: usize,
    /// Code of each item of the slate.
    codes: &'a [u32],
    /// Code at each position; `MISSING` where nothing is yet.
    placed: Vec<u32>,
    /// Codes that cannot be placed at the position under consideration.
    full: Vec<u32>,
}

impl<'a> Caps<'a> {
    /// For a list of `n` positions. A cap on a field that the slate lacks does nothing.
    pub(crate) fn new(
        caps: &'a [Cap],
        slate: &Slate<'a>,
        n: usize,
        unmet: &mut Vec<Unmet>,
    ) -> Self {
        let mut states = Vec::with_capacity(caps.len());
        for Cap { field, at_most, within } in caps {
            match slate.codes(field) {
                None => unmet.push(Unmet::NoColumn { rule: Rule::Caps, field: field.clone() }),
                Some(codes) => states.push(CapState {
                    field,
                    at_most: (*at_most).max(1),
                    within: (*within).clamp(1, LONGEST_WINDOW),
                    codes,
                    placed: vec![MISSING; n],
                    full: Vec::new(),
                }),
            }
        }
        Self { caps: states }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.caps.is_empty()
    }

    pub(crate) fn place(&mut self, position: usize, rank: usize) {
        self.caps.iter_mut().for_each(|cap| cap.placed[position] = cap.codes[rank]);
    }

    /// Turns to `position`, which is empty: `allows` answers for it. Cost: O(within log within) for each cap.
    pub(crate) fn consider(&mut self, position: usize) {
        self.caps.iter_mut().for_each(|cap| cap.consider(position));
    }

    pub(crate) fn allows(&self, rank: usize) -> bool {
        self.caps.iter().all(|cap| !cap.full.contains(&cap.codes[rank]))
    }

    /// By how many items the caps would be exceeded.
    pub(crate) fn excess(&self, position: usize, rank: usize) -> usize {
        let excess = |cap: &CapState<'_>| match cap.codes[rank] {
            MISSING => 0,
            code => (cap.count_with(position, code)).saturating_sub(cap.at_most),
        };
        self.caps.iter().map(excess).sum()
    }

    /// Whether an item of the slate could come anywhere between the items of `list` without exceeding a cap.
    pub(crate) fn fitting_anywhere(&self, list: &[usize]) -> impl Fn(usize) -> bool {
        let crowded: Vec<FxHashSet<u32>> = self.caps.iter().map(|cap| cap.crowded(list)).collect();
        move |rank| {
            self.caps.iter().zip(&crowded).all(|(cap, crowded)| !crowded.contains(&cap.codes[rank]))
        }
    }

    /// Every item of the finished list that exceeds a cap with the items before it. Items beyond the slate have no rank.
    pub(crate) fn exceeded(&self, list: &[(ItemId, Option<usize>)]) -> Vec<Unmet> {
        let mut unmet = Vec::new();
        for cap in &self.caps {
            let code = |rank: &Option<usize>| rank.map_or(MISSING, |rank| cap.codes[rank]);
            let codes: Vec<u32> = list.iter().map(|(_, rank)| code(rank)).collect();
            for (position, count) in trailing_counts(&codes, cap.within) {
                if count > cap.at_most {
                    let (field, item) = (cap.field.to_owned(), list[position].0);
                    unmet.push(Unmet::Cap { field, item, position, count });
                }
            }
        }
        unmet
    }
}

impl CapState<'_> {
    fn consider(&mut self, position: usize) {
        self.full.clear();
        let first = (position + 1).saturating_sub(self.within);
        let end = (position + self.within).min(self.placed.len());
        let mut near: Vec<u32> =
            self.placed[first..end].iter().copied().filter(|&code| code != MISSING).collect();
        near.sort_unstable();
        let crowded = near.chunk_by(|a, b| a == b).filter(|equal| equal.len() >= self.at_most);
        let full = crowded.map(|equal| equal[0]);
        let full = full.filter(|&code| self.count_with(position, code) > self.at_most);
        self.full = full.collect();
    }

    /// The most items of `code` in any window that holds `position`, if one is placed there.
    fn count_with(&self, position: usize, code: u32) -> usize {
        let n = self.placed.len();
        let is_equal = |at: usize| usize::from(at != position && self.placed[at] == code);
        let first = (position + 1).saturating_sub(self.within);
        let mut end = (first + self.within).min(n);
        let mut count: usize = (first..end).map(is_equal).sum();
        let mut most = count;
        for start in first..position {
            count -= is_equal(start);
            if end < n {
                count += is_equal(end);
                end += 1;
            }
            most = most.max(count);
        }
        most + 1
    }

    /// Codes that fill the cap somewhere in `list`, so that one more could exceed it.
    fn crowded(&self, list: &[usize]) -> FxHashSet<u32> {
        let codes: Vec<u32> = list.iter().map(|&rank| self.codes[rank]).collect();
        let counts = trailing_counts(&codes, self.within - 1);
        let full = counts.filter(|&(_, count)| count >= self.at_most);
        full.map(|(position, _)| codes[position]).collect()
    }
}

/// For each position with a code, how many of the `within` positions that end with it have the same.
fn trailing_counts(codes: &[u32], within: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut counts: FxHashMap<u32, usize> = FxHashMap::default();
    let count = move |position: usize| {
        *counts.entry(codes[position]).or_default() += 1;
        if position >= within {
            *counts.entry(codes[position - within]).or_default() -= 1;
        }
        (position, counts[&codes[position]])
    };
    (0..codes.len()).map(count).filter(|&(position, _)| codes[position] != MISSING)
}

#[cfg(test)]
mod tests {
    use featurestore::Timestamp;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::slate::CategoryColumn;

    proptest! {
        #[test]
        fn a_code_is_full_where_one_more_would_exceed_some_window(
            codes in vec(prop_oneof![0u32..3, Just(MISSING)], 1..14),
            filled in vec(any::<bool>(), 14),
            position in any::<prop::sample::Index>(),
            at_most in 1usize..4,
            within in 1usize..8,
        ) {
            let n = codes.len();
            let position = position.index(n);
            let columns = [CategoryColumn { field: "c", codes: &codes }];
            let slate = Slate {
                items: &[], columns: &columns, vectors: None, published: None, served: None, newcomers: &[],
                now: Timestamp(0),
            };
            let cap = [Cap { field: "c".into(), at_most, within }];
            let mut caps = Caps::new(&cap, &slate, n, &mut Vec::new());
            let placed: Vec<usize> = (0..n).filter(|&at| filled[at] && at != position).collect();
            placed.iter().for_each(|&at| caps.place(at, at));
            caps.consider(position);
            for rank in 0..n {
                let code = |at: usize| {
                    if at == position { codes[rank] } else if placed.contains(&at) { codes[at] } else { MISSING }
                };
                let count = |start: usize| {
                    let window = start..(start + within).min(n);
                    let holds = window.contains(&position);
                    if holds { window.filter(|&at| code(at) == codes[rank]).count() } else { 0 }
                };
                let most = if codes[rank] == MISSING { 0 } else { (0..n).map(count).max().unwrap() };
                prop_assert_eq!(caps.allows(rank), most <= at_most);
                prop_assert_eq!(caps.excess(position, rank), most.saturating_sub(at_most));
            }
        }
    }
}
