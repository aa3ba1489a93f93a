//! `cascade check`: is the configuration possible, and does the data suffice? Nothing is trained.

use std::collections::BTreeMap;

use engine::config::Config;
use engine::training::{MIN_QUESTIONS, Trainer};
use featurestore::history::History;
use featurestore::{NO_SESSION, Timestamp};
use serde_json::json;

use super::{Global, Outcome};
use crate::workspace::Workspace;

/// Validate the configuration and the data without training.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {}

/// One finding.
struct Finding {
    level: Level,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Good,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Check {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let workspace = Workspace::new(Config::read(&global.config)?);
        let mut findings = Findings(Vec::new());
        findings.good(format!(
            "configuration: {} event types, {} features, {} sources",
            workspace.config.events.len(),
            workspace.config.features.len(),
            workspace.config.sources().len()
        ));
        if workspace.log_dir().exists() {
            let history = workspace.history()?;
            findings.about_data(&history, &workspace.config);
            findings.about_leakage(&history);
            findings.about_vectors(&history, &workspace.config);
        } else {
            findings.warn(
                "there is no event log yet: import some with `cascade import --events FILE`".into(),
            );
        }
        findings.print(global.json);
        let failed = findings.0.iter().any(|finding| finding.level == Level::Error);
        Ok(if failed { Outcome::Failed } else { Outcome::Done })
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, text: String) {
        self.0.push(Finding { level: Level::Good, text });
    }

    fn warn(&mut self, text: String) {
        self.0.push(Finding { level: Level::Warning, text });
    }

    fn error(&mut self, text: String) {
        self.0.push(Finding { level: Level::Error, text });
    }

    fn print(&self, as_json: bool) {
        if as_json {
            let object =
                |finding: &Finding| json!({ "level": finding.level.name(), "text": finding.text });
            println!("{}", json!({ "findings": self.0.iter().map(object).collect::<Vec<_>>() }));
            return;
        }
        for Finding { level, text } in &self.0 {
            println!("{:<8} {text}", level.name());
        }
    }

    /// Whether there is enough to train, judge and serve.
    fn about_data(&mut self, history: &History, config: &Config) {
        let Some((first, last)) = history.span() else {
            return self.error("the event log has no events of a known type".into());
        };
        let (users, items) = (distinct(history, |e| e.user.0), distinct(history, |e| e.item.0));
        self.good(format!(
            "data: {} events of {users} users with {items} items, from {first} to {last}",
            history.events.len()
        ));
        if history.items.len() > items {
            self.good(format!(
                "{} items of the catalogue have no events yet",
                history.items.len() - items
            ));
        }
        let labels = config.schema().labels();
        if labels.iter().all(|label| *label == 0) {
            return self.error(
                "no event type has a label above 0: nothing says what a good list is".into(),
            );
        }
        let until = Timestamp(last.0 + 1);
        let trainer = Trainer { config, history, until, n_threads: 1 };
        let n = trainer.questions(Timestamp::MIN, until).len();
        // Each of three windows is at most a sixth of the questions.
        let needed = 6 * MIN_QUESTIONS;
        match n {
            _ if n < needed => self.error(format!(
                "{n} questions (sessions or events with a label) are too few to train and judge a ranker: at least \
                 {needed} are needed"
            )),
            _ if n < 3_000 => self.warn(format!(
                "{n} questions will train a ranker, but differences below a few percent will not be shown by the gate"
            )),
            _ => self.good(format!("{n} questions to train and judge by")),
        }
        if history.events.iter().all(|event| event.session == NO_SESSION) {
            self.warn("events have no sessions: every event is a question of its own".into());
        }
    }

    /// Whether vectors that are to be imported can be.
    fn about_vectors(&mut self, history: &History, config: &Config) {
        let Some(import) = &config.training.embedding_import else { return };
        match import.read(history) {
            Err(error) => self.error(format!("{:#}", anyhow::Error::from(error))),
            Ok(vectors) => {
                let items = vectors.items();
                let n = items.iter().filter(|(item, _)| items.get(*item).is_some()).count();
                let (all, dim) = (items.n_items(), items.dim());
                self.good(format!("{n} of {all} items have an imported vector of {dim} values"));
            }
        }
    }

    /// Whether something is known before it can be.
    fn about_leakage(&mut self, history: &History) {
        let mut early: BTreeMap<u32, Timestamp> = BTreeMap::new();
        for event in &history.events {
            let published = history.items.published(event.item.0);
            if published.is_some_and(|published| event.time < published) {
                early.entry(event.item.0).or_insert(event.time);
            }
        }
        match early.iter().next() {
            None => self.good("no item has an event before its publication".into()),
            Some((item, time)) => {
                let name = history.items.names().name(*item).unwrap_or_default();
                self.warn(format!(
                    "{} items have events before their publication, {name:?} at {time}: it is not shown to anybody \
                     at that time, so those events cannot be predicted",
                    early.len()
                ));
            }
        }
        let now = engine::clock::Clock::default().now();
        let future = history.events.iter().filter(|event| event.time > now).count();
        if future > 0 {
            self.warn(format!(
                "{future} events lie in the future: is the unit of the times right?"
            ));
        }
    }
}

fn distinct(history: &History, key: impl Fn(&featurestore::Event) -> u32) -> usize {
    let mut keys: Vec<u32> = history.events.iter().map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.len()
}
