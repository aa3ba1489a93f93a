//! How long something takes, learnt as it goes: what deadlines and admission are reckoned with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A new observation counts so much, its inverse.
const SMOOTHING: u64 = 16;

/// An observation is believed up to so many times what was expected: a machine that was stopped for a second is not slow.
const MOST_TIMES: u64 = 8;

/// What something takes, in nanoseconds, as it was lately. 0: it was not measured yet.
#[derive(Debug, Default)]
pub struct Cost(AtomicU64);

impl Cost {
    /// Of `n` of them.
    pub fn of(&self, n: usize) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed).saturating_mul(n as u64))
    }

    /// Notes that `n` of them took `took`.
    pub fn observe(&self, took: Duration, n: usize) {
        if n == 0 {
            return;
        }
        let (known, seen) = (self.0.load(Ordering::Relaxed), took.as_nanos() as u64 / n as u64);
        let next = match known {
            0 => seen,
            _ => (known * (SMOOTHING - 1) + seen.min(known * MOST_TIMES)).div_ceil(SMOOTHING),
        };
        self.0.store(next.max(1), Ordering::Relaxed);
    }

    /// What was too dear is tried again some time: it gets cheaper while nobody looks.
    pub fn forget_some(&self) {
        let known = self.0.load(Ordering::Relaxed);
        self.0.store(known - known / SMOOTHING, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_follows_what_is_seen_and_is_not_shocked() {
        let cost = Cost::default();
        cost.observe(Duration::from_micros(100), 100);
        assert_eq!(cost.of(10), Duration::from_micros(10));
        cost.observe(Duration::from_secs(1), 1);
        let shocked = cost.of(1);
        assert!(shocked > Duration::from_micros(1) && shocked < Duration::from_micros(2));
        for _ in 0..200 {
            cost.forget_some();
        }
        assert!(cost.of(1) < Duration::from_nanos(100));
        for _ in 0..200 {
            cost.observe(Duration::from_micros(3), 1);
        }
        assert!(cost.of(1) > Duration::from_nanos(2_900), "{:?}", cost.of(1));
    }
}
