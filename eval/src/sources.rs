//! What each source is worth: the relevant items that it finds, and those that no other source does.

use serde::{Deserialize, Serialize};

/// Counts of relevant items by the sources that proposed them.
#[derive(Clone, Debug)]
pub struct SourceTally {
    names: Vec<String>,
    relevant: u64,
    /// Relevant items that a source proposed: `[n_sources]`.
    found: Vec<u64>,
    /// Those that it alone proposed: `[n_sources]`.
    alone: Vec<u64>,
}

/// What one source contributes to recall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRecall {
    /// Name of the source.
    pub source: String,
    /// Share of the relevant items that it proposed, in `[0, 1]`.
    pub recall: f64,
    /// Share that it alone proposed: what would be lost without it.
    pub marginal_recall: f64,
}

impl SourceTally {
    /// Nothing counted yet for sources of these names.
    pub fn new(names: Vec<String>) -> Self {
        let zeros = vec![0; names.len()];
        Self { names, relevant: 0, found: zeros.clone(), alone: zeros }
    }

    /// Counts one relevant item, proposed by the sources at the positions `found_by` (each at most once; none if it
    /// was not retrieved).
    ///
    /// # Panics
    /// If a position is not below the number of sources.
    pub fn add(&mut self, found_by: &[usize]) {
        self.relevant += 1;
        for &source in found_by {
            self.found[source] += 1;
        }
        if let &[only] = found_by {
            self.alone[only] += 1;
        }
    }

    /// Adds what another tally of the same sources has counted.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.names, other.names, "tallies of the same sources");
        let add = |to: &mut [u64], from: &[u64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from)
        };
        self.relevant += other.relevant;
        add(&mut self.found, &other.found);
        add(&mut self.alone, &other.alone);
    }

    /// The recalls, in the order of the names.
    pub fn recalls(&self) -> Vec<SourceRecall> {
        let share = |count: u64| count as f64 / self.relevant.max(1) as f64;
        let counts = self.found.iter().zip(&self.alone);
        let rows = self.names.iter().zip(counts);
        rows.map(|(name, (&found, &alone))| SourceRecall {
            source: name.clone(),
            recall: share(found),
            marginal_recall: share(alone),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_of_two_sources_is_marginal_to_neither() {
        let names = vec!["own".to_owned(), "popular".to_owned()];
        let mut tally = SourceTally::new(names.clone());
        tally.add(&[0, 1]);
        tally.add(&[0]);
        let mut other = SourceTally::new(names);
        other.add(&[]);
        other.add(&[1]);
        tally.merge(&other);
        let rows = tally.recalls();
        assert_eq!(rows.iter().map(|row| row.recall).collect::<Vec<_>>(), [0.5, 0.5]);
        assert_eq!(rows.iter().map(|row| row.marginal_recall).collect::<Vec<_>>(), [0.25, 0.25]);
        assert_eq!(rows[0].source, "own");
    }
}
