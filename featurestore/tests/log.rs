//! The event log as its user sees it: durable, exact, and honest about damage.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use featurestore::log::{
    AppendError, EventLog, FsyncPolicy, ItemRecord, MAX_RECORD_BYTES, OpenLogError, Outcome,
    Position, Record, ScanError, UserRecord,
};
use featurestore::{Fields, NamedEvent, Timestamp, Value};
use proptest::prelude::*;

fn event(number: u64) -> NamedEvent {
    NamedEvent {
        event_id: Some(format!("e{number}").into()),
        kind: "view".into(),
        user: Some(format!("u{}", number % 7).into()),
        item: format!("i{}", number % 5).into(),
        time: Timestamp(number as i64 * 1_000),
        value: number.is_multiple_of(2).then_some(number as f64),
        ..NamedEvent::default()
    }
}

fn records(n: u64) -> Vec<Record> {
    (0..n).map(|i| Record::Event(event(i))).collect()
}

fn one_of_each() -> Vec<Record> {
    let fields = Fields::from([
        ("price".into(), Value::Number(1.5)),
        ("tags".into(), Value::Texts(vec!["a".into(), "b".into()])),
        ("vector".into(), Value::Vector(vec![0.5, -1.0])),
    ]);
    vec![
        Record::Event(event(1)),
        Record::Item(ItemRecord { id: "i1".into(), fields: fields.clone(), ..Default::default() }),
        Record::User(UserRecord { id: "u1".into(), fields }),
        Record::DeleteItem { id: "i1".into() },
        Record::DeleteUser { id: "u1".into() },
    ]
}

fn open(dir: &Path) -> EventLog {
    EventLog::open(dir, FsyncPolicy::Never).unwrap().0
}

fn read(dir: &Path) -> Result<Vec<Record>, ScanError> {
    EventLog::reader(dir, Position::START)?.collect()
}

fn segment(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// A log of `records` that is closed, and where each of them ends.
fn written(dir: &Path, records: &[Record]) -> Vec<u64> {
    let mut log = open(dir);
    let append = |record: &Record| {
        log.append(std::slice::from_ref(record)).unwrap();
        log.position().offset
    };
    records.iter().map(append).collect()
}

#[test]
fn what_is_appended_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&one_of_each()).unwrap();
    let middle = log.position();
    log.append(&records(100)).unwrap();
    let rest: Vec<Record> = log.scan(middle).unwrap().map(Result::unwrap).collect();
    // Of the hundred, e1 was there before.
    assert_eq!(rest.len(), 99);
    drop(log);
    let (log, opened) = EventLog::open(dir.path(), FsyncPolicy::Always).unwrap();
    assert_eq!((opened.n_records, opened.cut_bytes), (104, 0));
    let all: Vec<Record> = log.scan(Position::START).unwrap().map(Result::unwrap).collect();
    assert_eq!(all[..5], one_of_each());
    assert_eq!(all[5..], rest);
}

#[test]
fn an_event_id_counts_once_also_after_a_restart() {
    use Outcome::{Accepted, Duplicate};
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert_eq!(
        log.append_events(&[event(1), event(2), event(1)]).unwrap(),
        [Accepted, Accepted, Duplicate]
    );
    drop(log);
    let mut log = open(dir.path());
    assert!(log.event_ids().contains("e1"));
    assert_eq!(log.append_events(&[event(2), event(3)]).unwrap(), [Duplicate, Accepted]);
    let nameless = NamedEvent { event_id: None, ..event(4) };
    assert_eq!(log.append_events(&[nameless.clone(), nameless]).unwrap(), [Accepted, Accepted]);
    assert_eq!(read(dir.path()).unwrap().len(), 5);
}

#[test]
fn one_process_writes_and_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let second = EventLog::open(dir.path(), FsyncPolicy::Never);
    assert!(matches!(second, Err(OpenLogError::InUse { .. })));
    let mut reader = EventLog::reader(dir.path(), Position::START).unwrap();
    log.append(&records(3)).unwrap();
    assert_eq!(reader.by_ref().map(Result::unwrap).collect::<Vec<_>>(), records(3));
    assert_eq!(reader.reached(), log.position());
    drop(log);
    open(dir.path());
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_nothing_else_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let all = records(4);
    let ends = written(dir.path(), &all);
    let path = segment(dir.path(), 0);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let n_whole = ends.iter().filter(|end| **end <= length as u64).count();
        let end = n_whole.checked_sub(1).map_or(12, |last| ends[last]);
        let (mut log, opened) = EventLog::open(dir.path(), FsyncPolicy::Never).unwrap();
        let cut = if length < 12 { length as u64 } else { length as u64 - end };
        assert_eq!((opened.n_records, opened.cut_bytes), (n_whole as u64, cut), "{length}");
        let more = Record::DeleteItem { id: "more".into() };
        log.append(std::slice::from_ref(&more)).unwrap();
        let read = read(dir.path()).unwrap();
        assert_eq!(read[..n_whole], all[..n_whole]);
        assert_eq!(read[n_whole..], [more]);
    }
}

#[test]
fn a_reader_without_the_lock_stops_before_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), &records(4));
    let path = segment(dir.path(), 0);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(read(dir.path()).unwrap(), records(3));
}

#[test]
fn a_flipped_byte_is_cut_at_the_tail_or_named_but_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let all = one_of_each();
    let ends = written(dir.path(), &all);
    let last = ends[ends.len() - 2] as usize;
    let path = segment(dir.path(), 0);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            fs::write(&path, &damaged).unwrap();
            let opened = EventLog::open(dir.path(), FsyncPolicy::Never).map(|(_, opened)| opened);
            if at >= last {
                assert_eq!(opened.unwrap().cut_bytes, (whole.len() - last) as u64, "{at}");
                assert_eq!(read(dir.path()).unwrap(), all[..all.len() - 1]);
                continue;
            }
            let start = ends.iter().rev().find(|end| **end <= at as u64).map_or(12, |end| *end);
            match opened {
                Err(OpenLogError::Scan(ScanError::Damaged { path: named, offset, .. })) => {
                    assert_eq!((named, offset), (path.clone(), start), "{at}");
                }
                Err(OpenLogError::Scan(ScanError::NotALog { .. } | ScanError::Version { .. })) => {
                    assert!(at < 12)
                }
                other => panic!("byte {at} flipped: {other:?}"),
            }
            assert_eq!(fs::read(&path).unwrap(), damaged, "a damaged log is left as it is");
        }
    }
}

#[test]
fn damage_is_told_with_its_place_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &records(3));
    let path = segment(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[ends[0] as usize + 10] ^= 1;
    fs::write(&path, bytes).unwrap();
    let message = EventLog::open(dir.path(), FsyncPolicy::Never).unwrap_err().to_string();
    let remedy = format!("truncate --size={} {}", ends[0], path.display());
    assert!(message.contains(&format!("{} is damaged at byte {}", path.display(), ends[0])));
    assert!(message.contains(&remedy), "{message}");
}

#[test]
fn a_length_that_cannot_be_does_not_allocate() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &records(2));
    let path = segment(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(read(dir.path()), Err(ScanError::Damaged { offset: 12, .. })));
    bytes.truncate(ends[0] as usize);
    bytes.resize(1 << 20, 0);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(read(dir.path()).unwrap(), [], "what is followed by zeros alone is a torn tail");
}

#[test]
fn a_record_that_is_too_long_is_refused_and_the_batch_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let long = Record::DeleteItem { id: "x".repeat(MAX_RECORD_BYTES).into() };
    let batch = [Record::Event(event(1)), long];
    assert!(matches!(log.append(&batch), Err(AppendError::TooLong { index: 1, .. })));
    assert_eq!(log.append_events(&[event(1)]).unwrap(), [Outcome::Accepted]);
    assert_eq!(read(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), &records(2));
    fs::copy(segment(dir.path(), 0), segment(dir.path(), 2)).unwrap();
    let error = EventLog::open(dir.path(), FsyncPolicy::Never).unwrap_err();
    assert!(error.to_string().contains("00000001.log is missing"), "{error}");
}

#[test]
fn a_position_beyond_the_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let beyond = Position { segment: 0, offset: 10_000 };
    assert!(matches!(log.scan(beyond), Err(ScanError::Beyond { .. })));
    let beyond = Position { segment: 9, offset: 12 };
    assert!(matches!(log.scan(beyond), Err(ScanError::Missing { .. })));
}

#[test]
fn what_is_staged_enters_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let mut staged = log.stage().unwrap();
    for record in records(10) {
        staged.push(&record).unwrap();
    }
    drop(staged);
    assert_eq!(read(dir.path()).unwrap(), []);

    let mut staged = log.stage().unwrap();
    for record in records(10) {
        assert_eq!(staged.push(&record).unwrap(), Outcome::Accepted);
        assert_eq!(staged.push(&record).unwrap(), Outcome::Duplicate);
    }
    assert_eq!(staged.n_records(), 10);
    assert_eq!(read(dir.path()).unwrap(), [], "nothing is seen before it is committed");
    staged.commit().unwrap();
    assert!(!segment(dir.path(), 1).exists(), "an empty segment is replaced");
    assert_eq!(log.append_events(&[event(3), event(10)]).unwrap()[0], Outcome::Duplicate);

    let mut staged = log.stage().unwrap();
    staged.push(&Record::Event(event(11))).unwrap();
    staged.commit().unwrap();
    assert!(segment(dir.path(), 1).exists());
    log.append_events(&[event(12)]).unwrap();
    drop(log);
    assert_eq!(read(dir.path()).unwrap(), records(13));
    let (_, opened) = EventLog::open(dir.path(), FsyncPolicy::Never).unwrap();
    assert_eq!((opened.n_records, opened.cut_bytes), (13, 0));
}

#[test]
fn damage_at_the_end_of_an_earlier_segment_is_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &records(3));
    let mut log = open(dir.path());
    let mut staged = log.stage().unwrap();
    staged.push(&Record::Event(event(3))).unwrap();
    staged.commit().unwrap();
    drop(log);
    let path = segment(dir.path(), 0);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    match EventLog::open(dir.path(), FsyncPolicy::Never) {
        Err(OpenLogError::Scan(ScanError::Damaged { path: named, offset, .. })) => {
            assert_eq!((named, offset), (path, ends[1]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_dead_import_left_behind_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), &records(2));
    fs::write(dir.path().join("import.tmp"), b"half a segment").unwrap();
    open(dir.path());
    assert!(!dir.path().join("import.tmp").exists());
    assert_eq!(read(dir.path()).unwrap(), records(2));
}

#[test]
fn the_policy_is_read_as_it_is_written() {
    let second = Duration::from_secs(1);
    for (text, policy, printed) in [
        ("always", FsyncPolicy::Always, "always"),
        ("never", FsyncPolicy::Never, "never"),
        ("interval", FsyncPolicy::Interval(second), "1s"),
        ("200ms", FsyncPolicy::Interval(second / 5), "200ms"),
    ] {
        assert_eq!(text.parse(), Ok(policy));
        assert_eq!(policy.to_string(), printed);
    }
    assert!("sometimes".parse::<FsyncPolicy>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However appends are batched, the log is the same bytes.
    #[test]
    fn the_bytes_do_not_depend_on_the_batches(cuts in proptest::collection::vec(0usize..60, 0..8)) {
        let all = records(60);
        let whole = tempfile::tempdir().unwrap();
        open(whole.path()).append(&all).unwrap();
        let parted = tempfile::tempdir().unwrap();
        let mut log = open(parted.path());
        let cuts: BTreeSet<usize> = cuts.into_iter().chain([0, 60]).collect();
        for pair in cuts.iter().collect::<Vec<_>>().windows(2) {
            log.append(&all[*pair[0]..*pair[1]]).unwrap();
        }
        let bytes = |dir: &Path| fs::read(segment(dir, 0)).unwrap();
        prop_assert_eq!(bytes(whole.path()), bytes(parted.path()));
    }
}

/// What this test binary does when it is started by another test: see `run_child`.
const CHILD: &str = "CASCADE_LOG_TEST_CHILD";

fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Appends batches until it is killed, and prints the numbers of the events that are acknowledged.
fn append_for_ever(dir: &Path) -> ! {
    let (mut log, opened) = EventLog::open(dir, FsyncPolicy::Always).unwrap();
    let mut next = opened.n_records;
    loop {
        let batch: Vec<NamedEvent> = (next..next + 1 + next % 5).map(event).collect();
        log.append_events(&batch).unwrap();
        next += batch.len() as u64;
        println!("acknowledged {next}");
    }
}

#[test]
fn whatever_was_acknowledged_is_there_after_a_kill() {
    if let Ok(dir) = std::env::var(CHILD) {
        append_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut seed = 7u64;
    let mut n_acknowledged = 0;
    for _ in 0..20 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n_lines = 1 + (seed >> 33) % 40;
        let mut process =
            child("whatever_was_acknowledged_is_there_after_a_kill", dir.path()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let acknowledged =
            lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
        n_acknowledged = acknowledged.take(n_lines as usize).last().unwrap_or(n_acknowledged);
        process.kill().unwrap();
        process.wait().unwrap();
        let log = open(dir.path());
        let found: Vec<Record> = log.scan(Position::START).unwrap().map(Result::unwrap).collect();
        assert!(found.len() as u64 >= n_acknowledged);
        assert_eq!(found, records(found.len() as u64), "all there, in order, none twice");
    }
    assert!(n_acknowledged > 20);
}

/// Appends ever more until the limit on the size of files stops it; then checks that the log is as before.
#[cfg(unix)]
fn append_until_full(dir: &Path) {
    let mut log = open(dir);
    let mut n = 0;
    let error = loop {
        let batch: Vec<NamedEvent> = (n..n + 7).map(event).collect();
        match log.append_events(&batch) {
            Ok(_) => n += 7,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Write { .. }), "{error}");
    assert_eq!(read(dir).unwrap(), records(n));
    // The failed ones were not remembered, and a smaller batch may still fit.
    assert!(!log.event_ids().contains(&format!("e{n}")));
    while log.append_events(&[event(n)]).is_ok() {
        n += 1;
    }
    drop(log);
    let (_, opened) = EventLog::open(dir, FsyncPolicy::Never).unwrap();
    assert_eq!((opened.n_records, opened.cut_bytes), (n, 0));
    println!("stopped at {n}");
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_nothing_half_written() {
    if let Ok(dir) = std::env::var(CHILD) {
        return append_until_full(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let inner = child("a_full_disk_leaves_nothing_half_written", dir.path());
    // Writes beyond 16 KiB fail as on a full disk, also after a part of them was written.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 32; exec \"$0\" \"$@\""]);
    shell.arg(inner.get_program()).args(inner.get_args()).env(CHILD, dir.path());
    let output = shell.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("stopped at"), "{printed}");
}
