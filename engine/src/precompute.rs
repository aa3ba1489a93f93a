//! The nightly lists: every user through the pipeline, in parts, so that a killed run goes on where it stopped.
//!
//! A part is the lists of [`PART_USERS`] users as JSON Lines, written beside and renamed. When all parts are there, the
//! output is put together from them, without the lists of users who were erased meanwhile. The bytes do not depend on
//! interruptions or the number of threads.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use featurestore::{Timestamp, UserId};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::json_lines::is_blank;
use crate::pipeline::{Pipeline, Query, Scratch};
use crate::state::{WatchError, Watched};

/// Users in one part.
pub const PART_USERS: usize = 500;

/// Lists in one row group of a Parquet file.
const GROUP_USERS: usize = 10 * PART_USERS;

/// What is computed: everything that the bytes of the output depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The release that answers.
    pub release: String,
    /// The placement.
    pub scenario: String,
    /// The time that the lists are computed for.
    pub now: Timestamp,
    /// Items per list.
    pub n: usize,
    /// How many events the state has seen.
    pub n_events: u64,
    /// The users, in the order of the output.
    pub users: Vec<String>,
}

/// The list of one user, as it is written in JSON Lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserList {
    /// The user.
    pub user_id: String,
    /// What to show, best first.
    pub items: Vec<ListedItem>,
}

/// One recommendation of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListedItem {
    /// The item.
    pub id: String,
    /// Its score.
    pub score: f32,
}

/// Why the lists were not computed.
#[derive(Debug, thiserror::Error)]
pub enum PrecomputeError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The format of the output is not known.
    #[error("cannot tell the format of {}: its name must end in .parquet or .jsonl", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// It is not known who was erased while the lists were computed.
    #[error("cannot tell who was erased while the lists were computed")]
    Erased(#[from] WatchError),
    /// The placement is not one of the release's.
    #[error("the release has no scenario {0:?}")]
    Scenario(String),
    /// The Parquet file cannot be written.
    #[error("cannot write {}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        source: parquet::errors::ParquetError,
    },
}

/// What was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precomputed {
    /// Users whose lists were computed in this run.
    pub computed: usize,
    /// Users whose lists an interrupted run had left.
    pub resumed: usize,
    /// Recommendations in the output.
    pub n_items: usize,
    /// Size of the output.
    pub bytes: u64,
}

/// The parts of a job beside its output.
struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// Opens the parts of `job`; those of another job are thrown away.
    fn open(out: &Path, job: &Job) -> io::Result<Self> {
        let mut folder = out.as_os_str().to_owned();
        folder.push(".parts");
        let parts = Self { folder: folder.into() };
        // A digest, since it would name the users otherwise.
        let text = Sha256::digest(serde_json::to_vec(job)?).to_vec();
        let mark = parts.folder.join("job");
        if fs::read(&mark).ok().as_ref() != Some(&text) {
            let _ = fs::remove_dir_all(&parts.folder);
            fs::create_dir_all(&parts.folder)?;
            write_aside(&mark, &text)?;
        }
        Ok(parts)
    }

    fn path(&self, part: usize) -> PathBuf {
        self.folder.join(format!("{part:08}.jsonl"))
    }
}

fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("writing");
    let mut file = fs::File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)
}

/// Computes the lists of `job` into `out`, whose name ends in `.parquet` or `.jsonl`, by `pipeline`, whose store is that of
/// `watched`. `progress` is told the number of users done.
///
/// # Errors
/// If a file cannot be written, the format or the scenario is unknown, or the log does not tell who was erased meanwhile.
pub fn precompute(
    pipeline: &Pipeline,
    watched: &mut Watched,
    job: &Job,
    out: &Path,
    n_threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Precomputed, PrecomputeError> {
    let extension = out.extension().and_then(|extension| extension.to_str());
    let as_parquet = match extension {
        Some("parquet") => true,
        Some("jsonl") => false,
        _ => return Err(PrecomputeError::Format { path: out.into() }),
    };
    if !pipeline.release().scenarios.contains_key(&job.scenario) {
        return Err(PrecomputeError::Scenario(job.scenario.clone()));
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| PrecomputeError::Io { path, source }
    };
    let parts = Parts::open(out, job).map_err(io(out))?;
    let n_parts = job.users.len().div_ceil(PART_USERS);
    let missing: Vec<usize> = (0..n_parts).filter(|part| !parts.path(*part).exists()).collect();
    let computed = compute_parts(pipeline, job, &parts, &missing, n_threads, progress)?;
    let n_items = loop {
        let gone = watched.erased()?.clone();
        let n_items = match as_parquet {
            true => assemble_parquet(&parts, n_parts, &gone, out)?,
            false => assemble_json_lines(&parts, n_parts, &gone, out).map_err(io(out))?,
        };
        // Who is erased from now on is taken out of the output by the server that does it.
        if *watched.erased()? == gone {
            break n_items;
        }
    };
    let bytes = fs::metadata(out).map_err(io(out))?.len();
    fs::remove_dir_all(&parts.folder).map_err(io(&parts.folder))?;
    Ok(Precomputed { computed, resumed: job.users.len() - computed, n_items, bytes })
}

fn compute_parts(
    pipeline: &Pipeline,
    job: &Job,
    parts: &Parts,
    missing: &[usize],
    n_threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<usize, PrecomputeError> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<(), PrecomputeError> {
        let mut scratch = Scratch::default();
        while let Some(part) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = part * PART_USERS;
            let users = &job.users[start..(start + PART_USERS).min(job.users.len())];
            let mut text = Vec::new();
            for user in users {
                let list = list_of(pipeline, job, user, &mut scratch);
                serde_json::to_writer(&mut text, &list).expect("a list is plain data");
                text.push(b'\n');
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            }
            let path = parts.path(*part);
            write_aside(&path, &text).map_err(|source| PrecomputeError::Io { path, source })?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..n_threads.max(1)).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(done.into_inner())
}

fn list_of(pipeline: &Pipeline, job: &Job, user: &str, scratch: &mut Scratch) -> UserList {
    let known = pipeline.store().view(|view| view.users().find(user).map(UserId));
    let scenario = &pipeline.release().scenarios[&job.scenario];
    let seed = pipeline.release().manifest.seed ^ u64::from(known.map_or(u32::MAX, |user| user.0));
    let query = Query { seed, ..Query::new(known, job.now, job.n) };
    let answer = pipeline.recommend(scenario, &query, scratch);
    let items = pipeline.store().view(|view| {
        let names = view.items().names();
        let shown = answer.slate.shown.iter();
        let item = |shown: &reranking::Shown| {
            let id = names.name(shown.item.0).unwrap_or_default().to_owned();
            ListedItem { id, score: shown.score }
        };
        shown.map(item).collect()
    });
    UserList { user_id: user.to_owned(), items }
}

fn assemble_json_lines(
    parts: &Parts,
    n_parts: usize,
    gone: &BTreeSet<String>,
    out: &Path,
) -> io::Result<usize> {
    let aside = out.with_extension("writing");
    let mut writer = BufWriter::new(fs::File::create(&aside)?);
    let mut n_items = 0;
    for part in 0..n_parts {
        for list in read_lists(&fs::read(parts.path(part))?, gone)? {
            n_items += list.items.len();
            serde_json::to_writer(&mut writer, &list)?;
            writer.write_all(b"\n")?;
        }
    }
    writer.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    fs::rename(&aside, out)?;
    Ok(n_items)
}

/// The lists of a part, but for those of users who are `gone`.
fn read_lists(text: &[u8], gone: &BTreeSet<String>) -> io::Result<Vec<UserList>> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !is_blank(line));
    let lists = lines.map(|line| Ok(serde_json::from_slice::<UserList>(line)?));
    lists.filter(|list| list.as_ref().map_or(true, |it| !gone.contains(&it.user_id))).collect()
}

/// One row for each recommendation, in the order of the lists.
const PARQUET_SCHEMA: &str = "message recommendations {
    required binary user_id (UTF8);
    required int32 position;
    required binary item_id (UTF8);
    required float score;
}";

fn assemble_parquet(
    parts: &Parts,
    n_parts: usize,
    gone: &BTreeSet<String>,
    out: &Path,
) -> Result<usize, PrecomputeError> {
    let io = |source| PrecomputeError::Io { path: out.into(), source };
    let fail = |source| PrecomputeError::Parquet { path: out.into(), source };
    let aside = out.with_extension("writing");
    let schema = Arc::new(parse_message_type(PARQUET_SCHEMA).map_err(fail)?);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("cascade".into())
        .build();
    let file = fs::File::create(&aside).map_err(io)?;
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(fail)?;
    let mut n_items = 0;
    let per_group = GROUP_USERS / PART_USERS;
    for group in 0..n_parts.div_ceil(per_group) {
        let mut lists = Vec::new();
        for part in group * per_group..((group + 1) * per_group).min(n_parts) {
            let text = fs::read(parts.path(part)).map_err(io)?;
            lists.extend(read_lists(&text, gone).map_err(io)?);
        }
        n_items += lists.iter().map(|list| list.items.len()).sum::<usize>();
        let mut rows = writer.next_row_group().map_err(fail)?;
        write_rows(&mut rows, &lists).map_err(fail)?;
        rows.close().map_err(fail)?;
    }
    let file = writer.into_inner().map_err(fail)?;
    file.sync_all().map_err(io)?;
    fs::rename(&aside, out).map_err(io)?;
    Ok(n_items)
}

fn write_rows(
    rows: &mut SerializedRowGroupWriter<'_, fs::File>,
    lists: &[UserList],
) -> parquet::errors::Result<()> {
    let items =
        || lists.iter().flat_map(|list| list.items.iter().enumerate().map(move |i| (list, i)));
    let text = |text: &str| ByteArray::from(text.as_bytes().to_vec());
    let users: Vec<ByteArray> = items().map(|(list, _)| text(&list.user_id)).collect();
    let positions: Vec<i32> = items().map(|(_, (position, _))| position as i32).collect();
    let ids: Vec<ByteArray> = items().map(|(_, (_, item))| text(&item.id)).collect();
    let scores: Vec<f32> = items().map(|(_, (_, item))| item.score).collect();
    let mut column = 0;
    while let Some(mut writer) = rows.next_column()? {
        match column {
            0 => writer.typed::<ByteArrayType>().write_batch(&users, None, None)?,
            1 => writer.typed::<Int32Type>().write_batch(&positions, None, None)?,
            2 => writer.typed::<ByteArrayType>().write_batch(&ids, None, None)?,
            _ => writer.typed::<FloatType>().write_batch(&scores, None, None)?,
        };
        writer.close()?;
        column += 1;
    }
    Ok(())
}
