//! The two feature stores are one: fed with the same events in the same order they agree bit for bit, and the order in
//! which events come, and how often, does not matter to either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featurestore::log::Record;
use featurestore::plan::{FeatureScratch, ItemRows};
use featurestore::redis::{
    Change, Claim, Follower, Generation, Nodes, Noted, RedisError, RedisSettings, RedisStore,
    SharedLog,
};
use featurestore::schema::{EventType, FieldKind};
use featurestore::{
    EmbeddedStore, Entities, Event, FeaturePlan, FeatureStore, Freshness, ItemId, NO_SESSION,
    NamedEvent, Schema, Timestamp, UserId, Value,
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
    make(&store, |_| first());
    store
}

/// Claims to make a generation.
fn claim(store: &RedisStore, name: &str) -> Option<Claim> {
    store.claim(name.into()).expect("Redis answers")
}

/// Makes a generation of `changes`.
fn make(store: &RedisStore, changes: impl FnOnce(&mut dyn FnMut(Change)) -> Generation + Send) {
    let claim = claim(store, "test").expect("nobody else makes one");
    let made = store.load(&claim, |fold| Ok::<_, RedisError>(changes(fold)), None);
    assert!(made.expect("Redis takes it").is_some());
    store.release(claim).expect("Redis answers");
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
    make(&reading, |_| first());
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
    make(&other, |_| first());
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

/// A generation called `name`, of one event of each user.
fn one_event_each(
    name: &'static str,
    n_users: u32,
) -> impl FnOnce(&mut dyn FnMut(Change)) -> Result<Generation, RedisError> {
    move |fold| {
        for event in events(&vec![(1, 2, 0, 3.0); n_users as usize]).iter_mut().zip(0..) {
            let (event, user) = event;
            event.user = UserId(user);
            fold(Change::Event(Noted { stamp: 1, event: *event, codes: Vec::new() }));
        }
        Ok(Generation { name: name.into(), n_own: 1, stamp: 1 })
    }
}

#[test]
fn one_server_at_a_time_makes_what_others_read() {
    let Some(redis) = Redis::start() else { return };
    let (plan, catalogue) = fixture();
    let stores = [(), ()].map(|()| connected(&[redis.url()], &plan, &catalogue));
    let [slow, other] = &stores;
    let name = |store: &RedisStore| store.generation().unwrap().map(|generation| generation.name);

    let held = claim(slow, "of the slow").expect("nobody else makes one");
    assert!(claim(other, "of the other").is_none());
    let made = slow.load(&held, one_event_each("whole", N_USERS), None).unwrap();
    assert_eq!(made.map(|generation| generation.name).as_deref(), Some("whole"));

    // It did not answer for so long that the claim ended, and the other began.
    assert!(redis.ask("DEL near:plan:loading").starts_with(":1"));
    let by_other = claim(other, "of the other").expect("the claim has ended");
    assert_eq!(slow.load(&held, one_event_each("late", N_USERS), None).unwrap(), None);
    assert!(redis.ask("KEYS near:plan:late:*").starts_with("*0\r\n"));
    assert_eq!(name(other).as_deref(), Some("whole"));
    // What ends is one's own, and not what the other holds.
    slow.release(held).unwrap();
    assert!(claim(slow, "of the slow again").is_none());
    assert!(other.load(&by_other, one_event_each("newer", N_USERS), None).unwrap().is_some());
    assert_eq!(name(slow).as_deref(), Some("newer"));
    other.release(by_other).unwrap();
    assert!(claim(slow, "of the slow again").is_some());
}

#[test]
fn what_does_not_fit_into_redis_does_not_stay_there() {
    let Some(redis) = Redis::start() else { return };
    let n_users = 20_000;
    let (plan, catalogue) = fixture();
    for user in 0..n_users {
        catalogue.intern(&format!("customer {user}"), "i1");
    }
    let store = connected(&[redis.url()], &plan, &catalogue);
    let held = claim(&store, "of this").expect("nobody else makes one");
    let limit = used_memory(&redis) + (1 << 20);
    assert!(redis.ask(&format!("CONFIG SET maxmemory {limit}")).starts_with("+OK"));
    let error = store.load(&held, one_event_each("large", n_users), None).unwrap_err();
    assert!(error.to_string().contains("maxmemory"), "{error}");
    assert!(redis.ask("KEYS near:plan:large:*").starts_with("*0\r\n"));
    assert!(redis.ask("CONFIG SET maxmemory 0").starts_with("+OK"));
    assert!(store.load(&held, one_event_each("large", n_users), None).unwrap().is_some());
    // Both have had values: those that do not fit were not refused before the first.
    assert!(used_memory(&redis) > limit);
}

#[test]
fn what_moves_to_another_node_of_a_cluster_is_found_there() {
    let Some(nodes) = Redis::start_cluster() else { return };
    let (plan, catalogue) = fixture();
    let urls: Vec<String> = nodes.iter().map(Redis::url).collect();
    let [writing, reading] = [(), ()].map(|()| connected(&urls, &plan, &catalogue));
    make(&writing, |_| first());
    reading.use_generation(&first());
    let mut parts = vec![(1, 3, 0, 5.0), (2, 4, 1, 1.0)];
    let mut write = |part| {
        parts.push(part);
        fold(&writing, &catalogue, &events(&parts), 1);
    };
    let read = |store: &RedisStore| format!("{:?}", numbers(store));
    write((1, 3, 1, 2.0));

    let arrive = Redis::begin_to_move(&nodes, "near:plan:first:{i:3}");
    assert_eq!(read(&reading), read(&writing));
    write((3, 3, 0, 7.0));
    let fresh = || {
        let store = connected(&urls, &plan, &catalogue);
        store.use_generation(&first());
        store
    };
    assert_eq!(read(&fresh()), read(&writing));
    arrive();
    write((4, 3, 0, 1.0));
    assert_eq!(read(&fresh()), read(&writing));

    let log = Arc::new(SharedLog::new(Arc::new(Nodes::new(&urls).expect("URLs")), "near"));
    let append = || {
        let event = NamedEvent { user: Some("u".into()), ..NamedEvent::default() };
        log.append(&[Record::Event(event)], 0)
    };
    let mut follower = Follower::new(log.clone());
    let mut n_behind = |stamp| follower.next(stamp, Duration::ZERO).expect("it is there").len();
    let first = append().expect("Redis takes it");
    assert_eq!((n_behind(0), n_behind(first)), (1, 0));
    let arrive = Redis::begin_to_move(&nodes, "near:{log}");
    assert_eq!((n_behind(0), n_behind(first)), (1, 0));
    // One of its keys does not exist, and may for all that each node knows be with the other: it waits.
    let appended = std::thread::scope(|scope| {
        let appending = scope.spawn(append);
        std::thread::sleep(Duration::from_millis(300));
        arrive();
        appending.join().expect("it does not panic")
    });
    assert!(appended.expect("Redis takes it") > first);
    assert_eq!((n_behind(0), n_behind(first)), (2, 1));
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
    make(&shared, |fold| {
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
        Generation { name: "whole".into(), n_own: 1, stamp: 1 }
    });
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
