//! Which column of a file holds what, by the names that datasets and spreadsheets give them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::DataError;
use crate::rows::{Row, Rows};

/// Usual names of the question's column, the usual first. Case, spaces and marks do not count.
const QUESTION: &[&str] = &[
    "question",
    "questiontext",
    "questionstem",
    "stem",
    "query",
    "prompt",
    "problem",
    "q",
    "ctx",
    "goal",
    "sentence",
    "input",
    "text",
];

/// Usual names of a column that lists the choices.
const CHOICES: &[&str] = &[
    "choices",
    "options",
    "alternatives",
    "candidates",
    "endings",
    "answerchoices",
    "answeroptions",
];

/// What stands before the letter or number of a column that holds one choice.
const EACH_CHOICE: &[&str] = &[
    "",
    "option",
    "choice",
    "answer",
    "opt",
    "op",
    "ans",
    "alternative",
    "candidate",
    "ending",
    "sol",
];

/// Usual names of the right answer's column.
const ANSWER: &[&str] = &[
    "answer",
    "label",
    "answerkey",
    "correctanswer",
    "rightanswer",
    "correct",
    "correctoption",
    "correctchoice",
    "answeridx",
    "answerindex",
    "answerletter",
    "answerid",
    "correctidx",
    "correctindex",
    "correctletter",
    "gold",
    "goldlabel",
    "goldanswer",
    "goldindex",
    "target",
    "key",
    "solution",
    "cop",
];

/// Usual names of a column with a text that answers the question.
const PASSAGE: &[&str] = &["context", "passage", "article", "paragraph", "support"];

/// The columns of a file: every field of its rows.
#[derive(Default)]
pub(super) struct Columns {
    /// Names in the order in which they come up, each with its first value that says something.
    columns: Vec<(String, Option<Value>)>,
}

impl Columns {
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut own = Self::default();
        rows.iter().for_each(|(_, row)| own.see(row));
        own
    }

    pub(super) fn of_all(rows: &dyn Rows) -> Result<Self, DataError> {
        let mut own = Self::default();
        for row in rows.pass()? {
            own.see(&row?.1);
        }
        Ok(own)
    }

    /// Takes in the fields of a row.
    pub(super) fn see(&mut self, row: &Value) {
        for (name, value) in row.as_object().into_iter().flatten() {
            let says = !value.is_null() && value.as_str() != Some("");
            let value = || says.then(|| value.clone());
            match self.columns.iter_mut().find(|(known, _)| known == name) {
                Some((_, Some(_))) => {}
                Some((_, first)) => *first = value(),
                None => self.columns.push((name.clone(), value())),
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The names of all columns.
    pub(super) fn list(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The column of the question.
    pub(super) fn question(&self) -> Option<&str> {
        let mut found = self.called(QUESTION);
        found.find(|name| self.holds(name, Value::is_string))
    }

    /// The column of a text that answers the question.
    pub(super) fn passage(&self) -> Option<&str> {
        let mut found = self.called(PASSAGE);
        found.find(|name| self.holds(name, Value::is_string))
    }

    /// The column that lists the choices, or the columns of the single ones.
    pub(super) fn choices(&self) -> Option<Vec<&str>> {
        let listed = |value: &Value| match value {
            Value::Array(_) | Value::Object(_) => true,
            Value::String(cell) => cell.trim_start().starts_with('['),
            _ => false,
        };
        let list = self.called(CHOICES).find(|name| self.holds(name, listed));
        list.map(|name| vec![name]).or_else(|| self.each_choice())
    }

    /// Columns that may hold the right answer, the likeliest name first.
    pub(super) fn answers(&self) -> impl Iterator<Item = &str> {
        let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
        let found = self.called(ANSWER);
        found.filter(move |name| self.holds(name, plain))
    }

    /// Columns of these names, in the names' order.
    fn called(&self, known: &'static [&str]) -> impl Iterator<Item = &str> {
        known
            .iter()
            .filter_map(|known| self.names().find(|name| squeezed(name) == *known))
    }

    /// Whether the first value of a column is of a kind.
    fn holds(&self, name: &str, kind: impl Fn(&Value) -> bool) -> bool {
        let known = self.columns.iter().find(|(known, _)| known == name);
        let first = known.and_then(|(_, value)| value.as_ref());
        first.is_some_and(kind)
    }

    /// Columns that differ in a letter from A or a number from 0 or 1 alone.
    fn each_choice<'a>(&'a self) -> Option<Vec<&'a str>> {
        EACH_CHOICE.iter().find_map(|prefix| {
            let mut letters = BTreeMap::new();
            let mut numbers = BTreeMap::new();
            for name in self.names() {
                let squeezed = squeezed(name);
                let Some(rest) = squeezed.strip_prefix(prefix) else {
                    continue;
                };
                match (rest.as_bytes(), rest.parse::<u8>()) {
                    ([letter @ b'a'..=b'z'], _) => {
                        letters.entry(letter - b'a').or_insert(name);
                    }
                    (_, Ok(number)) => {
                        numbers.entry(number).or_insert(name);
                    }
                    _ => {}
                }
            }
            let from_one = !numbers.contains_key(&0);
            let one_after_another = |found: &BTreeMap<u8, &'a str>, first: u8| {
                let numbers = first..=u8::MAX;
                let chosen: Vec<&'a str> = numbers.map_while(|n| found.get(&n).copied()).collect();
                (chosen.len() > 1).then_some(chosen)
            };
            one_after_another(&letters, 0)
                .or_else(|| one_after_another(&numbers, u8::from(from_one)))
        })
    }
}

/// A name as people mean it: small letters and digits alone.
fn squeezed(name: &str) -> String {
    let kept = name.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn single_choices_are_found_by_letter_or_number() {
        for (row, expected) in [
            (json!({"q": "", "A": "x", "B": "y", "C": ""}), Some("A B C")),
            (
                json!({"b": "y", "a": "x", "d": "not one after another"}),
                Some("a b"),
            ),
            (
                json!({"Option A": "x", "Option B": "y"}),
                Some("Option A Option B"),
            ),
            (json!({"opa": "x", "opb": "y"}), Some("opa opb")),
            (
                json!({"ending0": "x", "ending1": "y"}),
                Some("ending0 ending1"),
            ),
            (
                json!({"choice_1": "x", "choice_2": "y", "choice_3": "z"}),
                Some("choice_1 choice_2 choice_3"),
            ),
            (
                json!({"answerA": "x", "answerB": "y"}),
                Some("answerA answerB"),
            ),
            (json!({"sol1": "x", "sol2": "y"}), Some("sol1 sol2")),
            (json!({"a": "x", "c": "y"}), None),
            (json!({"option 2": "x", "option 3": "y"}), None),
            (json!({"Options": ["x", "y"]}), Some("Options")),
            (json!({"options": "[\"x\", \"y\"]"}), Some("options")),
            (json!({"options": "x|y"}), None),
        ] {
            let rows = [(1, row.clone())];
            let columns = Columns::of(&rows);
            let found = columns.choices().map(|names| names.join(" "));
            assert_eq!(found.as_deref(), expected, "{row}");
        }
    }

    /// The numbers of a table without names, or of an embedding.
    #[test]
    fn as_many_numbered_columns_as_a_byte_counts_have_an_end() {
        let numbered = (0..300).map(|n| (n.to_string(), json!("x")));
        let rows = [(1, Value::Object(numbered.collect()))];
        let columns = Columns::of(&rows);
        assert_eq!(columns.choices().map(|names| names.len()), Some(256));
    }

    #[test]
    fn a_column_counts_by_its_first_value() {
        let rows = [
            (
                1,
                json!({"Question": {"stem": "x"}, "Prompt": null, "Answer Key": ""}),
            ),
            (
                2,
                json!({"Prompt": "Which?", "Answer Key": "B", "label": 1}),
            ),
        ];
        let columns = Columns::of(&rows);
        assert_eq!(columns.question(), Some("Prompt"));
        let answers: Vec<&str> = columns.answers().collect();
        assert_eq!(answers, ["label", "Answer Key"]);
        assert!(columns.has("Prompt") && !columns.has("prompt"));
    }
}
