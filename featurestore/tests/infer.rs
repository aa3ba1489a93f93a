//! A configuration from files alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use featurestore::infer::{Files, InferError, Inferred, infer};
use featurestore::readers::{Format, ImportMaps, TimeUnit};
use featurestore::schema::FieldKind;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn events(&self, content: &str) -> Result<Inferred, InferError> {
        self.infer(content, None, None)
    }

    fn infer(
        &self,
        events: &str,
        items: Option<&str>,
        users: Option<&str>,
    ) -> Result<Inferred, InferError> {
        let items = items.map(|content| self.file("items.csv", content));
        let users = users.map(|content| self.file("users.csv", content));
        infer(&Files {
            events: self.file("events.csv", events),
            items,
            users,
            format: Format::Auto,
        })
    }
}

/// Purchases in the manner of a grocery: nearly all of them repeat.
fn groceries() -> String {
    let mut content = String::from(
        "household_id,store_id,basket_id,product_id,quantity,sales_value,week,transaction_timestamp\n",
    );
    for i in 0..600u64 {
        let (user, basket, product) = (i % 10, i / 6, i % 7);
        let (seconds, quantity) = (i % 60, 1 + i % 3);
        writeln!(
            content,
            "{user},3,{basket},{product},{quantity},2.5,1,2017-01-01T00:00:{seconds:02}Z"
        )
        .unwrap();
    }
    content
}

const PRODUCTS: &str = "product_id,manufacturer_id,department,package_size,weight,perishable\n\
    0,12,GROCERY,22 OZ,1.5,1\n1,12,DRUG,,2.25,0\n2,13,GROCERY,4 OZ,3,0\n";

#[test]
fn groceries_are_purchases_that_repeat() {
    let folder = Folder::new();
    let users = "household_id,age,size\n1,45-54,2\n2,25-34,1\n";
    let inferred = folder.infer(&groceries(), Some(PRODUCTS), Some(users)).unwrap();
    let events = inferred.import.events.clone().unwrap();
    assert_eq!(events.user.as_deref(), Some("household_id"));
    assert_eq!(events.item, "product_id");
    assert_eq!(events.session.as_deref(), Some("basket_id"));
    assert_eq!(events.value.as_deref(), Some("sales_value"), "price-like before quantity");
    assert_eq!((events.time.as_str(), events.time_unit), ("transaction_timestamp", TimeUnit::Auto));
    assert_eq!(events.default_kind.as_deref(), Some("purchase"));
    let purchase = &inferred.schema.events["purchase"];
    assert_eq!((purchase.weight, purchase.label), (4.0, 3));
    let numbers: Vec<&String> = inferred.schema.event_fields.keys().collect();
    assert_eq!(numbers, ["quantity"], "a shop is no number, and the time says what week it is");
    assert!(inferred.repeat_share > 0.8);
    assert!(inferred.hide_seen.is_empty());
    let fields: Vec<(&str, FieldKind)> =
        inferred.schema.item_fields.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    assert_eq!(
        fields,
        [
            ("department", FieldKind::Category),
            ("manufacturer_id", FieldKind::Category),
            ("package_size", FieldKind::Category),
            ("perishable", FieldKind::Boolean),
            ("weight", FieldKind::Number),
        ]
    );
    assert_eq!(inferred.schema.user_fields["age"], FieldKind::Category);
    assert_eq!(inferred.import.users.clone().unwrap().id, "household_id");
}

#[test]
fn the_written_configuration_reads_back_as_what_was_inferred() {
    let folder = Folder::new();
    let inferred = folder.infer(&groceries(), Some(PRODUCTS), None).unwrap();
    let written = inferred.to_toml();
    let table: toml::Table = written.parse().unwrap();
    let maps: ImportMaps = table["import"].clone().try_into().unwrap();
    let mut expected = inferred.import.clone();
    expected.items.as_mut().unwrap().fields.clear();
    assert_eq!(maps, expected, "fields stand under [items.fields] alone");
    assert_eq!(table["data_dir"].as_str(), Some("cascade-data"));
    assert_eq!(table["store"]["kind"].as_str(), Some("embedded"));
    assert_eq!(table["events"]["purchase"]["label"].as_integer(), Some(3));
    assert_eq!(table["items"]["fields"]["department"].as_str(), Some("category"));
    assert_eq!(table["event_fields"]["quantity"].as_str(), Some("number"));
    assert!(!table.contains_key("scenarios"));
    let is_inferred = |line: &&str| line.contains('=') && !line.starts_with('#');
    let unexplained: Vec<&str> =
        written.lines().filter(is_inferred).filter(|line| !line.contains(" # ")).collect();
    let known = ["data_dir = \"cascade-data\"", "kind = \"embedded\"", "weight = 4.0", "label = 3"];
    assert_eq!(unexplained, known, "{written}");
}

#[test]
fn what_is_hardly_ever_repeated_is_hidden_once_done() {
    let folder = Folder::new();
    let mut content = String::from("Visitor ID;item-id;event;timestamp\n");
    for i in 0..300 {
        let time = 1_433_221_332_117u64 + i;
        writeln!(content, "{};{};view;{time}", i % 5, i % 3).unwrap();
        writeln!(content, "{};{i};transaction;{time}", i % 5).unwrap();
    }
    let inferred = folder.events(&content).unwrap();
    let events = inferred.import.events.clone().unwrap();
    assert_eq!(events.user.as_deref(), Some("Visitor ID"));
    assert_eq!((events.kind.as_deref(), events.default_kind), (Some("event"), None));
    assert_eq!(events.time_unit, TimeUnit::Milliseconds);
    assert_eq!(inferred.hide_seen, ["transaction"]);
    assert_eq!(inferred.schema.events["view"].label, 1);
    let table: toml::Table = inferred.to_toml().parse().unwrap();
    let hidden = &table["scenarios"]["home"]["rerank"]["hide_seen"]["events"];
    assert_eq!(hidden.as_array().unwrap()[0].as_str(), Some("transaction"));
}

#[test]
fn ratings_and_bare_pairs_have_types_of_their_own() {
    let folder = Folder::new();
    let ratings = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,32,4,1260759145\n";
    let inferred = folder.events(ratings).unwrap();
    assert_eq!(inferred.schema.events.keys().collect::<Vec<_>>(), ["rating"]);
    assert_eq!(inferred.import.events.unwrap().time_unit, TimeUnit::Seconds);
    let pairs = "uid,sku,day\na,b,17\n";
    let inferred = folder.events(pairs).unwrap();
    assert_eq!(inferred.schema.events.keys().collect::<Vec<_>>(), ["interaction"]);
    assert_eq!(inferred.import.events.unwrap().time_unit, TimeUnit::Days);
}

#[test]
fn fields_are_told_by_their_values() {
    let folder = Folder::new();
    let mut items = String::from("item_id,title,zip,released,vector,genres,story,nothing\n");
    for i in 0..200 {
        let story = "a long story ".repeat(20);
        writeln!(
            items,
            "i{i},Title {i},0{:04},2020-01-{:02},\"[0.{i}, 1]\",A|B{},{story},",
            i % 50,
            1 + i % 28,
            i % 3
        )
        .unwrap();
    }
    let events = "user_id,item_id,time\nu,i1,2024-01-01\n";
    let inferred = folder.infer(events, Some(&items), None).unwrap();
    let kind = |name: &str| inferred.schema.item_fields[name];
    assert_eq!(kind("title"), FieldKind::Text, "a text that never repeats is a name");
    assert_eq!(kind("zip"), FieldKind::Category, "a number that begins with zero is a code");
    assert_eq!(kind("released"), FieldKind::Time);
    assert_eq!(kind("vector"), FieldKind::Vector);
    assert_eq!(kind("genres"), FieldKind::Category);
    assert_eq!(kind("story"), FieldKind::Text);
    assert!(!inferred.schema.item_fields.contains_key("nothing"));
    assert_eq!(inferred.import.items.as_ref().unwrap().separator, Some('|'));
    assert!(inferred.to_toml().contains("nothing is left out, since it has no values"));
}

#[test]
fn what_cannot_be_told_is_an_error_that_lists_what_was_seen() {
    let folder = Folder::new();
    let message = |content: &str| folder.events(content).unwrap_err().to_string();
    let told = message("person,item_id,time\n1,2,3\n");
    assert!(told.contains("known as the user; its columns are: person, item_id, time"), "{told}");
    assert!(message("user_id,thing,time\n1,2,3\n").contains("known as the item"));
    assert!(message("user_id,item_id,when\n1,2,3\n").contains("known as the time"));
    let told = message("user_id,customer_id,item_id,time\n1,2,3,4\n");
    assert!(told.contains("several columns that may be the user: user_id, customer_id"), "{told}");
    let told = message("user_id,item_id,time\n1,2,noon\n");
    assert!(told.contains("column time: \"noon\" is not a time"), "{told}");
    assert!(message("user_id,item_id,time\n").contains("has no rows"));
    assert!(message("").contains("has no rows"));
}

#[test]
fn names_that_toml_does_not_take_are_quoted() {
    let folder = Folder::new();
    let events = "user_id,item_id,time,event\nu,i,2024-01-01,\"add \"\"x\"\" = 1\"\n";
    let items = "item_id,colour (main)\ni,red\nj,red\n";
    let inferred = folder.infer(events, Some(items), None).unwrap();
    let written = inferred.to_toml();
    let table: toml::Table = written.parse().unwrap();
    assert!(table["events"].as_table().unwrap().contains_key("add \"x\" = 1"));
    assert!(table["items"]["fields"].as_table().unwrap().contains_key("colour (main)"));
}
