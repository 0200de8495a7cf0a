//! The user's own questions, in any jsonl, json, csv, tsv or parquet file. The names of the fields
//! are settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{accepted, hub_choices};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::prompt::LabelStyle;
use crate::source::Artifact;

/// `[data.custom]`: files and the names of their fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Custom {
    /// Training questions.
    pub train: Option<PathBuf>,
    /// Held-out questions; absent: a share of train.
    pub held_out: Option<PathBuf>,
    /// Test questions; absent: a share of train.
    pub test: Option<PathBuf>,
    /// Field of the question.
    pub question: String,
    /// Field of the list of choices, or one field a choice.
    pub choices: Vec<String>,
    /// Field of the right answer: an index from 0, a letter from A, or the choice's text.
    pub answer: String,
    /// Field of a text that answers the question; rows may lack it.
    pub passage: String,
    /// Field of the row's name; rows may lack it.
    pub id: String,
    /// Field of what a row shares with others (a document, a patient): rows of one group stay on
    /// one side where train is divided.
    pub group: String,
    /// The choices themselves are the answer's words, as in true or false; otherwise letters are.
    pub answer_by_choice: bool,
    /// Questions without choices: the model writes the answer itself.
    pub written: bool,
    /// Field of the list of other texts that count as right where the model writes the answer; rows
    /// may lack it.
    pub aliases: String,
    /// The splits that have a file.
    #[serde(skip)]
    splits: Vec<OfficialSplit>,
}

impl Default for Custom {
    fn default() -> Self {
        Self {
            train: None,
            held_out: None,
            test: None,
            question: "question".into(),
            choices: vec!["choices".into()],
            answer: "answer".into(),
            passage: "context".into(),
            id: "id".into(),
            group: "group".into(),
            answer_by_choice: false,
            written: false,
            aliases: "aliases".into(),
            splits: Vec::new(),
        }
    }
}

impl Custom {
    /// The same settings with the splits that have a file worked out, as [`Dataset`] needs them.
    pub fn prepared(mut self) -> Self {
        let files = [
            (OfficialSplit::Train, &self.train),
            (OfficialSplit::Validation, &self.held_out),
            (OfficialSplit::Test, &self.test),
        ];
        self.splits = files
            .into_iter()
            .filter_map(|(split, file)| file.as_ref().map(|_| split))
            .collect();
        self
    }

    /// The same settings for questions whose answer the model writes, or chooses.
    pub fn writing(self, written: bool) -> Self {
        Self { written, ..self }
    }

    /// Reads a question, and the index of its answer if the row has one. Without an answer the
    /// question's own index is 0 and means nothing.
    ///
    /// # Errors
    /// The field that cannot be used.
    pub fn ask(&self, row: &Value) -> Result<(MultipleChoice, Option<usize>), String> {
        let choices = self.choices(row)?;
        let answer = self.answer(row, &choices)?;
        let question = self.question(row, choices, answer.unwrap_or(0))?;
        // What the model is to write need not be known.
        if answer.is_some() || !self.written {
            question.check()?;
        }
        Ok((question, answer))
    }

    /// The right answer and its other wordings, where the model writes it.
    fn accepted(&self, row: &Value) -> Result<Vec<String>, String> {
        if let [field] = &self.choices[..]
            && let Some(Value::Array(list)) = row.get(field)
            && !list.is_empty()
        {
            return Err(format!(
                "{field}: open-ended questions have none: leave the field out, or data.custom.written"
            ));
        }
        let answer = match row.get(&self.answer) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(value) => plain(&self.answer, value)?,
        };
        if answer.is_empty() {
            return Ok(Vec::new());
        }
        let field = &self.aliases;
        let aliases = match row.get(field) {
            Some(Value::String(cell)) if cell.trim().is_empty() => None,
            // A cell of a csv file holds a list as JSON.
            Some(Value::String(cell)) => Some(serde_json::from_str(cell).map_err(|_| {
                format!("{field}: expected a list such as [\"a\", \"b\"], got {cell:?}")
            })?),
            other => other.cloned(),
        };
        accepted(&answer, aliases.as_ref()).map_err(|reason| reason.replacen("aliases", field, 1))
    }

    fn question(
        &self,
        row: &Value,
        choices: Vec<String>,
        answer: usize,
    ) -> Result<MultipleChoice, String> {
        // A field that nobody named may be there for another purpose: a list or an object is not
        // meant.
        let own = Self::default();
        let unnamed = |field: &str| field == own.group || field == own.passage;
        let optional = |field: &str| match row.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(_) | Value::Object(_)) if unnamed(field) => Ok(None),
            Some(value) => plain(field, value).map(Some),
        };
        let question = optional(&self.question)?;
        let mut passage = optional(&self.passage)?;
        // The uniform format's name.
        if passage.is_none() && self.passage == "context" {
            passage = optional("passage")?;
        }
        Ok(MultipleChoice {
            id: optional(&self.id)?.unwrap_or_default(),
            question: question.ok_or_else(|| format!("{}: is missing", self.question))?,
            passage: passage.filter(|passage| !passage.is_empty()),
            group: optional(&self.group)?.filter(|group| !group.is_empty()),
            written: self.written,
            choices,
            answer,
        })
    }

    fn choices(&self, row: &Value) -> Result<Vec<String>, String> {
        if self.written {
            return self.accepted(row);
        }
        if let [field] = &self.choices[..] {
            let found = row.get(field).ok_or_else(|| {
                format!("{field}: is missing (open-ended questions: data.custom.written = true)")
            })?;
            let list = match found {
                Value::Array(list) => list.clone(),
                // A cell of a csv file holds a list as JSON.
                Value::String(cell) => serde_json::from_str(cell).map_err(|_| {
                    format!("{field}: expected a list such as [\"a\", \"b\"], got {cell:?}; several columns: data.custom.choices = [..]")
                })?,
                Value::Object(_) if field == "choices" => {
                    return hub_choices(row).map(|(_, texts)| texts);
                }
                other => return Err(format!("{field}: expected a list, got {other}")),
            };
            return list.iter().map(|value| plain(field, value)).collect();
        }
        self.choices
            .iter()
            .map(|field| {
                let value = row
                    .get(field)
                    .ok_or_else(|| format!("{field}: is missing"))?;
                plain(field, value)
            })
            .collect::<Result<Vec<String>, String>>()
            .and_then(|choices| self.without_absent(choices))
    }

    /// Empty cells at the end are absent choices; one before another choice would shift the
    /// letters.
    fn without_absent(&self, mut choices: Vec<String>) -> Result<Vec<String>, String> {
        while choices.last().is_some_and(String::is_empty) {
            choices.pop();
        }
        match choices.iter().position(String::is_empty) {
            Some(gap) => Err(format!(
                "{}: is empty, but a later choice is not",
                self.choices[gap]
            )),
            None => Ok(choices),
        }
    }

    /// The labels of the Hub's form, which name the answer there.
    fn hub_labels(&self, row: &Value) -> Option<Vec<String>> {
        let nested = self.choices == ["choices"] && row.get("choices")?.is_object();
        nested.then(|| hub_choices(row).ok().map(|(labels, _)| labels))?
    }

    fn answer(&self, row: &Value, choices: &[String]) -> Result<Option<usize>, String> {
        if self.written {
            return Ok((!choices.is_empty()).then_some(0));
        }
        let field = &self.answer;
        let found = match row.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => {
                let index = number.as_u64().and_then(|i| usize::try_from(i).ok());
                let wrong = || format!("{field}: expected an index from 0, got {number}");
                return index.map(Some).ok_or_else(wrong);
            }
            Some(value) => plain(field, value)?,
        };
        if found.is_empty() {
            return Ok(None);
        }
        let labels = self.hub_labels(row).unwrap_or_default();
        if let Some(index) = labels.iter().position(|label| *label == found) {
            return Ok(Some(index));
        }
        if let Some(index) = choices.iter().position(|choice| *choice == found) {
            // The text `0` may be the second choice, or mean the first.
            let other = found.parse::<usize>().ok().filter(|i| *i < choices.len());
            return match other.is_some_and(|other| other != index) {
                false => Ok(Some(index)),
                true => Err(format!(
                    "{field}: {found:?} is both a choice and an index: give letters, or numbers without quotation marks in jsonl"
                )),
            };
        }
        let letter = match found.as_bytes() {
            [letter] if letter.is_ascii_alphabetic() => {
                Some(usize::from(letter.to_ascii_uppercase() - b'A'))
            }
            _ => found.parse().ok(),
        };
        letter.filter(|i| *i < choices.len()).map(Some).ok_or_else(|| {
            format!("{field}: expected an index from 0, a letter from A, or one of {choices:?}, got {found:?}")
        })
    }
}

/// A text, or a number or truth value as text.
fn plain(field: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.trim().to_owned()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(format!("{field}: expected text, got {other}")),
    }
}

impl Dataset for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn labels(&self) -> LabelStyle {
        match (self.written, self.answer_by_choice) {
            (true, _) => LabelStyle::Written,
            (false, true) => LabelStyle::Choice,
            (false, false) => LabelStyle::Letter,
        }
    }

    fn splits(&self) -> &[OfficialSplit] {
        &self.splits
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let path = match split {
            OfficialSplit::Train => &self.train,
            OfficialSplit::Validation => &self.held_out,
            OfficialSplit::Test => &self.test,
        };
        vec![Artifact {
            name: "custom".into(),
            path: path.clone(),
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        let choices = self.choices(row)?;
        // A row without an answer is of no use here, whatever else it lacks.
        match self.answer(row, &choices)? {
            None => Ok(None),
            Some(answer) => self.question(row, choices, answer).map(Some),
        }
    }

    /// What the user calls held-out stays held out.
    fn validation_is_test(&self) -> bool {
        self.train.is_none()
    }

    fn miniature(&self, _: OfficialSplit) -> Option<&'static str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(custom: &Custom, row: &Value) -> Result<Option<usize>, String> {
        custom.parse(row).map(|q| q.map(|q| q.answer))
    }

    #[test]
    fn answers_by_index_letter_and_text() {
        let custom = Custom::default();
        let row = |answer: Value| json!({"question": "Which?", "choices": ["a", "b", "7"], "answer": answer});
        for (given, expected) in [
            (json!(1), 1),
            (json!("1"), 1),
            (json!("B"), 1),
            (json!("b"), 1),
            (json!("7"), 2),
            (json!("2"), 2),
            (json!("a"), 0),
        ] {
            assert_eq!(
                answer(&custom, &row(given.clone())),
                Ok(Some(expected)),
                "{given}"
            );
        }
        assert_eq!(answer(&custom, &row(json!(null))), Ok(None));
        let error = answer(&custom, &row(json!("z"))).unwrap_err();
        assert!(error.starts_with("answer: expected an index"), "{error}");
    }

    #[test]
    fn other_names_columns_and_cells() {
        let custom = Custom {
            question: "stem".into(),
            choices: ["A", "B", "C"].map(String::from).into(),
            answer: "key".into(),
            ..Custom::default()
        };
        let row = json!({"stem": " Which? ", "A": "x", "B": 2, "C": "", "key": "2"});
        let question = custom.parse(&row).unwrap().unwrap();
        assert_eq!(question.choices, ["x", "2"]);
        assert_eq!((&*question.question, question.answer), ("Which?", 1));
        let cell = json!({"question": "Q", "choices": "[\"x\", \"y\"]", "answer": "y"});
        assert_eq!(answer(&Custom::default(), &cell), Ok(Some(1)));
        let flat = json!({"question": "Q", "choices": "x|y", "answer": "y"});
        assert!(
            answer(&Custom::default(), &flat)
                .unwrap_err()
                .starts_with("choices: expected")
        );
        let gap = json!({"stem": "Which?", "A": "", "B": "x", "C": "y", "key": "B"});
        assert!(custom.parse(&gap).unwrap_err().starts_with("A: is empty"));
        let clash = json!({"question": "Q", "choices": ["3", "1", "0"], "answer": "0"});
        let error = answer(&Custom::default(), &clash).unwrap_err();
        assert!(error.contains("both a choice and an index"), "{error}");
        let numbered = json!({"question": "Q", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answer": "2"});
        assert_eq!(answer(&Custom::default(), &numbered), Ok(Some(1)));
        let hub = json!({"question": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "B"});
        assert_eq!(answer(&Custom::default(), &hub), Ok(Some(1)));
    }
}
