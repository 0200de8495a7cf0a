//! MedQA (Jin et al. 2021): questions of the United States medical licensing examination, four
//! choices.

use serde_json::Value;

use super::fields::{letter_index, lettered, text};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `medqa`.
#[derive(Debug)]
pub struct MedQa;

impl Dataset for MedQa {
    fn name(&self) -> &'static str {
        "medqa"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Test]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let original = match split {
            OfficialSplit::Train => "phrases_no_exclude_train.jsonl",
            _ => "phrases_no_exclude_test.jsonl",
        };
        published(
            self.name(),
            split,
            ("GBaker/MedQA-USMLE-4-options", "default"),
            &[original.into()],
        )
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let options = row.get("options").and_then(Value::as_object);
        let options = options.ok_or("options: expected an object of letters and texts")?;
        let choices: Vec<String> = ('A'..='Z')
            .map_while(|letter| options.get(&letter.to_string())?.as_str())
            .map(str::to_owned)
            .collect();
        if choices.len() != options.len() {
            return Err(format!(
                "options: expected the letters from A on, got {}",
                options
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        let answer = letter_index("answer_idx", text(row, "answer_idx")?)?;
        Ok(Some(MultipleChoice::new(
            text(row, "question")?,
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
    fn options_are_an_object_and_the_answer_its_letter() {
        let row = json!({"question": "Which drug?", "answer": "Aspirin", "options": {"A": "Iron", "B": "Aspirin", "C": "Zinc", "D": "Salt"}, "meta_info": "step1", "answer_idx": "B", "metamap_phrases": []});
        let question = MedQa.parse(&row).unwrap().unwrap();
        assert_eq!(
            (&*question.choices[question.answer], question.choices.len()),
            ("Aspirin", 4)
        );
        let mut gap = row;
        gap["options"] = json!({"A": "Iron", "C": "Zinc"});
        assert!(MedQa.parse(&gap).unwrap_err().contains("got A, C"));
    }
}
