//! One HTTP/1.1 connection that asks one thing after the other. It shares the cores with the server that is measured, so it
//! does no more than that needs.

use std::io::Write as _;
use std::time::Duration;

use actix_web::http::Uri;
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::timeout;
use anyhow::{Context, bail, ensure};
use httparse::{EMPTY_HEADER, Response, Status};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Most connections of one measurement.
pub(super) const MAX_CONNECTIONS: i64 = 10_000;

/// Most headers of an answer.
const MAX_HEADERS: usize = 64;

/// Longest answer in bytes.
const MAX_ANSWER: usize = 1 << 24;

/// A connection, and what every request over it says.
pub(super) struct Connection {
    stream: TcpStream,
    prefix: String,
    headers: String,
    sent: Vec<u8>,
    received: Vec<u8>,
    patience: Duration,
}

/// The head of an answer.
struct Head {
    status: u16,
    n_bytes: usize,
    body: usize,
}

/// What a URL says.
#[derive(Debug, PartialEq)]
struct Place {
    host: String,
    port: u16,
    /// What every path begins with.
    prefix: String,
}

impl Place {
    fn of(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        ensure!(uri.scheme_str() == Some("http"), "{url}: only http:// is spoken here");
        let host = uri.host().with_context(|| format!("{url} names no host"))?.to_owned();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(80), prefix })
    }
}

impl Connection {
    /// A connection to the server at `url`. What is not answered within `patience` has failed.
    ///
    /// # Errors
    /// If the URL is not one of HTTP, or nobody listens there.
    pub(super) async fn open(
        url: &str,
        key: Option<&str>,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let Place { host, port, prefix } = Place::of(url)?;
        // An IPv6 address has brackets in a URL and in the header, and none for the system.
        let name = host.trim_matches(['[', ']']);
        let stream = timeout(patience, TcpStream::connect((name, port))).await;
        let stream = stream.map_err(anyhow::Error::from).and_then(|it| Ok(it?));
        let stream = stream.with_context(|| format!("cannot connect to {url}"))?;
        stream.set_nodelay(true)?;
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        Ok(Self {
            stream,
            prefix,
            headers: format!("host: {host}:{port}\r\n{key}content-type: application/json\r\n"),
            sent: Vec::new(),
            received: Vec::new(),
            patience,
        })
    }

    /// Gets `path`: the status and the body of the answer.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<(u16, &[u8])> {
        self.ask("GET", path, &[]).await
    }

    /// Posts `body` to `path`: the status and the body of the answer.
    ///
    /// # Errors
    /// If the connection is cut or takes too long, or what comes is not an answer of HTTP/1.1 with a length.
    pub(super) async fn post(&mut self, path: &str, body: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.ask("POST", path, body).await
    }

    async fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.sent.clear();
        self.received.clear();
        let (prefix, headers, length) = (&self.prefix, &self.headers, body.len());
        write!(
            self.sent,
            "{method} {prefix}{path} HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n"
        )?;
        self.sent.extend_from_slice(body);
        let Self { stream, sent, received, patience, .. } = self;
        let answer = timeout(*patience, async {
            stream.write_all(sent).await?;
            loop {
                let n = stream.read_buf(received).await?;
                ensure!(n > 0, "the connection was closed");
                if let Some(head) = head(received)? {
                    let end = head.body.saturating_add(head.n_bytes);
                    ensure!(end <= MAX_ANSWER, "an answer of {end} bytes");
                    while received.len() < end {
                        let n = stream.read_buf(received).await?;
                        ensure!(n > 0, "the answer is cut off");
                    }
                    return Ok(head);
                }
                ensure!(received.len() <= MAX_ANSWER, "the head of an answer does not end");
            }
        });
        let head = answer.await.context("there was no answer")??;
        Ok((head.status, &self.received[head.body..head.body + head.n_bytes]))
    }
}

/// What an answer with the status 200 says.
///
/// # Errors
/// If it has another status, or says something else.
pub(super) fn read_json<T: DeserializeOwned>((status, body): (u16, &[u8])) -> anyhow::Result<T> {
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(body));
    Ok(serde_json::from_slice(body)?)
}

/// The head that `received` begins with, if it is all there.
fn head(received: &[u8]) -> anyhow::Result<Option<Head>> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    let Status::Complete(body) = response.parse(received).context("not an answer of HTTP")? else {
        return Ok(None);
    };
    let status = response.code.context("an answer without a status")?;
    let length = response.headers.iter().find(|it| it.name.eq_ignore_ascii_case("content-length"));
    let Some(length) = length else { bail!("an answer of unknown length") };
    let n_bytes = std::str::from_utf8(length.value)?.trim().parse()?;
    Ok(Some(Head { status, n_bytes, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_and_under_which_path() {
        let place = |host: &str, port, prefix: &str| Place {
            host: host.to_owned(),
            port,
            prefix: prefix.to_owned(),
        };
        for (url, expected) in [
            ("http://127.0.0.1:8080", place("127.0.0.1", 8080, "")),
            ("http://shop.example/api/", place("shop.example", 80, "/api")),
            ("http://[::1]:9", place("[::1]", 9, "")),
        ] {
            assert_eq!(Place::of(url).unwrap(), expected, "{url}");
        }
        for url in ["127.0.0.1:8080", "https://shop.example", "", "http://"] {
            assert!(Place::of(url).is_err(), "{url:?}");
        }
    }

    #[actix_web::test]
    async fn an_address_in_brackets_is_connected_to() {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
            eprintln!("SKIPPED: this machine has no IPv6");
            return;
        };
        let url = format!("http://{}", listener.local_addr().unwrap());
        Connection::open(&url, None, Duration::from_secs(5)).await.unwrap();
    }

    #[test]
    fn a_head_is_read_when_it_is_all_there() {
        let answer = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}";
        for end in 0..answer.len() - 2 {
            assert!(head(&answer[..end]).unwrap().is_none(), "{end}");
        }
        let Head { status, n_bytes, body } = head(answer).unwrap().unwrap();
        assert_eq!((status, n_bytes, &answer[body..]), (429, 2, &b"{}"[..]));
        for bad in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "{}"]
        {
            assert!(head(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
