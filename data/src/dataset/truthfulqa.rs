//! TruthfulQA (Lin et al. 2022), the task MC1: one true answer among popular errors, 2 to 13
//! choices. For evaluation only.
//!
//! The true answer is published first: its place follows from a hash of the question.

use serde_json::Value;

use super::fields::{among, lettered, text, texts};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `truthfulqa`.
#[derive(Debug)]
pub struct TruthfulQa;

impl Dataset for TruthfulQa {
    fn name(&self) -> &'static str {
        "truthfulqa"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        published(
            self.name(),
            split,
            ("truthfulqa/truthful_qa", "multiple_choice"),
            &[],
        )
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let targets = row.get("mc1_targets").ok_or("mc1_targets: is missing")?;
        let choices = texts(targets, "choices").map_err(|e| format!("mc1_targets.{e}"))?;
        let labels = targets.get("labels").and_then(Value::as_array);
        let labels = labels.ok_or("mc1_targets.labels: expected a list")?;
        let right: Vec<usize> = (0..labels.len())
            .filter(|place| labels[*place].as_u64() == Some(1))
            .collect();
        let &[right] = &right[..] else {
            return Err(format!(
                "mc1_targets.labels: expected one 1, got {}",
                right.len()
            ));
        };
        let mut wrong = choices;
        if right >= wrong.len() {
            return Err("mc1_targets: more labels than choices".into());
        }
        let right = wrong.remove(right);
        let question = text(row, "question")?;
        let (choices, answer) = among(right, wrong, question);
        Ok(Some(MultipleChoice::new(question, choices, answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_true_answer_is_not_always_the_first() {
        let row = |question: String| json!({"question": question, "mc1_targets": {"choices": ["true", "x", "y"], "labels": [1, 0, 0]}, "mc2_targets": {"choices": ["true"], "labels": [1]}});
        let mut places = [0; 3];
        for i in 0..60 {
            let question = TruthfulQa.parse(&row(format!("{i}?"))).unwrap().unwrap();
            assert_eq!(question.choices[question.answer], "true");
            places[question.answer] += 1;
        }
        assert!(places.iter().all(|n| *n > 8), "{places:?}");
        let two =
            json!({"question": "?", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 1]}});
        assert!(
            TruthfulQa
                .parse(&two)
                .unwrap_err()
                .contains("expected one 1, got 2")
        );
    }
}
