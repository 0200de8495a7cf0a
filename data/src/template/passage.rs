//! Another template's wording with the passage before the question.

use crate::prompt::Prompt;

/// The same prompt after a passage, which is now the part that may be shortened.
pub(super) fn before(passage: &str, prompt: &Prompt) -> Prompt {
    Prompt {
        head: String::new(),
        shortenable: passage.into(),
        tail: format!("\n{}", prompt.text()),
        labels: prompt.labels.clone(),
        ..Prompt::default()
    }
}
