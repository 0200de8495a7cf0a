//! MedMCQA (Pal et al. 2022): questions of Indian medical entrance examinations, four choices.
//!
//! The test split is unlabelled, so validation is the test. The Hub's `cop` counts from 0; the
//! original release, which counts from 1, cannot be told from it and is not read.

use serde_json::Value;

use super::fields::{class, id, lettered, text};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `medmcqa`.
#[derive(Debug)]
pub struct MedMcqa;

impl Dataset for MedMcqa {
    fn name(&self) -> &'static str {
        "medmcqa"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        published(
            self.name(),
            split,
            ("openlifescienceai/medmcqa", "default"),
            &[],
        )
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let Some(answer) = class("cop", row)? else {
            return Ok(None);
        };
        let choices = ["opa", "opb", "opc", "opd"].map(|name| text(row, name).map(str::to_owned));
        let choices = choices.into_iter().collect::<Result<_, _>>()?;
        Ok(Some(MultipleChoice {
            id: id(row),
            ..MultipleChoice::new(text(row, "question")?, choices, answer)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_row_reads_and_the_unlabelled_test_falls_out() {
        let row = |cop: i64| json!({"id": "7", "question": "Which bone?", "opa": "ulna", "opb": "rib", "opc": "tibia", "opd": "femur", "cop": cop, "choice_type": "single", "exp": null, "subject_name": "Anatomy", "topic_name": null});
        let question = MedMcqa.parse(&row(3)).unwrap().unwrap();
        assert_eq!(
            (&*question.id, &*question.choices[question.answer]),
            ("7", "femur")
        );
        assert_eq!(MedMcqa.parse(&row(-1)).unwrap(), None);
    }
}
