//! Records that are read before a request asks for them: when a server starts all that the near cache has room for, and
//! later those in use, before they go stale.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::near::{FRESH_AT_LEAST, weight_of};
use super::nodes::RedisError;
use super::{RedisStore, Wanted};
use crate::ids::ItemId;

/// Records that are read at once.
const BATCH: usize = 1_000;

/// In this time each record comes up to be read again, if it is in use.
const ROUND: Duration = Duration::from_secs(400);
const _: () = assert!(ROUND.as_secs() + TIMEOUT.as_secs() < FRESH_AT_LEAST.as_secs());

/// How long reading some of them again may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Everything that there is a record of.
struct All {
    /// Of each field of the plan.
    n_values: Vec<usize>,
    n_items: usize,
}

impl All {
    fn n(&self) -> usize {
        self.n_values.iter().sum::<usize>() + self.n_items
    }

    /// First values of fields, which items share, then items, those first that came last. `None` behind the last.
    fn nth(&self, n: usize) -> Option<Wanted> {
        let mut n = n;
        for (field, n_values) in self.n_values.iter().enumerate() {
            if n < *n_values {
                return Some(Wanted::Field(field as u8, n as u32));
            }
            n -= n_values;
        }
        (n < self.n_items).then(|| Wanted::Item(ItemId((self.n_items - 1 - n) as u32)))
    }
}

impl RedisStore {
    fn all(&self) -> All {
        self.catalogue.view(|view| {
            let items = view.items();
            let n_values =
                self.plan.fields.iter().map(|(field, _)| items.column(*field).n_values());
            All { n_values: n_values.collect(), n_items: items.len() }
        })
    }

    /// Reads the records that the near cache has room for, so that no request has to: before the first one. Ends at
    /// `until`, or when Redis gives nothing. The count of those read.
    ///
    /// # Errors
    /// If Redis does not say what is changed in it: nothing is read then, since all would be in doubt.
    pub fn read_ahead(&self, until: Instant) -> Result<usize, RedisError> {
        // What was read before the first time is in doubt after it.
        self.hear_of_changes()?;
        let (all, mut room) = (self.all(), self.near.room());
        let keys = (0..).map_while(|n| {
            let key = all.nth(n)?;
            room = room.checked_sub(u64::from(weight_of(key.layout(&self.plan).width() * 8)))?;
            Some(key)
        });
        let (keys, mut n_read) = (keys.collect::<Vec<_>>(), 0);
        for batch in keys.chunks(BATCH) {
            let n_brought = self.bring(batch, &self.near.doubts(), until).len();
            n_read += n_brought;
            if n_brought == 0 || Instant::now() >= until {
                break;
            }
        }
        Ok(n_read)
    }

    /// Reads again those of some records that were asked for since they were read: of all, so many that a call every
    /// `pause` goes round before any is stale.
    pub fn read_again(&self, pause: Duration) {
        let all = self.all();
        let n = (all.n() as f64 * pause.as_secs_f64() / ROUND.as_secs_f64()).ceil() as usize;
        let start = self.read_again_from.load(Ordering::Relaxed);
        let next = if start + n < all.n() { start + n } else { 0 };
        self.read_again_from.store(next, Ordering::Relaxed);
        let keys: Vec<Wanted> = (start..start + n).map_while(|n| all.nth(n)).collect();
        let keys = self.near.in_use(&keys);
        for batch in keys.chunks(BATCH) {
            self.bring(batch, &self.near.doubts(), Instant::now() + TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_comes_once() {
        let all = All { n_values: vec![2, 0, 1], n_items: 3 };
        let item = |item| Some(Wanted::Item(ItemId(item)));
        let field = |field, code| Some(Wanted::Field(field, code));
        let expected = [field(0, 0), field(0, 1), field(2, 0), item(2), item(1), item(0), None];
        assert_eq!((0..7).map(|n| all.nth(n)).collect::<Vec<_>>(), expected);
        assert_eq!(all.n(), 6);
    }
}
