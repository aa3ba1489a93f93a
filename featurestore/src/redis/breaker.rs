//! What keeps calls from a node that fails again and again.

use std::time::{Duration, Instant};

/// After so many failures in a row a node is left alone for a while.
pub(super) const FAILURES_TO_OPEN: u32 = 3;

/// For how long at first; it doubles with every further failure, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(1_600);

/// Opens after failures in a row.
#[derive(Default)]
pub(super) struct Breaker {
    /// In a row.
    n_failures: u32,
    open_until: Option<Instant>,
    /// Whether one was let through since it opened, and has not failed.
    is_tried: bool,
}

impl Breaker {
    /// Whether a call may be tried. While the breaker is open, one is let through at the end of each pause.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.open_until = Some(now + self.pause());
                self.is_tried = true;
                true
            }
        }
    }

    /// Whether the last call failed.
    pub(super) fn is_failing(&self) -> bool {
        self.n_failures > 0
    }

    /// A call has failed.
    pub(super) fn fail(&mut self, now: Instant) {
        // Those that were under way when it opened say nothing new.
        if self.open_until.is_some() && !std::mem::take(&mut self.is_tried) {
            return;
        }
        self.n_failures += 1;
        if self.n_failures >= FAILURES_TO_OPEN {
            self.open_until = Some(now + self.pause());
        }
    }

    /// For how long it is open at a time.
    fn pause(&self) -> Duration {
        let doublings = self.n_failures.saturating_sub(FAILURES_TO_OPEN).min(8);
        (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_after_failures_and_lets_one_call_through_after_each_pause() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        (0..2).for_each(|_| breaker.fail(start));
        assert!(breaker.admits(start));
        // The third, and others that were under way with it.
        (0..9).for_each(|_| breaker.fail(start));
        assert!(!breaker.admits(start));
        let later = start + FIRST_PAUSE;
        assert!(breaker.admits(later) && !breaker.admits(later));
        breaker.fail(later);
        assert!(!breaker.admits(later + FIRST_PAUSE), "the pause has doubled");
        assert!(breaker.admits(later + LONGEST_PAUSE));
    }
}
