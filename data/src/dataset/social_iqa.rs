//! SocialIQA (Sap et al. 2019): what people feel and do, three choices.
//!
//! The test split is not published, so validation is the test. The situation is a part of the
//! question, which asks about nothing without it.

use serde_json::Value;

use super::fields::{class, lettered, text};
use super::published::published;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// The dataset `social-iqa`.
#[derive(Debug)]
pub struct SocialIqa;

impl Dataset for SocialIqa {
    fn name(&self) -> &'static str {
        "social-iqa"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Validation]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        published(self.name(), split, ("allenai/social_i_qa", "default"), &[])
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("choices").is_some() {
            return lettered(row);
        }
        let Some(answer) = class("label", row)? else {
            return Ok(None);
        };
        // Labels count from 1.
        let answer = answer
            .checked_sub(1)
            .ok_or("label: expected a number from 1, got 0")?;
        let choices = ["answerA", "answerB", "answerC"];
        let choices = choices.map(|name| text(row, name).map(str::to_owned));
        let choices = choices.into_iter().collect::<Result<_, _>>()?;
        let question = [text(row, "context")?.trim(), text(row, "question")?.trim()].join(" ");
        Ok(Some(MultipleChoice::new(&question, choices, answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_count_from_one_and_the_situation_is_asked_with_the_question() {
        let row = |label: &str| json!({"context": "Kai fell.", "question": "How does Kai feel? ", "answerA": "proud", "answerB": "hurt", "answerC": "rich", "label": label});
        let question = SocialIqa.parse(&row("2")).unwrap().unwrap();
        assert_eq!(question.question, "Kai fell. How does Kai feel?");
        assert_eq!(question.choices[question.answer], "hurt");
        assert!(
            SocialIqa
                .parse(&row("0"))
                .unwrap_err()
                .starts_with("label: ")
        );
    }
}
