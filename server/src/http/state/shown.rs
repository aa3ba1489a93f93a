//! What users were shown lately, and the lists that were computed for them before.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use engine::pipeline::Pipeline;
use engine::release::Release;
use engine::stored_lists::{self, StoredLists};
use featurestore::{ItemId, Span};

use super::Engine;
use crate::http::impressions::Impression;

/// What was shown longer ago than so many half-lives does not matter any more.
const HALF_LIVES: i64 = 6;

/// For how long a placement of `release` minds what was shown, at most; `None`: not at all.
fn longest_half_life(release: &Release) -> Option<Span> {
    let rules = release.scenarios.values().filter_map(|plan| plan.rerank.hide_served.as_ref());
    rules.map(|rule| rule.half_life).max_by_key(|half_life| half_life.0)
}

impl Engine {
    /// Logs `impression`, which shows `items`, and remembers them if a placement minds.
    pub(in crate::http) fn note_shown(&self, impression: Impression, items: &[ItemId]) {
        let pipeline = self.active();
        let minds =
            pipeline.is_some_and(|pipeline| longest_half_life(pipeline.release()).is_some());
        if let Some(user) = impression.user().filter(|_| minds) {
            self.served.note(&user, items, impression.time);
        }
        self.impressions.offer(impression);
    }

    /// Reads what users were shown lately from the impression log.
    pub(super) fn recall_served(&self, pipeline: &Pipeline) {
        let Some(half_life) = longest_half_life(pipeline.release()) else { return };
        let span = Span(half_life.0.saturating_mul(HALF_LIVES));
        let recall = |impression: Impression| self.served.recall(&impression, pipeline);
        if let Err(error) = self.impressions.since(self.clock.now().minus(span), recall) {
            eprintln!("error: what was shown lately is not known: {error}");
        }
    }

    /// Lists that were computed before for a placement, if there are any.
    pub(in crate::http) fn stored_lists(&self, scenario: &str) -> Option<Arc<StoredLists>> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.get(scenario).map(|(_, lists)| lists.clone())
    }

    /// Reads those of the stored lists that have been written since they were read.
    pub(in crate::http) fn read_lists(&self) {
        let Some(pipeline) = self.active() else { return };
        for scenario in pipeline.release().scenarios.keys() {
            let path = stored_lists::path(&self.config.data_dir, scenario);
            let written = stored_lists::written(&path);
            let known = {
                let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
                lists.get(scenario).map(|(time, _)| *time)
            };
            if written == known {
                continue;
            }
            let read = written.map(|time| Ok((time, StoredLists::read(&path, pipeline.store())?)));
            let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
            match read {
                Some(Ok((time, read))) => {
                    lists.insert(scenario.clone(), (time, Arc::new(read)));
                }
                None => {
                    lists.remove(scenario);
                }
                Some(Err(error)) => {
                    let error: std::io::Error = error;
                    eprintln!("error: {} is not used: {error}", path.display());
                    let none = Arc::default();
                    lists.insert(
                        scenario.clone(),
                        (written.unwrap_or(SystemTime::UNIX_EPOCH), none),
                    );
                }
            }
        }
    }

    /// Removes what files and memory of this server have about the user who is called by all of `names`: impressions and stored
    /// lists. Nobody need have heard of the user but them. Returns how many there were of both. May block.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub(in crate::http) fn erase_files_of(&self, names: &[String]) -> io::Result<(usize, usize)> {
        names.iter().for_each(|name| self.served.forget(name));
        let n_impressions = self.impressions.erase(names)?;
        let n_lists = stored_lists::erase(&self.config.data_dir, names)?;
        self.read_lists();
        Ok((n_impressions, n_lists))
    }
}
