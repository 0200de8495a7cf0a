//! One question.

use serde::{Deserialize, Serialize};

/// A question with its choices and the index of the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultipleChoice {
    /// Stable name of the row.
    pub id: String,
    /// The question alone.
    pub question: String,
    /// A text that answers it, where the dataset has one.
    pub passage: Option<String>,
    /// At least two answers; of an open-ended question, its answer and other wordings of it that count as right.
    pub choices: Vec<String>,
    /// Index of the right answer.
    pub answer: usize,
    /// What it shares with other rows (a document, a patient): a division keeps a group on one side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Open-ended: the model writes the answer itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub written: bool,
}

impl MultipleChoice {
    /// What makes two rows the same question, for the search for leaks between splits: case, white space and the order of the
    /// choices do not, nor do the accepted answers of an open-ended one.
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
