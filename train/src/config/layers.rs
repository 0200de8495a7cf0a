//! Layers of settings: presets, files and single assignments, later ones over earlier ones.

use std::path::Path;

use data::names::{self, unknown};
use serde::Deserialize;
use toml::{Table, Value};

use super::RunConfig;
use crate::error::TrainError;

/// Layers of settings, later ones over earlier ones.
#[derive(Debug, Clone, Default)]
pub struct ConfigLayers {
    pub(super) table: Table,
    /// Where keys were set, for messages.
    places: Vec<String>,
}

impl ConfigLayers {
    /// Lays a file of settings over these.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or holds a key that does not exist.
    pub fn file(&mut self, path: &Path) -> Result<(), TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::file(path, e))?;
        self.text(&text, &path.display().to_string())
    }

    /// Lays settings over these, TOML from `place`.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn text(&mut self, text: &str, place: &str) -> Result<(), TrainError> {
        // Checked by itself first: only then do the messages name the right line.
        toml::from_str::<RunConfig>(text).map_err(|e| {
            let line = e
                .span()
                .map(|span| text[..span.start].matches('\n').count() + 1);
            let at = line.map_or(place.to_string(), |line| format!("{place}:{line}"));
            TrainError::config(at, with_suggestion(e.message()))
        })?;
        let table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| TrainError::config(place, e.message()))?;
        merge(&mut self.table, table);
        self.places.push(place.into());
        Ok(())
    }

    /// Lays one setting over these, `section.key=value`; the value is TOML, and a bare word is
    /// text. Where the setting is a list, words between commas are one.
    ///
    /// # Errors
    /// Something that is not an assignment, a key that does not exist, or a value of the wrong
    /// kind.
    pub fn set(&mut self, assignment: &str) -> Result<(), TrainError> {
        let place = format!("--set {assignment}");
        let wrong =
            || TrainError::config(&place, "expected section.key=value, such as train.epochs=1");
        let (path, value) = assignment.split_once('=').ok_or_else(wrong)?;
        let path = path.trim();
        if !path.contains('.') {
            return Err(wrong());
        }
        let value: Value = format!("v = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| Value::String(value.trim().into()));
        self.lay(path, value, place)
    }

    /// Sets `section.key` to a text, whatever characters it holds.
    ///
    /// # Errors
    /// A key that does not exist, or one that takes no text.
    pub fn set_text(&mut self, path: &str, text: &str) -> Result<(), TrainError> {
        self.lay(
            path,
            Value::String(text.into()),
            format!("--set {path}={text:?}"),
        )
    }

    /// Sets `section.key` to a list of texts, whatever characters they hold.
    ///
    /// # Errors
    /// A key that does not exist, or one that takes no list.
    pub fn set_texts(&mut self, path: &str, texts: &[String]) -> Result<(), TrainError> {
        let list = texts.iter().cloned().map(Value::String).collect();
        self.lay(path, Value::Array(list), format!("--set {path}={texts:?}"))
    }

    fn lay(&mut self, path: &str, value: Value, place: String) -> Result<(), TrainError> {
        let mut layer = nested(path, value.clone());
        let mut read = RunConfig::deserialize(Value::Table(layer.clone()));
        if let (Err(_), Value::String(text)) = (&read, &value) {
            let list = text
                .split(',')
                .map(|word| Value::String(word.trim().into()));
            let as_list = nested(path, Value::Array(list.collect()));
            // A text that is wrong for another reason keeps its own message.
            if let Ok(config) = RunConfig::deserialize(Value::Table(as_list.clone())) {
                (layer, read) = (as_list, Ok(config));
            }
        }
        read.map_err(|e| TrainError::config(&place, with_suggestion(e.message())))?;
        merge(&mut self.table, layer);
        self.places.push(place);
        Ok(())
    }

    /// Lays other layers over these.
    pub fn layer(&mut self, over: Self) {
        merge(&mut self.table, over.table);
        self.places.extend(over.places);
    }

    /// All layers as one.
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// The preset that these layers ask for: the variant's name, or the method's.
    pub fn method_name(&self) -> Option<String> {
        let name = |key: &str| self.value("method", key).filter(|name| !name.is_empty());
        name("variant").or_else(|| name("name"))
    }

    /// The model that these layers ask for.
    pub fn model_name(&self) -> Option<String> {
        let name = self.value("model", "name")?;
        Some(known_model(name))
    }

    fn value(&self, section: &str, key: &str) -> Option<String> {
        let value = self.table.get(section)?.as_table()?.get(key)?;
        value.as_str().map(str::to_owned)
    }

    /// Takes a setting out.
    pub fn forget(&mut self, section: &str, key: &str) {
        if let Some(Value::Table(section)) = self.table.get_mut(section) {
            section.remove(key);
        }
    }

    /// Takes a setting out, by its dotted key.
    pub fn forget_key(&mut self, key: &str) {
        let (sections, key) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = Some(&mut self.table);
        for section in sections.split('.') {
            table = table.and_then(|table| table.get_mut(section)?.as_table_mut());
        }
        if let Some(table) = table {
            table.remove(key);
        }
    }

    /// The adapter that these layers start from.
    pub fn adapter_from(&self) -> Option<String> {
        self.value("adapter", "from")
    }

    /// Every dotted key that some layer sets.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let all = values("", &Value::Table(self.table.clone()));
        all.into_iter().map(|(key, _)| key)
    }

    /// Whether any layer sets a dotted key.
    pub fn has(&self, key: &str) -> bool {
        self.keys().any(|known| known == key)
    }

    /// Every setting of these layers that changes something in `below`, by its dotted key.
    pub(crate) fn changes_in(&self, below: &RunConfig) -> Vec<String> {
        let without = below.values();
        values("", &Value::Table(self.table.clone()))
            .into_iter()
            .filter(|pair| !without.contains(pair))
            .map(|(key, _)| key)
            .collect()
    }

    /// The settings with every gap filled, not checked: these layers may lack what others bring.
    ///
    /// # Errors
    /// Values of the wrong kind.
    pub(crate) fn parse(&self) -> Result<RunConfig, TrainError> {
        let mut config = RunConfig::deserialize(Value::Table(self.table.clone()))
            .map_err(|e| TrainError::config(self.places.join(", "), e.message()))?;
        // A run has one name, however it is typed.
        if let Some(known) = names::known(&config.data.dataset, data::dataset::names()) {
            config.data.dataset = known.into();
        }
        config.model.name = known_model(config.model.name);
        Ok(config)
    }
}

/// A model's name as the list of short names spells it; any other as it is.
fn known_model(name: String) -> String {
    data::source::models::known(&name).map_or(name, str::to_owned)
}

/// A value in the tables that its dotted key names.
pub(super) fn nested(key: &str, value: Value) -> Table {
    let (sections, key) = key.rsplit_once('.').unwrap_or(("", key));
    let inner = Table::from_iter([(key.to_string(), value)]);
    match sections {
        "" => inner,
        _ => nested(sections, Value::Table(inner)),
    }
}

/// Settings that are tables of the user's own keys, which may have dots: one value each.
const TABLES: [&str; 2] = ["rank_pattern", "alpha_pattern"];

fn is_one_value(key: &str) -> bool {
    TABLES.contains(&key.rsplit('.').next().unwrap_or(key))
}

/// Every plain value of a table by its dotted key.
pub(super) fn values(prefix: &str, value: &Value) -> Vec<(String, Value)> {
    let table = match value {
        Value::Table(table) if !is_one_value(prefix) => table,
        other => return vec![(prefix.to_owned(), other.clone())],
    };
    let dot = if prefix.is_empty() { "" } else { "." };
    table
        .iter()
        .flat_map(|(key, value)| values(&format!("{prefix}{dot}{key}"), value))
        .collect()
}

pub(super) fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if !is_one_value(&key) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Serde's message for an unknown key, with the nearest known one.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let (Some(wrong), true) = (quoted.next(), is_unknown) else {
        return message.to_string();
    };
    let known: Vec<&str> = quoted.collect();
    let kind = match message.starts_with("unknown field") {
        true => "key",
        false => "value",
    };
    unknown(kind, wrong, &known)
}
