//! One connection to a node. Connecting, sending and receiving each end by a time, however slowly the node takes or gives
//! its bytes: the client's own connection has a timeout for each read of the socket, and a reply is many.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ::redis::{Parser, ProtocolVersion, RedisConnectionInfo, RedisResult, Value};

use super::addresses::Addresses;

/// A connection that is set up.
pub(super) struct Wire {
    stream: TcpStream,
    parser: Parser,
}

impl Wire {
    /// Connects to `node`, its host and port, and introduces itself as `settings` say.
    ///
    /// # Errors
    /// If that is not done by `until`, or the node refuses it.
    pub(super) fn connect(
        addresses: &Addresses,
        node: &str,
        settings: &RedisConnectionInfo,
        until: Instant,
    ) -> RedisResult<Self> {
        let stream = addresses.connect(node, until)?;
        stream.set_nodelay(true)?;
        let mut wire = Self { stream, parser: Parser::new() };
        let greetings = greetings(settings);
        wire.send(
            &greetings.iter().flat_map(|cmd| cmd.get_packed_command()).collect::<Vec<u8>>(),
            until,
        )?;
        for _ in greetings {
            wire.receive(until)?.extract_error()?;
        }
        Ok(wire)
    }

    /// Sends packed commands.
    ///
    /// # Errors
    /// If the node has not taken all by `until`.
    pub(super) fn send(&mut self, bytes: &[u8], until: Instant) -> RedisResult<()> {
        Ok(Timed { stream: &self.stream, until }.write_all(bytes)?)
    }

    /// The next reply, or what the node says unasked. What Redis refuses is a value, too.
    ///
    /// # Errors
    /// If it is not there by `until`, or is no reply.
    pub(super) fn receive(&mut self, until: Instant) -> RedisResult<Value> {
        self.parser.parse_value(Timed { stream: &self.stream, until })
    }

    /// Sends one packed command and receives its reply. What Redis refuses is a value, too.
    ///
    /// # Errors
    /// As both.
    pub(super) fn call(&mut self, command: &[u8], until: Instant) -> RedisResult<Value> {
        self.send(command, until)?;
        self.receive(until)
    }
}

/// What is said first on a connection.
fn greetings(settings: &RedisConnectionInfo) -> Vec<::redis::Cmd> {
    let mut greetings = Vec::new();
    if settings.protocol() == ProtocolVersion::RESP3 {
        let mut hello = ::redis::cmd("HELLO");
        hello.arg(3);
        if let Some(password) = settings.password() {
            hello.arg("AUTH").arg(settings.username().unwrap_or("default")).arg(password);
        }
        greetings.push(hello);
    } else if let Some(password) = settings.password() {
        let mut auth = ::redis::cmd("AUTH");
        auth.arg(settings.username()).arg(password);
        greetings.push(auth);
    }
    if settings.db() != 0 {
        let mut select = ::redis::cmd("SELECT");
        select.arg(settings.db());
        greetings.push(select);
    }
    greetings
}

/// A socket until a time.
struct Timed<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl Timed<'_> {
    /// The time that is left: a socket takes none for no timeout at all.
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        let is_over = left.is_zero();
        (!is_over).then_some(left).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(bytes)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
