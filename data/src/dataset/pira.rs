//! Pirá (Pirozelli et al. 2024), the multiple-choice part: questions about the ocean, the Brazilian
//! coast and the climate, with five choices and a passage.
//!
//! A stand-in for climate questions; it is **not** ClimateQA.

use serde_json::Value;

use super::fields::{letter_index, lettered, text};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `pira`.
#[derive(Debug)]
pub struct Pira;

impl Dataset for Pira {
    fn name(&self) -> &'static str {
        "pira"
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let name = split.name();
        vec![Artifact {
            name: format!("pira {name}"),
            local: vec![
                format!("pira/{name}.jsonl"),
                format!("pira/MCQA-{name}.csv"),
                format!("pira_mcqa/{name}.jsonl"),
                format!("pira_mcqa/original/MCQA-{name}.csv"),
                format!("MCQA/MCQA-{name}.csv"),
                format!("MCQA-{name}.csv"),
            ],
            how_to_get: Some(
                "put MCQA/MCQA-{train,validation,test}.csv of github.com/C4AI/Pira into a directory and give it with --data-dir",
            ),
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("alternative").is_none() {
            return lettered(row);
        }
        let choice = |letter| text(row, letter).map(|text| text.trim().to_owned());
        let id = format!("pira-{}", text(row, "id")?);
        let question = text(row, "question")?;
        let passage = text(row, "text")?.to_owned();
        let choices = ["A", "B", "C", "D", "E"].into_iter().map(choice);
        let choices = choices.collect::<Result<_, _>>()?;
        let answer = letter_index("alternative", text(row, "alternative")?.trim())?;
        Ok(Some(MultipleChoice {
            id,
            passage: Some(passage),
            ..MultipleChoice::new(question, choices, answer)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_row_and_the_uniform_one_read_alike() {
        let published = json!({"id": "A1", "text": "p", "question": "Which?", "A": "a", "B": "b", "C": "c", "D": "d", "E": "e", "correct": "d", "alternative": "D"});
        let uniform = json!({"id": "pira-A1", "question": "Which?", "passage": "p", "choices": ["a", "b", "c", "d", "e"], "label": 3});
        let [a, b] = [published, uniform].map(|row| Pira.parse(&row).unwrap().unwrap());
        assert_eq!(a, b);
        assert_eq!(a.answer, 3);
    }
}
