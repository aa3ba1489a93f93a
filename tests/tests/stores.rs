//! The two feature stores are one: fed with the same events in the same order they agree bit for bit, and the order in
//! which events come, and how often, does not matter to either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featurestore::plan::{FeatureScratch, ItemRows};
use featurestore::redis::{
    Change, Generation, Nodes, Noted, RedisError, RedisSettings, RedisStore,
};
use featurestore::schema::{EventType, FieldKind};
use featurestore::{
    EmbeddedStore, Entities, Event, FeaturePlan, FeatureStore, Freshness, ItemId, NO_SESSION,
    Schema, Timestamp, UserId, Value,
};
use proptest::prelude::*;
use tests::{Redis, plan_of};

const N_USERS: u32 = 6;
const N_ITEMS: u32 = 12;

/// Of every kind and scope that is folded from events.
const FEATURES: &str = r#"features = [
    { name = "a", kind = "decayed_count", scope = "item", event = "buy", half_life = "3d" },
    { name = "b", kind = "decayed_count", scope = "user", half_life = "1d" },
    { name = "c", kind = "decayed_count", scope = "user_item" },
    { name = "d", kind = "decayed_count", scope = "user_field", field = "colour", half_life = "9d" },
    { name = "e", kind = "decayed_count", scope = "field", field = "colour", sum = "value" },
    { name = "f", kind = "mean", sum = "value", scope = "user_item", half_life = "2d" },
    { name = "g", kind = "distinct_users", event = "view" },
    { name = "h", kind = "time_since_last", scope = "user_item", event = "buy" },
    { name = "i", kind = "typical_gap", scope = "user_item" },
    { name = "j", kind = "trend", scope = "item", short = "1d", long = "9d" },
    { name = "k", kind = "interacted_with", field = "colour", half_life = "5d" },
    { name = "l", kind = "gap_ratio", scope = "user" },
]"#;

fn schema() -> Schema {
    let kind = |weight| EventType { weight, label: 1 };
    Schema {
        events: [("buy".to_owned(), kind(2.0)), ("view".to_owned(), kind(1.0))].into(),
        item_fields: [("colour".to_owned(), FieldKind::Category)].into(),
        ..Schema::default()
    }
}

/// A store that knows all users and items, the items in three colours, some in two.
fn store(plan: Arc<FeaturePlan>, schema: &Schema) -> Arc<EmbeddedStore> {
    let none = || Entities::new(&schema.item_fields);
    let store = EmbeddedStore::new(plan, schema, none(), Entities::new(&schema.user_fields));
    for i in 0..N_ITEMS.max(N_USERS) {
        store.intern(&format!("u{}", i % N_USERS), &format!("i{}", i % N_ITEMS));
    }
    store.put(|items, _| {
        for i in 0..N_ITEMS {
            let colour = |c: u32| Box::from(format!("c{}", c % 3));
            let colours = if i % 4 == 0 { vec![colour(i), colour(i + 1)] } else { vec![colour(i)] };
            items.put(i, &[("colour".into(), Value::Texts(colours))].into());
        }
    });
    Arc::new(store)
}

fn event() -> impl Strategy<Value = (u32, u32, u8, f32)> {
    (0..N_USERS, 0..N_ITEMS, 0u8..2, prop_oneof![Just(f32::NAN), 0f32..50.0])
}

/// Events at moments of their own.
fn events(parts: &[(u32, u32, u8, f32)]) -> Vec<Event> {
    let event = |(i, (user, item, kind, value)): (usize, &(u32, u32, u8, f32))| {
        let mut event = Event {
            time: Timestamp(1_000_000_000 + i as i64 * 7_654_321),
            user: UserId(*user),
            item: ItemId(*item),
            session: if i % 3 == 0 { NO_SESSION } else { i as u32 / 5 },
            kind: featurestore::EventTypeId(*kind),
            numbers: [f32::NAN; featurestore::event::MAX_EVENT_NUMBERS],
        };
        event.numbers[0] = *value;
        event
    };
    parts.iter().enumerate().map(event).collect()
}

/// The features of every store in Redis, and what they know of names and fields.
fn fixture() -> (Arc<FeaturePlan>, Arc<EmbeddedStore>) {
    let schema = schema();
    let plan = plan_of(FEATURES, &schema);
    let catalogue = store(Arc::new(plan.for_boards()), &schema);
    (plan, catalogue)
}

/// The generation of every store here.
fn first() -> Generation {
    Generation { name: "first".into(), n_own: 0, stamp: 0 }
}

/// A store in Redis of a prefix of its own, with nothing in it.
fn in_redis(redis: &Redis, plan: &Arc<FeaturePlan>, catalogue: &Arc<EmbeddedStore>) -> RedisStore {
    static N: AtomicU64 = AtomicU64::new(0);
    let prefix = format!("test{}", N.fetch_add(1, Ordering::SeqCst));
    let store = with_prefix(prefix, &[redis.url()], plan, catalogue);
    store.load(|_| Ok::<_, RedisError>(first()), None).expect("Redis takes it");
    store
}

/// One of several stores that share their values.
fn connected(
    urls: &[String],
    plan: &Arc<FeaturePlan>,
    catalogue: &Arc<EmbeddedStore>,
) -> RedisStore {
    with_prefix("near".into(), urls, plan, catalogue)
}

fn with_prefix(
    prefix: String,
    urls: &[String],
    plan: &Arc<FeaturePlan>,
    catalogue: &Arc<EmbeddedStore>,
) -> RedisStore {
    let nodes = Arc::new(Nodes::new(urls).expect("URLs"));
    let settings = RedisSettings { prefix, near_cache_bytes: 1 << 20 };
    RedisStore::new(plan.clone(), "plan", catalogue.clone(), nodes, &settings)
}

/// Everything that is folded from events, of every user and every item.
fn numbers(store: &dyn FeatureStore) -> Vec<f64> {
    let plan = store.plan();
    let items: Vec<ItemId> = (0..N_ITEMS).map(ItemId).collect();
    let mut rows = ItemRows::default();
    assert_eq!(store.read_items(&items, None, &mut rows), Freshness::Fresh);
    let mut numbers: Vec<f64> = (0..items.len()).flat_map(|i| rows.item.row(i).to_vec()).collect();
    for rows in &rows.fields {
        numbers.extend((0..items.len()).flat_map(|i| rows.row(i).to_vec()));
    }
    for user in 0..N_USERS {
        let (view, freshness) = store.read_user(Some(UserId(user)), None);
        assert_eq!(freshness, Freshness::Fresh);
        numbers.extend(&view.state.record);
        for item in &items {
            let record = view.state.items.get(*item, &plan.user_item);
            numbers.extend(record.into_iter().flatten());
        }
        for ((_, layout), table) in plan.user_fields.iter().zip(&view.state.fields) {
            for code in 0..3 {
                numbers.extend(table.get(code, layout).into_iter().flatten());
            }
        }
        let recent = view.state.recent.iter();
        numbers.extend(recent.map(|r| r.time.0 as f64 + f64::from(r.item.0)));
    }
    numbers
}

/// The features themselves.
fn features(store: &dyn FeatureStore, now: Timestamp) -> Vec<u32> {
    let items: Vec<ItemId> = (0..N_ITEMS).map(ItemId).collect();
    let (mut scratch, mut all) = (FeatureScratch::default(), Vec::new());
    for user in 0..N_USERS {
        let (view, _) = store.read_user(Some(UserId(user)), None);
        store.read_items(&items, None, &mut scratch.items);
        let mut columns = vec![f32::NAN; 12 * items.len()];
        store.plan().compute(&view, &items, now, &mut scratch, &mut columns);
        all.extend(columns.iter().map(|value| value.to_bits()));
    }
    all
}

/// Folds `events` into the store in Redis, `batch` at once, some of them twice, as two servers would.
fn fold(store: &RedisStore, catalogue: &EmbeddedStore, events: &[Event], batch: usize) {
    let change = |(i, event): (usize, &Event)| {
        let codes: Vec<(u8, u32)> = catalogue
            .view(|view| view.items().column(0).codes(event.item.0).map(|c| (0, c)).collect());
        Change::Event(Noted { stamp: 1 + i as u64, event: *event, codes })
    };
    let changes: Vec<Change> = events.iter().enumerate().map(change).collect();
    for (i, batch) in changes.chunks(batch).enumerate() {
        store.apply(batch).expect("Redis takes it");
        if i % 2 == 0 {
            store.apply(batch).expect("Redis takes it again");
        }
    }
}

#[test]
fn both_stores_agree_bit_for_bit_and_with_the_sorted_stream() {
    let Some(redis) = Redis::start() else { return };
    let (plan, catalogue) = fixture();
    let cases = proptest::test_runner::Config::with_cases(40);
    let parts = (proptest::collection::vec(event(), 1..120), any::<u64>(), 1usize..40);
    let mut runner = proptest::test_runner::TestRunner::new(cases);
    let result = runner.run(&parts, |(parts, seed, batch)| {
        let sorted = events(&parts);
        let now = Timestamp(sorted.last().map_or(0, |event| event.time.0) + 5_000);
        let mut shuffled = sorted.clone();
        for i in (1..shuffled.len()).rev() {
            let other = (seed.rotate_left(i as u32 % 64) % (i as u64 + 1)) as usize;
            shuffled.swap(i, other);
        }
        let mut folded: Vec<Vec<f64>> = Vec::new();
        for stream in [&sorted, &shuffled] {
            let embedded = store(plan.clone(), &schema());
            stream.iter().for_each(|event| embedded.apply(event));
            let shared = in_redis(&redis, &plan, &catalogue);
            fold(&shared, &catalogue, stream, batch);
            let (ours, theirs) = (numbers(&*embedded), numbers(&shared));
            let bits = |numbers: &[f64]| numbers.iter().map(|n| n.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&ours), bits(&theirs));
            prop_assert_eq!(features(&*embedded, now), features(&shared, now));
            folded.push(ours);
        }
        for (in_order, out_of_order) in folded[0].iter().zip(&folded[1]) {
            let is_same = in_order == out_of_order
                || in_order.is_nan() && out_of_order.is_nan()
                || (in_order - out_of_order).abs() <= 1e-9 * in_order.abs();
            prop_assert!(is_same, "{in_order} {out_of_order}");
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// What is changed otherwise than through the log is read anew if a mark tells so, if the connection over which it is told was
/// lost, and if everything was removed.
fn hears_of_changes(redis: &[Redis]) {
    let (plan, catalogue) = fixture();
    let urls: Vec<String> = redis.iter().map(Redis::url).collect();
    let reading = connected(&urls, &plan, &catalogue);
    reading.load(|_| Ok::<_, RedisError>(first()), None).expect("Redis takes it");
    let write = |parts: &[(u32, u32, u8, f32)]| {
        let other = connected(&urls, &plan, &catalogue);
        other.use_generation(&first());
        fold(&other, &catalogue, &events(parts), 1);
        format!("{:?}", numbers(&other))
    };
    let wait_for = |is_so: &mut dyn FnMut() -> bool| {
        let until = Instant::now() + Duration::from_secs(5);
        while !is_so() {
            assert!(Instant::now() < until, "Redis does not answer");
        }
    };
    let hear = || wait_for(&mut || reading.hear_of_changes().is_ok());
    let misses = || reading.counts().misses.load(Ordering::SeqCst);
    let read = || format!("{:?}", numbers(&reading));
    let mut parts = vec![(1, 3, 0, 5.0)];
    hear();
    let written = write(&parts);
    hear();
    assert_eq!(read(), written);

    // Without a mark nothing is read again.
    let n_misses = misses();
    parts.extend([(2, 3, 1, 7.0), (3, 4, 0, 1.0)]);
    let written = write(&parts);
    hear();
    assert_ne!(read(), written);
    assert_eq!(misses(), n_misses);

    // With marks only what they stand beside.
    for hash in ["i:3", "i:4", "f:0", "f:1", "f:2"] {
        let set = format!("SET near:plan:first:{{{hash}}}:changed now");
        assert!(redis.iter().any(|node| node.ask(&set).starts_with("+OK")), "{hash}");
    }
    hear();
    assert_eq!(read(), written);
    assert_eq!(misses(), n_misses + 5);
    assert_eq!(reading.counts().invalidations.load(Ordering::SeqCst), 5);

    // What was changed while nobody could tell.
    redis.iter().for_each(|node| drop(node.ask("CLIENT KILL TYPE normal SKIPME yes")));
    parts.extend([(4, 5, 1, 2.0), (5, 6, 1, 3.0), (2, 7, 0, 4.0)]);
    let written = write(&parts);
    hear();
    // The connections that were for reading are found to be closed when they are used.
    let items: Vec<ItemId> = (0..N_ITEMS).map(ItemId).collect();
    let mut rows = ItemRows::default();
    let is_fresh = |user| reading.read_user(Some(UserId(user)), None).1 == Freshness::Fresh;
    wait_for(&mut || reading.read_items(&items, None, &mut rows) == Freshness::Fresh);
    wait_for(&mut || (0..N_USERS).all(is_fresh));
    assert_eq!(read(), written);

    let mut records = || {
        let freshness = reading.read_items(&items, None, &mut rows);
        let rows = items.iter().map(|item| rows.item.row(item.0 as usize)).collect::<Vec<_>>();
        (format!("{rows:?}"), freshness)
    };
    let full = records();
    assert_eq!(full.1, Freshness::Fresh);
    redis.iter().filter(|node| node.is_master()).for_each(|node| drop(node.ask("FLUSHALL")));
    hear();
    // What was known before is better than nothing, and said to be old.
    assert_eq!(records(), (full.0, Freshness::Stale), "everything was removed");
}

#[test]
fn what_was_read_ahead_is_not_waited_for_and_read_again_while_it_is_in_use() {
    let Some(redis) = Redis::start() else { return };
    let (plan, catalogue) = fixture();
    let urls = [redis.url()];
    let (reading, other) =
        (connected(&urls, &plan, &catalogue), connected(&urls, &plan, &catalogue));
    other.load(|_| Ok::<_, RedisError>(first()), None).expect("Redis takes it");
    reading.use_generation(&first());
    let write = |parts: &[(u32, u32, u8, f32)]| {
        fold(&other, &catalogue, &events(parts), 1);
        format!("{:?}", numbers(&other))
    };
    let misses = || reading.counts().misses.load(Ordering::SeqCst);
    let read = || format!("{:?}", numbers(&reading));
    let mut parts = vec![(1, 3, 0, 5.0), (2, 4, 1, 1.0)];
    let mut written = write(&parts);
    let soon = || Instant::now() + Duration::from_secs(10);
    // All items, and three colours.
    assert_eq!(reading.read_ahead(soon()).ok(), Some(N_ITEMS as usize + 3));
    let until = soon();
    while reading.hear_of_changes().is_err() {
        assert!(Instant::now() < until, "Redis does not answer");
    }
    assert_eq!((read(), misses()), (written, 0));

    let whole_round = Duration::from_secs(400);
    reading.read_again(whole_round);
    // Nobody asked since: the next time nothing is read, and then what was asked for.
    parts.push((2, 3, 1, 7.0));
    written = write(&parts);
    reading.read_again(whole_round);
    assert_ne!(read(), written);
    reading.read_again(whole_round);
    assert_eq!((read(), misses()), (written, 0));

    // No more than there is room for, and nothing from a Redis that does not answer.
    let nodes = Arc::new(Nodes::new(&urls).expect("URLs"));
    let settings = RedisSettings { prefix: "near".into(), near_cache_bytes: 4_000 };
    let small = RedisStore::new(plan.clone(), "plan", catalogue.clone(), nodes, &settings);
    small.use_generation(&first());
    let n_read = small.read_ahead(soon()).expect("Redis answers");
    assert!((4..12).contains(&n_read), "{n_read}");
    drop(redis);
    assert!(connected(&urls, &plan, &catalogue).read_ahead(soon()).is_err());
}

#[test]
fn what_is_changed_beside_the_log_is_read_anew() {
    let Some(redis) = Redis::start() else { return };
    hears_of_changes(&[redis]);
}

#[test]
fn what_is_changed_beside_the_log_of_a_cluster_is_read_anew() {
    let Some(nodes) = Redis::start_cluster() else { return };
    hears_of_changes(&nodes);
}

/// Bytes that `redis` uses.
fn used_memory(redis: &Redis) -> u64 {
    let info = redis.ask("INFO memory");
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|line| line.trim().parse().ok()).expect("Redis says how much it uses")
}

/// What Redis has to keep for `n_users` with 50 events each on 100,000 items.
fn size_of(n_users: u32) -> u64 {
    const EVENTS: i64 = 50;
    let redis = Redis::start().expect("it was started before");
    let (plan, catalogue) = fixture();
    for user in 0..n_users {
        catalogue.intern(&format!("customer-{user:07}"), "i1");
    }
    let nodes = Arc::new(Nodes::new(&[redis.url()]).expect("a URL"));
    let settings = RedisSettings { prefix: "size".into(), near_cache_bytes: 1 << 20 };
    let shared = RedisStore::new(plan, "plan", catalogue, nodes, &settings);
    let before = used_memory(&redis);
    let (mut seed, day) = (7u64, 86_400_000);
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (seed >> 33) % below
    };
    let load = |fold: &mut dyn FnMut(Change)| {
        for k in 0..EVENTS {
            for user in 0..n_users {
                let event = Event {
                    time: Timestamp(1_700_000_000_000 + k * 3 * day + random(day as u64) as i64),
                    user: UserId(N_USERS + user),
                    item: ItemId(random(100_000) as u32),
                    session: user * 20 + k as u32 / 3,
                    kind: featurestore::EventTypeId(random(2) as u8),
                    numbers: [f32::NAN; featurestore::event::MAX_EVENT_NUMBERS],
                };
                let codes = vec![(0, event.item.0 % 1_000)];
                fold(Change::Event(Noted { stamp: 1, event, codes }));
            }
        }
        Ok::<_, RedisError>(Generation { name: "whole".into(), n_own: 1, stamp: 1 })
    };
    shared.load(load, None).expect("Redis takes it");
    used_memory(&redis) - before
}

#[test]
fn a_million_users_with_fifty_events_each_fit_into_a_gibibyte() {
    if Redis::start().is_none() {
        return;
    }
    // With either, nearly all of the items have events: the difference is that of users.
    let (some, twice) = (size_of(15_000), size_of(30_000));
    let each = (twice - some).div_ceil(15_000);
    let million = some - 15_000 * each + 1_000_000 * each;
    println!("{each} bytes a user; {} MiB with the records of 100,000 items", million >> 20);
    assert!(million <= 1 << 30, "{million} bytes for a million users");
}

#[test]
fn what_was_seen_long_before_a_merge_is_still_known_to_have_been() {
    let schema = schema();
    let plan = plan_of(FEATURES, &schema);
    let store = store(plan.clone(), &schema);
    // One item, and then more events with others than are kept one by one.
    let mut parts = vec![(0, 0, 0, f32::NAN)];
    parts.extend((0..300).map(|i| (0, 1 + i % 5, 1, f32::NAN)));
    let events = events(&parts);
    events.iter().for_each(|event| store.apply(event));
    store.merge(UserId(0), UserId(1));
    let state = store.read_user(Some(UserId(1))).state;
    assert!(state.recent.iter().all(|event| event.item != ItemId(0)));
    let record = state.items.get(ItemId(0), &plan.user_item).expect("it is known");
    let last: Vec<f64> = plan.last_by_type(record).collect();
    assert_eq!(last[0], events[0].time.0 as f64);
    assert!(last[1].is_nan(), "{last:?}");
}
