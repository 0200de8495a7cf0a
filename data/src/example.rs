//! One multiple-choice or open-ended question.

use serde::{Deserialize, Serialize};

/// A question with its choices and the index of the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultipleChoice {
    /// Stable name of the row.
    pub id: String,
    /// The question alone.
    pub question: String,
    /// A text that answers the question, where the dataset has one.
    pub passage: Option<String>,
    /// At least two answers. For an open-ended question: the answer, then other wordings of it
    /// that count as right.
    pub choices: Vec<String>,
    /// Index of the right answer.
    pub answer: usize,
    /// What the row shares with others (a document, a patient): a division keeps a group on one
    /// side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether the question is open-ended: the model writes the answer itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub written: bool,
}

impl MultipleChoice {
    /// Whether the choices are true and false, in any order and spelling.
    pub fn is_true_or_false(&self) -> bool {
        let mut choices: Vec<String> = self.choices.iter().map(|c| c.to_lowercase()).collect();
        choices.sort_unstable();
        choices == ["false", "true"]
    }

    /// A question without name, passage or group, white space around it removed.
    pub fn new(question: &str, choices: Vec<String>, answer: usize) -> Self {
        Self {
            id: String::new(),
            question: question.trim().to_owned(),
            passage: None,
            choices,
            answer,
            group: None,
            written: false,
        }
    }

    /// Checks that the question can be asked and scored.
    ///
    /// # Errors
    /// The field that is wrong, what was expected and what was found.
    pub fn check(&self) -> Result<(), String> {
        if self.question.trim().is_empty() {
            return Err("question: is empty".into());
        }
        if self.written {
            return match self.choices.first() {
                Some(answer) if !answer.is_empty() => Ok(()),
                _ => Err("answer: is empty".into()),
            };
        }
        let choices = self.choices.len();
        if choices < 2 {
            return Err(format!("choices: expected at least 2, got {choices}"));
        }
        // Letters from A to Z are the labels.
        if choices > 26 {
            return Err(format!("choices: expected at most 26, got {choices}"));
        }
        if self.answer >= choices {
            return Err(format!(
                "answer: index {} is past the {choices} choices (0 is the first)",
                self.answer
            ));
        }
        Ok(())
    }

    /// A text that two rows share exactly if they ask the same question, for the search for leaks
    /// between splits.
    ///
    /// Case, white space and the order of the choices do not count, nor do the accepted answers of
    /// an open-ended question.
    pub fn fingerprint(&self) -> String {
        let squeeze = |text: &str| {
            text.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .to_lowercase()
        };
        let mut parts = vec![squeeze(&self.question)];
        parts.extend(self.passage.as_deref().map(squeeze));
        if self.written {
            return parts.join("\u{1f}");
        }
        let mut choices: Vec<String> = self.choices.iter().map(|c| squeeze(c)).collect();
        choices.sort_unstable();
        parts.extend(choices);
        parts.join("\u{1f}")
    }
}
