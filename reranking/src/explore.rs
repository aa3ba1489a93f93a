//! Newcomers in random places, so that what the models do not know yet is seen and learned.

use featurestore::ItemId;

use crate::propensity::Propensity;

/// Some of the free positions of a list, all sets of them being equally likely, and in each a newcomer, all draws without
/// repetition being equally likely. The free positions are those that no pin takes.
pub(crate) struct Exploration {
    /// Free positions and their newcomers, from the top.
    drawn: Vec<(usize, ItemId)>,
    n_free: usize,
    n_pool: usize,
}

impl Exploration {
    /// Draws `n_slots` of `n_free` positions, and as many of `pool`. The same seed draws the same.
    pub(crate) fn draw(n_slots: usize, n_free: usize, pool: &[ItemId], seed: u64) -> Self {
        assert!(n_slots <= n_free && n_slots <= pool.len(), "the caller counts both");
        let mut random = SplitMix { state: seed };
        let slots = random.sample((0..n_free).collect(), n_slots);
        let newcomers = random.sample(pool.to_vec(), n_slots);
        let mut drawn: Vec<(usize, ItemId)> = slots.into_iter().zip(newcomers).collect();
        drawn.sort_unstable();
        Self { drawn, n_free, n_pool: pool.len() }
    }

    /// The newcomer at the free position `slot`.
    pub(crate) fn at(&self, slot: usize) -> Option<ItemId> {
        let found = self.drawn.binary_search_by_key(&slot, |&(slot, _)| slot);
        found.ok().map(|at| self.drawn[at].1)
    }

    /// Of a newcomer where it was drawn: that its position and then that it is drawn.
    pub(crate) fn newcomer_propensity(&self) -> Propensity {
        let of_slot = self.drawn.len() as f64 / self.n_free as f64;
        probability(of_slot / self.n_pool as f64)
    }

    /// Of the other item number `index` at the free position `slot`: that it is not drawn, and `slot - index` of those
    /// before it are.
    pub(crate) fn other_propensity(&self, index: usize, slot: usize) -> Propensity {
        let (before, n_slots) = (slot - index, self.drawn.len());
        let ways = binomial(slot, before) * binomial(self.n_free - 1 - slot, n_slots - before);
        probability(ways / binomial(self.n_free, n_slots))
    }
}

/// What happened has a probability above 0; rounding may take it a little above 1.
fn probability(value: f64) -> Propensity {
    Propensity::new(value.clamp(f64::MIN_POSITIVE, 1.0)).expect("it was clamped and is not NaN")
}

fn binomial(n: usize, k: usize) -> f64 {
    (0..k.min(n - k)).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

/// Source: "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix {
    state: u64,
}

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `n`, with a bias of at most n / 2^64.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// `n` of `all`, in random order.
    fn sample<T>(&mut self, mut all: Vec<T>, n: usize) -> Vec<T> {
        for i in 0..n {
            let j = i + self.below(all.len() - i);
            all.swap(i, j);
        }
        all.truncate(n);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propensities_are_the_frequencies_of_many_draws() {
        const N_DRAWS: u64 = 40_000;
        let (n_slots, n_free, pool) = (2, 5, [7, 8, 9].map(ItemId));
        let mut newcomers = [0u64; 5];
        let mut others = [[0u64; 5]; 3];
        let mut propensities = [[0.0; 5]; 3];
        for seed in 0..N_DRAWS {
            let exploration = Exploration::draw(n_slots, n_free, &pool, seed);
            let mut index = 0;
            for (slot, seen) in newcomers.iter_mut().enumerate() {
                if let Some(item) = exploration.at(slot) {
                    *seen += u64::from(item == ItemId(8));
                    continue;
                }
                others[index][slot] += 1;
                propensities[index][slot] = exploration.other_propensity(index, slot).get();
                index += 1;
            }
        }
        let near = |count: u64, p: f64| (count as f64 / N_DRAWS as f64 - p).abs() < 0.01;
        let of_newcomer = Exploration::draw(n_slots, n_free, &pool, 0).newcomer_propensity().get();
        assert!((of_newcomer - 2.0 / 5.0 / 3.0).abs() < 1e-12);
        assert!(newcomers.iter().all(|&count| near(count, of_newcomer)), "{newcomers:?}");
        for (counts, expected) in others.iter().zip(&propensities) {
            assert!((expected.iter().sum::<f64>() - 1.0).abs() < 1e-12, "each is shown once");
            assert!(counts.iter().zip(expected).all(|(&n, &p)| near(n, p)), "{counts:?}");
        }
    }
}
