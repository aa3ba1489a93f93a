//! Lists that were computed before, for when there is no time to compute one: `precompute --to-store` writes them into the
//! data folder, one file of JSON Lines for each placement, and a server keeps them in memory.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use featurestore::{EmbeddedStore, ItemId, UserId};
use rustc_hash::FxHashMap;

use crate::json_lines::{blank_lines, contains, is_blank};
use crate::precompute::UserList;

/// The lists of one placement, in the ids of a store. A list costs 4 bytes an item, and about 20 more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredLists {
    items: Vec<ItemId>,
    /// First item and length.
    of_user: FxHashMap<UserId, (u32, u32)>,
}

/// Where the lists of `scenario` are in the data folder.
pub fn path(data_dir: &Path, scenario: &str) -> PathBuf {
    // A name is a key of the configuration: it may hold anything.
    let name: String = scenario
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    data_dir.join("lists").join(format!("{name}.jsonl"))
}

/// When the file at `path` was last written; `None`: there is none.
pub fn written(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

impl StoredLists {
    /// Reads the lists at `path`. Users and items that `store` does not know are left out.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub fn read(path: &Path, store: &EmbeddedStore) -> io::Result<Self> {
        let (mut lists, reader) = (Self::default(), BufReader::new(File::open(path)?));
        for line in reader.lines() {
            let line = line?;
            // That of a user who was erased.
            if is_blank(line.as_bytes()) {
                continue;
            }
            let list: UserList = serde_json::from_str(&line)?;
            store.view(|view| {
                let Some(user) = view.users().names().get(&list.user_id) else { return };
                let start = lists.items.len();
                let names = view.items().names();
                let ids = list.items.iter().filter_map(|item| names.get(&item.id).map(ItemId));
                lists.items.extend(ids);
                let place = (start as u32, (lists.items.len() - start) as u32);
                lists.of_user.insert(UserId(user), place);
            });
        }
        Ok(lists)
    }

    /// The list of `user`, best first; empty if there is none.
    pub fn of(&self, user: Option<UserId>) -> &[ItemId] {
        let place = user.and_then(|user| self.of_user.get(&user));
        place.map_or(&[], |(start, n)| &self.items[*start as usize..][..*n as usize])
    }
}

/// Removes the lists of the users called `names` from all files in the data folder, also from those that a run that goes on or
/// was killed has made so far; returns how many there were in the finished ones.
///
/// # Errors
/// If a file cannot be read or written.
pub fn erase(data_dir: &Path, names: &[String]) -> io::Result<usize> {
    let mut n_erased = 0;
    for path in files_in(&data_dir.join("lists"))? {
        let is_finished = path.extension().is_some_and(|extension| extension == "jsonl");
        if is_finished {
            n_erased += erase_from(&path, names)?;
        } else if path.is_dir() {
            files_in(&path)?.iter().try_for_each(|part| erase_from(part, names).map(drop))?;
        } else {
            erase_from(&path, names)?;
        }
    }
    Ok(n_erased)
}

/// What is in `folder`; nothing, if there is no such folder, or none any more.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn erase_from(path: &Path, names: &[String]) -> io::Result<usize> {
    blank_lines(path, |line| match serde_json::from_slice::<UserList>(line) {
        Ok(list) => names.contains(&list.user_id),
        // A line that is torn may be of one of them.
        Err(_) => names.iter().any(|name| contains(line, name.as_bytes())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precompute::ListedItem;
    use featurestore::plan::PlanBuilder;
    use featurestore::{Entities, Schema};
    use std::sync::Arc;

    #[test]
    fn lists_are_read_and_erased() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), "a/b");
        assert_eq!(path.file_name().unwrap(), "a%2fb.jsonl");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let list = |user: &str, items: &[&str]| {
            let item = |id: &&str| ListedItem { id: (*id).to_owned(), score: 1.0 };
            let items = items.iter().map(item).collect();
            serde_json::to_string(&UserList { user_id: user.into(), items }).unwrap()
        };
        let text = [list("u", &["a", "gone", "b"]), list("v", &["b"]), list("w", &["a"])];
        fs::write(&path, text.join("\n")).unwrap();
        let schema = Schema::default();
        let none = || Entities::new(&schema.item_fields);
        let plan = Arc::new(PlanBuilder::new(&schema).build());
        let store = EmbeddedStore::new(plan, &schema, none(), none());
        let (u, a) = store.intern("u", "a");
        let (v, b) = store.intern("v", "b");
        let lists = StoredLists::read(&path, &store).unwrap();
        assert_eq!(lists.of(Some(u)), [a, b]);
        assert_eq!((lists.of(Some(v)), lists.of(None)), (&[b][..], &[][..]));
        assert_eq!(erase(folder.path(), &["v".to_owned()]).unwrap(), 1);
        assert_eq!(erase(folder.path(), &["v".to_owned()]).unwrap(), 0);
        let left = StoredLists::read(&path, &store).unwrap();
        assert_eq!((left.of(Some(u)), left.of(Some(v))), (&[a, b][..], &[][..]));
        // What a run that was killed has left.
        let (parts, torn) = (path.with_extension("jsonl.parts"), path.with_extension("writing"));
        fs::create_dir(&parts).unwrap();
        let files = [parts.join("00000000.jsonl"), parts.join("00000001.writing"), torn];
        for file in &files {
            fs::write(file, format!("{}\n{}", text[0], &text[1][..20])).unwrap();
        }
        assert_eq!(erase(folder.path(), &["v".to_owned()]).unwrap(), 0);
        for file in &files {
            let left = fs::read_to_string(file).unwrap();
            assert_eq!(left, format!("{}\n{}", text[0], " ".repeat(20)));
        }
    }
}
