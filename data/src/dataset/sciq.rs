//! SciQ (Welbl et al. 2017): science questions of four choices, most with a passage.
//!
//! The right answer stands apart from three wrong ones: its place follows from a hash of the
//! question.

use serde_json::Value;

use super::fields::{among, lettered, optional_text, text};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `sciq`.
#[derive(Debug)]
pub struct SciQ;

impl Dataset for SciQ {
    fn name(&self) -> &'static str {
        "sciq"
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        published(self.name(), split, ("allenai/sciq", "default"), &[])
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let right = text(row, "correct_answer")?;
        let wrong = ["distractor1", "distractor2", "distractor3"];
        let wrong = wrong.map(|name| text(row, name).map(str::to_owned));
        let wrong = wrong.into_iter().collect::<Result<_, _>>()?;
        let question = text(row, "question")?;
        let (choices, answer) = among(right.to_owned(), wrong, question);
        let support = optional_text(row, "support").map(|text| text.trim().to_owned());
        Ok(Some(MultipleChoice {
            passage: support.filter(|text| !text.is_empty()),
            ..MultipleChoice::new(question, choices, answer)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_right_answer_has_a_place_that_follows_from_the_question() {
        let row = |question: &str| json!({"question": question, "distractor3": "z", "distractor1": "x", "distractor2": "y", "correct_answer": "right", "support": " So it is. "});
        let mut places = [0; 4];
        for i in 0..80 {
            let row = row(&format!("Which is {i}?"));
            let question = SciQ.parse(&row).unwrap().unwrap();
            assert_eq!(question.choices[question.answer], "right");
            let wrong = question.choices.iter().filter(|choice| *choice != "right");
            assert!(wrong.eq(&["x", "y", "z"]));
            assert_eq!(SciQ.parse(&row).unwrap().unwrap(), question);
            assert_eq!(question.passage.as_deref(), Some("So it is."));
            places[question.answer] += 1;
        }
        assert!(places.iter().all(|n| *n > 8), "{places:?}");
    }
}
