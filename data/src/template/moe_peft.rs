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

/// Where the choices are other words than true and false.
pub(super) const IN_WORDS: Instruction = Instruction {
    text: "Please answer the following question with one of ",
    rewordings: [
        "Answer this question with one of ",
        "Which is the answer to this question, of ",
        "Reply to the question below with one of ",
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

/// The public wording has true and false alone, and BoolQ's questions no mark at their end.
pub(super) fn in_words(question: &MultipleChoice) -> Prompt {
    let head = match question.is_true_or_false() {
        true => TRUE_OR_FALSE.text.into(),
        false => format!("{}{}: ", IN_WORDS.text, question.choices.join(", ")),
    };
    let ends = question.question.trim_end().ends_with(['?', '.', '!', ':']);
    Prompt {
        head,
        shortenable: question.question.clone(),
        tail: if ends { "\nAnswer:" } else { "?\nAnswer:" }.into(),
        labels: choice_labels(question),
        ..Prompt::default()
    }
}
