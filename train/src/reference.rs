//! Every setting with its default and its meaning, from the code itself: a document, and a file to
//! start from.

use std::collections::BTreeMap;

use schemars::schema_for;
use serde_json::Value;
use toml::Table;

use crate::config::RunConfig;

/// A table of the settings, such as `[train]`.
struct Section {
    /// Dotted name, such as `method.laplace`.
    name: String,
    about: String,
    keys: Vec<Key>,
}

/// A setting.
struct Key {
    name: String,
    about: String,
    /// The default as TOML; absent where nothing is set by default.
    default: Option<String>,
    /// What kind of value it takes, in words.
    kind: String,
    /// The words that an enumeration takes, with their meanings.
    words: Vec<(String, String)>,
}

/// The JSON schema of [`RunConfig`] with the default values that it leaves out.
struct Schema {
    definitions: Value,
    defaults: Table,
}

impl Schema {
    fn sections() -> Vec<Section> {
        let root = schema_for!(RunConfig).to_value();
        let schema = Self {
            definitions: root["$defs"].clone(),
            defaults: Table::try_from(RunConfig::default())
                .expect("settings are tables of plain values"),
        };
        let mut sections = Vec::new();
        schema.walk("", &root, String::new(), &mut sections);
        sections
    }

    /// The definition that a property refers to, or the property itself.
    fn resolved<'a>(&'a self, property: &'a Value) -> &'a Value {
        let direct = property["$ref"].as_str();
        // An optional setting is `anyOf` its type and null.
        let listed = || {
            let any = property["anyOf"].as_array()?;
            any.iter().find_map(|one| one["$ref"].as_str())
        };
        match direct
            .or_else(listed)
            .and_then(|name| name.rsplit('/').next())
        {
            Some(name) => &self.definitions[name],
            None => property,
        }
    }

    fn walk(&self, name: &str, schema: &Value, about: String, sections: &mut Vec<Section>) {
        let mut keys = Vec::new();
        let mut below = Vec::new();
        let properties = schema["properties"].as_object();
        for (key, property) in properties.into_iter().flatten() {
            let inner = self.resolved(property);
            let about = text(property).or_else(|| text(inner)).unwrap_or_default();
            let dotted = match name {
                "" => key.clone(),
                _ => format!("{name}.{key}"),
            };
            match inner["properties"].is_object() {
                true => below.push((dotted, inner, about)),
                false => keys.push(self.key(&dotted, key, property, inner, about)),
            }
        }
        if !name.is_empty() {
            sections.push(Section {
                name: name.into(),
                about,
                keys,
            });
        }
        for (dotted, inner, about) in below {
            self.walk(&dotted, inner, about, sections);
        }
    }

    fn key(&self, dotted: &str, name: &str, property: &Value, inner: &Value, about: String) -> Key {
        let default = self.default(dotted).or_else(|| {
            let stated = property.get("default").filter(|v| !v.is_null())?;
            toml::Value::try_from(stated).ok().map(|v| v.to_string())
        });
        let items = self.resolved(&property["items"]);
        let words = match words(inner) {
            own if own.is_empty() => words(items),
            own => own,
        };
        Key {
            name: name.into(),
            about,
            default,
            kind: kind(property, inner),
            words,
        }
    }

    /// The default of a dotted key, as TOML.
    fn default(&self, dotted: &str) -> Option<String> {
        let (sections, key) = dotted.rsplit_once('.')?;
        let mut table = &self.defaults;
        for section in sections.split('.') {
            table = table.get(section)?.as_table()?;
        }
        table.get(key).map(ToString::to_string)
    }
}

fn text(schema: &Value) -> Option<String> {
    let text = schema["description"].as_str()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The words that an enumeration takes, with their meanings.
fn words(schema: &Value) -> Vec<(String, String)> {
    let of = |one: &Value| {
        let plain = |word: &Value| Some((word.as_str()?.to_owned(), text(one).unwrap_or_default()));
        match one["enum"].as_array() {
            Some(list) => list.iter().filter_map(plain).collect(),
            None => plain(&one["const"]).into_iter().collect::<Vec<_>>(),
        }
    };
    match schema["oneOf"].as_array() {
        Some(options) => options.iter().flat_map(of).collect(),
        None => of(schema),
    }
}

fn kind(property: &Value, inner: &Value) -> String {
    let name = |value: &Value| match value.as_str() {
        Some("integer") => "whole number".to_owned(),
        Some("number") => "number".into(),
        Some("boolean") => "true or false".into(),
        Some("array") => "list".into(),
        Some("object") => "table".into(),
        _ => "text".into(),
    };
    if !words(inner).is_empty() {
        return "word".into();
    }
    match &property["type"] {
        Value::Array(types) => types
            .iter()
            .find(|t| t.as_str() != Some("null"))
            .map_or_else(String::new, name),
        one => name(one),
    }
}

/// Columns of `docs/configuration.md`, as of every Markdown file.
const PAGE_WIDTH: usize = 120;

/// Columns of the comments in the file to start from.
const COMMENT_WIDTH: usize = 100;

const PAGE_HEAD: &str = "# Settings

After this page you can change anything about a run: every setting with its default and its meaning.

Settings are TOML. `--config FILE` reads a file, `--set section.key=value` changes a single one.
They override the method's preset (`configs/method/`). That overrides the short run on a processor
(`configs/short.toml`), and this the defaults below.
`uq4ct init` writes all of this as a file to start from, and `--dry-run` prints what a command comes to.

This page is made from the code. After a change there, `UPDATE_REFERENCE=1 cargo test --workspace reference`
writes it anew; a test fails until then.
";

const FILE_HEAD: &str =
    "# Settings of uq4ct. Every line is a default, commented out: take the # off what you change.
# On a processor the short run has its own where this file says nothing; --full leaves them out.
# uq4ct train --config THIS_FILE --dry-run shows what comes of it; --method lays its preset below.
";

/// The text of `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = String::from(PAGE_HEAD);
    for section in Schema::sections() {
        text += &format!("\n## `[{}]`\n\n", section.name);
        let plain = format!("`[{}]`", section.name);
        let about = section.about.trim_start_matches(&plain);
        let about = about.trim_start_matches(": ");
        if !about.is_empty() {
            text += &(folded(about, "", "", PAGE_WIDTH) + "\n");
        }
        for key in &section.keys {
            text += &item(key);
        }
    }
    text
}

/// A setting as an item of the page's lists, the words that it takes below it.
fn item(key: &Key) -> String {
    let default = match &key.default {
        Some(default) => format!("default `{default}`"),
        None => "not set by default".into(),
    };
    let about = sentence(&key.about);
    let line = format!("`{}` ({}; {default}): {about}", key.name, key.kind);
    let mut text = folded(&line, "- ", "  ", PAGE_WIDTH);
    for (word, meaning) in &key.words {
        let line = format!("`{word}`: {}", sentence(meaning));
        text += &folded(&line, "  - ", "    ", PAGE_WIDTH);
    }
    text
}

/// A text with a full stop.
fn sentence(text: &str) -> String {
    match text.ends_with(['.', '!', '?']) {
        true => text.into(),
        false => format!("{text}."),
    }
}

/// Every setting, commented out at its default, to start a file from.
pub fn commented_toml() -> String {
    let mut text = String::from(FILE_HEAD);
    let sections = Schema::sections();
    let examples = BTreeMap::from([
        ("train_limit", "1000"),
        ("held_out_limit", "300"),
        ("test_limit", "500"),
        ("max_steps", "100"),
        ("gradient_clip", "1.0"),
        ("prior_precision", "1.0"),
        ("count_from", "1"),
        ("train", "\"train.jsonl\""),
        ("held_out", "\"held-out.jsonl\""),
        ("test", "\"test.jsonl\""),
        ("rank_pattern", "{ down_proj = 4 }"),
        ("alpha_pattern", "{ down_proj = 8.0 }"),
    ]);
    for section in sections {
        text += &format!("\n[{}]\n", section.name);
        for key in &section.keys {
            text += &folded(&key.about, "# ", "# ", COMMENT_WIDTH);
            for (word, meaning) in &key.words {
                let line = format!("{word}: {meaning}");
                text += &folded(&line, "#   ", "#     ", COMMENT_WIDTH);
            }
            let unset = || examples.get(&*key.name).copied().unwrap_or("\"..\"");
            text += &match &key.default {
                Some(default) => format!("# {} = {default}\n", key.name),
                None => format!("# {} = {}  # not set by default\n", key.name, unset()),
            };
        }
    }
    text
}

/// A text in lines of at most `width` characters, the first behind `first`, the others behind
/// `rest`; a longer word has a line of its own.
fn folded(text: &str, first: &str, rest: &str, width: usize) -> String {
    let (mut folded, mut line) = (String::new(), String::from(first));
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > width {
            folded += &format!("{line}\n");
            (line, empty) = (rest.into(), true);
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    folded + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigLayers;

    #[test]
    fn the_page_is_the_codes_own() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/configuration.md is old: UPDATE_REFERENCE=1 cargo test --workspace reference"
        );
    }

    #[test]
    fn no_line_is_wider_than_its_page() {
        let width = |text: &str| text.lines().map(|l| l.chars().count()).max();
        assert!(width(&markdown()) <= Some(PAGE_WIDTH));
        let text = commented_toml();
        let comments = text.lines().filter(|l| !l.contains(" = "));
        assert!(comments.map(|l| l.chars().count()).max() <= Some(COMMENT_WIDTH));
        let text = folded("one two three", "- ", "  ", 9);
        assert_eq!(text, "- one two\n  three\n");
    }

    /// Every setting stands in the file, and each of its lines is a setting that is taken.
    #[test]
    fn the_file_to_start_from_is_valid_line_by_line() {
        let text = commented_toml();
        let mut plain = ConfigLayers::default();
        plain.text(&text, "init").unwrap();
        assert_eq!(plain.resolve().unwrap(), RunConfig::default());
        let (mut section, mut keys) = (String::new(), 0);
        for line in text.lines() {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']).into();
            }
            let Some((key, value)) = line.strip_prefix("# ").and_then(|l| l.split_once(" = "))
            else {
                continue;
            };
            if key.contains(|c: char| !c.is_ascii_lowercase() && c != '_') {
                continue;
            }
            let value = value.split("  #").next().unwrap();
            ConfigLayers::default()
                .set(&format!("{section}.{key}={value}"))
                .unwrap();
            keys += 1;
        }
        let mut all = ConfigLayers::default();
        all.text(&RunConfig::default().to_toml(), "default")
            .unwrap();
        assert!(keys > all.keys().count(), "{keys} settings");
    }
}
