//! From one thread to another, in pieces.

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::{io, thread};

/// A piece has so many things or so many bytes, and so many pieces wait at most.
const PIECE: usize = 1_000;
const PIECE_BYTES: usize = 1 << 20;
const N_WAITING: usize = 4;

/// Has `take` see, in their order, what `give` hands over on a thread of its own, each with about how many bytes it has.
/// Returns what `give` returns.
///
/// # Errors
/// If the system refuses the thread.
pub(crate) fn hand_over<T: Send, R: Send>(
    name: &str,
    give: impl FnOnce(&mut dyn FnMut(T, usize)) -> R + Send,
    take: impl FnMut(T),
) -> io::Result<R> {
    thread::scope(|scope| {
        let (send, receive) = sync_channel::<Vec<T>>(N_WAITING);
        let giving = move || {
            let (mut piece, mut n_bytes) = (Vec::new(), 0);
            let result = give(&mut |thing, bytes| {
                piece.push(thing);
                n_bytes += bytes;
                if piece.len() == PIECE || n_bytes >= PIECE_BYTES {
                    // If nobody takes it any more, `take` has panicked.
                    let _ = send.send(std::mem::take(&mut piece));
                    n_bytes = 0;
                }
            });
            let _ = send.send(piece);
            result
        };
        let giver = thread::Builder::new().name(name.into()).spawn_scoped(scope, giving)?;
        receive.into_iter().flatten().for_each(take);
        Ok(giver.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Hands over the numbers below `n`, each of `n_bytes`.
    fn give(n: usize, n_bytes: usize) -> impl FnOnce(&mut dyn FnMut(usize, usize)) -> usize {
        move |give| {
            (0..n).for_each(|i| give(i, n_bytes));
            n
        }
    }

    #[test]
    fn everything_arrives_in_its_order() {
        for (n, n_bytes) in [(0, 0), (1, 0), (PIECE, 1), (5 * PIECE + 7, 1), (20, PIECE_BYTES)] {
            let mut taken = Vec::new();
            let returned = hand_over("test", give(n, n_bytes), |i| taken.push(i)).unwrap();
            assert_eq!((returned, taken), (n, (0..n).collect()));
        }
    }

    #[test]
    fn the_giver_ends_when_the_taker_panics() {
        let take = |i: usize| assert!(i < 10, "on purpose");
        let panicked =
            catch_unwind(AssertUnwindSafe(|| hand_over("test", give(50 * PIECE, 0), take)));
        assert!(panicked.is_err());
    }
}
