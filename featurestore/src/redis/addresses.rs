//! The addresses of nodes that are known by name. A name is looked up on a thread of its own, and what was found holds
//! until something else is found: a name server that is slow, or that does not know a dead Redis any more, takes no
//! request's time.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustc_hash::FxHashMap;

/// Finds the addresses of a host and port.
type LookUp = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Addresses by name.
pub(super) struct Addresses {
    look_up: LookUp,
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    names: Mutex<FxHashMap<String, Name>>,
    has_changed: Condvar,
}

#[derive(Default)]
struct Name {
    /// What was found last; empty: nothing yet.
    addresses: Vec<SocketAddr>,
    /// Why nothing was found the last time.
    failure: Option<String>,
    is_looked_up: bool,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            look_up: |name| name.to_socket_addrs().map(Iterator::collect),
            known: Arc::default(),
        }
    }
}

impl Addresses {
    /// A connection to `node`, its host and port. If it cannot be had, its name is looked up again, for the next time.
    ///
    /// # Errors
    /// If none of its addresses takes the connection by `until`.
    pub(super) fn connect(&self, node: &str, until: Instant) -> io::Result<TcpStream> {
        match node.parse() {
            Ok(address) => connect(&[address], until),
            Err(_) => connect(&self.of(node, until)?, until).inspect_err(|_| {
                self.start(&mut self.known.lock(), node);
            }),
        }
    }

    fn of(&self, node: &str, until: Instant) -> io::Result<Vec<SocketAddr>> {
        let mut names = self.known.lock();
        if names.get(node).is_none_or(|name| name.addresses.is_empty()) {
            self.start(&mut names, node);
        }
        loop {
            let name = &names[node];
            if !name.addresses.is_empty() {
                return Ok(name.addresses.clone());
            }
            if !name.is_looked_up {
                let failure = name.failure.as_deref().unwrap_or("has no address");
                return Err(io::Error::other(failure));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = "its name is still being looked up";
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            let waited = self.known.has_changed.wait_timeout(names, left);
            names = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Looks `node` up, unless somebody does.
    fn start(&self, names: &mut FxHashMap<String, Name>, node: &str) {
        let name = names.entry(node.to_owned()).or_default();
        if name.is_looked_up {
            return;
        }
        let (look_up, known, node) = (self.look_up, self.known.clone(), node.to_owned());
        let job = move || {
            let found = look_up(&node);
            let mut names = known.lock();
            let name = names.entry(node).or_default();
            name.is_looked_up = false;
            name.failure = found.as_ref().err().map(ToString::to_string);
            let found = found.unwrap_or_default();
            if !found.is_empty() {
                name.addresses = found;
            }
            known.has_changed.notify_all();
        };
        match std::thread::Builder::new().name("look-up".into()).spawn(job) {
            Ok(_) => name.is_looked_up = true,
            Err(error) => name.failure = Some(error.to_string()),
        }
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, FxHashMap<String, Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries one after the other; those that are left share the time.
fn connect(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    for (i, address) in addresses.iter().enumerate() {
        let share = until.saturating_duration_since(Instant::now()) / (addresses.len() - i) as u32;
        if share.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_name_that_is_looked_up_slowly_costs_no_more_than_the_time_and_is_known_then() {
        let slowly = |name: &str| {
            std::thread::sleep(Duration::from_millis(300));
            let (_, port) = name.rsplit_once(':').unwrap();
            Ok(vec![format!("127.0.0.1:{port}").parse().unwrap()])
        };
        let addresses = Addresses { look_up: slowly, known: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let node = format!("redis:{}", listener.local_addr().unwrap().port());
        let (start, soon) = (Instant::now(), Duration::from_millis(20));
        let error = addresses.connect(&node, start + soon).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        addresses.connect(&node, Instant::now() + Duration::from_secs(5)).unwrap();
        // What was found holds, also while it is looked up anew.
        drop(listener);
        assert!(addresses.connect(&node, Instant::now() + soon).is_err());
        assert!(addresses.known.lock()[&node].is_looked_up);
        let _again = TcpListener::bind(format!("127.0.0.1:{}", node.rsplit_once(':').unwrap().1));
        addresses.connect(&node, Instant::now() + soon).unwrap();
    }

    #[test]
    fn a_name_that_nobody_knows_says_so_and_an_answer_that_comes_later_holds() {
        let addresses =
            Addresses { look_up: |_| Err(io::Error::other("no such host")), known: Arc::default() };
        let soon = || Instant::now() + Duration::from_secs(5);
        let error = addresses.connect("redis:6379", soon()).unwrap_err();
        assert_eq!(error.to_string(), "no such host");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        addresses.known.lock().get_mut("redis:6379").unwrap().addresses = vec![address];
        addresses.connect("redis:6379", soon()).unwrap();
    }
}
