//! CommonsenseQA (Talmor et al. 2019): everyday knowledge, five choices.
//!
//! The test split is unlabelled, so validation is the test.

use serde_json::Value;

use super::fields::lettered;
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `commonsenseqa`.
#[derive(Debug)]
pub struct CommonsenseQa;

impl Dataset for CommonsenseQa {
    fn name(&self) -> &'static str {
        "commonsenseqa"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let original = match split {
            OfficialSplit::Train => "train_rand_split.jsonl",
            _ => "dev_rand_split.jsonl",
        };
        published(
            self.name(),
            split,
            ("tau/commonsense_qa", "default"),
            &[original.into()],
        )
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        lettered(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hubs_and_the_original_row_read_alike_and_the_unlabelled_test_falls_out() {
        let choices = json!({"label": ["A", "B", "C"], "text": ["bank", "library", "mall"]});
        let hub = json!({"id": "1", "question": "Where is money kept?", "question_concept": "money", "choices": choices, "answerKey": "A"});
        let original = json!({"id": "1", "answerKey": "A", "question": {"question_concept": "money", "stem": "Where is money kept?", "choices": [
            {"label": "A", "text": "bank"}, {"label": "B", "text": "library"}, {"label": "C", "text": "mall"}]}});
        let [one, two] = [&hub, &original].map(|row| CommonsenseQa.parse(row).unwrap().unwrap());
        assert_eq!(one, two);
        assert_eq!((&*one.choices[one.answer], one.choices.len()), ("bank", 3));
        let mut unlabelled = hub;
        unlabelled["answerKey"] = "".into();
        assert_eq!(CommonsenseQa.parse(&unlabelled).unwrap(), None);
    }
}
