//! One request of each kind, to try and to check with.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use featurestore::history::SESSION_USER;
use serde_json::Value;

use crate::workspace::Workspace;

/// A user and an item of the data, to ask with.
pub(super) struct Example {
    user: String,
    item: String,
    kind: String,
}

/// A user with a history, and an item.
pub(super) fn some_users(workspace: &Workspace) -> anyhow::Result<Example> {
    let history = workspace.history()?;
    let last = history.events.last().context("the event log is empty")?;
    let name = |names: &featurestore::Names, id| names.name(id).map(str::to_owned);
    let user =
        name(history.users.names(), last.user.0).filter(|user| !user.starts_with(SESSION_USER));
    let kind = workspace.schema.events.keys().nth(usize::from(last.kind.0)).cloned();
    Ok(Example {
        user: user.unwrap_or_else(|| "somebody".to_owned()),
        item: name(history.items.names(), last.item.0).context("an event has an item")?,
        kind: kind.context("an event has a type")?,
    })
}

/// Lines for a shell that ask the server at `url`.
pub(super) fn lines(url: &str, example: &Example) -> [String; 3] {
    let Example { user, item, kind } = example;
    [
        format!("curl '{url}/v1/recommend?user_id={user}&n=5'"),
        format!(
            "curl -X POST {url}/v1/events -H 'content-type: application/json' \
             -d '[{{\"type\": \"{kind}\", \"user_id\": \"{user}\", \"item_id\": \"{item}\"}}]'"
        ),
        format!(
            "curl -X POST {url}/v1/recommend -H 'content-type: application/json' \
             -d '{{\"user_id\": \"{user}\", \"n\": 5, \"explain\": \"reasons\"}}'"
        ),
    ]
}

/// How long the server may take to be ready, and a request to be answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Method, path and body of a request, and whether the text that answers it is good.
type Check<'a> = (&'a str, &'a str, Option<&'a str>, &'a dyn Fn(&str) -> bool);

/// Starts a server of its own on a free port, asks it everything once, and stops it. Whether all went well.
pub(super) fn check(workspace: &Workspace, example: &Example) -> anyhow::Result<bool> {
    let mut server = Server::start(workspace)?;
    wait_until_ready(&server.address)?;
    let Example { user, item, kind } = example;
    let event = format!(r#"[{{"type": "{kind}", "user_id": "{user}", "item_id": "{item}"}}]"#);
    let body = format!(r#"{{"user_id": "{user}", "n": 10, "explain": "reasons"}}"#);
    let checks: [Check<'_>; 6] = [
        ("GET", "/health/live", None, &|_| true),
        ("GET", &format!("/v1/recommend?user_id={user}&n=5"), None, &|text| n_items(text) == 5),
        ("POST", "/v1/recommend", Some(&body), &|text| n_items(text) == 10),
        ("POST", "/v1/events", Some(&event), &|text| field(text, "accepted").as_u64() == Some(1)),
        ("GET", "/v1/recommend?user_id=nobody-known&n=5", None, &|text| n_items(text) == 5),
        ("GET", "/metrics", None, &|text| text.contains("cascade_http_requests_total")),
    ];
    let mut all = true;
    for (method, path, body, is_good) in checks {
        let started = Instant::now();
        let (status, text) = request(&server.address, method, path, body)?;
        let good = status == 200 && is_good(&text);
        let mark = if good { "ok" } else { "FAILED" };
        println!(
            "{mark:<6} {method:<4} {path} -> {status} in {:.1} ms",
            started.elapsed().as_secs_f64() * 1e3
        );
        if !good {
            println!("       {}", text.chars().take(500).collect::<String>());
        }
        all &= good;
    }
    let stopped = server.stop()?;
    println!("{:<6} the server stopped when told to", if stopped { "ok" } else { "FAILED" });
    Ok(all && stopped)
}

fn field(text: &str, name: &str) -> Value {
    serde_json::from_str::<Value>(text).map(|value| value[name].clone()).unwrap_or(Value::Null)
}

fn n_items(text: &str) -> usize {
    field(text, "items").as_array().map_or(0, Vec::len)
}

/// Waits until the server at `address` has loaded its release.
pub(super) fn wait_until_ready(address: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let answer = request(address, "GET", "/health/ready", None);
        if answer.is_ok_and(|(status, _)| status == 200) {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "the server is not ready after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Status and body of the answer to a request.
fn request(
    address: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = body.unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("an answer has a status")?, body.to_owned()))
}

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(workspace: &Workspace) -> anyhow::Result<Self> {
        let folder = workspace.config.data_dir.parent().context("the data folder has a parent")?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--clock", "data", "--config"])
            .arg(folder.join("cascade.toml"))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().context("the output is piped")?;
        BufReader::new(output).read_line(&mut line)?;
        let url = field(&line, "listening");
        let address = url.as_str().and_then(|url| url.strip_prefix("http://")).map(str::to_owned);
        let mut server = Self { process, address: String::new() };
        server.address = match address {
            Some(address) => address,
            None => {
                server.process.kill()?;
                bail!("the server did not say where it listens: {line:?}");
            }
        };
        Ok(server)
    }

    /// Asks the server to end and waits for it. Whether it ended well.
    fn stop(&mut self) -> anyhow::Result<bool> {
        let told = Command::new("kill").arg(self.process.id().to_string()).status()?;
        ensure!(told.success(), "the server cannot be told to end");
        Ok(self.process.wait()?.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where the server has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
