//! The chat template that a model carries, as text.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{at, read_text};
use crate::error::ModelError;

/// A chat template in Jinja, and the special tokens that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatSource {
    /// The template.
    pub template: String,
    /// Special tokens by their role: `bos_token`, `eos_token`, ..
    pub special_tokens: BTreeMap<String, String>,
}

impl ChatSource {
    /// Reads the chat template in a directory: `chat_template.jinja`, or the one in
    /// `tokenizer_config.json`. None where there is none.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub(super) fn of_directory(directory: &Path) -> Result<Option<Self>, ModelError> {
        let config_path = directory.join("tokenizer_config.json");
        let config: Value = match config_path.is_file() {
            true => serde_json::from_str(&read_text(&config_path)?)
                .map_err(|e| at(&config_path, e.to_string()))?,
            false => Value::Null,
        };
        let own = directory.join("chat_template.jinja");
        let template = match own.is_file() {
            true => Some(read_text(&own)?),
            false => template(&config["chat_template"])
                .map_err(|reason| at(&config_path, format!("chat_template: {reason}")))?,
        };
        Ok(template.map(|template| Self {
            template,
            special_tokens: special_tokens(&config),
        }))
    }
}

/// A template as `tokenizer_config.json` holds it: one text, or a list of named ones.
fn template(value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            match default.and_then(|entry| entry["template"].as_str()) {
                Some(text) => Ok(Some(text.into())),
                None => Err("expected a template named default in the list".into()),
            }
        }
        other => Err(format!(
            "expected a text or a list of named ones, got {other}"
        )),
    }
}

/// `bos_token` and its like, each a name or an object with one.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    let all = config.as_object().into_iter().flatten();
    all.filter(|(key, _)| key.ends_with("_token"))
        .filter_map(|(key, value)| {
            let name = value.as_str().or_else(|| value["content"].as_str())?;
            Some((key.clone(), name.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_found_where_transformers_writes_them() {
        let root = tempfile::tempdir().unwrap();
        let read = || ChatSource::of_directory(root.path());
        assert_eq!(read().unwrap(), None);
        let write = |config: &Value| {
            let path = root.path().join("tokenizer_config.json");
            std::fs::write(path, config.to_string()).unwrap();
        };
        write(&json!({
            "chat_template": "one",
            "bos_token": "<s>",
            "eos_token": {"content": "</s>", "lstrip": false},
            "pad_token": null,
            "add_bos_token": true,
        }));
        let found = read().unwrap().unwrap();
        assert_eq!(found.template, "one");
        let tokens: Vec<_> = found.special_tokens.iter().collect();
        let expected = [("bos_token", "<s>"), ("eos_token", "</s>")];
        assert!(
            tokens
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .eq(expected)
        );
        write(&json!({"chat_template": [
            {"name": "tool_use", "template": "two"},
            {"name": "default", "template": "three"},
        ]}));
        assert_eq!(read().unwrap().unwrap().template, "three");
        std::fs::write(root.path().join("chat_template.jinja"), "four").unwrap();
        assert_eq!(read().unwrap().unwrap().template, "four");
        std::fs::remove_file(root.path().join("chat_template.jinja")).unwrap();
        write(&json!({"chat_template": [{"name": "tool_use", "template": "two"}]}));
        let error = read().unwrap_err().to_string();
        assert!(error.contains("named default"), "{error}");
    }
}
