//! Input that is wrong: a message that names the place, never a panic, and nothing is lost.

use std::fs;
use std::process::{Command, Stdio};

use featurestore::log::{EventLog, Position};
use tests::{Project, Shop, binary};

fn shop() -> Shop {
    Shop { n_users: 80, n_items: 120, ..Shop::default() }
}

fn n_records(project: &Project) -> usize {
    let folder = project.path("cascade-data/log");
    if !folder.exists() {
        return 0;
    }
    let records = EventLog::reader(&folder, Position::START).expect("the log opens");
    records.inspect(|record| assert!(record.is_ok(), "{record:?}")).count()
}

/// `csv` with its line `line`, from 1, replaced.
fn with_line(csv: &str, line: usize, replacement: &str) -> String {
    let lines =
        csv.lines().enumerate().map(|(i, text)| if i + 1 == line { replacement } else { text });
    lines.map(|text| format!("{text}\n")).collect()
}

#[test]
fn an_empty_log_is_named() {
    let project = Project::configured(&shop());
    project.run(["train"]).refused(&["event"]);
    assert!(project.run(["check"]).done().stdout.contains("cascade import"));
    project.run(["evaluate"]).refused(&[]);
    project.run(["evaluate", "--share", "0"]).refused(&["--share 0"]);
    project.run(["serve", "--listen", "127.0.0.1:0"]).refused(&["cascade import"]);
    project.run(["precompute", "--out", "lists.jsonl"]).refused(&["cascade train"]);
    project.run(["verify-features"]).refused(&["cascade train"]);
    let header = shop().events_csv().lines().next().expect("there is a header").to_owned();
    for (name, content) in [("empty.csv", ""), ("header.csv", &header)] {
        project.write(name, content);
        project.run(["init", "--events", name, "--config", "other.toml"]).refused(&[name]);
        project.run(["import", "--events", name]).refused(&[name]);
        assert_eq!(n_records(&project), 0);
        project.run(["train"]).refused(&["event"]);
    }
}

#[test]
fn an_empty_catalogue_is_no_obstacle() {
    let project = Project::configured(&shop());
    project.write("none.csv", "");
    project.run(["import", "--events", "events.csv"]).done();
    let before = n_records(&project);
    let ran = project.run(["import", "--items", "none.csv"]);
    assert!(ran.status == Some(0) || ran.stderr.contains("none.csv"), "{ran}");
    assert_eq!(n_records(&project), before);
    // What the events name is enough.
    let trained = project.run(["train"]);
    assert!(matches!(trained.status, Some(0 | 3)), "{trained}");
}

#[test]
fn a_broken_quote_is_placed_and_costs_one_row() {
    let project = Project::configured(&shop());
    project
        .write("items.csv", with_line(&shop().items_csv(), 7, "i5,c5,1.00,\"Thing without an end"));
    project.run(["import", "--items", "items.csv", "--max-bad", "0"]).refused(&["items.csv:7"]);
    assert_eq!(n_records(&project), 0);
    let ran = project.run(["import", "--items", "items.csv"]).done();
    assert!(ran.stderr.contains("items.csv:7"), "{ran}");
    assert_eq!(n_records(&project), shop().n_items - 1);
}

#[test]
fn a_bad_row_is_placed_and_skipped_up_to_a_limit() {
    let project = Project::configured(&shop());
    let events = with_line(&shop().events_csv(), 5, "e3,purchase,u1,s1,i1,yesterday");
    project.write("events.csv", &events);
    let ran = project.run(["import", "--events", "events.csv"]).done();
    assert!(ran.stderr.contains("events.csv:5,") && ran.stderr.contains("yesterday"), "{ran}");
    assert_eq!(n_records(&project), shop().events().len() - 1);

    let project = Project::configured(&shop());
    project.write("events.csv", &events);
    project
        .run(["import", "--events", "events.csv", "--max-bad", "0"])
        .refused(&["events.csv:5,", "yesterday"]);
    assert_eq!(n_records(&project), 0);
}

#[test]
fn rows_without_an_item_or_a_user_are_placed() {
    let project = Project::configured(&shop());
    let events = with_line(&shop().events_csv(), 9, "e7,purchase,u1,s1,,1704070000");
    project.write("events.csv", events);
    let ran = project.run(["import", "--events", "events.csv"]).done();
    assert!(ran.stderr.contains("events.csv:9,"), "{ran}");
}

#[test]
fn a_file_that_is_not_there_or_of_another_kind_is_named() {
    let project = Project::configured(&shop());
    project.run(["import", "--events", "evnts.csv"]).refused(&["evnts.csv"]);
    project.write("noise.parquet", [7; 1_000]);
    project.run(["import", "--events", "noise.parquet"]).refused(&["noise.parquet"]);
    project.write("noise.csv.gz", [7; 1_000]);
    project.run(["import", "--events", "noise.csv.gz"]).refused(&["noise.csv.gz"]);
    project.write("binary.csv", (0..=255).cycle().take(4_000).collect::<Vec<u8>>());
    project.run(["import", "--events", "binary.csv"]).refused(&["binary.csv"]);
    project.run(["import", "--events", "items.csv"]).refused(&["items.csv"]);
    assert_eq!(n_records(&project), 0);
}

#[test]
fn a_misspelt_key_is_placed_and_the_nearest_name_given() {
    let project = Project::configured(&shop());
    let config = String::from_utf8(project.read("cascade.toml")).expect("TOML is UTF-8");
    let line = config.lines().position(|line| line.starts_with("dim = ")).expect("it was set") + 1;
    project.write("cascade.toml", config.replace("dim = ", "dimm = "));
    for command in ["check", "import", "train", "serve", "evaluate", "verify-features"] {
        let ran = project.run([command]);
        assert_eq!(ran.status, Some(2), "{ran}");
        ran.refused(&[&format!("cascade.toml:{line}:1"), "`dimm`", "did you mean `dim`?"]);
    }
    project.write("cascade.toml", "[events.view\n");
    assert_eq!(project.run(["check"]).status, Some(2));
    fs::remove_file(project.path("cascade.toml")).expect("it is there");
    let ran = project.run(["check"]).refused(&["cascade.toml", "cascade init"]);
    assert_eq!(ran.status, Some(2));
    assert_eq!(ran.stderr.matches("os error").count(), 1, "the cause is told once: {ran}");
    assert_eq!(project.run(["trian"]).status, Some(2));
}

#[test]
fn items_without_events_and_users_without_items_are_trained_with() {
    let project = Project::configured(&shop());
    let more: String =
        (0..200).map(|i| format!("lonely{i},c{},9.5,Lonely thing\n", i % 12)).collect();
    project.write("items.csv", shop().items_csv() + &more);
    let users: String = (0..200).map(|i| format!("{{\"user_id\":\"lonely{i}\"}}\n")).collect();
    project.write("users.jsonl", users);
    project.configure("import.users.id", "user_id");
    project
        .run(["import", "--events", "events.csv", "--items", "items.csv", "--users", "users.jsonl"])
        .done();
    let trained = project.run(["train", "--json"]);
    assert!(matches!(trained.status, Some(0 | 3)), "{trained}");
    let release = trained.json()["release"].as_str().expect("a release has a name").to_owned();
    project.run(["releases", "activate", &release]).done();
    let server = project.serve();
    let lonely = server.get("/v1/recommend?user_id=lonely7&n=10").json();
    assert_eq!(lonely["items"].as_array().map(Vec::len), Some(10), "{lonely}");
}

#[test]
fn too_few_events_to_train_with_are_named() {
    let project = Project::configured(&shop());
    let few: String = shop().events_csv().lines().take(6).map(|line| format!("{line}\n")).collect();
    project.write("few.csv", few);
    project.run(["import", "--events", "few.csv"]).done();
    let trained = project.run(["train"]);
    assert!(matches!(trained.status, Some(1..=3)), "{trained}");
    assert!(!trained.stderr.is_empty() || !trained.stdout.is_empty());
}

#[test]
fn a_parquet_file_cut_in_half_is_named_and_nothing_is_imported() {
    let project = Project::trained(&shop());
    project.run(["precompute", "--out", "lists.parquet"]).done();
    let whole = project.read("lists.parquet");
    let before = n_records(&project);
    for keep in [whole.len() / 2, whole.len() - 1, 12, 4, 0] {
        project.write("cut.parquet", &whole[..keep]);
        project.run(["import", "--events", "cut.parquet"]).refused(&["cut.parquet"]);
        project
            .run(["init", "--events", "cut.parquet", "--config", "other.toml"])
            .refused(&["cut.parquet"]);
    }
    assert_eq!(n_records(&project), before);
}

#[test]
fn a_release_with_a_changed_byte_is_refused_and_the_active_one_stays() {
    let project = Project::trained(&shop());
    let release = project.active_release();
    let id = release
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a release has a name")
        .to_owned();
    let activate = ["releases", "activate", &id];
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    for entry in fs::read_dir(&release).expect("a release is a folder") {
        let path = entry.expect("a folder can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a file has a name");
        let whole = fs::read(&path).expect("a release can be read");
        let write = |bytes: &[u8]| fs::write(&path, bytes).expect("a file can be written");
        for place in (0..8).map(|part| (whole.len() - 1) * part / 7) {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            write(&changed);
            let ran = project.run(activate);
            assert_eq!(ran.status, Some(1), "byte {place} of {name} was changed: {ran}");
            ran.refused(&[name.split('.').next().unwrap_or_default()]);
        }
        let ran = project.run(serve).refused(&[name]);
        assert_eq!(ran.stderr.matches(name).count(), 1, "the cause is told once: {ran}");
        project.run(["precompute", "--out", "lists.jsonl"]).refused(&[name]);
        write(&whole[..whole.len() / 2]);
        project.run(serve).refused(&[name]);
        fs::remove_file(&path).expect("a file can be removed");
        project.run(serve).refused(&[name]);
        write(&whole);
    }
    assert_eq!(project.active_release(), release);
    project.run(activate).done();
    let server = project.serve();
    assert_eq!(server.get("/v1/recommend?user_id=u1&n=3").status, 200);
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    let project = Project::imported(&shop());
    for arguments in [&["check"][..], &["check", "--json"], &["releases", "list"]] {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(project.path("."));
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_damaged_log_is_placed_and_a_torn_tail_is_cut() {
    let project = Project::imported(&shop());
    let before = n_records(&project);
    let segment = project.path("cascade-data/log/00000000.log");
    let whole = fs::read(&segment).expect("the log has a segment");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&segment, damaged).expect("a file can be written");
    project.run(["train"]).refused(&["00000000.log", "damaged"]);
    fs::write(&segment, &whole[..whole.len() - 3]).expect("a file can be written");
    project.write("none.jsonl", "{\"event_id\":\"n\",\"type\":\"view\",\"user_id\":\"u1\",\"item_id\":\"i1\",\"timestamp\":1712000000}\n");
    project.run(["import", "--events", "none.jsonl"]).done();
    assert_eq!(n_records(&project), before, "one record was torn, one is new");
}
