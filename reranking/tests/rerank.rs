//! Re-ranking as its user sees it: what holds for every slate and every set of rules.

use std::collections::{HashMap, HashSet};

use featurestore::{ItemId, Scored, Span, Timestamp, best_first};
use proptest::collection::vec;
use proptest::prelude::*;
use reranking::{
    Boost, Cap, CategoryColumn, Dropped, Explore, ExploreFrom, Freshness, HideServed,
    InvalidRerank, KnownFields, Lookup, MISSING, Method, Pin, Propensity, RerankConfig, Reranked,
    Rule, Rules, Slate, Unmet, Vectors, rerank,
};

const DIM: usize = 3;
const NOW: Timestamp = Timestamp(1_000);

#[derive(Clone, Debug)]
struct Owned {
    items: Vec<Scored>,
    brands: Vec<u32>,
    kinds: Vec<u32>,
    vectors: Option<Vec<f32>>,
    published: Vec<Timestamp>,
    served: Option<Vec<f32>>,
    newcomers: Vec<ItemId>,
}

impl Owned {
    fn rerank(&self, rules: &Rules, n: usize, seed: u64) -> Reranked {
        let columns = [
            CategoryColumn { field: "brand", codes: &self.brands },
            CategoryColumn { field: "kind", codes: &self.kinds },
        ];
        let slate = Slate {
            items: &self.items,
            columns: &columns,
            vectors: self.vectors.as_ref().map(|values| Vectors { values, dim: DIM }),
            published: Some(&self.published),
            served: self.served.as_deref(),
            newcomers: &self.newcomers,
            now: NOW,
        };
        rerank(&slate, rules, n, seed)
    }

    fn rank(&self, item: ItemId) -> Option<usize> {
        self.items.iter().position(|scored| scored.item == item)
    }

    /// Positions and counts of a list that exceed `cap`, by its definition.
    fn exceeded(&self, cap: &Cap, reranked: &Reranked) -> HashSet<(String, usize, usize)> {
        let codes = if cap.field == "brand" { &self.brands } else { &self.kinds };
        let code = |at: usize| reranked.shown[at].from_rank.map_or(MISSING, |rank| codes[rank]);
        let count = |end: usize| {
            let window = (end + 1).saturating_sub(cap.within)..=end;
            window.filter(|&at| code(at) == code(end)).count()
        };
        (0..reranked.shown.len())
            .filter(|&end| code(end) != MISSING && count(end) > cap.at_most)
            .map(|end| (cap.field.clone(), end, count(end)))
            .collect()
    }
}

fn slate() -> impl Strategy<Value = Owned> {
    let score = prop_oneof![8 => -3f32..3.0, 1 => Just(f32::NAN), 1 => Just(0.5f32)];
    let code = || prop_oneof![6 => 0u32..4, 1 => Just(MISSING)];
    let row = (score, code(), code(), vec(-1f32..1.0, DIM), 0i64..1_200);
    let newcomers = vec((0u32..60).prop_map(ItemId), 0..8);
    (vec(row, 0..25), newcomers, any::<bool>()).prop_map(|(rows, newcomers, has_vectors)| {
        let id = |i: usize| ItemId((i as u32 * 7) % 40);
        let score = |(i, row): (usize, &(f32, _, _, _, _))| Scored { item: id(i), score: row.0 };
        let mut items: Vec<Scored> = rows.iter().enumerate().map(score).collect();
        items.sort_by(best_first);
        let unit = |row: &(_, _, _, Vec<f32>, _)| {
            let norm = row.3.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
            row.3.iter().map(|x| x / norm).collect::<Vec<f32>>()
        };
        Owned {
            items,
            brands: rows.iter().map(|row| row.1).collect(),
            kinds: rows.iter().map(|row| row.2).collect(),
            vectors: has_vectors.then(|| rows.iter().flat_map(unit).collect()),
            published: rows.iter().map(|row| Timestamp(row.4)).collect(),
            served: Some(rows.iter().map(|row| (row.4 % 4) as f32 / 2.0).collect()),
            newcomers,
        }
    })
}

fn caps() -> impl Strategy<Value = Vec<Cap>> {
    let field = prop_oneof![Just("brand"), Just("kind")];
    let cap = (field, 1usize..4, 1usize..8);
    vec(cap.prop_map(|(field, at_most, within)| Cap { field: field.into(), at_most, within }), 0..3)
        .prop_map(|mut caps| {
            caps.dedup_by(|a, b| a.field == b.field);
            caps
        })
}

/// Rules that change relevance and order, but neither pin nor explore nor bind.
fn ordering_rules() -> impl Strategy<Value = Rules> {
    let method = prop_oneof![Just(Method::Mmr), Just(Method::Dpp)];
    let diversity = prop_oneof![Just(0f32), 0f32..=1.0];
    let freshness = prop::option::of(0f32..2.0);
    let served = prop::option::of(0f32..=1.0);
    (diversity, method, 1usize..12, freshness, vec(0f32..3.0, 0..2), served).prop_map(
        |(diversity, method, diversity_window, boost, factors, strength)| Rules {
            hide_served: strength.map(|strength| HideServed { strength, half_life: Span(1) }),
            diversity,
            method,
            diversity_window,
            freshness: boost.map(|boost| Freshness {
                field: "published_at".into(),
                half_life: Span(300),
                boost,
            }),
            boosts: factors
                .iter()
                .map(|&factor| Boost { field: "kind".into(), codes: vec![1, 3], factor })
                .collect(),
            ..Rules::default()
        },
    )
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let pin =
        (0u32..45, 0usize..20).prop_map(|(item, position)| Pin { item: ItemId(item), position });
    let explore = prop::option::of(0usize..4);
    (ordering_rules(), caps(), vec(pin, 0..3), explore, prop::option::of(0usize..6)).prop_map(
        |(rules, caps, pins, slots, max_displacement)| Rules {
            caps,
            pins,
            explore: slots.map(|slots| Explore { slots, from: ExploreFrom::NewItems }),
            max_displacement,
            ..rules
        },
    )
}

fn items(reranked: &Reranked) -> Vec<ItemId> {
    reranked.shown.iter().map(|shown| shown.item).collect()
}

fn has_exceeded_caps(reranked: &Reranked) -> bool {
    reranked.unmet.iter().any(|unmet| matches!(unmet, Unmet::Cap { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_list_is_full_and_free_of_repeats(
        slate in slate(), rules in any_rules(), n in 0usize..30, seed: u64,
    ) {
        let reranked = slate.rerank(&rules, n, seed);
        let distinct: HashSet<ItemId> = items(&reranked).into_iter().collect();
        prop_assert_eq!(distinct.len(), reranked.shown.len());
        prop_assert!((n.min(slate.items.len())..=n).contains(&reranked.shown.len()));
        for (position, shown) in reranked.shown.iter().enumerate() {
            prop_assert_eq!(shown.position, position);
            prop_assert_eq!(shown.from_rank, slate.rank(shown.item));
            let score = shown.from_rank.map_or(f32::NAN, |rank| slate.items[rank].score);
            prop_assert_eq!(shown.score.to_bits(), score.to_bits());
        }
        let again = slate.rerank(&rules, n, seed);
        prop_assert_eq!(format!("{reranked:?}"), format!("{again:?}"));
    }

    #[test]
    fn every_item_can_be_followed_from_its_rank_to_its_place(
        slate in slate(), rules in any_rules(), n in 0usize..30, seed: u64,
    ) {
        let reranked = slate.rerank(&rules, n, seed);
        let last_move: HashMap<ItemId, usize> =
            reranked.moves.iter().map(|moved| (moved.item, moved.to)).collect();
        for shown in &reranked.shown {
            let place = last_move.get(&shown.item).copied().or(shown.from_rank);
            prop_assert_eq!(place.unwrap_or(shown.position), shown.position);
        }
        let shown = items(&reranked);
        let head = slate.items.iter().take(n).map(|scored| scored.item);
        let lost: Vec<ItemId> = head.filter(|item| !shown.contains(item)).collect();
        let dropped: Vec<ItemId> = reranked.dropped.iter().map(|dropped| dropped.item).collect();
        prop_assert_eq!(dropped, lost);
    }

    #[test]
    fn caps_hold_or_every_excess_is_reported(
        slate in slate(), rules in any_rules(), n in 0usize..30, seed: u64,
    ) {
        let reranked = slate.rerank(&rules, n, seed);
        let expected: HashSet<_> =
            rules.caps.iter().flat_map(|cap| slate.exceeded(cap, &reranked)).collect();
        let reported: HashSet<_> = reranked
            .unmet
            .iter()
            .filter_map(|unmet| match unmet {
                Unmet::Cap { field, position, count, .. } => Some((field.clone(), *position, *count)),
                _ => None,
            })
            .collect();
        prop_assert_eq!(reported, expected);
    }

    #[test]
    fn one_slot_of_exploration_exceeds_no_cap(
        slate in slate(), rules in ordering_rules(), caps in caps(), n in 0usize..30, seed: u64,
    ) {
        let plain = Rules { caps, ..rules };
        prop_assume!(!has_exceeded_caps(&slate.rerank(&plain, n, seed)));
        let explore = Some(Explore { slots: 1, from: ExploreFrom::NewItems });
        let reranked = slate.rerank(&Rules { explore, ..plain }, n, seed);
        prop_assert!(!has_exceeded_caps(&reranked));
    }

    #[test]
    fn without_diversity_and_other_rules_the_head_is_shown_as_it_is(
        slate in slate(), n in 0usize..30, seed: u64, method in prop_oneof![Just(Method::Mmr), Just(Method::Dpp)],
    ) {
        let reranked = slate.rerank(&Rules { method, ..Rules::default() }, n, seed);
        let head = &slate.items[..n.min(slate.items.len())];
        prop_assert_eq!(reranked.shown.len(), head.len());
        for (shown, scored) in reranked.shown.iter().zip(head) {
            prop_assert_eq!(shown.item, scored.item);
            prop_assert_eq!(shown.score.to_bits(), scored.score.to_bits());
            prop_assert_eq!(shown.propensity, Propensity::CERTAIN);
        }
        prop_assert!(reranked.moves.is_empty() && reranked.dropped.is_empty());
        prop_assert!(reranked.unmet.is_empty());
    }

    #[test]
    fn nan_scores_come_last(slate in slate(), rules in ordering_rules(), n in 0usize..30) {
        let reranked = slate.rerank(&rules, n, 0);
        prop_assert!(reranked.shown.is_sorted_by_key(|shown| shown.score.is_nan()));
    }

    #[test]
    fn no_item_moves_further_than_the_bound(
        slate in slate(), rules in ordering_rules(), caps in caps(), n in 0usize..30, most in 0usize..6,
    ) {
        let reranked = slate.rerank(&Rules { caps, max_displacement: Some(most), ..rules }, n, 0);
        for shown in &reranked.shown {
            let moved = shown.from_rank.map(|rank| rank.abs_diff(shown.position));
            prop_assert!(moved.is_some_and(|moved| moved <= most), "{shown:?}");
        }
        prop_assert!(reranked.dropped.iter().all(|dropped| dropped.from_rank + most >= n));
    }

    #[test]
    fn pinned_items_are_in_their_places_or_reported(
        slate in slate(), rules in any_rules(), n in 0usize..30, seed: u64,
    ) {
        let reranked = slate.rerank(&rules, n, seed);
        for &Pin { item, position } in &rules.pins {
            let is_there = reranked.shown.get(position).is_some_and(|shown| shown.item == item);
            let is_reported = reranked.unmet.contains(&Unmet::Pin { item, position });
            prop_assert!(is_there || is_reported);
        }
    }
}

/// `n` items, best first, of the brands given.
fn plain(brands: &[u32]) -> Owned {
    let n = brands.len();
    let score = |i: usize| Scored { item: ItemId(i as u32), score: (n - i) as f32 };
    Owned {
        items: (0..n).map(score).collect(),
        brands: brands.to_vec(),
        kinds: vec![MISSING; n],
        vectors: None,
        published: vec![Timestamp::MIN; n],
        served: None,
        newcomers: Vec::new(),
    }
}

fn numbers(reranked: &Reranked) -> Vec<u32> {
    reranked.shown.iter().map(|shown| shown.item.0).collect()
}

#[test]
fn the_least_excess_is_taken_where_no_candidate_keeps_a_cap() {
    let cap = |field: &str| Cap { field: field.into(), at_most: 1, within: 9 };
    let mut slate = plain(&[1, 1, 1, 2]);
    slate.kinds = vec![5, 5, 6, 5];
    let rules = Rules { caps: vec![cap("brand"), cap("kind")], ..Rules::default() };
    let reranked = slate.rerank(&rules, 4, 0);
    // After item 0, item 1 exceeds both caps, items 2 and 3 one.
    assert_eq!(numbers(&reranked), [0, 2, 3, 1]);
    assert!(has_exceeded_caps(&reranked));
}

#[test]
fn a_cap_leaves_room_for_a_pin_further_down() {
    let rules = Rules {
        caps: vec![Cap { field: "brand".into(), at_most: 2, within: 4 }],
        pins: vec![Pin { item: ItemId(5), position: 2 }],
        ..Rules::default()
    };
    let reranked = plain(&[1, 1, 1, 2, 2, 1]).rerank(&rules, 4, 0);
    assert_eq!(numbers(&reranked), [0, 3, 5, 4]);
    assert!(!has_exceeded_caps(&reranked));
    let lost = |item: u32, from_rank| Dropped { item: ItemId(item), rule: Rule::Caps, from_rank };
    assert_eq!(reranked.dropped, [lost(1, 1), lost(2, 2)]);
}

#[test]
fn diversity_prefers_what_is_unlike_the_items_before() {
    for method in [Method::Mmr, Method::Dpp] {
        let rules = Rules { diversity: 0.8, method, ..Rules::default() };
        let reranked = plain(&[1, 1, 1, 2, 3]).rerank(&rules, 3, 0);
        assert_eq!(numbers(&reranked), [0, 3, 4], "{method:?}");
        assert!(reranked.dropped.iter().all(|dropped| dropped.rule == Rule::Diversity));
    }
}

#[test]
fn a_new_item_overtakes_an_old_one_of_nearly_the_same_score() {
    let mut slate = plain(&[1, 1, 1, 1]);
    slate.published[2] = NOW;
    let freshness = Freshness { field: "published_at".into(), half_life: Span(100), boost: 1.0 };
    let rules = Rules { freshness: Some(freshness), ..Rules::default() };
    assert_eq!(numbers(&slate.rerank(&rules, 4, 0)), [0, 2, 1, 3]);
}

#[test]
fn what_was_shown_in_vain_makes_way_the_more_often_the_further() {
    let mut slate = plain(&[1, 1, 1, 1]);
    slate.served = Some(vec![2.0, 0.5, 0.0, 0.0]);
    let hide_served = |strength| Some(HideServed { strength, half_life: Span(100) });
    let reranked = |strength| {
        slate.rerank(&Rules { hide_served: hide_served(strength), ..Rules::default() }, 3, 0)
    };
    assert_eq!(numbers(&reranked(0.0)), [0, 1, 2]);
    assert_eq!(numbers(&reranked(0.8)), [2, 1, 3]);
    assert_eq!(numbers(&reranked(1.0)), [2, 3, 0]);
    let lost = Dropped { item: ItemId(0), rule: Rule::HideServed, from_rank: 0 };
    assert_eq!(reranked(0.8).dropped, [lost]);
}

#[test]
fn a_rule_without_its_column_says_that_it_did_nothing() {
    let items = plain(&[1, 2]).items;
    let slate = Slate {
        items: &items,
        columns: &[],
        vectors: None,
        published: None,
        served: None,
        newcomers: &[],
        now: NOW,
    };
    let rules = Rules {
        diversity: 0.5,
        caps: vec![Cap { field: "brand".into(), at_most: 1, within: 2 }],
        freshness: Some(Freshness { field: "at".into(), half_life: Span(1), boost: 1.0 }),
        boosts: vec![Boost { field: "kind".into(), codes: vec![1], factor: 2.0 }],
        explore: Some(Explore { slots: 1, from: ExploreFrom::NewItems }),
        ..Rules::default()
    };
    let reranked = rerank(&slate, &rules, 2, 0);
    assert_eq!(numbers(&reranked), [0, 1]);
    let lacks = |rule, field: &str| Unmet::NoColumn { rule, field: field.into() };
    assert_eq!(
        reranked.unmet,
        [
            lacks(Rule::Boosts, "kind"),
            lacks(Rule::Freshness, "at"),
            lacks(Rule::Caps, "brand"),
            lacks(Rule::Diversity, ""),
            Unmet::Explore { slots: 1, filled: 0 },
        ]
    );
}

#[test]
fn propensities_are_how_often_an_item_is_shown_in_a_place() {
    const N_SEEDS: u64 = 20_000;
    let mut slate = plain(&[1, 2, 3, 4, 5, 6, 7]);
    slate.newcomers = [20, 21, 6, 22, 0].map(ItemId).to_vec();
    let rules = Rules {
        explore: Some(Explore { slots: 2, from: ExploreFrom::NewItems }),
        pins: vec![Pin { item: ItemId(3), position: 1 }],
        ..Rules::default()
    };
    let mut shown: HashMap<(ItemId, usize), (u64, f64)> = HashMap::new();
    for seed in 0..N_SEEDS {
        for item in slate.rerank(&rules, 5, seed).shown {
            let entry = shown.entry((item.item, item.position)).or_default();
            *entry = (entry.0 + 1, item.propensity.get());
        }
    }
    for (place, (count, propensity)) in shown {
        let frequency = count as f64 / N_SEEDS as f64;
        assert!((frequency - propensity).abs() < 0.015, "{place:?}: {frequency}, not {propensity}");
    }
}

#[test]
fn a_configuration_is_checked_number_by_number_and_name_by_name() {
    let known = KnownFields { categories: &["brand"], times: &["at"], events: &["view"] };
    let cap = |field: &str, at_most, within| Cap { field: field.into(), at_most, within };
    let key = |config: &RerankConfig| match config.validate(&known) {
        Ok(()) => String::new(),
        Err(
            InvalidRerank::OutOfRange { key, .. }
            | InvalidRerank::Unknown { key, .. }
            | InvalidRerank::PinnedTwice { key },
        ) => key,
    };
    let off = RerankConfig::default();
    assert_eq!(key(&off), "");
    for diversity in [-0.1, 1.1, f32::NAN] {
        assert_eq!(key(&RerankConfig { diversity, ..off.clone() }), "diversity");
    }
    let with_cap = |cap| RerankConfig { caps: vec![cap], ..off.clone() };
    assert_eq!(key(&with_cap(cap("brand", 1, 1))), "");
    assert_eq!(key(&with_cap(cap("brand", 0, 1))), "caps[0].at_most");
    assert_eq!(key(&with_cap(cap("brand", 1, 0))), "caps[0].within");
    assert_eq!(key(&with_cap(cap("at", 1, 1))), "caps[0].field");
}

#[test]
fn names_that_a_release_does_not_know_are_left_out_and_told() {
    use reranking::config::{BoostedValues, PinnedItem};
    let config = RerankConfig {
        pinned: vec![
            PinnedItem { item: "a".into(), position: 0 },
            PinnedItem { item: "gone".into(), position: 1 },
        ],
        boosts: vec![BoostedValues {
            field: "brand".into(),
            values: vec!["red".into(), "lost".into()],
            factor: 2.0,
        }],
        ..RerankConfig::default()
    };
    let (rules, unknown) = config.resolve(Lookup {
        item: &|name| (name == "a").then_some(ItemId(4)),
        code: &|field, value| ((field, value) == ("brand", "red")).then_some(9),
    });
    assert_eq!(rules.pins, [Pin { item: ItemId(4), position: 0 }]);
    assert_eq!(rules.boosts[0].codes, [9]);
    assert_eq!(unknown, ["gone", "lost"]);
}
