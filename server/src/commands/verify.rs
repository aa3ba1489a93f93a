//! `cascade verify-features`: the log replayed, against the state that a server left.

use anyhow::{Context, bail};
use engine::config::{Config, StoreKind};
use engine::state::{Keeps, State, read_snapshot};
use featurestore::log::{EventLog, Position};
use featurestore::plan::FeatureScratch;
use featurestore::{EmbeddedStore, ItemId, Timestamp, UserId};
use serde_json::json;

use super::{Global, Outcome, UsageError};
use crate::workspace::Workspace;

/// Replay the log and compare with the live store, feature by feature.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Compare at most so many users.
    #[arg(long, default_value_t = 10_000)]
    users: usize,
}

/// How often features of a user are computed at once, at the most.
const ITEMS_PER_USER: usize = 200;

impl Verify {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let workspace = Workspace::new(Config::read(&global.config)?);
        if workspace.config.store.kind == StoreKind::Redis {
            bail!(UsageError(
                "the features are in Redis: there is no state in the data folder to compare with the \
                 log (with `store.kind = \"embedded\"` a server leaves one when it ends)"
                    .into()
            ));
        }
        let release = workspace.shelf.open(&workspace.shelf.active()?)?;
        let live = read_snapshot(&workspace.config.data_dir, &release, Keeps::Everything)
            .context("there is no live state to compare with (a server leaves one when it ends)")?;
        let mut replayed = State::empty(&release, Keeps::Everything);
        let reader = EventLog::reader(&workspace.log_dir(), Position::START)?;
        replayed.follow_until(reader, live.position())?;
        let names: Vec<&str> = release.features.iter().map(|f| f.name.as_str()).collect();
        let (compared, different) =
            compare(live.store(), replayed.store(), names.len(), self.users);
        let differing: Vec<&str> = different.iter().map(|i| names[*i]).collect();
        if global.json {
            let object =
                json!({ "values": compared, "features": names.len(), "different": differing });
            println!("{object}");
        } else if differing.is_empty() {
            println!(
                "{compared} values of {} features are bit-equal live and in replay",
                names.len()
            );
        } else {
            println!(
                "{} features differ between live and replay: {}",
                differing.len(),
                differing.join(", ")
            );
        }
        Ok(if differing.is_empty() { Outcome::Done } else { Outcome::Failed })
    }
}

/// How many values were compared, and the columns that differ.
fn compare(
    live: &EmbeddedStore,
    replayed: &EmbeddedStore,
    n_features: usize,
    max_users: usize,
) -> (usize, Vec<usize>) {
    let (n_users, now) = live.view(|view| (view.users().len(), view.latest()));
    let now = Timestamp(now.0 + 3_600_000);
    let mut scratch = [(); 2].map(|()| FeatureScratch::default());
    let (mut compared, mut different) = (0, vec![false; n_features]);
    for user in (0..n_users as u32).take(max_users).map(UserId) {
        let state = live.read_user(Some(user)).state;
        let mut items: Vec<ItemId> = state
            .items
            .iter(&live.plan().user_item)
            .map(|(item, _)| item)
            .take(ITEMS_PER_USER)
            .collect();
        // Items that the user has nothing to do with have features as well.
        items.extend((user.0..user.0 + 10).map(ItemId));
        let stores = [live, replayed].into_iter().zip(&mut scratch);
        let [a, b]: [Vec<f32>; 2] = stores
            .map(|(store, scratch)| features(store, user, &items, now, n_features, scratch))
            .collect::<Vec<_>>()
            .try_into()
            .expect("two stores give two matrices");
        compared += a.len();
        for (column, (a, b)) in a.chunks(items.len()).zip(b.chunks(items.len())).enumerate() {
            different[column] |= a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits());
        }
    }
    let different = different.into_iter().enumerate();
    (compared, different.filter(|(_, differs)| *differs).map(|(column, _)| column).collect())
}

fn features(
    store: &EmbeddedStore,
    user: UserId,
    items: &[ItemId],
    now: Timestamp,
    n_features: usize,
    scratch: &mut FeatureScratch,
) -> Vec<f32> {
    let mut columns = vec![f32::NAN; n_features * items.len()];
    let user = store.read_user(Some(user));
    store.read_items(items, &mut scratch.items);
    store.plan().compute(&user, items, now, scratch, &mut columns);
    columns
}
