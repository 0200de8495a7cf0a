//! The user's own questions, in any jsonl, json, csv, tsv or parquet file. The names of the fields
//! are settings; a file whose fields have other usual names is understood without them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::accepted;
use super::loading::load_any;
use super::{Dataset, OfficialSplit};
use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::prompt::LabelStyle;
use crate::rows::{Row, RowFile, Rows};
use crate::source::{Artifact, Finder, HubFile, Located};

mod answers;
mod choices;
mod columns;
mod deciding;
mod repository;
mod task;

use answers::{Counting, Found, Readings};
use choices::{missing, numeric, plain};
use columns::Columns;

pub use task::{Choices, TaskFile};

/// The name under which the settings know the user's own questions.
pub const NAME: &str = "custom";

/// `[data.custom]`: files and the names of their fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Custom {
    /// A dataset of the Hub, `owner/name` or `owner/name:configuration`; the files below take the
    /// place of its splits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// A task file: templates that make the fields below of a row's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<PathBuf>,
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
    /// Field of the right answer: an index, a letter from A, or the choice's text. Which of them,
    /// and whether indices count from 0 or 1, the file's rows tell together. Where a row lacks the
    /// field `answer`, `label` and `answerKey` serve.
    pub answer: String,
    /// The number that means the first choice, 0 or 1, where answers are numbers; absent: a file
    /// tells it by a 0 or by the number of a last choice, or else the run's other files do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count_from: Option<usize>,
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
    /// The Hub's files of each split.
    #[serde(skip)]
    published: Vec<(OfficialSplit, Vec<HubFile>)>,
    /// The task file's content, once it is read.
    #[serde(skip)]
    templates: Option<Arc<TaskFile>>,
    /// The ways of reading an answer that hold for every row of the file; absent where that is not
    /// known.
    #[serde(skip)]
    readings: Option<Readings>,
    /// The number of the first choice in the run's other files: for one that does not tell it.
    #[serde(skip)]
    elsewhere: Option<usize>,
    /// How the file's indices count, once its rows were looked at.
    #[serde(skip)]
    counting: Option<Counting>,
    /// The file's indices may count from 0 or from 1.
    #[serde(skip)]
    ambiguous: bool,
    /// What was found by itself: the setting, and the field's name.
    #[serde(skip)]
    found: Vec<(&'static str, String)>,
}

impl Default for Custom {
    fn default() -> Self {
        Self {
            hub: None,
            task: None,
            train: None,
            held_out: None,
            test: None,
            question: "question".into(),
            choices: vec!["choices".into()],
            answer: "answer".into(),
            count_from: None,
            passage: "context".into(),
            id: "id".into(),
            group: "group".into(),
            answer_by_choice: false,
            written: false,
            aliases: "aliases".into(),
            splits: Vec::new(),
            published: Vec::new(),
            templates: None,
            readings: None,
            elsewhere: None,
            counting: None,
            ambiguous: false,
            found: Vec::new(),
        }
    }
}

impl Custom {
    /// The same settings with the splits that have a file worked out and the task file read, as
    /// [`Dataset`] needs them.
    ///
    /// # Errors
    /// A task file that cannot be used.
    pub fn prepared(self) -> Result<Self, DataError> {
        let mut own = self.opened()?;
        own.find_splits();
        Ok(own)
    }

    /// The same settings with the task file read, if there is one.
    ///
    /// # Errors
    /// A task file that cannot be used, or a way to count that there is not.
    pub fn opened(mut self) -> Result<Self, DataError> {
        if let Some(first @ 2..) = self.count_from {
            let reason = format!("expected 0 or 1, the number of the first choice, got {first}");
            return Err(DataError::setting("data.custom.count_from", reason));
        }
        if let Some(path) = &self.task {
            self.templates = Some(Arc::new(TaskFile::read(path)?));
        }
        Ok(self)
    }

    fn find_splits(&mut self) {
        let files = [
            (OfficialSplit::Train, &self.train),
            (OfficialSplit::Validation, &self.held_out),
            (OfficialSplit::Test, &self.test),
        ];
        self.splits = files
            .into_iter()
            .filter(|(split, file)| {
                file.is_some() || self.published.iter().any(|(known, _)| known == split)
            })
            .map(|(split, _)| split)
            .collect();
    }

    /// A row in the fields that are read: a task file makes them of the row's own.
    fn row<'a>(&self, row: &'a Value) -> Result<Cow<'a, Value>, String> {
        match &self.templates {
            None => Ok(Cow::Borrowed(row)),
            Some(task) => task.mapped(row).map(Cow::Owned),
        }
    }

    /// The same settings for questions whose answer the model writes, or chooses.
    pub fn writing(self, written: bool) -> Self {
        Self { written, ..self }
    }

    /// The same settings for questions that are asked in this style.
    pub fn labelled(self, style: LabelStyle) -> Self {
        Self {
            answer_by_choice: style == LabelStyle::Choice,
            ..self.writing(style == LabelStyle::Written)
        }
    }

    /// Whether every row has true and false as its choices. What cannot be read is passed over.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn is_true_or_false(&self, rows: &dyn Rows) -> Result<bool, DataError> {
        let own = self.decided_by(rows)?;
        for row in rows.pass()? {
            if let Ok((question, _)) = own.ask(&row?.1)
                && !question.is_true_or_false()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a question, and the index of its answer if the row has one. Without an answer the
    /// question's own index is 0 and means nothing.
    ///
    /// # Errors
    /// The field that cannot be used.
    pub fn ask(&self, row: &Value) -> Result<(MultipleChoice, Option<usize>), String> {
        let row = self.row(row)?;
        let row = row.as_ref();
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
        match self.written {
            true => self.accepted(row),
            false => choices::read(row, &self.choices),
        }
    }

    /// What was found by itself about a file's fields, in words; none where the settings say it
    /// all.
    pub fn found_by_itself(&self) -> Option<String> {
        let found = self.found.iter();
        let mut parts: Vec<String> = found
            .map(|(setting, field)| format!("{setting} from {field}"))
            .collect();
        if self.counting == Some(Counting::FromOne) {
            parts.push("answers counted from 1".into());
        }
        if self.ambiguous {
            parts.push(
                "answers counted from 0, although none is 0 (else data.custom.count_from = 1)"
                    .into(),
            );
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The field of the answer: where a row lacks the usual one, the published datasets' names of
    /// it serve.
    fn answer_field(&self, row: &Value) -> &str {
        const USUAL: [&str; 3] = ["answer", "label", "answerKey"];
        let has = |field: &str| row.get(field).is_some_and(|value| !value.is_null());
        match row.get(&self.answer) {
            None if USUAL.contains(&&*self.answer) => USUAL
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
            Some(Found::Index(index)) if index >= choices.len() && choices.len() > 1 => {
                let field = self.answer_field(row);
                return Err(format!(
                    "{field}: {} is past the {} choices ({} is the first)",
                    row[field],
                    choices.len(),
                    self.counting_of_one().first()
                ));
            }
            Some(Found::Index(index)) => return Ok(Some(index)),
            Some(Found::Text(found)) => found,
        };
        let field = self.answer_field(row);
        let first = self.counting_of_one().first();
        let (text, means) = (&found.text, found.means(self.readings));
        match means[..] {
            [_] if found.alike(self.readings) > 1 => Err(format!(
                "{field}: {text:?} is the text of {} choices: say which by its place or letter, or keep one",
                found.alike(self.readings)
            )),
            [(index, _)] => Ok(Some(index)),
            [] => Err(format!(
                "{field}: expected an index from {first}, a letter from A, or one of {choices:?}, got {text:?}; another field: data.custom.answer or --answer-field"
            )),
            [(one, first), (other, second), ..] => Err(format!(
                "{field}: {text:?} is both {first} ({:?}) and {second} ({:?}), and the file's rows do not tell which is meant: say it by its place in every row (0, 1, ..), or give the choices texts that are no letters and no numbers",
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
        let labels = choices::labels(row, &self.choices).unwrap_or_default();
        let numeric = numeric(row, &self.choices);
        let counting = self.counting_of_one();
        Found::read((field, value), choices, &labels, numeric, counting)
    }

    /// How the answers of a row count. Of a stream, no row but this one is known.
    fn counting_of_one(&self) -> Counting {
        let said = || Counting::of(self.count_from.or(self.elsewhere));
        self.counting.unwrap_or_else(said)
    }
}

impl Dataset for Custom {
    fn name(&self) -> &'static str {
        NAME
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
        let published = self.published.iter().find(|(known, _)| *known == split);
        match (path, published) {
            (None, Some((_, files))) => files
                .iter()
                .map(|file| Artifact {
                    name: format!("{}: {}", file.repository, file.file),
                    hub: vec![file.clone()],
                    ..Artifact::default()
                })
                .collect(),
            _ => vec![Artifact {
                name: NAME.into(),
                path: path.clone(),
                ..Artifact::default()
            }],
        }
    }

    fn located(&self, finder: &Finder) -> Result<Option<Box<dyn Dataset>>, DataError> {
        let Some(name) = &self.hub else {
            return Ok(None);
        };
        let (repository, configuration) = repository::named(name);
        let listing = finder.list(repository)?;
        let splits = repository::splits(&listing, configuration).map_err(|reason| {
            DataError::setting(format!("the Hub's dataset {repository}"), reason)
        })?;
        let file = |file: String| HubFile {
            revision: listing.revision.clone(),
            ..HubFile::dataset(repository, file)
        };
        let mut own = self.clone();
        own.published = splits
            .into_iter()
            .map(|(split, files)| (split, files.into_iter().map(file).collect()))
            .collect();
        // The answers of many a test are kept back: validation is the test then.
        let published = |split| own.published.iter().any(|(known, _)| *known == split);
        if own.test.is_none()
            && published(OfficialSplit::Test)
            && published(OfficialSplit::Validation)
        {
            let test = load_any(&own, OfficialSplit::Test, finder)?;
            if test.questions.is_empty() {
                own.published
                    .retain(|(split, _)| *split != OfficialSplit::Test);
            }
        }
        own.find_splits();
        Ok(Some(Box::new(own)))
    }

    fn agreed(&self, finder: &Finder) -> Result<Option<Box<dyn Dataset>>, DataError> {
        let parts = self.splits.iter().flat_map(|split| self.parts(*split));
        // A file that cannot be had, or opened, is named where its questions are read.
        let files = parts.flat_map(|part| {
            let found = finder.find(&part).unwrap_or_default();
            let open = move |file: Located| {
                let wanted = |first: &[Row]| self.fields(first);
                RowFile::open(&file.path, self.columns(), &part.only, &wanted).ok()
            };
            found.into_iter().filter_map(open)
        });
        Ok(Some(Box::new(self.agreed_by(files)?)))
    }

    fn counts_from(&self) -> Option<usize> {
        self.count_from.or(self.elsewhere)
    }

    fn fields(&self, first: &[Row]) -> Option<Vec<String>> {
        let (own, columns) = (self.with_columns(first), Columns::of(first));
        let known = |field: &String| columns.has(field);
        // An error lists every column.
        if own.templates.is_some() || !known(&own.question) || !own.choices.iter().all(known) {
            return None;
        }
        let names = [
            own.question,
            own.answer,
            own.passage,
            own.id,
            own.group,
            own.aliases,
        ];
        let usual = ["passage", "label", "answerKey"].map(String::from);
        let answers = columns.answers().map(str::to_owned);
        Some(
            names
                .into_iter()
                .chain(own.choices)
                .chain(usual)
                .chain(answers)
                .collect(),
        )
    }

    fn described_by(&self) -> Option<&Path> {
        self.task.as_deref()
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        let row = self.row(row)?;
        let row = row.as_ref();
        let choices = self.choices(row)?;
        // A row without an answer is of no use here, whatever else it lacks.
        match self.answer(row, &choices)? {
            None => Ok(None),
            Some(answer) => self.question(row, choices, answer).map(Some),
        }
    }

    fn decided_by(&self, rows: &dyn Rows) -> Result<Option<Box<dyn Dataset>>, DataError> {
        Ok(Some(Box::new(self.decided_by(rows)?)))
    }

    fn found_by_itself(&self) -> Option<String> {
        self.found_by_itself()
    }

    /// What the user calls held-out stays held out.
    fn validation_is_test(&self) -> bool {
        self.train.is_none() && self.held_out.is_none()
    }

    fn miniature(&self, _: OfficialSplit) -> Option<&'static str> {
        None
    }
}

#[cfg(test)]
mod tests;
