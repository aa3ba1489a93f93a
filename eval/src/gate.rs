//! The gate: a release ships only if it is better than the active one, the best single source, and what is popular.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use engine::release::Release;
use engine::training::{Fitted, MIN_QUESTIONS};
use featurestore::{History, Question};
use serde::Serialize;

use crate::intervals::{Bootstrap, Interval, PairedDifference};
use crate::run::{HEADLINE, Run, Settings, run};

/// What the gate found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether the release may be activated.
    pub passed: bool,
    /// Questions that it was judged by.
    pub n_questions: usize,
    /// The release by the headline metric.
    pub pipeline: Option<Interval>,
    /// What it had to beat.
    pub against: Vec<Against>,
    /// What was not compared, and why.
    pub notes: Vec<String>,
    /// Other models on the same questions, by the headline metric.
    pub others: BTreeMap<String, f64>,
}

/// One comparison of the gate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// What the release was compared with.
    pub name: String,
    /// Release less that, paired over users.
    pub difference: PairedDifference,
    /// Whether the interval lies above 0.
    pub better: bool,
}

impl Against {
    fn new(name: &str, difference: PairedDifference) -> Self {
        let better = difference.excludes_zero() && difference.difference.low > 0.0;
        Self { name: name.to_owned(), difference, better }
    }
}

/// Judges `fitted` by the questions of its gate, and against `active` by those of them that are newer than its data.
pub fn judge(
    fitted: &Fitted,
    active: Option<Release>,
    history: &History,
    n_threads: usize,
) -> Verdict {
    let config = &fitted.judged.config;
    let bootstrap =
        Bootstrap { resamples: config.evaluation.resamples, seed: config.training.seed };
    let settings = Settings { k: vec![HEADLINE.k], bootstrap, n_threads, share: 1.0 };
    let judged = run(&fitted.judged, Some(&fitted.linear), history, &fitted.questions, &settings);
    let (mut against, mut notes) = (Vec::new(), Vec::new());
    for name in ["best_source", "popular_7d"] {
        match judged.pipeline_less(name) {
            Some(difference) => against.push(Against::new(name, difference)),
            None => notes.push(format!("not compared with {name}: there are no questions")),
        }
    }
    if let Some(active) = active {
        match against_active(fitted, active, history, &settings) {
            Ok(comparison) => against.push(comparison),
            Err(note) => notes.push(note),
        }
    }
    let others =
        ["best_source", "popular_7d", "own_frequency", "own_frequency_60d", "fused", "linear"];
    let mean = |run: &Run<'_>, name: &str| Some((name.to_owned(), run.mean(name, HEADLINE)?.mean));
    Verdict {
        passed: against.len() >= 2 && against.iter().all(|comparison| comparison.better),
        n_questions: fitted.questions.len(),
        pipeline: judged.mean("pipeline", HEADLINE),
        against,
        notes,
        others: others.into_iter().filter_map(|name| mean(&judged, name)).collect(),
    }
}

/// Compares with the active release on the questions that it has not been trained on.
fn against_active(
    fitted: &Fitted,
    active: Release,
    history: &History,
    settings: &Settings,
) -> Result<Against, String> {
    let (id, until) = (active.manifest.id.clone(), active.manifest.data.until);
    let unseen = |question: &&Question| question.time >= until;
    let questions: Vec<Question> = fitted.questions.iter().filter(unseen).cloned().collect();
    if questions.len() < MIN_QUESTIONS {
        return Err(format!(
            "not compared with the active release {id}: it was trained on events until {until}, and only {} of the \
             gate's questions are newer (at least {MIN_QUESTIONS} are needed)",
            questions.len()
        ));
    }
    let challenger = run(&fitted.judged, None, history, &questions, settings);
    let champion = run(&Arc::new(active), None, history, &questions, settings);
    let difference = challenger.less_pipeline_of(&champion);
    let difference = difference.ok_or_else(|| format!("not compared with {id}: no questions"))?;
    Ok(Against::new(&format!("active release {id}"), difference))
}

impl Verdict {
    /// Figures for the manifest.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::from([("gate_questions".to_owned(), self.n_questions as f64)]);
        if let Some(Interval { mean, low, high }) = self.pipeline {
            metrics.insert(format!("gate_{HEADLINE}"), mean);
            metrics.insert(format!("gate_{HEADLINE}_low"), low);
            metrics.insert(format!("gate_{HEADLINE}_high"), high);
        }
        let others =
            self.others.iter().map(|(name, mean)| (format!("gate_{HEADLINE}_{name}"), *mean));
        metrics.extend(others);
        metrics
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "passed" } else { "refused" };
        writeln!(f, "gate: {verdict}, by {} questions", self.n_questions)?;
        if let Some(Interval { mean, low, high }) = self.pipeline {
            writeln!(f, "  {:<28} {HEADLINE} {mean:.4} [{low:.4}, {high:.4}]", "this release")?;
        }
        for (name, mean) in &self.others {
            writeln!(f, "  {name:<28} {HEADLINE} {mean:.4}")?;
        }
        for Against { name, difference, better } in &self.against {
            let Interval { mean, low, high } = difference.difference;
            let word = if *better { "better" } else { "not shown to be better" };
            writeln!(f, "  than {name}: {mean:+.4} [{low:+.4}, {high:+.4}]: {word}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))
    }
}
