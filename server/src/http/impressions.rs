//! The impression log: what was shown to whom, where, with which probability, and by which release.
//!
//! One JSON Lines file a day in `impressions/` of the data folder, written by a thread of its own. Old files are removed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use engine::filter::Filter;
use engine::json_lines::{blank_lines, contains};
use featurestore::history::SESSION_USER;
use featurestore::{Span, Timestamp};
use prometheus_client::metrics::counter::Counter;
use reranking::{BoostedValues, Propensity};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::answer::Origin;

/// What a user was shown by one answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Impression {
    /// Name of the answer.
    pub(super) recommendation_id: String,
    /// When.
    pub(super) time: Timestamp,
    /// To whom, if that was said.
    pub(super) user_id: Option<String>,
    /// In which session, if that was said.
    pub(super) session_id: Option<String>,
    /// In which placement.
    pub(super) scenario: String,
    /// By which release.
    pub(super) release: String,
    /// What was asked for besides.
    #[serde(default)]
    pub(super) asked: Asked,
    /// What, from the top.
    pub(super) items: Vec<ShownItem>,
}

/// One item of an [`Impression`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ShownItem {
    /// The item.
    pub(super) id: String,
    /// Where it stood, from 0.
    pub(super) position: usize,
    /// Its score; NaN for a newcomer that was not ranked.
    #[serde(deserialize_with = "nan_for_null")]
    pub(super) score: f32,
    /// What proposed it.
    pub(super) sources: Vec<String>,
    /// The probability that it was shown there.
    pub(super) propensity: Propensity,
}

/// What an answer depends on besides who asks, when, and where: so it can be made again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Items that were wanted.
    pub(super) n: usize,
    /// Start of the random sequence.
    pub(super) seed: u64,
    /// Where the items came from.
    #[serde(skip_serializing_if = "Origin::is_placement")]
    pub(super) origin: Origin,
    /// The placement whose ranker ranked the caller's items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ranked_for: Option<String>,
    /// What was left out, the pages before included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) exclude_ids: Vec<String>,
    /// What the list started from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) seed_items: Vec<String>,
    /// What was allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) filter: Option<Arc<Filter>>,
    /// What was to gain or lose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) boosts: Vec<BoostedValues>,
    /// How diverse the list was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) diversity: Option<f32>,
    /// The part of the usual candidates that was looked at; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) share: Option<f32>,
    /// What else was said of the situation. Nothing depends on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<Map<String, Value>>,
}

fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}

impl Impression {
    /// The name of the user, or what stands for the session of one without.
    pub(super) fn user(&self) -> Option<String> {
        let session = || Some(format!("{SESSION_USER}{}", self.session_id.as_deref()?));
        self.user_id.clone().or_else(session)
    }

    /// Bytes that it takes in memory, about.
    fn n_bytes(&self) -> usize {
        let Asked { exclude_ids, seed_items, origin, .. } = &self.asked;
        let shown = self.items.iter().map(|item| &item.id);
        let ids = shown.chain(exclude_ids).chain(seed_items).chain(origin.ids());
        size_of::<Self>() + ids.map(|id| size_of::<ShownItem>() + id.len()).sum::<usize>()
    }
}

/// What the thread that writes is told.
enum Message {
    Impression(Box<Impression>),
    /// Everything is to be in the files when this is answered.
    Flush(SyncSender<()>),
    /// What is too old on this day is to be removed.
    RemoveOld(String),
}

/// Impressions that may wait to be written, and their bytes; further ones are dropped and counted.
const QUEUE: usize = 10_000;
const QUEUE_BYTES: usize = 64 << 20;

/// How long a written impression may stay in memory.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// Where impressions are handed over to the thread that writes them.
pub(super) struct ImpressionLog {
    dir: PathBuf,
    queue: Mutex<Option<SyncSender<Message>>>,
    /// Bytes of what waits to be written.
    waiting: Arc<AtomicUsize>,
    writer: Mutex<Option<JoinHandle<()>>>,
    dropped: Counter,
}

impl ImpressionLog {
    /// Starts the log in the folder `dir`. Files whose day is longer than `keep` ago are removed when a day begins, and when
    /// [`remove_old`](Self::remove_old) says so. `dropped` counts what was not written.
    ///
    /// # Errors
    /// If the folder cannot be made, or the system refuses a thread.
    pub(super) fn start(dir: &Path, keep: Span, dropped: Counter) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (queue, messages) = sync_channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut writer = Writer {
            dir: dir.into(),
            keep,
            day: None,
            waiting: waiting.clone(),
            dropped: dropped.clone(),
        };
        let writer = std::thread::Builder::new()
            .name("impressions".into())
            .spawn(move || writer.run(&messages))
            .context("cannot start a thread")?;
        let (queue, writer) = (Mutex::new(Some(queue)), Mutex::new(Some(writer)));
        Ok(Self { dir: dir.into(), queue, waiting, writer, dropped })
    }

    /// Has `impression` written, or drops and counts it if too many are waiting. Never blocks.
    pub(super) fn offer(&self, impression: Impression) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let n_bytes = impression.n_bytes();
        let has_room = self.waiting.load(Ordering::Relaxed) + n_bytes <= QUEUE_BYTES;
        let message = Message::Impression(Box::new(impression));
        let queue = queue.as_ref().filter(|_| has_room);
        self.waiting.fetch_add(n_bytes, Ordering::Relaxed);
        if queue.is_none_or(|queue| queue.try_send(message).is_err()) {
            self.waiting.fetch_sub(n_bytes, Ordering::Relaxed);
            self.dropped.inc();
        }
    }

    /// Tells the thread that writes, and waits for its answer; `None` once the log is closed. May block.
    fn ask<T>(&self, message: impl FnOnce(SyncSender<T>) -> Message) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        queue?.send(message(reply)).ok()?;
        answer.recv().ok()
    }

    /// The impression of the answer called `id`, which was made at `time`, if it is in the log. May block.
    ///
    /// # Errors
    /// If the file of that day cannot be read.
    pub(super) fn find(&self, id: &str, time: Timestamp) -> io::Result<Option<Impression>> {
        self.ask(Message::Flush);
        let file = match File::open(self.dir.join(format!("{}.jsonl", day_of(time)))) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A line that is torn need not be text.
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            if contains(&line, id.as_bytes())
                && let Ok(impression) = serde_json::from_slice::<Impression>(&line)
                && impression.recommendation_id == id
            {
                return Ok(Some(impression));
            }
        }
        Ok(None)
    }

    /// Calls `look` with every impression since `from`, the oldest first. Lines that are none are passed over.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn since(
        &self,
        from: Timestamp,
        mut look: impl FnMut(Impression),
    ) -> io::Result<()> {
        let first = day_of(from);
        for day in days(&self.dir).into_iter().filter(|day| *day >= first) {
            let file = File::open(self.dir.join(format!("{day}.jsonl")))?;
            for line in BufReader::new(file).split(b'\n') {
                if let Ok(impression) = serde_json::from_slice::<Impression>(&line?)
                    && impression.time >= from
                {
                    look(impression);
                }
            }
        }
        Ok(())
    }

    /// Removes the impressions of `users`, named as [`Impression::user`] does; returns how many there were. May block. Others
    /// may be writing meanwhile: the files stay in their places.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub(super) fn erase(&self, users: &[String]) -> io::Result<usize> {
        self.ask(Message::Flush);
        let mut n_erased = 0;
        for day in days(&self.dir) {
            let path = self.dir.join(format!("{day}.jsonl"));
            n_erased += blank_lines(&path, |line| {
                match serde_json::from_slice::<Impression>(line) {
                    Ok(impression) => impression.user().is_some_and(|user| users.contains(&user)),
                    // A line that is torn may tell of them.
                    Err(_) => users.iter().any(|user| contains(line, user.as_bytes())),
                }
            })?;
        }
        Ok(n_erased)
    }

    /// Has the files removed that are too old at `now`. To be called by a server that may use the folder.
    pub(super) fn remove_old(&self, now: Timestamp) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            // If too many are waiting, the next day does it.
            let _ = queue.try_send(Message::RemoveOld(day_of(now)));
        }
    }

    /// Writes what is waiting; later impressions are dropped.
    pub(super) fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            self.dropped.inc();
        }
    }
}

/// The day of `time` in UTC, as `2024-02-29`.
fn day_of(time: Timestamp) -> String {
    time.to_string().split('T').next().unwrap_or_default().to_owned()
}

struct Writer {
    dir: PathBuf,
    keep: Span,
    /// The day that is written, and its file.
    day: Option<(String, BufWriter<File>)>,
    waiting: Arc<AtomicUsize>,
    dropped: Counter,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            match messages.recv_timeout(FLUSH_AFTER) {
                Ok(Message::Impression(impression)) => {
                    self.write_counted(&impression);
                    self.waiting.fetch_sub(impression.n_bytes(), Ordering::Relaxed);
                }
                // Who asked may not wait any more.
                Ok(Message::Flush(reply)) => {
                    self.flush();
                    let _ = reply.send(());
                }
                Ok(Message::RemoveOld(today)) => self.remove_old(&today),
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    fn write_counted(&mut self, impression: &Impression) {
        if self.write(impression).is_err() {
            self.dropped.inc();
            // The file is opened anew, since nobody knows what became of its buffer.
            self.day = None;
        }
    }

    fn write(&mut self, impression: &Impression) -> io::Result<()> {
        let day = day_of(impression.time);
        if self.day.as_ref().is_none_or(|(open, _)| *open != day) {
            self.flush();
            self.remove_old(&day);
            let path = self.dir.join(format!("{day}.jsonl"));
            let is_torn = ends_torn(&path)?;
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            if is_torn {
                file.write_all(b"\n")?;
            }
            self.day = Some((day, BufWriter::new(file)));
        }
        let Some((_, file)) = &mut self.day else { return Ok(()) };
        serde_json::to_writer(&mut *file, impression)?;
        file.write_all(b"\n")
    }

    fn flush(&mut self) {
        if self.day.as_mut().is_some_and(|(_, file)| file.flush().is_err()) {
            self.dropped.inc();
            self.day = None;
        }
    }

    /// Removes the files whose day is longer than `keep` before `today`. One that cannot be removed now is tried again
    /// on the next day.
    fn remove_old(&self, today: &str) {
        let Ok(today) = Timestamp::parse(today) else { return };
        for day in days(&self.dir) {
            let is_old = Timestamp::parse(&day).is_ok_and(|time| time < today.minus(self.keep));
            if is_old {
                let _ = fs::remove_file(self.dir.join(format!("{day}.jsonl")));
            }
        }
    }
}

/// Whether the last line of the file at `path` has no end, as a server that was killed leaves it.
fn ends_torn(path: &Path) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// The days of the files in `dir`.
fn days(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    let day = |name: String| name.strip_suffix(".jsonl").map(str::to_owned);
    entries.filter_map(name).filter_map(day).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn impression(time: &str) -> Impression {
        Impression {
            recommendation_id: "r".into(),
            time: Timestamp::parse(time).unwrap(),
            user_id: Some("u".into()),
            session_id: None,
            scenario: "home".into(),
            release: "x".into(),
            asked: Asked::default(),
            items: vec![ShownItem {
                id: "a".into(),
                position: 0,
                score: 1.5,
                sources: vec!["embedding".into()],
                propensity: Propensity::CERTAIN,
            }],
        }
    }

    fn start(dir: &Path) -> ImpressionLog {
        ImpressionLog::start(dir, Span::days(30), Counter::default()).unwrap()
    }

    #[test]
    fn impressions_are_lines_in_the_file_of_their_day() {
        let dir = tempfile::tempdir().unwrap();
        let log = start(dir.path());
        // What a server that was killed has left, in the middle of a character.
        fs::write(dir.path().join("2024-02-29.jsonl"), b"{\"user_id\": \"\xc3").unwrap();
        log.offer(impression("2024-02-28T23:59:59Z"));
        log.offer(impression("2024-02-29T00:00:00Z"));
        log.close();
        log.offer(impression("2024-02-29T00:00:01Z"));
        assert_eq!(log.dropped.get(), 1);
        assert_eq!(days(dir.path()), ["2024-02-28".to_owned(), "2024-02-29".to_owned()].into());
        let found = log.find("r", Timestamp::parse("2024-02-29").unwrap()).unwrap();
        let line = serde_json::to_value(found.unwrap()).unwrap();
        assert_eq!(line["items"][0]["propensity"], 1.0);
        assert_eq!(line["time"], "2024-02-29T00:00:00Z");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let log = start(dir.path());
        log.waiting.store(QUEUE_BYTES, Ordering::Relaxed);
        log.offer(impression("2024-02-28T00:00:00Z"));
        assert_eq!(log.dropped.get(), 1);
        log.waiting.store(0, Ordering::Relaxed);
        log.offer(impression("2024-02-28T00:00:00Z"));
        log.close();
        assert_eq!((log.dropped.get(), log.waiting.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn files_that_are_too_old_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["2024-01-01.jsonl", "2024-02-20.jsonl", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        start(dir.path()).close();
        assert_eq!(days(dir.path()).len(), 2, "a server that is not let in leaves them alone");
        let log = start(dir.path());
        log.remove_old(Timestamp::parse("2024-02-28").unwrap());
        log.close();
        assert_eq!(days(dir.path()), ["2024-02-20".to_owned()].into());
        assert!(dir.path().join("notes.txt").exists());
    }
}
