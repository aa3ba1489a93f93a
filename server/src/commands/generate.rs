//! A made-up data set in the shape of the demo's real one, for where that cannot be had.
//!
//! Households repeat what they like at intervals of their own, like some categories more than others, and follow
//! short fashions; what is popular follows a power law.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use featurestore::Timestamp;
use featurestore::time::DAY_MS;

const HOUSEHOLDS: usize = 600;
const PRODUCTS: usize = 4_000;
const TYPES: usize = 120;
const DEPARTMENTS: usize = 12;
const DAYS: i64 = 364;
/// Products that a household buys again and again.
const HABITS: usize = 40;
/// 2017-01-01T00:00Z, the start of the real data set.
const START_MS: i64 = 1_483_228_800_000;

/// SplitMix64. Source: "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// Small numbers more often: density falling with a power of the number.
    fn skewed(&mut self, n: usize) -> usize {
        (self.unit().powf(2.5) * n as f64) as usize
    }
}

struct Habit {
    product: usize,
    every_days: f64,
    due: f64,
}

/// Writes `transactions.csv`, `products.csv` and `demographics.csv` into `folder`. The same seed, the same bytes.
pub(crate) fn generate(folder: &Path, seed: u64) -> anyhow::Result<()> {
    let mut random = Random(seed);
    let create = |name: &str| {
        let path = folder.join(name);
        File::create(&path)
            .map(BufWriter::new)
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let types: Vec<usize> = (0..PRODUCTS).map(|_| random.skewed(TYPES)).collect();
    let mut products = create("products.csv")?;
    writeln!(
        products,
        "product_id,manufacturer_id,department,brand,product_category,product_type,package_size"
    )?;
    for (product, kind) in types.iter().enumerate() {
        let (brand, maker) = (["National", "Private"][random.below(2)], random.skewed(300));
        let department = kind % DEPARTMENTS;
        writeln!(
            products,
            "{product},{maker},DEPARTMENT {department},{brand},CATEGORY {},TYPE {kind},",
            kind / 2
        )?;
    }
    let mut people = create("demographics.csv")?;
    writeln!(people, "household_id,age,income")?;
    for household in 0..HOUSEHOLDS {
        let age = ["19-24", "25-34", "35-44", "45-54", "55-64", "65+"][random.below(6)];
        let income = ["Under 15K", "25-34K", "50-74K", "100-124K"][random.below(4)];
        writeln!(people, "{household},{age},{income}")?;
    }
    write_transactions(&mut create("transactions.csv")?, &types, &mut random)
}

fn write_transactions(
    file: &mut impl Write,
    types: &[usize],
    random: &mut Random,
) -> anyhow::Result<()> {
    writeln!(
        file,
        "household_id,store_id,basket_id,product_id,quantity,sales_value,transaction_timestamp"
    )?;
    let mut homes: Vec<Vec<Habit>> = (0..HOUSEHOLDS).map(|_| habits(types, random)).collect();
    let per_day: Vec<f64> = (0..HOUSEHOLDS).map(|_| 0.05 + 0.25 * random.unit()).collect();
    let mut basket = 0;
    for day in 0..DAYS {
        // A fashion that lasts a week.
        let fashion = (day as usize / 7 * 37) % PRODUCTS;
        for household in 0..HOUSEHOLDS {
            if random.unit() > per_day[household] {
                continue;
            }
            let time = START_MS
                + day * DAY_MS
                + (8 + random.below(13)) as i64 * 3_600_000
                + random.below(3_600) as i64 * 1_000;
            let time = Timestamp(time).to_string();
            for product in shop(&mut homes[household], day as f64, fashion, random) {
                let cents = 50 + random.skewed(1_500);
                writeln!(
                    file,
                    "{household},{},{basket},{product},1,{}.{:02},{time}",
                    household % 40,
                    cents / 100,
                    cents % 100
                )?;
            }
            basket += 1;
        }
    }
    Ok(file.flush()?)
}

fn habits(types: &[usize], random: &mut Random) -> Vec<Habit> {
    let liked: Vec<usize> = (0..10).map(|_| random.skewed(TYPES)).collect();
    let mut habits = Vec::with_capacity(HABITS);
    while habits.len() < HABITS {
        let product = random.skewed(PRODUCTS);
        if liked.contains(&types[product]) || random.unit() < 0.1 {
            let every_days = 7.0 + 60.0 * random.unit();
            habits.push(Habit { product, every_days, due: every_days * random.unit() });
        }
    }
    habits
}

fn shop(habits: &mut [Habit], day: f64, fashion: usize, random: &mut Random) -> Vec<usize> {
    let mut bought = Vec::new();
    for habit in habits {
        if habit.due <= day && random.unit() < 0.7 {
            bought.push(habit.product);
            habit.due = day + habit.every_days * (0.7 + 0.6 * random.unit());
        }
    }
    for _ in 0..1 + random.below(4) {
        let fashionable = random.unit() < 0.3;
        bought.push(if fashionable {
            (fashion + random.below(20)) % PRODUCTS
        } else {
            random.skewed(PRODUCTS)
        });
    }
    bought.sort_unstable();
    bought.dedup();
    bought
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        [&a, &b].into_iter().for_each(|folder| generate(folder.path(), 1).unwrap());
        for name in ["transactions.csv", "products.csv", "demographics.csv"] {
            let read =
                |folder: &tempfile::TempDir| std::fs::read(folder.path().join(name)).unwrap();
            assert!(read(&a) == read(&b) && read(&a).len() > 1_000, "{name}");
        }
    }
}
