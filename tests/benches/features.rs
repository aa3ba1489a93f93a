//! How long it takes to read what features need of 1,000 candidates out of 100,000 items: in memory, from the near cache,
//! and from Redis alone.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use featurestore::plan::ItemRows;
use featurestore::redis::{
    Change, Generation, Nodes, Noted, RedisError, RedisSettings, RedisStore,
};
use featurestore::schema::{EventType, FieldKind};
use featurestore::{
    EmbeddedStore, Entities, Event, EventTypeId, FeaturePlan, FeatureStore, Freshness, ItemId,
    NO_SESSION, Schema, Timestamp, UserId, Value,
};
use tests::{Redis, plan_of};

const N_ITEMS: u32 = 100_000;
const N_BRANDS: u32 = 1_000;
const N_CANDIDATES: u64 = 1_000;

/// As the defaults have them of one category field.
const FEATURES: &str = r#"features = [
    { name = "a", kind = "decayed_count", scope = "item", half_life = "1d" },
    { name = "b", kind = "decayed_count", scope = "item", half_life = "7d" },
    { name = "c", kind = "decayed_count", scope = "item", half_life = "30d" },
    { name = "d", kind = "decayed_count", scope = "field", field = "brand", half_life = "30d" },
    { name = "e", kind = "distinct_users" },
    { name = "f", kind = "trend", scope = "item", short = "1d", long = "9d" },
]"#;

fn schema() -> Schema {
    Schema {
        events: [("view".to_owned(), EventType { weight: 1.0, label: 1 })].into(),
        item_fields: [("brand".to_owned(), FieldKind::Category)].into(),
        ..Schema::default()
    }
}

fn event(item: u32) -> Event {
    Event {
        time: Timestamp(1_700_000_000_000 + i64::from(item)),
        user: UserId(0),
        item: ItemId(item),
        session: NO_SESSION,
        kind: EventTypeId(0),
        numbers: [f32::NAN; featurestore::event::MAX_EVENT_NUMBERS],
    }
}

fn embedded(plan: &Arc<FeaturePlan>, schema: &Schema) -> Arc<EmbeddedStore> {
    let (items, users) = (Entities::new(&schema.item_fields), Entities::new(&schema.user_fields));
    let store = EmbeddedStore::new(plan.clone(), schema, items, users);
    for item in 0..N_ITEMS {
        store.intern("u", &format!("i{item}"));
    }
    store.put(|items, _| {
        for item in 0..N_ITEMS {
            let brand = Value::Text(format!("b{}", item % N_BRANDS).into());
            items.put(item, &[("brand".into(), brand)].into());
        }
    });
    (0..N_ITEMS).for_each(|item| store.apply(&event(item)));
    Arc::new(store)
}

/// The same in Redis, behind a near cache of so many bytes.
fn in_redis(redis: &Redis, embedded: &Arc<EmbeddedStore>, near_cache_bytes: u64) -> RedisStore {
    let nodes = Arc::new(Nodes::new(&[redis.url()]).expect("a URL"));
    let settings = RedisSettings { prefix: format!("near{near_cache_bytes}"), near_cache_bytes };
    let plan = Arc::new(embedded.plan().clone());
    let store = RedisStore::new(plan, "plan", embedded.clone(), nodes, &settings);
    let changes = |note: &mut dyn FnMut(Change)| {
        for item in 0..N_ITEMS {
            let codes = vec![(0, item % N_BRANDS)];
            note(Change::Event(Noted { stamp: 0, event: event(item), codes }));
        }
        Ok::<_, RedisError>(Generation { name: "only".into(), n_own: 0, stamp: 0 })
    };
    let claim = store.claim("bench".into()).expect("Redis answers").expect("nobody else makes it");
    store.load(&claim, changes, None).expect("Redis takes it");
    store.release(claim).expect("Redis answers");
    store
}

fn features(criterion: &mut Criterion) {
    let schema = schema();
    let embedded = embedded(&plan_of(FEATURES, &schema), &schema);
    let mut group = criterion.benchmark_group("read 1,000 of 100,000 items");
    let mut measure = |name: &str, store: &dyn FeatureStore| {
        let (mut rows, mut round) = (ItemRows::default(), 0);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                round += 1;
                let item =
                    |i: u64| ItemId(((i * 7_919 + round * 104_729) % u64::from(N_ITEMS)) as u32);
                let items: Vec<ItemId> = (0..N_CANDIDATES).map(item).collect();
                assert_eq!(store.read_items(&items, None, &mut rows), Freshness::Fresh);
                black_box(&rows);
            });
        });
    };
    measure("in memory", &*embedded);
    let Some(redis) = Redis::start() else { return };
    let warm = in_redis(&redis, &embedded, 256 << 20);
    let all: Vec<ItemId> = (0..N_ITEMS).map(ItemId).collect();
    warm.read_items(&all, None, &mut ItemRows::default());
    measure("Redis, warm near cache", &warm);
    measure("Redis, cold near cache", &in_redis(&redis, &embedded, 1));
}

criterion_group!(benches, features);
criterion_main!(benches);
