//! The AI2 Reasoning Challenge (Clark et al. 2018), easy and challenge set.
//!
//! Most rows have four choices, a few three or five. Some rows label them 1 to 4: the label is only
//! a name, so every row is lettered from A.

use serde_json::Value;

use super::fields::lettered;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::{Artifact, HubFile};

/// One of the datasets `arc-easy` and `arc-challenge`.
#[derive(Debug)]
pub struct Arc {
    name: &'static str,
    folder: &'static str,
    set: &'static str,
}

impl Arc {
    /// The easy set.
    pub const EASY: Self = Self {
        name: "arc-easy",
        folder: "arc_easy",
        set: "ARC-Easy",
    };
    /// The challenge set.
    pub const CHALLENGE: Self = Self {
        name: "arc-challenge",
        folder: "arc_challenge",
        set: "ARC-Challenge",
    };
}

impl Dataset for Arc {
    fn name(&self) -> &'static str {
        self.name
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let name = split.name();
        let original = match split {
            OfficialSplit::Train => "Train",
            OfficialSplit::Validation => "Dev",
            OfficialSplit::Test => "Test",
        };
        let (folder, set) = (self.folder, self.set);
        vec![Artifact {
            name: format!("{} {name}", self.name),
            local: vec![
                format!("{folder}/{name}.jsonl"),
                format!("{folder}/{name}.parquet"),
                format!("{folder}/hf_rows/{name}.jsonl"),
                format!("{folder}/original/{set}-{original}.jsonl"),
                format!("{set}/{name}-00000-of-00001.parquet"),
                format!("{set}/{set}-{original}.jsonl"),
                format!("{set}-{original}.jsonl"),
            ],
            hub: vec![HubFile::dataset(
                "allenai/ai2_arc",
                format!("{set}/{name}-00000-of-00001.parquet"),
            )],
            ..Artifact::default()
        }]
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
    fn every_published_shape_reads_alike() {
        let original = json!({"id": "x", "question": {"stem": "Why?", "choices": [
            {"text": "a", "label": "1"}, {"text": "b", "label": "2"}, {"text": "c", "label": "3"}]}, "answerKey": "3"});
        let hub = json!({"id": "x", "question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, "answerKey": "C"});
        let uniform =
            json!({"id": "x", "question": "Why?", "choices": ["a", "b", "c"], "label": 2});
        let choices = ["a", "b", "c"].map(String::from);
        let expected = MultipleChoice {
            id: "x".into(),
            ..MultipleChoice::new("Why?", choices.into(), 2)
        };
        for row in [original, hub, uniform] {
            assert_eq!(Arc::EASY.parse(&row).unwrap().as_ref(), Some(&expected));
        }
    }

    #[test]
    fn a_bad_row_names_its_field() {
        for (row, field) in [
            (
                json!({"question": {"stem": "Why?", "choices": [{"text": "a", "label": "A"}]}, "answerKey": "B"}),
                "answerKey",
            ),
            (
                json!({"question": "Why?", "choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "A"}),
                "choices",
            ),
            (
                json!({"question": "Why?", "choices": ["a", 1], "label": 0}),
                "choices",
            ),
            (
                json!({"question": "Why?", "choices": ["a", "b"], "label": "x"}),
                "label",
            ),
            (json!({"answerKey": "A"}), "question"),
        ] {
            let error = Arc::EASY.parse(&row).unwrap_err();
            assert!(error.starts_with(field), "{row}: {error}");
        }
    }
}
