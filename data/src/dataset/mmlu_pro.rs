//! MMLU-Pro (Wang et al. 2024): questions of 14 fields, up to ten choices. For evaluation only.

use serde_json::Value;

use super::fields::{letter_index, lettered, text, texts};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `mmlu-pro`.
#[derive(Debug)]
pub struct MmluPro;

impl Dataset for MmluPro {
    fn name(&self) -> &'static str {
        "mmlu-pro"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Test]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        published(self.name(), split, ("TIGER-Lab/MMLU-Pro", "default"), &[])
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("options").is_none() {
            return lettered(row);
        }
        let mut choices = texts(row, "options")?;
        // So rows of fewer choices are filled up.
        while choices.last().is_some_and(|choice| choice == "N/A") {
            choices.pop();
        }
        let answer = letter_index("answer", text(row, "answer")?)?;
        let id = row.get("question_id").map(Value::to_string);
        Ok(Some(MultipleChoice {
            id: id.unwrap_or_default(),
            ..MultipleChoice::new(text(row, "question")?, choices, answer)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fillers_fall_away_and_the_answer_is_a_letter() {
        let row = json!({"question_id": 70, "question": "Which?", "options": ["a", "b", "c", "d", "e", "f", "N/A"], "answer": "F", "answer_index": 5, "cot_content": "", "category": "law", "src": "ori_mmlu"});
        let question = MmluPro.parse(&row).unwrap().unwrap();
        assert_eq!(
            (question.choices.len(), &*question.choices[question.answer]),
            (6, "f")
        );
        assert_eq!(question.id, "70");
    }
}
