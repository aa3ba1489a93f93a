//! How a list goes on: a token that says what was shown before. The server keeps nothing of it, so it is signed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use featurestore::ItemId;
use hmac::{Hmac, KeyInit, Mac};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

use super::problem::{Fault, Problem};
use super::request::Request;

/// The file of the key in the data folder. Servers that share the folder take each other's tokens.
const KEY_FILE: &str = "page-tokens.key";

const KEY_BYTES: usize = 32;
const LIST_BYTES: usize = 16;
const SEED_BYTES: usize = 8;
const MAC_BYTES: usize = 16;

/// Version of the layout: `version u8 | list | seed u64 | ids | mac`, the ids rising, each as the difference from the one
/// before in LEB128.
const VERSION: u8 = 1;

/// Most items that the pages of one list show.
pub(super) const MAX_PAGED: usize = 1_000;

/// Longest token in characters: each id takes at most five bytes.
const MAX_TOKEN: usize = (1 + LIST_BYTES + SEED_BYTES + 5 * MAX_PAGED + MAC_BYTES) * 4 / 3 + 4;

/// Makes and reads tokens.
pub(super) struct PageTokens {
    key: [u8; KEY_BYTES],
}

/// A list, and what was shown of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// What the list is for: who asks for it, and what is allowed.
    list: [u8; LIST_BYTES],
    /// Start of the list's random sequence.
    pub(super) seed: u64,
    /// The items of the pages before, by rising id.
    pub(super) shown: Vec<ItemId>,
}

impl PageTokens {
    /// With the key in `data_dir`, which is made if it is not there.
    ///
    /// # Errors
    /// If the key cannot be read or written.
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(KEY_FILE);
        let mut key = [0; KEY_BYTES];
        if !path.exists() {
            // Written beside, so that it is there as a whole or not at all; who is second takes that of the first.
            let beside = data_dir.join(format!("{KEY_FILE}.{}", std::process::id()));
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            OsRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
            file.write_all(&key)?;
            file.sync_all()?;
            let linked = std::fs::hard_link(&beside, &path);
            std::fs::remove_file(&beside)?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        File::open(&path)?.read_exact(&mut key)?;
        Ok(Self { key })
    }

    /// The page that `request` asks for: the first one, which begins with `seed`, or the one that its token names.
    ///
    /// # Errors
    /// If the token is not one that was answered to such a request.
    pub(super) fn page(&self, request: &Request, seed: u64) -> Result<Page, Problem> {
        let list = list_of(request);
        let Some(token) = &request.page_token else {
            return Ok(Page { list, seed, shown: Vec::new() });
        };
        let refuse = |message: &str| {
            Problem::unprocessable("invalid_page_token", vec![Fault::new("/page_token", message)])
        };
        let page = self.read(token).ok_or_else(|| refuse("is not one that was answered"))?;
        match page.list == list {
            true => Ok(page),
            false => Err(refuse("was answered to another request: only `n` may differ")),
        }
    }

    /// The token of the page behind `page`, which showed `items`; none once enough was shown.
    pub(super) fn next(&self, page: &Page, items: &[ItemId]) -> Option<String> {
        let mut shown: Vec<ItemId> = page.shown.iter().chain(items).copied().collect();
        shown.sort_unstable();
        (shown.len() < MAX_PAGED).then(|| self.write(&Page { shown, ..page.clone() }))
    }

    fn mac(&self, content: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.key).expect("a key may have any length");
        mac.update(content);
        mac
    }

    fn write(&self, page: &Page) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(page.list);
        bytes.extend(page.seed.to_le_bytes());
        let mut before = 0;
        for item in &page.shown {
            let mut rest = item.0 - before;
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
            before = item.0;
        }
        let mac = self.mac(&bytes).finalize().into_bytes();
        bytes.extend(&mac[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` if this key did not sign it.
    fn read(&self, token: &str) -> Option<Page> {
        let bytes = (token.len() <= MAX_TOKEN).then(|| URL_SAFE_NO_PAD.decode(token).ok())??;
        let (content, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        self.mac(content).verify_truncated_left(mac).ok()?;
        let mut rest = content.strip_prefix(&[VERSION])?;
        let list = rest.split_off(..LIST_BYTES)?.try_into().ok()?;
        let seed = u64::from_le_bytes(rest.split_off(..SEED_BYTES)?.try_into().ok()?);
        let (mut shown, mut before) = (Vec::new(), 0u32);
        while !rest.is_empty() {
            before = before.checked_add(read_number(&mut rest)?)?;
            shown.push(ItemId(before));
        }
        Some(Page { list, seed, shown })
    }
}

fn read_number(rest: &mut &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number.try_into().ok();
        }
    }
    None
}

/// What tells the list of `request` from others.
fn list_of(request: &Request) -> [u8; LIST_BYTES] {
    let Request { user_id, session_id, scenario, filter, seed_items, exclude_ids, boosts, .. } =
        request;
    let text = format!(
        "{user_id:?} {session_id:?} {scenario:?} {filter:?} {seed_items:?} {exclude_ids:?} {boosts:?} {:?}",
        request.diversity
    );
    let digest = Sha256::digest(text.as_bytes());
    std::array::from_fn(|i| digest[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(byte: u8) -> PageTokens {
        PageTokens { key: [byte; KEY_BYTES] }
    }

    proptest! {
        #[test]
        fn a_token_says_what_was_shown(
            seed in any::<u64>(),
            pages in proptest::collection::vec(proptest::collection::btree_set(any::<u32>(), 0..40), 1..4),
        ) {
            let request = Request { user_id: Some("u".into()), ..Request::default() };
            let mut page = tokens(1).page(&request, seed).unwrap();
            let mut all = std::collections::BTreeSet::new();
            for items in pages {
                let items: Vec<ItemId> = items.into_iter().filter(|id| all.insert(*id)).map(ItemId).collect();
                let token = tokens(1).next(&page, &items).unwrap();
                let request = Request { page_token: Some(token), n: 3, ..request.clone() };
                page = tokens(1).page(&request, 99).unwrap();
                prop_assert_eq!(page.shown.iter().map(|item| item.0).collect::<Vec<_>>(),
                    all.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(page.seed, seed);
            }
        }

        #[test]
        fn what_is_no_token_is_refused(text in ".{0,80}", cut in 0usize..60, bit in 0usize..320) {
            let page = Page { list: [3; 16], seed: 5, shown: vec![ItemId(1), ItemId(70_000)] };
            let token = tokens(1).write(&page);
            prop_assert_eq!(tokens(1).read(&token), Some(page));
            prop_assert_eq!(tokens(2).read(&token), None, "another key");
            prop_assert_eq!(tokens(1).read(&text), None);
            prop_assert_eq!(tokens(1).read(&token[..cut.min(token.len() - 1)]), None);
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            let place = bit / 8 % bytes.len();
            bytes[place] ^= 1 << (bit % 8);
            prop_assert_eq!(tokens(1).read(&URL_SAFE_NO_PAD.encode(bytes)), None);
        }
    }

    #[test]
    fn a_token_is_for_one_list_and_lists_end() {
        let of = |user: &str| Request { user_id: Some(user.into()), ..Request::default() };
        let page = tokens(1).page(&of("u"), 7).unwrap();
        let token = tokens(1).next(&page, &[ItemId(4)]);
        let other = Request { page_token: token, ..of("v") };
        let message = tokens(1).page(&other, 7).unwrap_err().to_string();
        assert!(message.contains("another request"), "{message}");
        let items: Vec<ItemId> = (0..MAX_PAGED as u32).map(ItemId).collect();
        assert_eq!(tokens(1).next(&page, &items), None);
        assert!(tokens(1).next(&page, &items[1..]).is_some());
    }

    #[test]
    fn the_key_is_made_once_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let first = PageTokens::open(folder.path()).unwrap();
        assert_eq!(PageTokens::open(folder.path()).unwrap().key, first.key);
        let mode = folder.path().join(KEY_FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(folder.path().join(KEY_FILE), "short").unwrap();
        assert!(PageTokens::open(folder.path()).is_err());
    }
}
