//! What `/v1/recommend` and its like answer, and how the pipeline's answer becomes that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web;
use engine::pipeline::{Answer as Outcome, Degraded, Listing, Pipeline, Query, Scratch};
use engine::release::ScenarioPlan;
use featurestore::entities::{Entities, number_of};
use featurestore::readers::field_value;
use featurestore::schema::FieldKind;
use featurestore::{Fields, ItemId, Timestamp, Value};
use reranking::{Rule, Shown};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::body::{escaped, unknown};
use super::explain::Explanation;
use super::impressions::{Asked, Impression, ShownItem};
use super::metrics::Metrics;
use super::problem::{Fault, Problem};
use super::reasons::{Reason, Reasons};
use super::request::{Explain, Request, resolve};
use super::state::Engine;

/// Of the time that is left when the items are known, so much may be spent on explaining them.
const EXPLAIN_SHARE: f64 = 0.75;

/// The body of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Answer {
    recommendation_id: String,
    items: Vec<AnsweredItem>,
    next_page_token: Option<String>,
    release: String,
    #[schema(value_type = Vec<String>)]
    degraded: Vec<&'static str>,
    timing_ms: TimingMs,
    missing_ids: Vec<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct AnsweredItem {
    id: String,
    /// By which the list is in order; null for an item of the exploration slots that no source proposed.
    #[schema(value_type = Option<f32>)]
    score: f32,
    sources: Vec<String>,
    #[schema(value_type = Vec<Object>)]
    reasons: Vec<Reason>,
    #[schema(value_type = Object)]
    fields: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Explanation>)]
    explanation: Option<Box<RawValue>>,
}

/// The body of the answer to a batch.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct BatchAnswer {
    /// The answers in the order of the requests.
    pub(super) responses: Vec<Answer>,
}

/// Milliseconds, in thousandths.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
struct TimingMs {
    retrieve: f64,
    rank: f64,
    rerank: f64,
    /// From the arrival of the request.
    total: f64,
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// An answer, and what follows from it.
pub(super) struct Answered {
    /// The body.
    pub(super) answer: Answer,
    /// What is shown by it.
    pub(super) impression: Impression,
    /// The items in it.
    pub(super) shown: Vec<ItemId>,
    /// Whether there were more candidates.
    pub(super) has_more: bool,
}

impl Answer {
    /// Says how the list goes on.
    pub(super) fn set_next_page(&mut self, token: Option<String>) {
        self.next_page_token = token;
    }

    /// The stages' times as the header `Server-Timing` writes them.
    pub(super) fn server_timing(&self) -> String {
        let TimingMs { retrieve, rank, rerank, .. } = self.timing_ms;
        format!("retrieve;dur={retrieve}, rank;dur={rank}, rerank;dur={rerank}")
    }
}

/// Where the items of an answer come from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Origin {
    /// The sources of the placement.
    #[default]
    Placement,
    /// What goes with these items.
    Similar(Vec<String>),
    /// One source in its own order.
    Listing(Listing),
    /// The caller: items, and for each the fields that hold instead of the catalogue's.
    Given(Vec<String>, Vec<Fields>),
}

impl Origin {
    pub(super) fn is_placement(&self) -> bool {
        matches!(self, Self::Placement)
    }

    /// The items that it names.
    pub(super) fn ids(&self) -> &[String] {
        match self {
            Self::Similar(ids) | Self::Given(ids, _) => ids,
            Self::Placement | Self::Listing(_) => &[],
        }
    }
}

/// A checked request with everything that its answer depends on.
pub(super) struct Question {
    /// The request.
    pub(super) request: Request,
    /// Where the items come from.
    pub(super) origin: Origin,
    /// Items to leave out besides those that the request excludes.
    pub(super) leave_out: Vec<ItemId>,
    /// The release that answers, with its state.
    pub(super) pipeline: Arc<Pipeline>,
    /// Name of the answer.
    pub(super) recommendation_id: String,
    /// Start of its random sequence.
    pub(super) seed: u64,
    /// The time that it is.
    pub(super) now: Timestamp,
    /// When the request arrived.
    pub(super) arrived: Instant,
    /// Brings the state up to what other servers have acknowledged.
    pub(super) engine: web::Data<Engine>,
}

impl Question {
    /// Asks the pipeline for a look at `share` of the usual candidates. Returns the answer, and what is shown by it.
    ///
    /// # Errors
    /// If the release has no such list, or a field of a candidate is wrong.
    pub(super) fn answer(
        self,
        scratch: &mut Scratch,
        share: f32,
        metrics: &Metrics,
    ) -> Result<Answered, Problem> {
        let pipeline = self.pipeline.clone();
        let scenario = self.plan(&pipeline)?;
        let is_up_to_date = self.engine.catch_up(self.catch_up_until(&scenario));
        let (named, mut missing_ids) = resolve(&pipeline, self.origin.ids());
        let mut query = self.query(&pipeline, &scenario, &mut missing_ids)?;
        query.share = share;
        let mut outcome = self.ask(&pipeline, &scenario, &named, &query, scratch);
        if !missing_ids.is_empty() {
            // What nobody knew when it was excluded may have been put since.
            let (known, _) = resolve(&pipeline, &missing_ids);
            outcome.slate.shown.retain(|shown| !known.contains(&shown.item));
        }
        let mut steps = outcome.degraded.clone();
        if !is_up_to_date && !steps.contains(&Degraded::StaleFeatures) {
            steps.push(Degraded::StaleFeatures);
        }
        let (items, is_explained) = self.items(&scenario, &named, &outcome, scratch);
        steps.extend((!is_explained).then_some(Degraded::Unexplained));
        count(metrics, &scenario, &outcome, &steps);
        let impression = self.impression(&scenario, &outcome, &items, share);
        let shown: Vec<ItemId> = outcome.slate.shown.iter().map(|shown| shown.item).collect();
        // A late list has no candidates: whether there is more is seen on the next page.
        let is_late =
            steps.iter().any(|it| matches!(it, Degraded::Precomputed | Degraded::Popular));
        // What is shown here makes room in the sources' lists of the next page: a source that gave as many as it was asked for may
        // know more, and so may the catalogue behind a full list.
        let may_have_more = is_late
            || scratch.candidates.len() > shown.len()
            || shown.len() >= query.n
            || outcome.proposed.iter().zip(&scenario.sources).any(|(n, source)| *n >= source.n);
        let has_more = !shown.is_empty() && may_have_more;
        let answer = Answer {
            recommendation_id: self.recommendation_id,
            items,
            next_page_token: None,
            release: self.pipeline.release().manifest.id.clone(),
            degraded: steps.iter().map(|step| step.name()).collect(),
            timing_ms: TimingMs {
                retrieve: milliseconds(outcome.timing.retrieve),
                rank: milliseconds(outcome.timing.rank),
                rerank: milliseconds(outcome.timing.rerank),
                total: milliseconds(self.arrived.elapsed()),
            },
            missing_ids,
        };
        Ok(Answered { answer, impression, shown, has_more })
    }

    /// The request in the numbers of the store. Names that nobody knows are appended to `missing_ids`.
    pub(super) fn query(
        &self,
        pipeline: &Pipeline,
        scenario: &ScenarioPlan,
        missing_ids: &mut Vec<String>,
    ) -> Result<Query, Problem> {
        let (mut exclude, unknown) = resolve(pipeline, &self.request.exclude_ids);
        missing_ids.extend(unknown);
        exclude.extend(&self.leave_out);
        let (seeds, unknown) = resolve(pipeline, &self.request.seed_items);
        missing_ids.extend(unknown);
        Ok(Query {
            seeds,
            exclude,
            filter: self.request.filter.clone().filter(|filter| !filter.is_empty()),
            seed: self.seed,
            boosts: self.request.boosts.clone(),
            served: self.served(scenario),
            numbers: self.given_numbers(pipeline)?,
            deadline: Some(self.deadline(scenario)),
            ..Query::new(self.request.user(pipeline), self.now, self.request.n)
        })
    }

    /// What the pipeline makes of `query`. `named`: the items that it is about, if it is about some.
    pub(super) fn ask(
        &self,
        pipeline: &Pipeline,
        scenario: &ScenarioPlan,
        named: &[ItemId],
        query: &Query,
        scratch: &mut Scratch,
    ) -> Outcome {
        match &self.origin {
            Origin::Placement if Instant::now() >= self.deadline(scenario) => {
                let stored = self.engine.stored_lists(&scenario.name);
                let stored = stored.as_deref().map_or(&[][..], |lists| lists.of(query.user));
                pipeline.late(scenario, query, stored, scratch)
            }
            Origin::Placement => pipeline.recommend(scenario, query, scratch),
            Origin::Given(..) => pipeline.rank_given(scenario, named, query, scratch),
            Origin::Similar(_) | Origin::Listing(_) => {
                pipeline.list(scenario, named, query, scratch)
            }
        }
    }

    /// How its list is made.
    ///
    /// # Errors
    /// If the release has no such list.
    pub(super) fn plan<'a>(
        &self,
        pipeline: &'a Pipeline,
    ) -> Result<Cow<'a, ScenarioPlan>, Problem> {
        let listing = match &self.origin {
            Origin::Placement | Origin::Given(..) => {
                return self.request.scenario(pipeline.release());
            }
            Origin::Similar(_) => return Ok(Cow::Owned(pipeline.similar(self.request.n))),
            Origin::Listing(listing) => *listing,
        };
        let plan = pipeline.listing(listing, self.request.n).map(Cow::Owned);
        plan.ok_or_else(|| {
            let name = listing.name();
            let message = format!("no placement of the release has a source of kind `{name}`");
            Problem::unprocessable("no_such_source", vec![Fault::new("", message)])
        })
    }

    /// The fields that the caller gives candidates, as far as they are known.
    ///
    /// # Errors
    /// If the release's items have no such field, or a value is not one of its type, or the type is not a number.
    fn given_numbers(&self, pipeline: &Pipeline) -> Result<Vec<(ItemId, usize, f64)>, Problem> {
        let Origin::Given(ids, given) = &self.origin else { return Ok(Vec::new()) };
        let (mut numbers, mut faults) = (Vec::new(), Vec::new());
        pipeline.store().view(|view| {
            let items = view.items();
            for (i, (id, fields)) in ids.iter().zip(given).enumerate() {
                let item = items.names().get(id).map(ItemId);
                for (name, value) in fields {
                    match given_number(items, name, value) {
                        Ok((field, value)) => numbers.extend(item.map(|item| (item, field, value))),
                        Err(message) => {
                            let pointer = format!("/items/{i}/fields/{}", escaped(name));
                            faults.push(Fault::new(pointer, message));
                        }
                    }
                }
            }
        });
        match faults.is_empty() {
            true => Ok(numbers),
            false => Err(Problem::unprocessable("invalid_request", faults)),
        }
    }

    /// What the user was shown lately, if the placement minds.
    fn served(&self, scenario: &ScenarioPlan) -> Vec<(ItemId, Timestamp)> {
        let user = scenario.rerank.hide_served.as_ref().and_then(|_| self.request.user_name());
        user.map(|user| self.engine.served.of(&user)).unwrap_or_default()
    }

    /// What impressions call the placement.
    fn placement(&self, scenario: &ScenarioPlan) -> String {
        match &self.origin {
            Origin::Placement => scenario.name.clone(),
            Origin::Similar(_) => "similar".into(),
            Origin::Listing(listing) => listing.name().into(),
            Origin::Given(..) => "rank".into(),
        }
    }

    /// When the state must be up to date: a quarter of the time is for that.
    fn catch_up_until(&self, scenario: &ScenarioPlan) -> Instant {
        let now = Instant::now();
        let left = self.deadline(scenario).saturating_duration_since(now) / 4;
        now + left.min(Duration::from_millis(scenario.budget.retrieve_ms.into()) / 2)
    }

    /// How long the answer may take, as far as can be told before the request is checked.
    pub(super) fn time(&self) -> Duration {
        let release = self.pipeline.release();
        let name = self.request.scenario.as_deref().unwrap_or(release.config.main_scenario());
        let of_placement = || release.scenarios.get(name).map(|plan| plan.budget.total_ms.into());
        let ms = self.request.deadline_ms.or_else(of_placement).unwrap_or_default();
        Duration::from_millis(ms)
    }

    fn deadline(&self, scenario: &ScenarioPlan) -> Instant {
        let ms = self.request.deadline_ms.unwrap_or(scenario.budget.total_ms.into());
        self.arrived + Duration::from_millis(ms)
    }

    /// When the items must be explained: the rest of the time is for the answer's way.
    fn explain_until(&self, scenario: &ScenarioPlan) -> Instant {
        let now = Instant::now();
        now + self.deadline(scenario).saturating_duration_since(now).mul_f64(EXPLAIN_SHARE)
    }

    /// The items of the answer, and whether all of them say what they were asked to say about their reasons: when time is over,
    /// those that are left do not.
    fn items(
        &self,
        scenario: &ScenarioPlan,
        named: &[ItemId],
        outcome: &Outcome,
        scratch: &Scratch,
    ) -> (Vec<AnsweredItem>, bool) {
        let is_similar = matches!(self.origin, Origin::Similar(_));
        // A list that is the same for everybody is not one for a user of whom nothing is known.
        let is_for_user = matches!(self.origin, Origin::Placement | Origin::Given(..));
        let cold_user = outcome.cold_user && is_for_user;
        let explain = self.request.explain != Explain::None;
        let (until, mut is_explained) = (self.explain_until(scenario), true);
        let reasons = explain.then(|| {
            let user = scratch.user.as_ref().map(|user| user.state.clone()).unwrap_or_default();
            let asked = if is_similar { named } else { &[] };
            Reasons::new(&self.pipeline, &scenario.sources, user, asked)
        });
        let explainer = (self.request.explain == Explain::Full)
            .then(|| self.pipeline.explainer(scenario, scratch));
        let candidates = &scratch.candidates;
        let mut item = |shown: &Shown| {
            let index = candidates.items.iter().position(|item| *item == shown.item);
            let sources: Vec<usize> =
                index.into_iter().flat_map(|i| candidates.sources_of(i)).collect();
            let mut why = Vec::new();
            why.extend(cold_user.then_some(Reason::ColdUser));
            why.extend((explain && shown.from_rank.is_none()).then_some(Reason::Exploration));
            let is_in_time = !explain || Instant::now() < until;
            is_explained &= is_in_time;
            let reasons = reasons.iter().filter(|_| is_in_time);
            why.extend(reasons.flat_map(|reasons| reasons.of(shown.item, &sources)));
            let (id, fields) = self.describe(shown);
            let names = sources.iter().map(|source| scenario.sources[*source].name.clone());
            // It is written at once, so that its length counts as well.
            let explainer = explainer.as_ref().filter(|_| is_in_time);
            let explanation = explainer.map(|explainer| {
                let all = Explanation::new(explainer, shown.item);
                to_raw_value(&all).expect("an explanation is plain data")
            });
            AnsweredItem {
                id,
                score: shown.score,
                sources: names.collect(),
                reasons: why,
                fields,
                explanation,
            }
        };
        let items = outcome.slate.shown.iter().map(&mut item).collect();
        (items, is_explained)
    }

    /// Name and fields of an item; fields without a value are left out.
    fn describe(&self, shown: &Shown) -> (String, BTreeMap<String, Value>) {
        let kinds = &self.pipeline.release().config.items.fields;
        self.pipeline.store().view(|view| {
            let items = view.items();
            let value = |name: &String| {
                let column = items.column(items.field(name)?);
                let value = column.value(shown.item.0, *kinds.get(name)?);
                (value != Value::Null).then(|| (name.clone(), value))
            };
            let fields = self.request.return_fields.iter().filter_map(value).collect();
            (items.names().name(shown.item.0).unwrap_or_default().to_owned(), fields)
        })
    }

    /// What the answer depends on besides who asks, when, and where.
    fn asked(&self, scenario: &ScenarioPlan, share: f32) -> Asked {
        let left_out = self.pipeline.store().view(|view| {
            let name = |item: &ItemId| view.items().names().name(item.0).map(String::from);
            self.leave_out.iter().filter_map(name).collect::<Vec<_>>()
        });
        Asked {
            n: self.request.n,
            seed: self.seed,
            origin: self.origin.clone(),
            ranked_for: match self.origin {
                Origin::Given(..) => Some(scenario.name.clone()),
                _ => None,
            },
            exclude_ids: self.request.exclude_ids.iter().cloned().chain(left_out).collect(),
            seed_items: self.request.seed_items.clone(),
            filter: self.request.filter.clone().filter(|filter| !filter.is_empty()),
            boosts: self.request.boosts.clone(),
            diversity: self.request.diversity,
            share: Some(share).filter(|share| *share < 1.0),
            context: self.request.context.clone(),
        }
    }

    fn impression(
        &self,
        scenario: &ScenarioPlan,
        outcome: &Outcome,
        items: &[AnsweredItem],
        share: f32,
    ) -> Impression {
        let shown = |(shown, item): (&Shown, &AnsweredItem)| ShownItem {
            id: item.id.clone(),
            position: shown.position,
            score: item.score,
            sources: item.sources.clone(),
            propensity: shown.propensity,
        };
        Impression {
            recommendation_id: self.recommendation_id.clone(),
            time: self.now,
            user_id: self.request.user_id.clone(),
            session_id: self.request.session_id.clone(),
            scenario: self.placement(scenario),
            release: self.pipeline.release().manifest.id.clone(),
            asked: self.asked(scenario, share),
            items: outcome.slate.shown.iter().zip(items).map(shown).collect(),
        }
    }
}

/// The position of the field called `name`, and `value` as its number: NaN for null.
fn given_number(items: &Entities, name: &str, value: &Value) -> Result<(usize, f64), String> {
    let known = (0..items.n_fields()).map(|field| items.field_name(field));
    let field = items.field(name).ok_or_else(|| unknown("field", name, known))?;
    let kind = items.kind(field);
    if !matches!(kind, FieldKind::Number | FieldKind::Boolean | FieldKind::Time) {
        return Err("is not a number, a boolean or a time: the catalogue alone has it".into());
    }
    match value {
        Value::Null => Ok((field, f64::NAN)),
        value => Ok((field, number_of(kind, &field_value(value, kind)?))),
    }
}

fn count(metrics: &Metrics, scenario: &ScenarioPlan, outcome: &Outcome, steps: &[Degraded]) {
    metrics.count_stages(scenario, &outcome.timing);
    for (source, n) in scenario.sources.iter().zip(&outcome.proposed) {
        metrics.count_candidates(&source.name, *n);
    }
    for step in steps {
        metrics.count_degraded(step.name());
    }
    for dropped in &outcome.slate.dropped {
        metrics.count_filtered(name_of(dropped.rule));
    }
    metrics.count_result(outcome.slate.shown.len());
}

/// What metrics call a rule of the last stage.
pub(super) fn name_of(rule: Rule) -> &'static str {
    match rule {
        Rule::Boosts => "boosts",
        Rule::Freshness => "freshness",
        Rule::HideServed => "hide_served",
        Rule::Pins => "pins",
        Rule::Diversity => "diversity",
        Rule::Caps => "caps",
        Rule::Displacement => "displacement",
        Rule::Explore => "explore",
    }
}
