//! A made-up shop: users with habits, items that go together, sessions over several months.

use std::fmt::Write;

/// What is sold in a shop, and what its users did there. The same numbers give the same shop.
#[derive(Clone, Debug)]
pub struct Shop {
    /// How many users, called `u0`, `u1` and so on.
    pub n_users: usize,
    /// How many items, called `i0`, `i1` and so on.
    pub n_items: usize,
    /// Over how many days they came.
    pub n_days: u64,
    /// Everything random is drawn from this.
    pub seed: u64,
}

impl Default for Shop {
    fn default() -> Self {
        Self { n_users: 150, n_items: 300, n_days: 150, seed: 7 }
    }
}

/// Something that a user did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopEvent {
    /// Unique.
    pub event_id: String,
    /// `view` or `purchase`.
    pub kind: &'static str,
    /// Who.
    pub user: String,
    /// In which visit.
    pub session: String,
    /// What.
    pub item: String,
    /// When, in seconds since 1970.
    pub time_s: u64,
}

const N_CATEGORIES: usize = 10;
const N_STAPLES: usize = 8;
/// 2024-01-01T00:00Z.
const START_S: u64 = 1_704_067_200;
const DAY_S: u64 = 86_400;

impl Shop {
    /// Everything that the users did, in the order of time.
    ///
    /// Each comes back every few days, buys those of eight staples that have run out, each with a period of its own, and
    /// now and then what is in fashion this week or something from a favourite category. What is bought was looked at
    /// before, and so was something else.
    pub fn events(&self) -> Vec<ShopEvent> {
        let mut events: Vec<_> = (0..self.n_users).flat_map(|user| self.events_of(user)).collect();
        events.sort_by_key(|event| event.time_s);
        for (i, event) in events.iter_mut().enumerate() {
            event.event_id = format!("e{i}");
        }
        events
    }

    fn events_of(&self, user: usize) -> Vec<ShopEvent> {
        let mut random = Random(self.seed ^ (user as u64 + 1).wrapping_mul(0x9e37_79b9));
        let favourites = [random.below(N_CATEGORIES), random.below(N_CATEGORIES)];
        let mut staples: Vec<Staple> = (0..N_STAPLES)
            .map(|i| {
                let period_s = (5 + random.below(25)) as u64 * DAY_S;
                let item = self.item_in(favourites[i % 2], &mut random);
                Staple { item, period_s, due_s: START_S + random.below(period_s as usize) as u64 }
            })
            .collect();
        let gap_s = (3 + random.below(4) as u64) * DAY_S;
        let (mut time_s, mut visit, mut events) =
            (START_S + random.below(gap_s as usize) as u64, 0, Vec::new());
        while time_s < START_S + self.n_days * DAY_S {
            let mut bought: Vec<usize> = Vec::new();
            for staple in staples.iter_mut().filter(|staple| staple.due_s <= time_s) {
                bought.push(staple.item);
                staple.due_s = time_s + staple.period_s * (90 + random.below(21) as u64) / 100;
            }
            for _ in 0..random.below(3) {
                let fashion = self.item_in(time_s as usize / (7 * DAY_S) as usize, &mut random);
                let liked = self.item_in(favourites[random.below(2)], &mut random);
                bought.push(if random.below(2) == 0 { fashion } else { liked });
            }
            let glance = (self.item_in(favourites[0], &mut random), "view");
            let acts = bought.into_iter().flat_map(|item| [(item, "view"), (item, "purchase")]);
            for (step, (item, kind)) in std::iter::once(glance).chain(acts).enumerate() {
                events.push(ShopEvent {
                    event_id: String::new(),
                    kind,
                    user: format!("u{user}"),
                    session: format!("u{user}-{visit}"),
                    item: format!("i{item}"),
                    time_s: time_s + 20 * step as u64,
                });
            }
            visit += 1;
            time_s += gap_s / 2 + random.below(gap_s as usize) as u64;
        }
        events
    }

    /// The log as a CSV file.
    pub fn events_csv(&self) -> String {
        let mut csv = String::from("event_id,type,user_id,session_id,item_id,timestamp\n");
        for event in self.events() {
            let ShopEvent { event_id, kind, user, session, item, time_s } = event;
            writeln!(csv, "{event_id},{kind},{user},{session},{item},{time_s}")
                .expect("a text takes all");
        }
        csv
    }

    /// The catalogue as a CSV file.
    pub fn items_csv(&self) -> String {
        let mut csv = String::from("item_id,category,price,title\n");
        let mut random = Random(self.seed);
        for item in 0..self.n_items {
            let (category, cents) = (item % N_CATEGORIES, 100 + random.below(1_900));
            let price = cents as f64 / 100.0;
            writeln!(csv, "i{item},c{category},{price},\"Thing {item}, of kind {category}\"")
                .expect("a text takes all");
        }
        csv
    }

    /// An item of a category, those with low numbers more often.
    fn item_in(&self, category: usize, random: &mut Random) -> usize {
        let place = random.low(self.n_items / N_CATEGORIES);
        (place * N_CATEGORIES + category % N_CATEGORIES) % self.n_items
    }
}

/// Something that a user buys again when it has run out.
struct Staple {
    item: usize,
    period_s: u64,
    due_s: u64,
}

/// SplitMix64. Source: "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Of `0..n`, each as likely.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Of `0..n`, the low ones more often.
    fn low(&mut self, n: usize) -> usize {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (uniform * uniform * uniform * n as f64) as usize
    }
}
