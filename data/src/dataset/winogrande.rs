//! WinoGrande (Sakaguchi et al. 2020), the largest training set: which of two names a sentence's
//! gap stands for.
//!
//! The test split is unlabelled, so validation is the test.

use serde_json::Value;

use super::fields::{class, lettered, optional_text, text};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `winogrande`.
#[derive(Debug)]
pub struct WinoGrande;

impl Dataset for WinoGrande {
    fn name(&self) -> &'static str {
        "winogrande"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let original = match split {
            OfficialSplit::Train => "train_xl.jsonl",
            _ => "dev.jsonl",
        };
        published(
            self.name(),
            split,
            ("allenai/winogrande", "winogrande_xl"),
            &[original.into()],
        )
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let Some(answer) = class("answer", row)? else {
            return Ok(None);
        };
        // Answers count from 1.
        let answer = answer
            .checked_sub(1)
            .ok_or("answer: expected 1 or 2, got 0")?;
        let choices = ["option1", "option2"].map(|name| text(row, name).map(str::to_owned));
        let choices = choices.into_iter().collect::<Result<_, _>>()?;
        Ok(Some(MultipleChoice {
            id: optional_text(row, "qID").unwrap_or_default(),
            ..MultipleChoice::new(text(row, "sentence")?, choices, answer)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hubs_and_the_original_row_read_alike() {
        let mut row = json!({"sentence": "The cup fell off the shelf since the _ was small.", "option1": "cup", "option2": "shelf", "answer": "2"});
        let hub = WinoGrande.parse(&row).unwrap().unwrap();
        assert_eq!(hub.choices[hub.answer], "shelf");
        row["qID"] = "7-1".into();
        let original = WinoGrande.parse(&row).unwrap().unwrap();
        assert_eq!((original.id.as_str(), original.answer), ("7-1", 1));
        row["answer"] = "".into();
        assert_eq!(WinoGrande.parse(&row).unwrap(), None);
    }
}
