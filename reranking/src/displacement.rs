//! The bound on what the other rules may move.

/// Keeps every item within so many places of its rank, both counted among the items and positions that no pin takes.
pub(crate) struct Displacement {
    most: usize,
    /// Rank of each item of the slate among those not pinned; of a pinned one, its rank is of no use.
    free_ranks: Vec<usize>,
    /// Their inverse.
    by_free_rank: Vec<usize>,
}

impl Displacement {
    pub(crate) fn new(
        most: Option<usize>,
        n: usize,
        is_pinned: impl Fn(usize) -> bool,
    ) -> Option<Self> {
        let most = most?;
        let by_free_rank: Vec<usize> = (0..n).filter(|&rank| !is_pinned(rank)).collect();
        let mut free_ranks = vec![0; n];
        for (free_rank, &rank) in by_free_rank.iter().enumerate() {
            free_ranks[rank] = free_rank;
        }
        Some(Self { most, free_ranks, by_free_rank })
    }

    /// Whether the item at `rank` may already come at the free position `slot`.
    pub(crate) fn allows(&self, slot: usize, rank: usize) -> bool {
        self.free_ranks[rank] <= slot.saturating_add(self.most)
    }

    /// The item that must come at the free position `slot` at the latest. No two are due at once.
    pub(crate) fn due(&self, slot: usize) -> Option<usize> {
        self.by_free_rank.get(slot.checked_sub(self.most)?).copied()
    }
}
