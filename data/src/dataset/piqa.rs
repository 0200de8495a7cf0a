//! PIQA (Bisk et al. 2020): which of two ways reaches an everyday goal.
//!
//! The test split is unlabelled, so validation is the test.

use serde_json::Value;

use super::fields::{class, lettered, text};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `piqa`.
#[derive(Debug)]
pub struct Piqa;

impl Dataset for Piqa {
    fn name(&self) -> &'static str {
        "piqa"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        published(self.name(), split, ("ybisk/piqa", "plain_text"), &[])
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let Some(answer) = class("label", row)? else {
            return Ok(None);
        };
        let choices = ["sol1", "sol2"].map(|name| text(row, name).map(str::to_owned));
        let choices = choices.into_iter().collect::<Result<_, _>>()?;
        Ok(Some(MultipleChoice::new(
            text(row, "goal")?,
            choices,
            answer,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_row_reads_and_the_unlabelled_test_falls_out() {
        let row = |label: i64| json!({"goal": "cool soup", "sol1": "blow", "sol2": "boil", "label": label});
        let question = Piqa.parse(&row(0)).unwrap().unwrap();
        assert_eq!(
            (&*question.question, &*question.choices[question.answer]),
            ("cool soup", "blow")
        );
        assert_eq!(Piqa.parse(&row(1)).unwrap().unwrap().answer, 1);
        assert_eq!(Piqa.parse(&row(-1)).unwrap(), None);
    }
}
