//! A question without its choices, each of which may follow.

use super::{Instruction, choice_labels};
use crate::example::MultipleChoice;
use crate::prompt::Prompt;

pub(super) const INSTRUCTION: Instruction = Instruction {
    text: "Question: ",
    rewordings: [
        "Q: ",
        "Here is a question: ",
        "Please answer this question: ",
    ],
};

pub(super) fn prompt(question: &MultipleChoice) -> Prompt {
    Prompt {
        head: INSTRUCTION.text.into(),
        shortenable: question.question.clone(),
        tail: "\nAnswer:".into(),
        labels: choice_labels(question),
        ..Prompt::default()
    }
}
