//! The impression log: what was shown to whom, where, with which probability, and by which release.
//!
//! One JSON Lines file a day in `impressions/` of the data folder, written by a thread of its own. Old files are removed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use featurestore::{Span, Timestamp};
use prometheus_client::metrics::counter::Counter;
use reranking::Propensity;
use serde::Serialize;

/// What a user was shown by one answer.
#[derive(Clone, Debug, Serialize)]
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
    /// What, from the top.
    pub(super) items: Vec<ShownItem>,
}

/// One item of an [`Impression`].
#[derive(Clone, Debug, Serialize)]
pub(super) struct ShownItem {
    /// The item.
    pub(super) id: String,
    /// Where it stood, from 0.
    pub(super) position: usize,
    /// Its score.
    pub(super) score: f32,
    /// What proposed it.
    pub(super) sources: Vec<String>,
    /// The probability that it was shown there.
    pub(super) propensity: Propensity,
}

/// Impressions that may wait to be written; further ones are dropped and counted.
const QUEUE: usize = 10_000;

/// How long a written impression may stay in memory.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// Where impressions are handed over to the thread that writes them.
pub(super) struct ImpressionLog {
    queue: Mutex<Option<SyncSender<Impression>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    dropped: Counter,
}

impl ImpressionLog {
    /// Starts the log in the folder `dir`; files whose day is longer ago than `keep` are removed. `dropped` counts what
    /// was not written.
    ///
    /// # Errors
    /// If the folder cannot be made, or the system refuses a thread.
    pub(super) fn start(
        dir: &Path,
        keep: Span,
        now: Timestamp,
        dropped: Counter,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (queue, impressions) = sync_channel(QUEUE);
        let mut writer = Writer { dir: dir.into(), keep, day: None, dropped: dropped.clone() };
        writer.remove_old(&day_of(now));
        let writer = std::thread::Builder::new()
            .name("impressions".into())
            .spawn(move || writer.run(&impressions))
            .context("cannot start a thread")?;
        Ok(Self { queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(writer)), dropped })
    }

    /// Has `impression` written, or drops and counts it if too many are waiting. Never blocks.
    pub(super) fn offer(&self, impression: Impression) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(impression).is_err()) {
            self.dropped.inc();
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
    dropped: Counter,
}

impl Writer {
    fn run(&mut self, impressions: &Receiver<Impression>) {
        loop {
            match impressions.recv_timeout(FLUSH_AFTER) {
                Ok(impression) => self.write_counted(&impression),
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
            let file = OpenOptions::new().create(true).append(true).open(path)?;
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
            items: vec![ShownItem {
                id: "a".into(),
                position: 0,
                score: 1.5,
                sources: vec!["embedding".into()],
                propensity: Propensity::CERTAIN,
            }],
        }
    }

    fn start(dir: &Path, now: &str) -> ImpressionLog {
        let now = Timestamp::parse(now).unwrap();
        ImpressionLog::start(dir, Span::days(30), now, Counter::default()).unwrap()
    }

    #[test]
    fn impressions_are_lines_in_the_file_of_their_day() {
        let dir = tempfile::tempdir().unwrap();
        let log = start(dir.path(), "2024-02-28");
        log.offer(impression("2024-02-28T23:59:59Z"));
        log.offer(impression("2024-02-29T00:00:00Z"));
        log.close();
        log.offer(impression("2024-02-29T00:00:01Z"));
        assert_eq!(log.dropped.get(), 1);
        assert_eq!(days(dir.path()), ["2024-02-28".to_owned(), "2024-02-29".to_owned()].into());
        let text = fs::read_to_string(dir.path().join("2024-02-29.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["items"][0]["propensity"], 1.0);
        assert_eq!(line["time"], "2024-02-29T00:00:00Z");
    }

    #[test]
    fn files_that_are_too_old_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["2024-01-01.jsonl", "2024-02-20.jsonl", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        start(dir.path(), "2024-02-28").close();
        assert_eq!(days(dir.path()), ["2024-02-20".to_owned()].into());
        assert!(dir.path().join("notes.txt").exists());
    }
}
