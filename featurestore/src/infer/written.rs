//! What was inferred, as a commented `cascade.toml`.

use std::fmt::Write;

use serde::Serialize;
use toml::Value;

use super::Inferred;
use crate::schema::FieldKind;

/// Where comments begin, if the line before is shorter.
const COMMENT_COLUMN: usize = 40;

impl Inferred {
    /// The configuration as `cascade.toml`, each inferred line with a comment that says why.
    pub fn to_toml(&self) -> String {
        let mut toml = Toml { text: String::new(), inferred: self };
        toml.head();
        toml.events();
        toml.event_fields();
        toml.fields("items.fields", self.schema.item_fields.iter());
        toml.fields("users.fields", self.schema.user_fields.iter());
        toml.import("events", self.import.events.as_ref());
        toml.import("items", self.import.items.as_ref());
        toml.import("users", self.import.users.as_ref());
        toml.hide_seen();
        toml.text
    }
}

struct Toml<'a> {
    text: String,
    inferred: &'a Inferred,
}

impl Toml<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// `line`, and behind it the reason for the key at `path`.
    fn explained(&mut self, line: &str, path: &str) {
        match self.inferred.reasons.get(path) {
            // A comment is one line, whatever the values are that it quotes.
            Some(reason) => {
                let reason: String =
                    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                // Writing to a string cannot fail.
                let _ = writeln!(self.text, "{line:COMMENT_COLUMN$} # {reason}");
            }
            None => self.line(line),
        }
    }

    fn head(&mut self) {
        let Inferred { n_events, n_bad, repeat_share, .. } = self.inferred;
        self.line(&format!("# Inferred from {n_events} events, and {n_bad} bad rows."));
        let share = super::percent(*repeat_share);
        self.line(&format!("# {share} of the events repeat one of the same user, item and type."));
        self.line("data_dir = \"cascade-data\"\n\n[store]\nkind = \"embedded\"");
        self.line("\n# What users do. weight: how much it says to retrieval; label: its gain in the ranker.");
    }

    fn events(&mut self) {
        for (name, event_type) in &self.inferred.schema.events {
            self.explained(&format!("[events.{}]", key(name)), &format!("events.{name}"));
            self.line(&format!("weight = {:?}\nlabel = {}", event_type.weight, event_type.label));
        }
    }

    fn event_fields(&mut self) {
        let fields = &self.inferred.schema.event_fields;
        if !fields.is_empty() {
            self.fields("event_fields", fields.iter());
        }
    }

    fn fields<'b>(
        &mut self,
        section: &str,
        fields: impl Iterator<Item = (&'b String, &'b FieldKind)>,
    ) {
        let header = format!("[{section}]");
        self.line("");
        match section {
            "event_fields" => self.line(&format!("{header:COMMENT_COLUMN$} # beside `value`")),
            _ => self.line(&header),
        }
        for (name, kind) in fields {
            let line = format!("{} = {}", key(name), value(kind));
            self.explained(&line, &format!("{section}.{name}"));
        }
    }

    fn import(&mut self, section: &str, map: Option<&impl Serialize>) {
        let Some(map) = map else { return };
        let Ok(Value::Table(table)) = Value::try_from(map) else { return };
        self.line(&format!("\n# Which column of a file is what.\n[import.{section}]"));
        for (name, value) in table.iter().filter(|(name, _)| *name != "fields") {
            let line = format!("{name} = {value}");
            self.explained(&line, &format!("import.{section}.{name}"));
        }
        if section == "events" {
            for note in self.inferred.notes.clone() {
                self.line(&format!("# {note}"));
            }
        }
    }

    fn hide_seen(&mut self) {
        let names = &self.inferred.hide_seen;
        if !names.is_empty() {
            self.line("\n[scenarios.home.rerank]");
            let line = format!("hide_seen = {{ events = {} }}", value(names));
            self.explained(&line, "scenarios.home.rerank.hide_seen");
        }
    }
}

fn value(value: impl Serialize) -> String {
    Value::try_from(value).map(|value| value.to_string()).unwrap_or_default()
}

/// `name` as a key, in quotes if it needs them.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(is_bare) { name.into() } else { value(name) }
}
