//! What `/v1/recommend` is asked.

use std::borrow::Cow;
use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

use actix_web::HttpRequest;
use engine::filter::{Filter, FilterFault};
use engine::pipeline::Pipeline;
use engine::release::{Release, ScenarioPlan};
use featurestore::history::SESSION_USER;
use featurestore::schema::FieldKind;
use featurestore::{ItemId, UserId};
use reranking::BoostedValues;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::body::{QueryParameters, parse_json, unknown};
use super::ids::{check_ids, check_optional_id};
use super::problem::{Fault, Problem};

/// Most items of an answer.
pub(super) const MAX_N: usize = 1_000;

/// Most items that a request may exclude.
const MAX_EXCLUDED: usize = 10_000;

/// Most items that a list may start from.
pub(super) const MAX_SEEDS: usize = 100;

/// Most fields that a request may ask for.
const MAX_FIELDS: usize = 64;

/// Most boosts of a request, values of one, and how much they may multiply relevance.
const MAX_BOOSTS: usize = 32;
const MAX_BOOSTED: usize = 1_000;
const MAX_FACTOR: f32 = 1_000.0;

/// Longest context of a request, in bytes of its JSON.
const MAX_CONTEXT_BYTES: usize = 4_096;

/// Longest time that a request may give, in milliseconds.
const MAX_DEADLINE_MS: u64 = 60_000;

/// The body of `POST /v1/recommend`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Request {
    /// Who asks.
    pub(super) user_id: Option<String>,
    /// In which session; it stands for the user if there is none.
    pub(super) session_id: Option<String>,
    /// The placement; left out: the main one.
    pub(super) scenario: Option<String>,
    /// How many items are wanted.
    #[schema(minimum = 1, maximum = 1000)]
    pub(super) n: usize,
    /// What is allowed; left out: everything.
    #[schema(value_type = Option<Object>)]
    pub(super) filter: Option<Arc<Filter>>,
    /// Items that the list starts from.
    pub(super) seed_items: Vec<String>,
    /// What the page before was answered with.
    pub(super) page_token: Option<String>,
    /// What else is known of the situation: kept with the impression.
    #[schema(value_type = Option<Object>)]
    pub(super) context: Option<Map<String, Value>>,
    /// Categories that gain or lose: a field, some of its values, and a factor.
    #[schema(value_type = Vec<Object>)]
    pub(super) boosts: Vec<BoostedValues>,
    /// Items to leave out.
    pub(super) exclude_ids: Vec<String>,
    /// The placement's if left out.
    #[schema(minimum = 0, maximum = 1)]
    pub(super) diversity: Option<f32>,
    /// Fields of the items that the answer should have.
    pub(super) return_fields: Vec<String>,
    /// How much the answer says about its reasons.
    pub(super) explain: Explain,
    /// How long the answer may take.
    #[schema(minimum = 1, maximum = 60000)]
    pub(super) deadline_ms: Option<u64>,
    /// Whether nothing is shown in fact: no impression is logged.
    pub(super) dry_run: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            user_id: None,
            session_id: None,
            scenario: None,
            n: 10,
            filter: None,
            seed_items: Vec::new(),
            page_token: None,
            context: None,
            boosts: Vec::new(),
            exclude_ids: Vec::new(),
            diversity: None,
            return_fields: Vec::new(),
            explain: Explain::None,
            deadline_ms: None,
            dry_run: false,
        }
    }
}

/// The parameters of `GET /v1/recommend`.
pub(super) const OF_PLACEMENT: &[&str] = &[
    "user_id",
    "session_id",
    "scenario",
    "n",
    "filter",
    "page_token",
    "explain",
    "deadline_ms",
    "dry_run",
];

/// The parameters of lists that are not a placement's.
pub(super) const OF_LIST: &[&str] = &["user_id", "session_id", "n", "filter", "explain", "dry_run"];

/// How much an answer says about its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Explain {
    /// Nothing but what everybody should know.
    None,
    /// The reasons of every item.
    Reasons,
    /// Features and their contributions as well.
    Full,
}

impl FromStr for Explain {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

impl Request {
    /// The request in the query of a GET, which may have `parameters`.
    ///
    /// # Errors
    /// If a parameter is unknown or cannot be read.
    pub(super) fn from_query(http: &HttpRequest, parameters: &[&str]) -> Result<Self, Problem> {
        let mut query = QueryParameters::read(http, parameters)?;
        let default = Self::default();
        let request = Self {
            user_id: query.take("user_id", "an id"),
            session_id: query.take("session_id", "an id"),
            scenario: query.take("scenario", "a name"),
            n: query.take("n", "a whole number").unwrap_or(default.n),
            filter: filter_of(&mut query)?,
            page_token: query.take("page_token", "a token"),
            explain: query.take("explain", "none, reasons or full").unwrap_or(default.explain),
            deadline_ms: query.take("deadline_ms", "a whole number"),
            dry_run: query.take("dry_run", "true or false").unwrap_or(default.dry_run),
            ..default
        };
        query.finish()?;
        Ok(request)
    }

    /// Checks what can be checked without a release.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let mut faults = Vec::new();
        check_optional_id(self.user_id.as_deref(), "/user_id", &mut faults);
        check_optional_id(self.session_id.as_deref(), "/session_id", &mut faults);
        self.check_numbers(&mut faults);
        self.check_lists(&mut faults);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Problem::unprocessable("invalid_request", faults))
        }
    }

    fn check_numbers(&self, faults: &mut Vec<Fault>) {
        if !(1..=MAX_N).contains(&self.n) {
            faults.push(Fault::new("/n", format!("is {}, must be from 1 to {MAX_N}", self.n)));
        }
        if let Some(diversity) = self.diversity.filter(|diversity| !(0.0..=1.0).contains(diversity))
        {
            let message = format!("is {diversity}, must be from 0 to 1");
            faults.push(Fault::new("/diversity", message));
        }
        for (i, boost) in self.boosts.iter().enumerate() {
            if !(0.0..=MAX_FACTOR).contains(&boost.factor) {
                let message = format!("is {}, must be from 0 to {MAX_FACTOR}", boost.factor);
                faults.push(Fault::new(format!("/boosts/{i}/factor"), message));
            }
            if boost.values.len() > MAX_BOOSTED {
                let message = format!("has {} values, at most {MAX_BOOSTED}", boost.values.len());
                faults.push(Fault::new(format!("/boosts/{i}/in"), message));
            }
        }
        let context = self.context.as_ref().and_then(|context| serde_json::to_string(context).ok());
        if let Some(length) = context.map(|json| json.len()).filter(|n| *n > MAX_CONTEXT_BYTES) {
            let message = format!("has {length} bytes, at most {MAX_CONTEXT_BYTES} are kept");
            faults.push(Fault::new("/context", message));
        }
        let allowed = 1..=MAX_DEADLINE_MS;
        if let Some(deadline) = self.deadline_ms.filter(|deadline| !allowed.contains(deadline)) {
            let message = format!("is {deadline}, must be from 1 to {MAX_DEADLINE_MS}");
            faults.push(Fault::new("/deadline_ms", message));
        }
    }

    fn check_lists(&self, faults: &mut Vec<Fault>) {
        let lists = [
            ("/exclude_ids", self.exclude_ids.len(), MAX_EXCLUDED),
            ("/seed_items", self.seed_items.len(), MAX_SEEDS),
            ("/return_fields", self.return_fields.len(), MAX_FIELDS),
            ("/boosts", self.boosts.len(), MAX_BOOSTS),
        ];
        for (pointer, n, most) in lists {
            if n > most {
                faults.push(Fault::new(
                    pointer,
                    format!("has {n} entries, at most {most} are taken"),
                ));
                return;
            }
        }
        check_ids(&self.exclude_ids, "/exclude_ids", faults);
        check_ids(&self.seed_items, "/seed_items", faults);
    }

    /// The placement that is asked for, as the request changes it.
    ///
    /// # Errors
    /// If the release has none of that name.
    pub(super) fn scenario<'a>(
        &self,
        release: &'a Release,
    ) -> Result<Cow<'a, ScenarioPlan>, Problem> {
        let name = self.scenario.as_deref().unwrap_or_else(|| release.config.main_scenario());
        let Some(scenario) = release.scenarios.get(name) else {
            let known = release.scenarios.keys().map(String::as_str);
            let message = unknown("scenario", name, known);
            return Err(Problem::unprocessable(
                "unknown_scenario",
                vec![Fault::new("/scenario", message)],
            ));
        };
        let mut scenario = Cow::Borrowed(scenario);
        if self.n > scenario.top {
            scenario.to_mut().top = self.n;
        }
        if let Some(diversity) = self.diversity {
            scenario.to_mut().rerank.diversity = diversity;
        }
        Ok(scenario)
    }

    /// Checks the names of fields, and what the filter asks of them.
    ///
    /// # Errors
    /// If the release's items have no such field, or one of another type.
    pub(super) fn check_fields(&self, release: &Release) -> Result<(), Problem> {
        let known = &release.config.items.fields;
        let faults = self.filter.iter().flat_map(|filter| filter.faults(known));
        let at =
            |fault: FilterFault| Fault::new(format!("/filter{}", fault.pointer), fault.message);
        let faults: Vec<Fault> = faults.map(at).collect();
        if !faults.is_empty() {
            return Err(Problem::unprocessable("invalid_filter", faults));
        }
        let categories: Vec<&str> = known
            .iter()
            .filter(|(_, kind)| **kind == FieldKind::Category)
            .map(|(name, _)| name.as_str())
            .collect();
        let faults = self.boosts.iter().enumerate().filter_map(|(i, boost)| {
            let is_known = categories.contains(&boost.field.as_str());
            let message = unknown("category field", &boost.field, categories.iter().copied());
            (!is_known).then(|| Fault::new(format!("/boosts/{i}/field"), message))
        });
        let faults: Vec<Fault> = faults.collect();
        if !faults.is_empty() {
            return Err(Problem::unprocessable("unknown_field", faults));
        }
        let fields = self.return_fields.iter().enumerate();
        let unknown_fields = fields.filter(|(_, field)| !known.contains_key(*field));
        let fault = |(i, field): (usize, &String)| {
            let message = unknown("field", field, known.keys().map(String::as_str));
            Fault::new(format!("/return_fields/{i}"), message)
        };
        let faults: Vec<Fault> = unknown_fields.map(fault).collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Problem::unprocessable("unknown_field", faults))
        }
    }

    /// The user, if known to the state: the one that is named, or the one that the session stands for.
    pub(super) fn user(&self, pipeline: &Pipeline) -> Option<UserId> {
        Self::user_named(pipeline, self.user_name())
    }

    /// The name of the user, or what stands for the session of one without.
    pub(super) fn user_name(&self) -> Option<String> {
        let session = || Some(format!("{SESSION_USER}{}", self.session_id.as_deref()?));
        self.user_id.clone().or_else(session)
    }

    /// The user called `name`, if known to the state.
    pub(super) fn user_named(pipeline: &Pipeline, name: Option<String>) -> Option<UserId> {
        let name = name?;
        pipeline.store().view(|view| view.users().find(&name).map(UserId))
    }
}

/// The filter in a query, written as JSON.
fn filter_of(query: &mut QueryParameters) -> Result<Option<Arc<Filter>>, Problem> {
    let Some(text) = query.take::<String>("filter", "a filter") else { return Ok(None) };
    let filter = parse_json(text.as_bytes());
    filter.map(Some).map_err(|error| Problem::from(error).within("/filter"))
}

/// The items called `ids`, each once, and the names among them that nobody knows.
pub(super) fn resolve(pipeline: &Pipeline, ids: &[String]) -> (Vec<ItemId>, Vec<String>) {
    let (mut items, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
    let mut seen = HashSet::with_capacity(ids.len());
    pipeline.store().view(|view| {
        for id in ids.iter().filter(|id| seen.insert(*id)) {
            match view.items().names().get(id) {
                Some(item) => items.push(ItemId(item)),
                None => missing.push(id.clone()),
            }
        }
    });
    (items, missing)
}

#[cfg(test)]
mod tests {
    use super::super::body::parse_json;
    use super::*;
    use actix_web::ResponseError;

    fn check(json: &str) -> Result<(), String> {
        let request: Request =
            parse_json(json.as_bytes()).map_err(|error| format!("{:?}", error.fault))?;
        request.check().map_err(|problem| {
            assert_eq!(problem.status_code(), 422);
            problem.to_string()
        })
    }

    #[test]
    fn a_request_may_leave_everything_out() {
        assert_eq!(check("{}"), Ok(()));
        assert_eq!(check(r#"{"user_id": null, "filter": {"must": []}, "seed_items": []}"#), Ok(()));
        assert_eq!(check(r#"{"context": {"device": "phone", "at": [1, 2]}}"#), Ok(()));
    }

    #[test]
    fn everything_that_is_out_of_range_is_named() {
        let message = check(r#"{"user_id": "", "n": 1001, "deadline_ms": 0}"#).unwrap_err();
        for pointer in ["/user_id:", "/n: is 1001", "/deadline_ms: is 0"] {
            assert!(message.contains(pointer), "{message}");
        }
        for json in [
            r#"{"n": 0}"#,
            r#"{"n": -1}"#,
            r#"{"n": "ten"}"#,
            r#"{"diversity": 1.5}"#,
            r#"{"session_id": "a\u0000"}"#,
            r#"{"exclude_ids": ["a", ""]}"#,
            r#"{"user": "u"}"#,
            r#"{"filter": {"must": [{"field": "a", "is": 1}]}}"#,
            r#"{"filter": {"may": []}}"#,
            r#"{"filter": [1]}"#,
            r#"{"explain": "reason"}"#,
            r#"{"context": ["phone"]}"#,
            &format!(r#"{{"context": {{"a": "{}"}}}}"#, "x".repeat(MAX_CONTEXT_BYTES)),
        ] {
            assert!(check(json).is_err(), "{json}");
        }
    }
}
