//! A proxy before a server, which makes its answers late, lets them drip, or cuts them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Forwards connections to a port of this machine until the process ends.
#[derive(Debug)]
pub struct Proxy {
    /// Its own port.
    pub port: u16,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    delay_ms: AtomicU64,
    /// Bytes of an answer that are let through before it is cut; 0: all.
    cut_after: AtomicUsize,
    /// Between two bytes of an answer; 0: they come together.
    drip_ms: AtomicU64,
}

impl Proxy {
    /// One before the port `to`, without faults.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let faults = Arc::new(Faults::default());
        let shared = faults.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let both = (client.try_clone(), server.try_clone());
                let (Ok(from_client), Ok(to_client)) = (both.0, client.try_clone()) else {
                    continue;
                };
                let (Ok(to_server), from_server) = (both.1, server) else { continue };
                thread::spawn(move || forward(from_client, to_server, None));
                let faults = shared.clone();
                thread::spawn(move || forward(from_server, to_client, Some(&faults)));
            }
        });
        Self { port, faults }
    }

    /// Answers come so much later from now on.
    pub fn delay(&self, delay: Duration) {
        self.faults.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Of every answer only so many bytes come from now on, and then the connection ends; 0: all of them.
    pub fn cut_after(&self, n_bytes: usize) {
        self.faults.cut_after.store(n_bytes, Ordering::SeqCst);
    }

    /// The bytes of an answer come one by one from now on, each so much after the one before; zero: together.
    pub fn drip(&self, pause: Duration) {
        self.faults.drip_ms.store(pause.as_millis() as u64, Ordering::SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, faults: Option<&Faults>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut n_let_through = n;
        if let Some(faults) = faults {
            thread::sleep(Duration::from_millis(faults.delay_ms.load(Ordering::SeqCst)));
            let most = faults.cut_after.load(Ordering::SeqCst);
            n_let_through = if most == 0 { n } else { n.min(most) };
        }
        let drip_ms = faults.map_or(0, |faults| faults.drip_ms.load(Ordering::SeqCst));
        let n_at_once = if drip_ms == 0 { n } else { 1 };
        let is_gone = buffer[..n_let_through].chunks(n_at_once).any(|bytes| {
            thread::sleep(Duration::from_millis(drip_ms));
            to.write_all(bytes).is_err()
        });
        if is_gone || n_let_through < n {
            break;
        }
    }
    // Whoever has gone already has closed it.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
