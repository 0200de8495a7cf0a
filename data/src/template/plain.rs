//! The question's own text as the prompt, as a task file words it.

use super::{choice_labels, letter_labels, open_ended};
use crate::example::MultipleChoice;
use crate::prompt::{LabelStyle, Prompt};

/// The last line is kept whole: the answer is read behind it.
pub(super) fn prompt(question: &MultipleChoice, style: LabelStyle) -> Prompt {
    let text = &question.question;
    let end = text.rfind('\n').unwrap_or(text.len());
    // A single line may be shortened at its end, as questions are.
    let (shortenable, tail) = text.split_at(end);
    Prompt {
        shortenable: shortenable.into(),
        tail: tail.into(),
        labels: match style {
            LabelStyle::Letter => letter_labels(question),
            LabelStyle::Choice => choice_labels(question),
            LabelStyle::Written => open_ended::prompt(question).labels,
        },
        ..Prompt::default()
    }
}
