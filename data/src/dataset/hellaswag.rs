//! HellaSwag (Zellers et al. 2019): which of four endings goes on with a description.
//!
//! The test split is unlabelled, so validation is the test. The question is the activity and the
//! beginning of the description, as evaluation harnesses put it.

use serde_json::Value;

use super::fields::{class, lettered, text, texts};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `hellaswag`.
#[derive(Debug)]
pub struct HellaSwag;

impl Dataset for HellaSwag {
    fn name(&self) -> &'static str {
        "hellaswag"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let original = match split {
            OfficialSplit::Train => "hellaswag_train.jsonl",
            _ => "hellaswag_val.jsonl",
        };
        published(
            self.name(),
            split,
            ("Rowan/hellaswag", "default"),
            &[original.into()],
        )
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let Some(answer) = class("label", row)? else {
            return Ok(None);
        };
        let beginning = text(row, "ctx")?;
        let activity = text(row, "activity_label")?;
        let endings = texts(row, "endings")?;
        Ok(Some(MultipleChoice {
            id: row.get("ind").map(Value::to_string).unwrap_or_default(),
            ..MultipleChoice::new(
                &clean(&format!("{activity}: {beginning}")),
                endings.iter().map(|text| clean(text)).collect(),
                answer,
            )
        }))
    }
}

/// The text without WikiHow's marks: `[title]` ends a sentence, other marks say nothing.
fn clean(text: &str) -> String {
    let mut rest = text.replace(" [title]", ".");
    while let Some(start) = rest.find('[') {
        let Some(end) = rest[start..].find(']') else {
            break;
        };
        rest.replace_range(start..=start + end, "");
    }
    rest.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn marks_of_wikihow_are_gone_and_labels_are_numbers_or_their_text() {
        let row = |label: Value| json!({"ind": 4, "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix.", "ctx_b": "then", "ctx": "[header] How to bake [title] Mix. then", "endings": ["wait.", "[step] eat  it."], "source_id": "wikihow~1", "split": "train", "split_type": "indomain", "label": label});
        for label in [json!("1"), json!(1)] {
            let question = HellaSwag.parse(&row(label)).unwrap().unwrap();
            assert_eq!(question.question, "Baking: How to bake. Mix. then");
            assert_eq!(
                (question.choices, question.answer),
                (vec!["wait.".into(), "eat it.".to_owned()], 1)
            );
            assert_eq!(question.id, "4");
        }
        assert_eq!(HellaSwag.parse(&row(json!(""))).unwrap(), None);
        let error = HellaSwag.parse(&row(json!("x"))).unwrap_err();
        assert!(error.starts_with("label: expected"), "{error}");
    }
}
