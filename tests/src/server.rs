//! The binary serving.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::project::wait;

/// A server on a free port of this machine; it is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens: `http://127.0.0.1:PORT`.
    pub url: String,
    /// Where its administration is, if that has an address of its own.
    pub admin: Option<String>,
    stderr: Option<JoinHandle<String>>,
}

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON, after making sure of the status 200.
    ///
    /// # Panics
    /// If it is another status or no JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Server {
    /// Starts `command`, which prints its address as its first line, and waits until it is ready.
    pub(crate) fn start(command: Command) -> Self {
        let server = Self::begin(command);
        server.wait_until_ready();
        server
    }

    /// Starts `command`, which prints its address as its first line.
    pub(crate) fn begin(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut stderr = child.stderr.take().expect("it is piped");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it prints text");
        // What else it prints must go somewhere.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let address: Option<Value> = serde_json::from_str(&line).ok();
        let text =
            |name: &str| address.as_ref().and_then(|it| it[name].as_str().map(str::to_owned));
        let (url, admin) = (text("listening"), text("admin"));
        let Some(url) = url else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the first line is {line:?}; stderr: {}", stderr.join().unwrap_or_default());
        };
        Self { child, url, admin, stderr: Some(stderr) }
    }

    fn wait_until_ready(&self) {
        for _ in 0..1_000 {
            if self.get("/health/ready").status == 200 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server does not become ready");
    }

    /// GET from the address of administration.
    ///
    /// # Panics
    /// If it has none of its own.
    pub fn get_admin(&self, path: &str) -> Answer {
        let url = self.admin.as_ref().expect("administration has an address of its own");
        answer(agent().get(format!("{url}{path}")).call()).expect("the server answers")
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        let agent = agent();
        answer(agent.get(format!("{}{path}", self.url)).call()).expect("the server answers")
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, "application/json", &body.to_string())
    }

    /// PUT of JSON.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        let request = agent().put(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json");
        answer(request.send(body.to_string())).expect("the server answers")
    }

    /// PATCH of JSON.
    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        let request = agent().patch(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json");
        answer(request.send(body.to_string())).expect("the server answers")
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Answer {
        answer(agent().delete(format!("{}{path}", self.url)).call()).expect("the server answers")
    }

    /// A request with `headers` and perhaps a body of JSON.
    ///
    /// # Panics
    /// If they make no request.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let url = format!("{}{path}", self.url);
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(body).expect("it is a request");
        answer(agent().run(request)).expect("the server answers")
    }

    /// POST of `body` as it is.
    pub fn post_text(&self, path: &str, content_type: &str, body: &str) -> Answer {
        try_post(&agent(), &format!("{}{path}", self.url), content_type, body)
            .expect("the server answers")
    }

    /// A function that posts JSON over a connection of its own, and returns `None` once the server is gone.
    pub fn poster(&self, path: &str) -> impl Fn(&Value) -> Option<Answer> + Send + use<> {
        let (agent, url) = (agent(), format!("{}{path}", self.url));
        move |body| try_post(&agent, &url, "application/json", &body.to_string())
    }

    /// Ends it as a power cut would: SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How much memory it has, in kB.
    ///
    /// # Panics
    /// If it is gone.
    pub fn resident_kb(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kb.expect("the kernel says how much memory it has")
    }

    /// Has it hang, by SIGSTOP.
    pub fn hang(&self) {
        signal(&self.child, "-STOP");
    }

    /// Has it go on after [`hang`](Self::hang).
    pub fn resume(&self) {
        signal(&self.child, "-CONT");
    }

    /// Asks it to end, by SIGTERM; returns its exit status and what it wrote to stderr.
    ///
    /// # Panics
    /// If it does not end within half a minute.
    pub fn terminate(mut self) -> (Option<i32>, String) {
        signal(&self.child, "-TERM");
        let status = wait(&mut self.child, Duration::from_secs(30)).expect("SIGTERM ends it");
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        assert!(!stderr.contains("panicked"), "{stderr}");
        (status, stderr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends `signal` to `child`.
pub(crate) fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.expect("there is a kill").success(), "the process is gone already");
}

/// The ids of the items in the answer to a request for a list.
///
/// # Panics
/// If it is none.
#[track_caller]
pub fn ids(answer: &Value) -> Vec<String> {
    items(answer).iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

/// The ids and the scores, as they are written: without what differs from answer to answer.
///
/// # Panics
/// If it is no list.
#[track_caller]
pub fn scored(answer: &Value) -> Vec<(String, String)> {
    items(answer).iter().map(|it| (it["id"].to_string(), it["score"].to_string())).collect()
}

#[track_caller]
fn items(answer: &Value) -> &[Value] {
    answer["items"].as_array().unwrap_or_else(|| panic!("no items in {answer}"))
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    let config = config
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .proxy(None);
    config.build().new_agent()
}

fn try_post(agent: &ureq::Agent, url: &str, content_type: &str, body: &str) -> Option<Answer> {
    answer(agent.post(url).header("content-type", content_type).send(body))
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<Answer> {
    let mut response = response.ok()?;
    let content_type = response.headers().get("content-type").and_then(|it| it.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let body = response.body_mut().read_to_string().ok()?;
    Some(Answer { status: response.status().as_u16(), content_type, body })
}
