//! A temporary folder and the binary that is run in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Server, Shop};

/// No command of these tests takes nearly as long: one that does hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The built `cascade`, which lies beside the folder that this test was built into.
///
/// # Panics
/// If it is not there.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a file");
    let folder = test.parent().and_then(Path::parent).expect("tests are built into a subfolder");
    let binary = folder.join("cascade");
    assert!(
        binary.is_file(),
        "there is no {}: build it with `cargo build --release --workspace --bins --tests`",
        binary.display()
    );
    binary
}

/// An empty temporary folder in which commands are run; it is removed with this.
#[derive(Debug)]
pub struct Project {
    folder: TempDir,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its words.
    pub command: String,
    /// Its exit status; `None`: a signal ended it.
    pub status: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Project {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// A folder with the files of `shop`, a configuration made by `init` and training made short.
    pub fn configured(shop: &Shop) -> Self {
        let project = Self::empty();
        project.write("events.csv", shop.events_csv());
        project.write("items.csv", shop.items_csv());
        project.run(["init", "--events", "events.csv", "--items", "items.csv"]).done();
        // A list is judged by what is bought.
        project.configure("events.view.label", 0);
        project.configure("training.dim", 16);
        project.configure("training.ranker.n_trees", 100);
        project.configure("training.ranker.learning_rate", 0.1);
        project.configure("training.ranker.n_leaves", 15);
        project.configure("training.ranker.min_data_in_leaf", 20);
        project
    }

    /// The same with the files imported.
    pub fn imported(shop: &Shop) -> Self {
        let project = Self::configured(shop);
        project.run(["import", "--events", "events.csv", "--items", "items.csv"]).done();
        project
    }

    /// The same with a release trained and activated.
    pub fn trained(shop: &Shop) -> Self {
        let project = Self::imported(shop);
        project.run(["train"]).done();
        project
    }

    /// Where `name` is or will be.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Reads a file.
    pub fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Copies everything that is in the folder into another one.
    pub fn copy(&self) -> Self {
        let copy = Self::empty();
        copy_folder(self.folder.path(), copy.folder.path());
        copy
    }

    /// Sets `key`, its parts divided by dots, in `cascade.toml`.
    pub fn configure(&self, key: &str, value: impl Into<toml::Value>) {
        let text = String::from_utf8(self.read("cascade.toml")).expect("TOML is UTF-8");
        let mut config: toml::Table = text.parse().expect("init writes TOML");
        let (mut table, mut parts) = (&mut config, key.split('.').peekable());
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.into(), value.into());
                break;
            }
            let inner = table.entry(part).or_insert_with(|| toml::Table::new().into());
            table = inner.as_table_mut().unwrap_or_else(|| panic!("{part} of {key} is no table"));
        }
        self.write("cascade.toml", toml::to_string(&config).expect("it was TOML"));
    }

    /// Runs `cascade` with `arguments` to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command(arguments);
        let words: Vec<_> =
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let words = format!("cascade {}", words.join(" "));
        let (stdout, stderr) = (self.aside(), self.aside());
        let mut child =
            command.stdout(reopen(&stdout)).stderr(reopen(&stderr)).spawn().expect("it starts");
        let status = wait(&mut child, PATIENCE).unwrap_or_else(|| panic!("`{words}` hangs"));
        let text = |file: tempfile::NamedTempFile| {
            String::from_utf8_lossy(&fs::read(file.path()).expect("it was written")).into_owned()
        };
        let ran = Ran { command: words, status, stdout: text(stdout), stderr: text(stderr) };
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        ran
    }

    /// Starts `cascade` with `arguments` and does not wait; its output goes nowhere.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Child {
        self.command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts")
    }

    /// Starts the server on a free port and waits until it answers. Its clock goes on from the last event of the shop.
    pub fn serve(&self) -> Server {
        self.serve_at("127.0.0.1:0")
    }

    /// The same at the address `listen`.
    pub fn serve_at(&self, listen: &str) -> Server {
        Server::start(self.server_at(listen))
    }

    /// Starts the server on a free port, and does not wait until it answers.
    pub fn begin_to_serve(&self) -> Server {
        Server::begin(self.server_at("127.0.0.1:0"))
    }

    fn server_at(&self, listen: &str) -> Command {
        self.command(["serve", "--json", "--clock", "data", "--listen", listen])
    }

    /// Folder of the active release.
    pub fn active_release(&self) -> PathBuf {
        let active =
            String::from_utf8(self.read("cascade-data/releases/ACTIVE")).expect("names are UTF-8");
        let id = active.lines().next().expect("a release is active");
        self.path("cascade-data/releases").join(id)
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// A file outside the project's folder.
    fn aside(&self) -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new().expect("a temporary file can be made")
    }
}

impl Ran {
    /// The same, after making sure that all went well.
    ///
    /// # Panics
    /// If the exit status is not 0.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.status, Some(0), "{self}");
        self
    }

    /// The same, after making sure that it was refused: exit status 1 or 2, and each of `words` in the message.
    ///
    /// # Panics
    /// If it was not.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        assert!(matches!(self.status, Some(1 | 2)), "{self}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in the message of {self}");
        }
        self
    }

    /// The object that it printed.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "`{command}` ended with {status:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Waits for `child` to end; kills it and returns `None` if it does not within `patience`.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<Option<i32>> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("it was started") {
            return Some(status.code());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn reopen(file: &tempfile::NamedTempFile) -> File {
    file.reopen().expect("it is there")
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be made");
    for entry in fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("the folder can be listed");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).expect("the file can be copied");
        }
    }
}
