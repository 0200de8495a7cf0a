//! What can be said about files of questions before anything is trained on them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::dataset::custom::Custom;
use crate::encoded::EncodedQuestion;
use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::rendering::Rendering;
use crate::rows::{self, Chained, Rows};
use crate::tokenizer::Tokenizer;

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// Number of the row in the file.
    pub row: usize,
    /// The field, and what is wrong with it.
    pub reason: String,
}

/// What was found in a file of questions.
#[derive(Debug, Clone, Serialize)]
pub struct CheckedFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Names of the first row's fields.
    pub fields: Vec<String>,
    /// What was found by itself about the fields, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Number of rows in the file.
    pub rows: usize,
    /// Number of rows that training or a test can use.
    pub usable: usize,
    /// Number of rows without an answer, of use to `predict` alone.
    pub unanswered: usize,
    /// Rows that cannot be used.
    pub bad: Vec<BadRow>,
    /// Whether the questions are open-ended; their choices are then the accepted answers.
    pub written: bool,
    /// Number of rows by their number of choices.
    pub choices: BTreeMap<usize, usize>,
    /// Number of rows by the letter of the right answer.
    pub answers: BTreeMap<char, usize>,
    /// Number of rows with a text that answers the question.
    pub with_context: usize,
    /// Number of distinct groups.
    pub groups: usize,
    /// Pairs of rows that ask the same and answer the same.
    pub repeats: Vec<[usize; 2]>,
    /// Pairs of rows that ask the same and answer differently.
    pub contradictions: Vec<[usize; 2]>,
    /// Rows that offer one choice twice.
    pub equal_choices: Vec<usize>,
    /// The questions with their rows' numbers.
    #[serde(skip)]
    pub questions: Vec<(usize, MultipleChoice)>,
}

impl CheckedFile {
    /// Reads a whole file. Rows that cannot be used are listed; they are no error.
    ///
    /// # Errors
    /// A file that cannot be read or is not valid in its format.
    pub fn read(path: &Path, fields: &Custom) -> Result<Self, DataError> {
        Self::read_split(path, &[path.into()], fields)
    }

    /// Reads the files that make up a split, under a name of its own. Rows count on from one file
    /// to the next.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_split(path: &Path, parts: &[PathBuf], fields: &Custom) -> Result<Self, DataError> {
        let files = parts.iter().map(|part| rows::open(part, &[]));
        let rows = Chained(files.collect::<Result<_, _>>()?);
        let fields = &fields.decided_by(&rows)?;
        let mut file = Self {
            path: path.into(),
            fields: Vec::new(),
            found: fields.found_by_itself(),
            rows: 0,
            usable: 0,
            unanswered: 0,
            bad: Vec::new(),
            written: fields.written,
            choices: BTreeMap::new(),
            answers: BTreeMap::new(),
            with_context: 0,
            groups: 0,
            repeats: Vec::new(),
            contradictions: Vec::new(),
            equal_choices: Vec::new(),
            questions: Vec::new(),
        };
        for row in rows.pass()? {
            let row = row?;
            let (row, value) = (row.0, &row.1);
            if let Some(first) = value.as_object().filter(|_| file.rows == 0) {
                file.fields = first.keys().cloned().collect();
            }
            file.rows += 1;
            match fields.ask(value) {
                Ok((_, None)) => file.unanswered += 1,
                Ok((question, Some(_))) => file.questions.push((row, question)),
                Err(reason) => file.bad.push(BadRow { row, reason }),
            }
        }
        file.usable = file.questions.len();
        file.count();
        Ok(file)
    }

    fn count(&mut self) {
        let mut seen: HashMap<String, (usize, &[String])> = HashMap::new();
        let mut groups = HashSet::new();
        for (row, question) in &self.questions {
            *self.choices.entry(question.choices.len()).or_default() += 1;
            let letter = char::from(b'A' + question.answer as u8);
            *self.answers.entry(letter).or_default() += 1;
            self.with_context += usize::from(question.passage.is_some());
            groups.extend(question.group.as_ref());
            let distinct: HashSet<&String> = question.choices.iter().collect();
            if distinct.len() < question.choices.len() {
                self.equal_choices.push(*row);
            }
            // Every wording of what is to be written is the same answer.
            let answers = match question.written {
                true => &question.choices[..],
                false => &question.choices[question.answer..=question.answer],
            };
            let same = |known: &[String]| {
                let agree = |a: &String| known.iter().any(|b| a.to_lowercase() == b.to_lowercase());
                answers.iter().any(agree)
            };
            match seen.get(&question.fingerprint()) {
                Some((first, known)) if same(known) => self.repeats.push([*first, *row]),
                Some((first, _)) => self.contradictions.push([*first, *row]),
                None => {
                    seen.insert(question.fingerprint(), (*row, answers));
                }
            }
        }
        self.groups = groups.len();
    }

    /// Accuracy of always choosing the most common letter, the floor that a model must pass.
    pub fn majority(&self) -> Option<f64> {
        let most = self.answers.values().max()?;
        Some(*most as f64 / self.usable as f64)
    }
}

/// Questions or groups that two files share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Pairs of rows that ask the same, one of each file.
    pub questions: Vec<[usize; 2]>,
    /// Groups with rows in both.
    pub groups: Vec<String>,
}

impl Overlap {
    /// Finds what two files share.
    pub fn of(one: &CheckedFile, other: &CheckedFile) -> Self {
        let known: HashMap<String, usize> = one
            .questions
            .iter()
            .rev()
            .map(|(row, question)| (question.fingerprint(), *row))
            .collect();
        let groups: HashSet<&String> = one.questions.iter().filter_map(group).collect();
        let shared: std::collections::BTreeSet<&String> = other
            .questions
            .iter()
            .filter_map(group)
            .filter(|group| groups.contains(group))
            .collect();
        Self {
            questions: other
                .questions
                .iter()
                .filter_map(|(row, question)| {
                    let first = known.get(&question.fingerprint())?;
                    Some([*first, *row])
                })
                .collect(),
            groups: shared.into_iter().cloned().collect(),
        }
    }

    /// Whether the files share nothing.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.groups.is_empty()
    }
}

fn group((_, question): &(usize, MultipleChoice)) -> Option<&String> {
    question.group.as_ref()
}

/// What a tokenizer makes of a file's questions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckedTokens {
    /// Longest prompt that the settings allow, in tokens.
    pub limit: usize,
    /// Tokens a question, choices included: smallest, median, 95 % quantile, largest.
    pub lengths: Option<[usize; 4]>,
    /// Rows that lose the end of their question or context.
    pub shortened: Vec<usize>,
    /// For each of these rows, the tokens that it loses, and those of its whole prompt.
    pub lost: Vec<[usize; 2]>,
    /// Rows whose answer is longer than the model may write.
    pub cut: Vec<usize>,
    /// Rows that cannot be put to the model.
    pub refused: Vec<BadRow>,
    /// A few questions as the model sees them.
    pub examples: Vec<Rendered>,
}

/// A question as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// Number of the row in the file.
    pub row: usize,
    /// The prompt, after which the choices are scored.
    pub prompt: String,
    /// The scored tokens of each choice.
    pub scored: Vec<Vec<String>>,
    /// Index of the right choice.
    pub answer: usize,
}

impl CheckedTokens {
    /// Encodes every question as training would, and keeps `examples` of them as text, evenly over
    /// the file.
    pub fn of(
        file: &CheckedFile,
        tokenizer: &Tokenizer,
        rendering: &Rendering,
        limit: usize,
        examples: usize,
    ) -> Self {
        let mut found = Self {
            limit,
            ..Self::default()
        };
        let count = file.questions.len();
        let wanted: HashSet<usize> = (0..examples.min(count))
            .map(|i| i * count / examples.min(count))
            .collect();
        let mut lengths = Vec::with_capacity(count);
        for (place, (row, question)) in file.questions.iter().enumerate() {
            let encoded = tokenizer
                .encode_questions(std::slice::from_ref(question), rendering, limit)
                .and_then(|mut encoded| {
                    let encoded = encoded.swap_remove(0);
                    let text = match wanted.contains(&place) {
                        true => Some(render(*row, &encoded, tokenizer)?),
                        false => None,
                    };
                    Ok((encoded, text))
                });
            match encoded {
                Err(error) => found.refused.push(BadRow {
                    row: *row,
                    reason: match error {
                        // The row's number names it.
                        DataError::Question { reason, .. } => reason,
                        error => error.to_string(),
                    },
                }),
                Ok((encoded, text)) => {
                    lengths.push(encoded.length());
                    if encoded.shortened {
                        found.shortened.push(*row);
                        let whole = rendering
                            .render(question)
                            .and_then(|prompt| tokenizer.encode_prompt_text(&prompt));
                        let whole = whole.map_or(0, |ids| ids.len());
                        let lost = whole.saturating_sub(encoded.prompt.len());
                        found.lost.push([lost, whole]);
                    }
                    if encoded.open.is_some_and(|open| open.cut) {
                        found.cut.push(*row);
                    }
                    found.examples.extend(text);
                }
            }
        }
        lengths.sort_unstable();
        let at = |q: f64| lengths[((lengths.len() - 1) as f64 * q).round() as usize];
        found.lengths = (!lengths.is_empty()).then(|| [at(0.0), at(0.5), at(0.95), at(1.0)]);
        found
    }
}

fn render(
    row: usize,
    question: &EncodedQuestion,
    tokenizer: &Tokenizer,
) -> Result<Rendered, DataError> {
    let pieces = |ids: &[u32]| ids.iter().map(|id| tokenizer.decode(&[*id])).collect();
    Ok(Rendered {
        row,
        prompt: tokenizer.decode(&question.prompt)?,
        scored: question
            .choices
            .iter()
            .map(|choice| pieces(&choice.tokens))
            .collect::<Result<_, _>>()?,
        answer: question.answer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::LabelStyle;
    use crate::rendering::{Normalization, Scoring};
    use crate::template::Template;
    use serde_json::json;

    fn file(rows: &[serde_json::Value]) -> CheckedFile {
        let file = tempfile::Builder::new()
            .suffix(".jsonl")
            .tempfile()
            .unwrap();
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(file.path(), text).unwrap();
        CheckedFile::read(file.path(), &Custom::default()).unwrap()
    }

    fn row(question: &str, choices: &[&str], answer: &str) -> serde_json::Value {
        json!({"question": question, "choices": choices, "answer": answer, "group": question.len().to_string()})
    }

    #[test]
    fn counts_repeats_contradictions_and_bad_rows() {
        let found = file(&[
            row("one?", &["x", "y"], "x"),
            row("One? ", &["y", "x"], "x"),
            row("one?", &["x", "y"], "y"),
            row("three?", &["x", "x", "z"], "C"),
            json!({"question": "four?", "choices": ["a", "b"]}),
            json!({"question": "five?", "choices": ["a"], "answer": 0}),
            json!({"question": "six?", "choices": ["a", "b"], "answer": 7}),
        ]);
        assert_eq!((found.rows, found.usable, found.unanswered), (7, 4, 1));
        assert_eq!(found.repeats, [[1, 2]]);
        assert_eq!(found.contradictions, [[1, 3]]);
        assert_eq!(found.equal_choices, [4]);
        assert_eq!(found.choices, BTreeMap::from([(2, 3), (3, 1)]));
        assert_eq!(
            found.answers,
            BTreeMap::from([('A', 1), ('B', 2), ('C', 1)])
        );
        assert_eq!(found.majority(), Some(0.5));
        assert_eq!(found.groups, 3);
        let bad: Vec<_> = found.bad.iter().map(|b| (b.row, &*b.reason)).collect();
        assert_eq!(bad[0], (6, "choices: expected at least 2, got 1"));
        assert!(bad[1].1.starts_with("answer: "), "{bad:?}");
    }

    #[test]
    fn what_two_files_share() {
        let train = file(&[
            row("one?", &["x", "y"], "x"),
            row("two!?", &["x", "y"], "x"),
        ]);
        let test = file(&[
            row("ten!?", &["x", "y"], "x"),
            row("ONE?", &["y", "x"], "y"),
        ]);
        let shared = Overlap::of(&train, &test);
        assert_eq!(shared.questions, [[1, 2]]);
        assert_eq!(shared.groups, ["4", "5"]);
        assert!(!shared.is_empty());
    }

    #[test]
    fn scored_tokens_are_marked_and_refusals_named() {
        let long = "word ".repeat(80);
        let six = ["a", "b", "c", "d", "e", "f"];
        let found = file(&[
            row("one?", &["x", "yz"], "yz"),
            row(&long, &["x", "y"], "x"),
            row("six?", &six, "f"),
        ]);
        let rendering = Rendering {
            template: Template::MoePeft,
            labels: LabelStyle::Letter,
            scoring: Scoring::Letters,
            normalization: Normalization::Token,
            answer_tokens: 16,
            whole_choices: false,
            chat: None,
            shots: None,
        };
        let letters = CheckedTokens::of(&found, &Tokenizer::tiny(), &rendering, 200, 1);
        assert_eq!(letters.shortened, [2]);
        let [lost, whole] = letters.lost[0];
        // What is left is the most words that fit, each of which is five tokens.
        assert!((196..=200).contains(&(whole - lost)), "{lost} of {whole}");
        assert_eq!(letters.examples[0].scored, [[" A"], [" B"]]);
        assert!(letters.examples[0].prompt.ends_with("Answer:"));
        // The tiny tokenizer knows the letters A to E as whole tokens.
        assert_eq!(letters.refused[0].row, 3);
        let cloze = Rendering {
            scoring: Scoring::Cloze,
            ..rendering
        };
        let cloze = CheckedTokens::of(&found, &Tokenizer::tiny(), &cloze, 600, 1);
        assert_eq!(cloze.examples[0].scored[1], [" ", "y", "z"]);
        assert_eq!(cloze.examples[0].answer, 1);
        assert!(cloze.refused.is_empty(), "{:?}", cloze.refused);
    }
}
