//! MoE-PEFT's wording, which the paper uses: closed book, choices on the question's line.

use super::{Instruction, choice_labels, letter_labels, lettered_line};
use crate::example::MultipleChoice;
use crate::prompt::Prompt;

pub(super) const LETTERED: Instruction = Instruction {
    text: "Please choose the correct answer to the question: ",
    rewordings: [
        "Choose the right answer to this question: ",
        "Which choice answers the question correctly? ",
        "Select the correct answer to the following question: ",
    ],
};

pub(super) const TRUE_OR_FALSE: Instruction = Instruction {
    text: "Please answer the following question with true or false: ",
    rewordings: [
        "Answer this question with true or false: ",
        "Is the answer to this question true or false? ",
        "Reply to the question below with true or false: ",
    ],
};

pub(super) fn lettered(question: &MultipleChoice) -> Prompt {
    let choices = lettered_line(question, |letter, text| format!("({letter}) {text}"));
    Prompt {
        head: LETTERED.text.into(),
        shortenable: question.question.clone(),
        tail: format!(" {choices}\nAnswer:"),
        labels: letter_labels(question),
        ..Prompt::default()
    }
}

pub(super) fn true_or_false(question: &MultipleChoice) -> Prompt {
    Prompt {
        head: TRUE_OR_FALSE.text.into(),
        shortenable: question.question.clone(),
        tail: "?\nAnswer:".into(),
        labels: choice_labels(question),
        ..Prompt::default()
    }
}
