//! An open-ended question, in the wording of bayesian-peft.

use super::Instruction;
use crate::example::MultipleChoice;
use crate::prompt::Prompt;

pub(super) const INSTRUCTION: Instruction = Instruction {
    text: "Answer the question below. Question: ",
    rewordings: [
        "Answer this question. Question: ",
        "Reply to the question below. Question: ",
        "What is the answer to the question below? Question: ",
    ],
};

/// The label is what training appends: the answer and the end of its line.
pub(super) fn prompt(question: &MultipleChoice) -> Prompt {
    // A question that a user asks may come without its answer. Something must stand there: the
    // place where the answer begins is told by its tokens, of which none is scored.
    let answer = question.choices.get(question.answer);
    let answer = answer.map(String::as_str).unwrap_or("?");
    Prompt {
        head: INSTRUCTION.text.into(),
        shortenable: question.question.clone(),
        tail: " Answer:".into(),
        labels: vec![format!(" {}\n", one_line(answer))],
        ..Prompt::default()
    }
}

/// The text without line ends, since one ends the answer.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
