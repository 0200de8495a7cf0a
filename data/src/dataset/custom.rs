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
use crate::rows::Row;
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
    /// Field of the right answer: an index from 0, a letter from A, or the choice's text. Which of
    /// them, the file's rows tell together. Where a row lacks the field `answer`, `label` and
    /// `answerKey` serve.
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
    /// The ways of reading an answer that hold for every row of the file; absent where that is not
    /// known.
    #[serde(skip)]
    readings: Option<Readings>,
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
            readings: None,
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
            question: question.ok_or_else(|| missing(row, &self.question, "question"))?,
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
                let reason = missing(row, field, "choices");
                format!("{reason} (open-ended questions: data.custom.written = true)")
            })?;
            let list = match found {
                Value::Array(list) => list.clone(),
                // A cell of a csv file holds a list as JSON.
                Value::String(cell) => serde_json::from_str(cell).map_err(|_| {
                    format!("{field}: expected a list such as [\"a\", \"b\"], got {cell:?}; several columns: data.custom.choices = [..] or --choices-field A,B")
                })?,
                Value::Object(_) if field == "choices" => {
                    let (_, texts) = hub_choices(row)?;
                    return texts.iter().enumerate().map(|(i, text)| filled(field, i, text)).collect();
                }
                other => return Err(format!("{field}: expected a list, got {other}")),
            };
            // Tables fill rows of few choices up with null.
            let end = list.iter().rposition(|value| !value.is_null());
            let list = list[..end.map_or(0, |end| end + 1)].iter().enumerate();
            return list
                .map(|(i, value)| match value {
                    Value::Null => filled(field, i, ""),
                    value => filled(field, i, &plain(field, value)?),
                })
                .collect();
        }
        self.choices
            .iter()
            .map(|field| match row.get(field) {
                None => Err(missing(row, field, "choices")),
                Some(Value::Null) => Ok(String::new()),
                Some(value) => plain(field, value),
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

    /// The same settings, with what all rows of a file together tell about its answers.
    pub fn decided_by(&self, rows: &[Row]) -> Self {
        let mut readings = Readings::ALL;
        for (_, row) in rows {
            let Ok(choices) = self.choices(row) else {
                continue;
            };
            if let Ok(Some(Found::Text(found))) = self.found(row, &choices) {
                readings = readings.and(found.readings());
            }
        }
        Self {
            readings: readings.any().then_some(readings),
            ..self.clone()
        }
    }

    /// The field of the answer: where a row lacks the usual one, the published datasets' names of
    /// it serve.
    fn answer_field(&self, row: &Value) -> &str {
        let has = |field: &str| row.get(field).is_some_and(|value| !value.is_null());
        let usual = self.answer == Self::default().answer;
        match row.get(&self.answer) {
            None if usual => ["label", "answerKey"]
                .into_iter()
                .find(|field| has(field))
                .unwrap_or(&self.answer),
            _ => &self.answer,
        }
    }

    fn answer(&self, row: &Value, choices: &[String]) -> Result<Option<usize>, String> {
        if self.written {
            return Ok((!choices.is_empty()).then_some(0));
        }
        let found = match self.found(row, choices)? {
            None => return Ok(None),
            Some(Found::Index(index)) => return Ok(Some(index)),
            Some(Found::Text(found)) => found,
        };
        let field = self.answer_field(row);
        let (text, means) = (&found.text, found.means(self.readings));
        match means[..] {
            [(index, _)] => Ok(Some(index)),
            [] => Err(format!(
                "{field}: expected an index from 0, a letter from A, or one of {choices:?}, got {text:?}; another field: data.custom.answer or --answer-field"
            )),
            [(one, first), (other, second), ..] => Err(format!(
                "{field}: {text:?} is both {first} ({:?}) and {second} ({:?}), and the file's rows do not tell which is meant: give letters in every row, or texts that are no letters and no numbers",
                choices[one], choices[other]
            )),
        }
    }

    /// What stands in the answer's field.
    fn found(&self, row: &Value, choices: &[String]) -> Result<Option<Found>, String> {
        let field = self.answer_field(row);
        let value = match row.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        // Where the choices are numbers themselves, a number may be one of them.
        if let Value::Number(number) = value
            && !self.numeric(row)
        {
            let index = whole(number);
            let wrong = || format!("{field}: expected an index from 0, got {number}");
            return index.map(|i| Some(Found::Index(i))).ok_or_else(wrong);
        }
        let text = plain(field, value)?;
        if text.is_empty() {
            return Ok(None);
        }
        let labels = self.hub_labels(row).unwrap_or_default();
        if let Some(index) = labels.iter().position(|label| *label == text) {
            return Ok(Some(Found::Index(index)));
        }
        let letter = match text.as_bytes() {
            [letter] if letter.is_ascii_alphabetic() => {
                Some(usize::from(letter.to_ascii_uppercase() - b'A'))
            }
            _ => None,
        };
        let index = match value {
            Value::Number(number) => whole(number),
            _ => text.parse().ok(),
        };
        let inside = |index: &usize| *index < choices.len();
        Ok(Some(Found::Text(Candidates {
            letter: letter.filter(inside),
            index: index.filter(inside),
            choice: choices.iter().position(|choice| *choice == text),
            text,
        })))
    }

    /// Whether a row's choices are numbers, not texts.
    fn numeric(&self, row: &Value) -> bool {
        let number = |field: &String| match row.get(field) {
            Some(Value::Array(list)) => list.iter().any(Value::is_number),
            other => other.is_some_and(Value::is_number),
        };
        self.choices.iter().any(number)
    }
}

/// What stands in the field of the right answer.
enum Found {
    /// The index of a choice, beyond doubt.
    Index(usize),
    /// A text that may be read in several ways.
    Text(Candidates),
}

/// The choices that an answer's text may mean.
struct Candidates {
    text: String,
    /// By the text as a letter.
    letter: Option<usize>,
    /// By the text as an index.
    index: Option<usize>,
    /// By the text as the choice itself.
    choice: Option<usize>,
}

impl Candidates {
    /// The ways in which the text means a choice at all.
    fn readings(&self) -> Readings {
        Readings {
            letter: self.letter.is_some(),
            index: self.index.is_some(),
            choice: self.choice.is_some(),
        }
    }

    /// The distinct choices that the text means, each with the way to it. `readings` are the ways
    /// that hold for the whole file, if that is known.
    fn means(&self, readings: Option<Readings>) -> Vec<(usize, &'static str)> {
        let ways = readings.unwrap_or(Readings::ALL);
        let mut means: Vec<(usize, &'static str)> = Vec::new();
        for (holds, found, way) in [
            (ways.choice, self.choice, "a choice"),
            (ways.letter, self.letter, "a letter"),
            (ways.index, self.index, "an index"),
        ] {
            let new = found.filter(|found| holds && means.iter().all(|(known, _)| known != found));
            means.extend(new.map(|found| (found, way)));
        }
        means
    }
}

/// Ways of reading the answers of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Readings {
    letter: bool,
    index: bool,
    choice: bool,
}

impl Readings {
    const ALL: Self = Self {
        letter: true,
        index: true,
        choice: true,
    };

    fn and(self, other: Self) -> Self {
        Self {
            letter: self.letter && other.letter,
            index: self.index && other.index,
            choice: self.choice && other.choice,
        }
    }

    fn any(self) -> bool {
        self.letter || self.index || self.choice
    }
}

/// A number as an index. Columns with gaps hold 1.0 for 1.
fn whole(number: &serde_json::Number) -> Option<usize> {
    let float = |n: &serde_json::Number| {
        let n = n.as_f64()?;
        (n.fract() == 0.0 && (0.0..1e6).contains(&n)).then_some(n as usize)
    };
    let index = number.as_u64().and_then(|i| usize::try_from(i).ok());
    index.or_else(|| float(number))
}

/// The names of a row's fields, for an error about one that is not there.
fn fields_of(row: &Value) -> String {
    let names = row
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    names.take(20).collect::<Vec<_>>().join(", ")
}

/// The error about a field that a row lacks, with the setting and the flag that name another.
fn missing(row: &Value, field: &str, setting: &str) -> String {
    let flag = match setting {
        "passage" => "context",
        setting => setting,
    };
    format!(
        "{field}: is missing; the row has {}: name the field with data.custom.{setting} or --{flag}-field",
        fields_of(row)
    )
}

/// A choice of a list, which must say something to be chosen.
fn filled(field: &str, place: usize, text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err(format!("{field}: choice {} is empty", place + 1)),
        text => Ok(text.to_owned()),
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

    fn decided_by(&self, rows: &[Row]) -> Option<Box<dyn Dataset>> {
        Some(Box::new(self.decided_by(rows)))
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
        assert!(
            error.contains("both a choice") && error.contains("an index"),
            "{error}"
        );
        let numbered = json!({"question": "Q", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answer": "2"});
        assert_eq!(answer(&Custom::default(), &numbered), Ok(Some(1)));
        let hub = json!({"question": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "B"});
        assert_eq!(answer(&Custom::default(), &hub), Ok(Some(1)));
    }

    fn decided(rows: &[Value]) -> Vec<Result<Option<usize>, String>> {
        let rows: Vec<Row> = rows
            .iter()
            .cloned()
            .zip(1..)
            .map(|(row, n)| (n, row))
            .collect();
        let custom = Custom::default().decided_by(&rows);
        rows.iter().map(|(_, row)| answer(&custom, row)).collect()
    }

    #[test]
    fn letters_or_texts_all_rows_of_a_file_tell() {
        let row = |choices: [&str; 3], answer: Value| json!({"question": "Which?", "choices": choices, "answer": answer});
        let unclear = || row(["C", "D", "A"], "A".into());
        // Alone it may be either.
        let error = decided(&[unclear()]).remove(0).unwrap_err();
        assert!(
            error.contains("\"A\" is both a choice (\"A\") and a letter (\"C\")"),
            "{error}"
        );
        let letters = decided(&[unclear(), row(["x", "y", "z"], "C".into())]);
        assert_eq!(letters, [Ok(Some(0)), Ok(Some(2))]);
        let texts = decided(&[unclear(), row(["x", "y", "z"], "z".into())]);
        assert_eq!(texts, [Ok(Some(2)), Ok(Some(2))]);
        // The other rows do not agree.
        let mixed = decided(&[
            unclear(),
            row(["x", "y", "z"], "z".into()),
            row(["x", "y", "z"], "B".into()),
        ]);
        assert!(mixed[0].is_err(), "{mixed:?}");
        assert_eq!(mixed[1..], [Ok(Some(2)), Ok(Some(1))]);
        let unclear = || row(["3", "1", "0"], "0".into());
        assert!(decided(&[unclear()])[0].is_err());
        let indices = decided(&[unclear(), row(["x", "y", "z"], "1".into())]);
        assert_eq!(indices, [Ok(Some(0)), Ok(Some(1))]);
        let texts = decided(&[unclear(), row(["8", "7", "9"], "9".into())]);
        assert_eq!(texts, [Ok(Some(2)), Ok(Some(2))]);
        // Numbers among numbers are no clearer.
        let numbers = |choices: [u8; 3], answer: u8| json!({"question": "Which?", "choices": choices, "answer": answer});
        assert!(decided(&[numbers([3, 1, 2], 1)])[0].is_ok());
        assert!(decided(&[numbers([3, 1, 0], 0)])[0].is_err());
        let texts = decided(&[numbers([3, 1, 0], 0), numbers([7, 8, 9], 9)]);
        assert_eq!(texts, [Ok(Some(2)), Ok(Some(2))]);
        // A number beside texts is an index, as it always was.
        assert_eq!(decided(&[row(["3", "1", "0"], 0.into())]), [Ok(Some(0))]);
        assert_eq!(decided(&[row(["x", "y", "z"], json!(2.0))]), [Ok(Some(2))]);
    }

    #[test]
    fn null_and_empty_choices_are_absent_or_refused() {
        let custom = Custom::default();
        let asks = |choices: Value| {
            let row = json!({"question": "Which?", "choices": choices, "answer": 0});
            custom.ask(&row).map(|(question, _)| question.choices)
        };
        assert_eq!(asks(json!(["a", "b", null, null])).unwrap(), ["a", "b"]);
        for (choices, expected) in [
            (json!(["a", null, "b"]), "choices: choice 2 is empty"),
            (json!(["a", " "]), "choices: choice 2 is empty"),
            (json!(["", "a"]), "choices: choice 1 is empty"),
            (json!("[\"a\", \"\"]"), "choices: choice 2 is empty"),
            (
                json!({"text": ["a", ""], "label": ["A", "B"]}),
                "choices: choice 2 is empty",
            ),
            (json!([null]), "choices: expected at least 2"),
            (json!(null), "choices: expected a list"),
        ] {
            let error = asks(choices).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let columns = Custom {
            choices: ["A", "B", "C"].map(String::from).into(),
            ..Custom::default()
        };
        let row = json!({"question": "Which?", "A": "x", "B": "y", "C": null, "answer": "B"});
        assert_eq!(columns.ask(&row).unwrap().0.choices, ["x", "y"]);
        let gap = json!({"question": "Which?", "A": "x", "B": null, "C": "y", "answer": "A"});
        assert!(columns.ask(&gap).unwrap_err().starts_with("B: is empty"));
    }

    #[test]
    fn the_answers_field_has_other_usual_names_and_a_missing_one_is_explained() {
        let custom = Custom::default();
        let row = |field: &str, value: Value| json!({"question": "Which?", "choices": ["x", "y"], field: value});
        assert_eq!(answer(&custom, &row("label", 1.into())), Ok(Some(1)));
        assert_eq!(answer(&custom, &row("answerKey", "B".into())), Ok(Some(1)));
        assert_eq!(answer(&custom, &row("other", 1.into())), Ok(None));
        let error = answer(&custom, &row("label", "hard".into())).unwrap_err();
        assert!(
            error.starts_with("label: ") && error.contains("--answer-field"),
            "{error}"
        );
        let row = json!({"stem": "Which?", "choices": ["x", "y"], "answer": "A"});
        let error = answer(&custom, &row).unwrap_err();
        for part in [
            "question: is missing",
            "stem",
            "--question-field",
            "data.custom.question",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
