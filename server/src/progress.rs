//! Progress on the terminal, on standard error so that standard output stays for results.

use std::sync::Mutex;
use std::time::Instant;

use engine::training::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Prints each stage with a bar and the time that it took.
pub(crate) struct Stages {
    current: Mutex<Option<(ProgressBar, Instant)>>,
}

impl Stages {
    /// No stage yet.
    pub(crate) fn new() -> Self {
        Self { current: Mutex::new(None) }
    }

    /// Takes note of what happens.
    pub(crate) fn tell(&self, progress: Progress) {
        match progress {
            Progress::Stage(name) => self.start(name),
            Progress::Done(done, of) => {
                let current = self.current.lock().expect("no holder of this lock panics");
                if let Some((bar, _)) = &*current {
                    bar.set_length(of as u64);
                    bar.set_position(done as u64);
                }
            }
        }
    }

    /// Begins the stage called `name`; the one before is done.
    pub(crate) fn start(&self, name: impl Into<String>) {
        self.finish();
        let style = ProgressStyle::with_template("  {msg} {wide_bar:.dim} {pos}/{len} {elapsed}");
        let bar = ProgressBar::new(0).with_message(name.into());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut current = self.current.lock().expect("no holder of this lock panics");
        *current = Some((bar, Instant::now()));
    }

    /// The current stage is done.
    pub(crate) fn finish(&self) {
        let mut current = self.current.lock().expect("no holder of this lock panics");
        if let Some((bar, started)) = current.take() {
            let line =
                format!("  {:<60} {:>7.1} s", bar.message(), started.elapsed().as_secs_f64());
            bar.finish_and_clear();
            eprintln!("{line}");
        }
    }
}
