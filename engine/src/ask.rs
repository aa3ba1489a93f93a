//! Questions from the log, asked of a pipeline in replay, on several threads.

use std::sync::Arc;

use featurestore::replay::replay;
use featurestore::{EmbeddedStore, History, Question};

use crate::pipeline::{Pipeline, Query, Scratch};
use crate::release::{Release, ScenarioPlan};

/// What a question is answered by: the pipeline as of the question's moment.
pub struct Asked<'a> {
    /// The pipeline; its store knows the events before the question.
    pub pipeline: &'a Pipeline,
    /// The placement.
    pub scenario: &'a ScenarioPlan,
    /// The question as a query for `n` items.
    pub query: Query,
    /// The question.
    pub question: &'a Question,
    /// Room for the answer.
    pub scratch: &'a mut Scratch,
}

/// The store as it is before the first event of `history`, made for `release`.
pub fn empty_store(release: &Release, history: &History) -> EmbeddedStore {
    let (items, users) = (history.items.clone(), history.users.clone());
    EmbeddedStore::new(release.plan.clone(), &release.config.schema(), items, users)
}

/// Replays `history` and has each question answered by `answer` as of its moment, for `n` items of `scenario`. The
/// answers come in the order of the questions. Each of `n_threads` replays the whole log and answers every
/// `n_threads`-th question, so that the result does not depend on their number.
pub fn ask_in_replay<T: Send>(
    release: &Arc<Release>,
    history: &History,
    questions: &[Question],
    n: usize,
    n_threads: usize,
    answer: impl Fn(&mut Asked<'_>) -> T + Sync,
) -> Vec<T> {
    let n_threads = n_threads.clamp(1, questions.len().max(1));
    let (answer, scenario) = (&answer, &release.scenarios[release.config.main_scenario()]);
    let until = questions.last().map_or(0, |question| question.first_event + 1);
    let part = |thread: usize| {
        let mine: Vec<Question> =
            questions.iter().skip(thread).step_by(n_threads).cloned().collect();
        let pipeline = Pipeline::new(release.clone(), Arc::new(empty_store(release, history)));
        let (mut scratch, mut answers) = (Scratch::default(), Vec::with_capacity(mine.len()));
        replay(history, until, &pipeline.store().clone(), &mine, |question| {
            let seed = release.config.training.seed ^ question.first_event as u64;
            let query = Query { seed, ..Query::new(Some(question.user), question.time, n) };
            let scratch = &mut scratch;
            answers.push(answer(&mut Asked {
                pipeline: &pipeline,
                scenario,
                query,
                question,
                scratch,
            }));
        });
        answers
    };
    let mut parts: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> =
            (0..n_threads).map(|thread| scope.spawn(move || part(thread))).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Vec<T>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).into_iter()
        };
        handles.into_iter().map(join).collect()
    });
    (0..questions.len()).filter_map(|i| parts[i % n_threads].next()).collect()
}
