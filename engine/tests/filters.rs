//! What a request must not be answered with, and that its list is full all the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hand_made;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::ask::empty_store;
use engine::config::Config;
use engine::filter::Filter;
use engine::pipeline::{Degraded, Listing, Pipeline, Query, Refused, Scratch};
use featurestore::history::HistoryBuilder;
use featurestore::log::{ItemRecord, Record};
use featurestore::{History, ItemId, NamedEvent, Timestamp, UserId, Value};
use proptest::prelude::*;
use reranking::Reranked;
use retrieval::vectors::Vectors;

const CONFIG: &str = r#"
[events.view]
label = 1
[events.buy]
label = 2
[items.fields]
colour = "category"
price = "number"
[scenarios.home]
candidates = 25
sources = [{ kind = "embedding", n = 10 }, { kind = "item_item", n = 10 }, { kind = "own_history", n = 10 },
    { kind = "popular", n = 10 }, { kind = "popular_in_field", field = "colour", n = 10 }, { kind = "new_items", n = 5 }]
[scenarios.home.rerank]
hide_seen = { events = ["buy"] }
explore = { slots = 1, from = "new_items" }
"#;

const N_ITEMS: u32 = 120;
const NOW: Timestamp = Timestamp(10_000);

/// The catalogue of a case: for each item a colour, a price, and whether it is hidden or expired.
#[derive(Clone, Debug)]
struct Thing {
    colour: Option<u8>,
    price: Option<i8>,
    hidden: bool,
    expired: bool,
}

fn things() -> impl Strategy<Value = Vec<Thing>> {
    let colour = proptest::option::weighted(0.9, 0u8..4);
    let price = proptest::option::weighted(0.9, 0i8..20);
    let thing = (colour, price, prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let thing =
        thing.prop_map(|(colour, price, hidden, expired)| Thing { colour, price, hidden, expired });
    proptest::collection::vec(thing, N_ITEMS as usize)
}

/// Filters as a client writes them, and what they mean for a thing.
#[derive(Clone, Debug)]
struct Asked {
    colours: Option<BTreeSet<u8>>,
    price: Option<(i8, i8)>,
    without_price: Option<bool>,
    not_colour: Option<u8>,
}

impl Asked {
    fn filter(&self) -> Filter {
        let colour = |colour: &u8| serde_json::json!(format!("c{colour}"));
        let (mut must, mut must_not, mut should) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(colours) = &self.colours {
            should.extend(
                colours.iter().map(
                    |one| serde_json::json!({ "field": "colour", "in": [colour(one), "never"] }),
                ),
            );
        }
        if let Some((least, most)) = self.price {
            must.push(serde_json::json!({ "field": "price", "gte": least, "lte": most }));
        }
        if let Some(missing) = self.without_price {
            must.push(serde_json::json!({ "field": "price", "exists": !missing }));
        }
        if let Some(one) = &self.not_colour {
            must_not.push(serde_json::json!({ "field": "colour", "in": [colour(one)] }));
        }
        let json = serde_json::json!({ "must": must, "should": should, "must_not": must_not });
        serde_json::from_value(json).unwrap()
    }

    fn lets_pass(&self, thing: &Thing) -> bool {
        let is_one = |colours: &BTreeSet<u8>| {
            colours.is_empty() || thing.colour.is_some_and(|colour| colours.contains(&colour))
        };
        self.colours.as_ref().is_none_or(is_one)
            && self.price.is_none_or(|(least, most)| {
                thing.price.is_some_and(|price| (least..=most).contains(&price))
            })
            && self.without_price.is_none_or(|missing| thing.price.is_none() == missing)
            && self.not_colour.is_none_or(|colour| thing.colour != Some(colour))
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let colours = proptest::option::of(proptest::collection::btree_set(0u8..4, 0..3));
    let price = proptest::option::of((0i8..20, 0i8..20));
    (colours, price, proptest::option::weighted(0.2, any::<bool>()), proptest::option::of(0u8..4))
        .prop_map(|(colours, price, without_price, not_colour)| Asked {
            colours,
            price,
            without_price,
            not_colour,
        })
}

fn event(kind: &str, user: u8, item: u32, time: i64) -> Record {
    Record::Event(NamedEvent {
        kind: kind.into(),
        user: Some(format!("u{user}").into()),
        item: format!("i{item}").into(),
        time: Timestamp(time),
        ..NamedEvent::default()
    })
}

fn pipeline(things: &[Thing], events: &[(bool, u8, u32)]) -> Pipeline {
    let config = Config::parse(CONFIG, Path::new("cascade.toml")).unwrap();
    let schema = config.schema();
    let mut builder = HistoryBuilder::new(&schema);
    for (i, thing) in things.iter().enumerate() {
        let colour = thing.colour.map(|c| ("colour".into(), Value::Text(format!("c{c}").into())));
        let price = thing.price.map(|p| ("price".into(), Value::Number(f64::from(p))));
        builder.push(&Record::Item(ItemRecord {
            id: format!("i{i}").into(),
            fields: colour.into_iter().chain(price).collect(),
            published_at: None,
            expires_at: thing.expired.then_some(NOW),
            hidden: thing.hidden,
        }));
    }
    for (i, (bought, user, item)) in events.iter().enumerate() {
        builder.push(&event(if *bought { "buy" } else { "view" }, *user, *item, 1 + i as i64));
    }
    let history: History = builder.build();
    // Every seventh item has no vector.
    let vector = |i: u32| match i % 7 {
        0 => [0.0, 0.0],
        _ => [(i as f32).cos(), (i as f32).sin()],
    };
    let n = things.len() as u32;
    let vectors = Vectors::new((0..n).flat_map(vector).collect(), 2).unwrap();
    let release = Arc::new(hand_made::release(&config, &history, vectors, NOW));
    let store = Arc::new(empty_store(&release, &history));
    history.events.iter().for_each(|event| store.apply(event));
    Pipeline::new(release, store)
}

fn shown(slate: &Reranked) -> Vec<ItemId> {
    slate.shown.iter().map(|shown| shown.item).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_forbidden_is_shown_and_lists_are_full(
        things in things(),
        events in proptest::collection::vec((any::<bool>(), 0u8..6, 0..N_ITEMS), 6..60),
        asked in asked(),
        exclude in proptest::collection::btree_set(0..N_ITEMS, 0..20),
        seeds in proptest::collection::btree_set(0..N_ITEMS, 0..4),
        user in proptest::option::of(0u32..6),
        n in 1usize..24,
        share in prop::sample::select(&[1.0f32, 0.5, 0.01]),
    ) {
        let pipeline = pipeline(&things, &events);
        let name = user.map(|user| format!("u{user}"));
        let known = name.and_then(|name| pipeline.store().view(|view| view.users().names().get(&name)));
        let query = Query {
            seeds: seeds.iter().map(|id| ItemId(*id)).collect(),
            exclude: exclude.iter().map(|id| ItemId(*id)).collect(),
            filter: Some(Arc::new(asked.filter())),
            share,
            ..Query::new(known.map(UserId), NOW, n)
        };
        let bought = |item: u32| {
            let by = |(bought, who, what): &(bool, u8, u32)| {
                *bought && known.is_some() && user == Some(u32::from(*who)) && *what == item
            };
            events.iter().any(by)
        };
        let allowed = |item: u32| {
            let thing = &things[item as usize];
            !thing.hidden && !thing.expired && asked.lets_pass(thing) && !exclude.contains(&item)
                && !seeds.contains(&item)
                && !bought(item)
        };
        let n_allowed = (0..N_ITEMS).filter(|item| allowed(*item)).count();
        let scenario = &pipeline.release().scenarios["home"];
        let mut scratch = Scratch::default();
        let answer = pipeline.recommend(scenario, &query, &mut scratch);
        let items = shown(&answer.slate);
        let is_whole = share == 1.0;
        prop_assert_eq!(answer.degraded, if is_whole { vec![] } else { vec![Degraded::FewerCandidates] });
        prop_assert!(items.iter().all(|item| allowed(item.0)), "{items:?}");
        prop_assert_eq!(items.iter().collect::<BTreeSet<_>>().len(), items.len());
        prop_assert_eq!(items.len(), n.min(n_allowed));
        for item in 0..N_ITEMS {
            let refusal = pipeline.refusal(scenario, &query, ItemId(item));
            prop_assert_eq!(refusal.is_none(), allowed(item), "{:?} of {}", refusal, item);
        }
        let stored: Vec<ItemId> = (0..N_ITEMS).rev().step_by(3).map(ItemId).collect();
        for stored in [&[][..], &stored] {
            let late = pipeline.late(scenario, &query, stored, &mut scratch);
            let items = shown(&late.slate);
            prop_assert!(items.iter().all(|item| allowed(item.0)), "late: {items:?}");
            prop_assert_eq!(items.iter().collect::<BTreeSet<_>>().len(), items.len());
            prop_assert_eq!(items.len(), n.min(n_allowed));
            let n_stored = stored.iter().filter(|item| allowed(item.0)).count();
            prop_assert!(n_stored < n || late.degraded == [Degraded::Precomputed]);
        }
        for listing in [Listing::Popular, Listing::Latest] {
            let plan = pipeline.listing(listing, n).unwrap();
            let items = shown(&pipeline.list(&plan, &[], &query, &mut scratch).slate);
            prop_assert!(items.iter().all(|item| allowed(item.0)), "{listing:?}: {items:?}");
        }
        let seed = [ItemId(3)];
        let similar = shown(&pipeline.list(&pipeline.similar(n), &seed, &query, &mut scratch).slate);
        prop_assert!(similar.iter().all(|item| allowed(item.0) && item.0 != 3), "{similar:?}");
    }

    #[test]
    fn without_a_filter_hidden_items_do_not_shorten_a_list(
        things in things(),
        events in proptest::collection::vec((any::<bool>(), 0u8..6, 0..N_ITEMS), 6..60),
        share in prop::sample::select(&[1.0f32, 0.01]),
    ) {
        let pipeline = pipeline(&things, &events);
        let query = Query { share, ..Query::new(None, NOW, 5) };
        let scenario = &pipeline.release().scenarios["home"];
        let items = shown(&pipeline.recommend(scenario, &query, &mut Scratch::default()).slate);
        let is_shown = |item: u32| !things[item as usize].hidden && !things[item as usize].expired;
        let seen: BTreeSet<u32> = events.iter().map(|(_, _, item)| *item).collect();
        let n_known = seen.into_iter().filter(|item| is_shown(*item)).count();
        prop_assert!(items.iter().all(|item| is_shown(item.0)));
        prop_assert_eq!(items.len(), n_known.min(5));
    }
}

const PLAIN: Thing = Thing { colour: None, price: None, hidden: false, expired: false };

#[test]
fn a_list_of_similar_items_for_which_there_is_no_time_is_cut_and_says_so() {
    let events: Vec<(bool, u8, u32)> =
        (0..60).map(|i| (false, (i % 6) as u8, (i * i) % N_ITEMS)).collect();
    let pipeline = pipeline(&vec![PLAIN; N_ITEMS as usize], &events);
    let similar = |deadline: Option<Instant>| {
        let query = Query { deadline, ..Query::new(None, NOW, 10) };
        let seed = [ItemId(events[0].2)];
        pipeline.list(&pipeline.similar(10), &seed, &query, &mut Scratch::default())
    };
    let whole = similar(Some(Instant::now() + Duration::from_secs(60)));
    assert!(!whole.slate.shown.is_empty() && whole.degraded.is_empty(), "{whole:?}");
    let cut = similar(Some(Instant::now()));
    assert!(!cut.slate.shown.is_empty());
    assert_eq!(cut.degraded, [Degraded::FewerCandidates]);
}

#[test]
fn who_looks_at_a_part_of_the_candidates_looks_at_so_many() {
    let events: Vec<(bool, u8, u32)> = (0..N_ITEMS).map(|item| (false, 0, item)).collect();
    let pipeline = pipeline(&vec![PLAIN; N_ITEMS as usize], &events);
    let scenario = &pipeline.release().scenarios["home"];
    let mut scratch = Scratch::default();
    let mut n_candidates = |share: f32, n: usize| {
        let query = Query { share, ..Query::new(None, NOW, n) };
        let answer = pipeline.recommend(scenario, &query, &mut scratch);
        assert!(
            answer.proposed.iter().all(|proposed| *proposed <= (10.0 * share).max(2.0) as usize)
        );
        scratch.candidates.len()
    };
    let (all, half, least) = (n_candidates(1.0, 1), n_candidates(0.5, 1), n_candidates(0.01, 1));
    assert!(all > half && half > least && least >= 2, "{all}, {half}, {least}");
}

#[test]
fn whoever_has_seen_what_is_popular_is_shown_what_comes_behind_it() {
    // More than a board keeps, the first of them the most popular.
    let n_items = 4_500;
    let viewed = (0..n_items).flat_map(|i| vec![(false, 0, i); if i < 100 { 2 } else { 1 }]);
    let bought = (0..4_200).map(|item| (true, 1, item));
    let events: Vec<(bool, u8, u32)> = viewed.chain(bought).collect();
    let pipeline = pipeline(&vec![PLAIN; n_items as usize], &events);
    let user = pipeline.store().view(|view| view.users().find("u1").map(UserId));
    let plan = pipeline.listing(Listing::Popular, 200).unwrap();
    let popular = |user: Option<UserId>| {
        let query = Query::new(user, NOW, 200);
        shown(&pipeline.list(&plan, &[], &query, &mut Scratch::default()).slate)
    };
    let (of_nobody, left) = (popular(None), popular(user));
    assert!(of_nobody.len() == 200 && of_nobody.iter().all(|item| item.0 < 4_200));
    assert!(left.len() == 200 && left.iter().all(|item| item.0 >= 4_200), "{left:?}");
}

#[test]
fn the_seeds_of_one_of_whom_nothing_is_known_are_his_history() {
    let coloured = |i: u32| Thing { colour: Some((i % 4) as u8), ..PLAIN };
    let things: Vec<Thing> = (0..N_ITEMS).map(coloured).collect();
    let events: Vec<(bool, u8, u32)> = (0..N_ITEMS).map(|item| (false, 0, item)).collect();
    let pipeline = pipeline(&things, &events);
    let scenario = &pipeline.release().scenarios["home"];
    let source = |name: &str| {
        let at = scenario.sources.iter().position(|source| source.name == name);
        at.unwrap_or_else(|| panic!("no source is called {name}"))
    };
    let (in_colour, similar) = (source("popular_in_colour"), source("co_visitation"));
    let ask = |seeds: &[u32]| {
        let seeds = seeds.iter().copied().map(ItemId).collect();
        let query = Query { seeds, ..Query::new(None, NOW, 5) };
        let mut scratch = Scratch::default();
        let answer = pipeline.recommend(scenario, &query, &mut scratch);
        let lists = pipeline.source_lists(scenario, 10, &scratch);
        assert!(answer.cold_user, "seeds say nothing about who asks");
        (lists[in_colour].clone(), lists[similar].len(), scratch.user.unwrap())
    };
    assert_eq!((ask(&[]).0, ask(&[]).1), (vec![], 0));
    for colour in 0..3 {
        let (items, n_similar, user) = ask(&[colour, colour + 4]);
        assert!(!items.is_empty() && items.iter().all(|item| item.0 % 4 == colour), "{items:?}");
        assert!(n_similar > 0);
        let recent: Vec<u32> = user.state.recent.iter().map(|recent| recent.item.0).collect();
        assert_eq!(recent, [colour + 4, colour], "the first one is the latest");
    }
}

#[test]
fn what_a_filter_asks_for_in_vain_is_placed() {
    let fields = &Config::parse(CONFIG, Path::new("c")).unwrap().items.fields;
    let faults = |json: &str| -> Vec<String> {
        let filter: Filter = serde_json::from_str(json).unwrap();
        filter.faults(fields).into_iter().map(|f| format!("{}: {}", f.pointer, f.message)).collect()
    };
    assert_eq!(
        faults(r#"{"must": [{"field": "colur", "in": ["red"]}]}"#),
        [r#"/must/0/field: the items have no field "colur"; did you mean "colour"?"#]
    );
    assert_eq!(
        faults(
            r#"{"must_not": [{"field": "colour", "gte": 3}, {"field": "price", "in": [1, "x"]}]}"#
        ),
        [
            r#"/must_not/0/gte: "colour" has no order: it is a category"#,
            r#"/must_not/1/in/1: is not a value of "price", which is a number"#,
        ]
    );
    assert_eq!(
        faults(r#"{"should": [{"field": "price"}]}"#),
        ["/should/0/: needs `in`, or `gte` and `lte`, or `exists`: one of the three"]
    );
    assert_eq!(faults(r#"{"must": [{"field": "published_at", "lte": "2024-01-01"}]}"#), [""; 0]);
    let many =
        format!(r#"{{"must": [{}]}}"#, vec![r#"{"field": "price", "exists": true}"#; 65].join(","));
    assert_eq!(faults(&many), [": has 65 conditions, at most 64 are taken"]);
}

#[test]
fn an_item_that_a_filter_keeps_out_is_known_as_such() {
    let thing = Thing { colour: Some(1), price: None, hidden: false, expired: false };
    let pipeline = pipeline(&vec![thing; N_ITEMS as usize], &[(false, 0, 0)]);
    let asked =
        Asked { colours: Some([2].into()), price: None, without_price: None, not_colour: None };
    let filter = Some(Arc::new(asked.filter()));
    let query = Query { filter, ..Query::new(None, NOW, 3) };
    let scenario = &pipeline.release().scenarios["home"];
    assert_eq!(pipeline.refusal(scenario, &query, ItemId(5)), Some(Refused::Filtered));
}
