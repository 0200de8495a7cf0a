//! TriviaQA (Joshi et al. 2017), `rc.nocontext`: open-ended questions, closed book.
//!
//! The test split is unlabelled, so validation is the test.

use serde_json::Value;

use super::fields::{accepted, text};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::prompt::LabelStyle;
use crate::source::{Artifact, HubFile};

/// The dataset `triviaqa`.
#[derive(Debug)]
pub struct TriviaQa;

impl Dataset for TriviaQa {
    fn name(&self) -> &'static str {
        "triviaqa"
    }

    fn labels(&self) -> LabelStyle {
        LabelStyle::Written
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let name = split.name();
        vec![Artifact {
            name: format!("triviaqa {name}"),
            local: vec![
                format!("triviaqa/{name}.jsonl"),
                format!("triviaqa/{name}.parquet"),
                format!("triviaqa/rc.nocontext/{name}-00000-of-00001.parquet"),
                format!("rc.nocontext/{name}-00000-of-00001.parquet"),
            ],
            hub: vec![HubFile::dataset(
                "mandarjoshi/trivia_qa",
                format!("rc.nocontext/{name}-00000-of-00001.parquet"),
            )],
            how_to_get: Some(
                "download rc.nocontext/train-00000-of-00001.parquet and rc.nocontext/validation-00000-of-00001.parquet of the Hub dataset mandarjoshi/trivia_qa into a directory, under these names, and give it with --data-dir",
            ),
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        let id = row.get("id").or_else(|| row.get("question_id"));
        // In the Hub's form `answer` holds `value` and `aliases`; in the uniform one both stand
        // beside the question.
        let nested = row.get("answer").filter(|answer| answer.is_object());
        let (answer, beside) = match nested {
            Some(answer) => (text(answer, "value")?, answer),
            None => (text(row, "answer")?, row),
        };
        // So the Hub marks the test's rows.
        if answer == "<unk>" {
            return Ok(None);
        }
        let choices = accepted(answer, beside.get("aliases"))?;
        Ok(Some(MultipleChoice {
            id: id.and_then(Value::as_str).unwrap_or_default().to_owned(),
            written: true,
            ..MultipleChoice::new(text(row, "question")?, choices, 0)
        }))
    }

    fn miniature(&self, split: OfficialSplit) -> Option<&'static str> {
        Some(match split {
            OfficialSplit::Train => include_str!("../../miniature/triviaqa-train.jsonl"),
            _ => include_str!("../../miniature/triviaqa-validation.jsonl"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_read_alike_and_the_unlabelled_test_falls_out() {
        let uniform = json!({"id": "1", "question": "Where? ", "answer": "Rome", "aliases": ["Rome", "Roma", " "]});
        let hub = json!({"question_id": "1", "question": "Where?", "answer": {
            "value": "Rome", "aliases": ["Roma"], "normalized_aliases": ["roma"], "normalized_value": "rome", "type": "WikipediaEntity"
        }});
        let rows = [uniform, hub].map(|row| TriviaQa.parse(&row).unwrap().unwrap());
        assert_eq!(rows[0].choices, ["Rome", "Roma"]);
        assert_eq!(rows[0], rows[1]);
        let unlabelled = json!({"question_id": "2", "question": "?", "answer": {"value": "<unk>", "aliases": []}});
        assert_eq!(TriviaQa.parse(&unlabelled).unwrap(), None);
        let wrong = json!({"question": "?", "answer": "x", "aliases": "y"});
        assert!(TriviaQa.parse(&wrong).unwrap_err().starts_with("aliases"));
    }
}
