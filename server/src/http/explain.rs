//! Why an item is where it is: in an answer that is asked to say so, and afterwards, by the name of the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use engine::pipeline::{
    Answer, Explainer, Fate, ModelExplanation, Pipeline, Proposal, Refused, Scratch,
};
use featurestore::{ItemId, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Origin, Question, name_of};
use super::body::QueryParameters;
use super::ids::{check_id, time_of};
use super::impressions::{Impression, ShownItem};
use super::observer::arrival;
use super::pool::{Class, Wish};
use super::problem::{Fault, Problem};
use super::request::{Request, resolve};
use super::state::Engine;

/// How long an answer may take to be made again.
const TIME: Duration = Duration::from_secs(5);

/// How an item came to its place.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    /// What each source of the placement did for it.
    sources: Vec<ExplainedSource>,
    /// Its rank before re-ranking, from 1; none if it was no candidate.
    rank: Option<usize>,
    /// How many candidates there were.
    n_candidates: usize,
    /// What it was ranked by.
    score: Option<f32>,
    /// What the models made of it; empty if they were not asked.
    models: Vec<ExplainedModel>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ExplainedSource {
    source: String,
    rank: Option<usize>,
    score: Option<f32>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ExplainedModel {
    model: String,
    weight: f64,
    score: f64,
    base: f64,
    contributions: Vec<Contribution>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct Contribution {
    feature: String,
    /// None: it is missing.
    value: Option<f32>,
    contribution: f64,
}

impl From<Proposal> for ExplainedSource {
    fn from(proposal: Proposal) -> Self {
        let Proposal { source, rank, score } = proposal;
        Self { source, rank, score }
    }
}

impl From<ModelExplanation> for ExplainedModel {
    fn from(explanation: ModelExplanation) -> Self {
        let ModelExplanation { model, weight, score, base, features } = explanation;
        let one = |(feature, value, contribution): (String, f32, f64)| Contribution {
            feature,
            value: Some(value).filter(|value| !value.is_nan()),
            contribution,
        };
        let contributions =
            features.into_iter().filter(|(.., part)| *part != 0.0).map(one).collect();
        Self { model, weight, score, base, contributions }
    }
}

impl Explanation {
    pub(super) fn new(explainer: &Explainer, item: ItemId) -> Self {
        let (sources, ranked) = (explainer.proposals(item), explainer.ranked(item));
        Self {
            sources: sources.into_iter().map(Into::into).collect(),
            rank: ranked.as_ref().map(|ranked| ranked.rank),
            n_candidates: explainer.n_candidates(),
            score: ranked.as_ref().map(|ranked| ranked.score),
            models: ranked.into_iter().flat_map(|it| it.models).map(Into::into).collect(),
        }
    }
}

/// `GET /v1/recommendations/{id}/explain`: the answer is found in the impression log and made again as of its time, from
/// the state as it is now.
pub(super) async fn get(
    engine: web::Data<Engine>,
    http: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (id, arrived) = (path.into_inner(), arrival(&http));
    let mut query = QueryParameters::read(&http, &["item_id"])?;
    let item: Option<String> = query.take("item_id", "an id");
    query.finish()?;
    let checked = item.ok_or_else(|| "is missing".to_owned());
    let checked = checked.and_then(|item| check_id(&item).map(|()| item));
    let item = checked.map_err(|message| {
        Problem::unprocessable("invalid_request", vec![Fault::new("/item_id", message)])
    })?;
    let pipeline = engine.pipeline()?;
    // It reads the impressions of a day: one at a time, so that threads are left for others.
    let one_at_a_time = engine.rare.acquire().await;
    let (name, keep) = (id.clone(), engine.config.server.keep_impressions);
    let found = engine.block(move |engine| {
        time_of(&name).map_or(Ok(None), |time| engine.impressions.find(&name, time))
    });
    let found = found.await?.map_err(|e| Problem::internal(format!("impressions: {e}")))?;
    drop(one_at_a_time);
    let impression = found.ok_or_else(|| {
        let detail = format!(
            "no answer called {id} was logged within the last {keep}; a dry run is not logged"
        );
        Problem::new(StatusCode::NOT_FOUND, "unknown_recommendation", detail)
    })?;
    let until = arrived + TIME;
    let question = question_of(engine.clone(), pipeline, &impression);
    let job = move |scratch: &mut Scratch, _| explain(&question, &impression, &item, scratch);
    let explained = engine.pool.run(Wish { class: Class::Low, until }, job).await??;
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(explained))
}

/// The answer to why an item is where it is.
#[derive(Serialize, ToSchema)]
pub(super) struct Explained<'a> {
    recommendation_id: &'a str,
    item_id: &'a str,
    #[schema(value_type = String)]
    time: Timestamp,
    scenario: &'a str,
    /// What answered.
    release: &'a str,
    /// What explains.
    explained_by: &'a str,
    /// How the item was shown, if it was.
    #[schema(value_type = Option<Object>)]
    shown: Option<&'a ShownItem>,
    #[schema(value_type = Object)]
    fate: Value,
    #[serde(flatten)]
    again: Option<Again>,
}

/// The answer, made again.
#[derive(Serialize, ToSchema)]
struct Again {
    explanation: Explanation,
    /// Whether it has the same items in the same order.
    is_as_shown: bool,
}

/// The question that `impression` answered.
fn question_of(
    engine: web::Data<Engine>,
    pipeline: Arc<Pipeline>,
    impression: &Impression,
) -> Question {
    let Impression { asked, scenario, .. } = impression;
    let request = Request {
        user_id: impression.user_id.clone(),
        session_id: impression.session_id.clone(),
        scenario: Some(asked.ranked_for.as_ref().unwrap_or(scenario).clone()),
        n: asked.n,
        filter: asked.filter.clone(),
        seed_items: asked.seed_items.clone(),
        boosts: asked.boosts.clone(),
        // Those that the pages before had are among them.
        exclude_ids: asked.exclude_ids.clone(),
        diversity: asked.diversity,
        deadline_ms: Some(TIME.as_millis() as u64),
        ..Request::default()
    };
    Question {
        request,
        origin: asked.origin.clone(),
        leave_out: Vec::new(),
        pipeline,
        recommendation_id: impression.recommendation_id.clone(),
        seed: asked.seed,
        now: impression.time,
        arrived: Instant::now(),
        engine,
    }
}

fn explain(
    question: &Question,
    impression: &Impression,
    id: &str,
    scratch: &mut Scratch,
) -> Result<String, Problem> {
    let pipeline = &question.pipeline;
    let Ok(mut scenario) = question.plan(pipeline) else {
        let message = format!(
            "the answer is a list of {:?}, which the release in service does not have",
            impression.scenario
        );
        return Err(Problem::unprocessable("not_explained", vec![Fault::new("", message)]));
    };
    let mut explained = Explained {
        recommendation_id: &impression.recommendation_id,
        item_id: id,
        time: impression.time,
        scenario: &impression.scenario,
        release: &impression.release,
        explained_by: &pipeline.release().manifest.id,
        shown: impression.items.iter().find(|item| item.id == id),
        fate: json!({ "stage": "catalogue", "reason": "unknown_item" }),
        again: None,
    };
    let (about, _) = resolve(pipeline, std::slice::from_ref(&id.to_owned()));
    if let Some(item) = about.first().copied() {
        let mut query = question.query(pipeline, &scenario, &mut Vec::new())?;
        query.served.retain(|(_, time)| *time < impression.time);
        query.share = impression.asked.share.unwrap_or(1.0);
        // Nobody waits for a list here: a stage that is cut would lose items that were shown.
        query.deadline = None;
        let (named, _) = resolve(pipeline, question.origin.ids());
        let answer = question.ask(pipeline, &scenario, &named, &query, scratch);
        if matches!(question.origin, Origin::Given(..)) {
            // What the user has seen is ranked as everything else.
            scenario.to_mut().hide_seen = None;
        }
        let explainer = pipeline.explainer(&scenario, scratch);
        explained.fate = match &question.origin {
            Origin::Placement => in_words(&explainer.fate_in_placement(&query, &answer, item)),
            Origin::Similar(_) if named.contains(&item) => {
                json!({ "stage": "filter", "reason": "named" })
            }
            Origin::Given(..) if !named.contains(&item) => {
                json!({ "stage": "retrieve", "reason": "not_given" })
            }
            _ => in_words(&explainer.fate(&query, &answer, item)),
        };
        explained.again = Some(Again {
            explanation: Explanation::new(&explainer, item),
            is_as_shown: is_as_shown(pipeline, impression, &answer),
        });
    }
    serde_json::to_string(&explained).map_err(|e| Problem::internal(e.to_string()))
}

/// Whether the list that was made again is the one that was shown.
fn is_as_shown(pipeline: &Pipeline, impression: &Impression, answer: &Answer) -> bool {
    pipeline.store().view(|view| {
        let names = view.items().names();
        let again = answer.slate.shown.iter().map(|shown| names.name(shown.item.0));
        again.eq(impression.items.iter().map(|ShownItem { id, .. }| Some(id.as_str())))
    })
}

fn in_words(fate: &Fate) -> Value {
    match fate {
        Fate::Shown(shown) => json!({ "stage": "shown", "position": shown.position }),
        Fate::Dropped { rule } => json!({ "stage": "rerank", "reason": name_of(*rule) }),
        Fate::Outranked => json!({ "stage": "rerank", "reason": "outranked" }),
        Fate::BelowTop { top } => json!({ "stage": "rank", "reason": "below_top", "top": top }),
        Fate::Refused(refused) => {
            let reason = match refused {
                Refused::Unavailable => "unavailable",
                Refused::Excluded => "excluded",
                Refused::Filtered => "filter",
                Refused::Seen => "hide_seen",
            };
            json!({ "stage": "filter", "reason": reason })
        }
        Fate::NotMerged => json!({ "stage": "retrieve", "reason": "beyond_quota" }),
        Fate::NotRetrieved => json!({ "stage": "retrieve", "reason": "not_proposed" }),
    }
}
