//! Records that are read before a request asks for them: when a server starts all that the near cache has room for, and
//! later those in use, before they go stale.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::error::RedisError;
use super::near::{FRESH_AT_LEAST, weight_of};
use super::{RedisStore, Wanted};
use crate::ids::ItemId;

/// Records that are read at once.
const BATCH: usize = 1_000;

/// In this time each record comes up to be read again, if it is in use.
const ROUND: Duration = Duration::from_secs(400);
const _: () = assert!(ROUND.as_secs() + TIMEOUT.as_secs() < FRESH_AT_LEAST.as_secs());

/// How long reading some of them again may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long Redis may take to say what is changed in it, before anything is read ahead; and the pause between two tries.
const HEARING: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Whose turn it is to be read again.
#[derive(Default)]
pub(super) struct Turn {
    /// The next record.
    next: usize,
    /// How many should have been looked at by now, and were not: less than one.
    owed: f64,
}

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

    /// Reads the records that the near cache has room for, but a tenth, so that no request has to: before the first one. Ends
    /// at `until`, or when Redis gives nothing. The count of those read.
    ///
    /// # Errors
    /// If Redis does not say what is changed in it: nothing is read then, since all would be in doubt.
    pub fn read_ahead(&self, until: Instant) -> Result<usize, RedisError> {
        // What was read before the first time is in doubt after it.
        let heard_until = until.min(Instant::now() + HEARING);
        while let Err(error) = self.hear_of_changes() {
            if Instant::now() >= heard_until {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
        let (all, mut room) = (self.all(), self.near.room() / 10 * 9);
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

    /// Reads again those of some records that were asked for since they were read: of so many that it goes round before
    /// any is stale. `since`: the time since the last call.
    pub fn read_again(&self, since: Duration) {
        let all = self.all();
        let keys: Vec<Wanted> = {
            let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            turn.owed +=
                all.n() as f64 * since.as_secs_f64().min(ROUND.as_secs_f64()) / ROUND.as_secs_f64();
            let (start, n) = (turn.next, turn.owed as usize);
            turn.owed -= n as f64;
            turn.next = if start + n < all.n() { start + n } else { 0 };
            (start..start + n).map_while(|n| all.nth(n)).collect()
        };
        for batch in self.near.take_in_use(&keys).chunks(BATCH) {
            let brought = self.bring(batch, &self.near.doubts(), Instant::now() + TIMEOUT);
            self.near.put_in_use(batch.iter().filter(|key| !brought.contains_key(key)));
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
