//! Laplace-LoRA's wording: choices as sentences, BoolQ's passage as context.

use super::{Instruction, letter_labels, lettered_line};
use crate::example::MultipleChoice;
use crate::prompt::Prompt;

pub(super) const LETTERED: Instruction = Instruction {
    text: "Select one of the choices that answers the following question: ",
    rewordings: [
        "Choose the option that answers this question: ",
        "Which of the choices answers the following question? ",
        "Pick one of the choices as the answer to the question: ",
    ],
};

pub(super) fn lettered(question: &MultipleChoice) -> Prompt {
    let choice = |letter, text: &str| format!("{letter}. {}", sentence(text));
    Prompt {
        head: LETTERED.text.into(),
        shortenable: question.question.clone(),
        tail: format!(" Choices: {} Answer:", lettered_line(question, choice)),
        labels: letter_labels(question),
        ..Prompt::default()
    }
}

/// The public wording has true and false alone, which it spells with capitals.
pub(super) fn in_words(question: &MultipleChoice) -> Prompt {
    let choices = &question.choices;
    let (only, words): (String, Vec<String>) = match question.is_true_or_false() {
        true => (
            "True or False".into(),
            choices.iter().map(|word| capital(word)).collect(),
        ),
        false => (choices.join(" or "), choices.clone()),
    };
    let asked = &question.question;
    Prompt {
        head: format!("Answer the question with only {only}: {asked} Context: "),
        shortenable: question.passage.clone().unwrap_or_default(),
        tail: "\nAnswer:".into(),
        labels: words.iter().map(|word| format!(" {word}")).collect(),
        ..Prompt::default()
    }
}

/// The text with its first letter in upper case.
fn capital(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), characters.as_str())
}

/// The text with its first letter in upper case and a period at its end.
fn sentence(text: &str) -> String {
    let end = if text.ends_with('.') { "" } else { "." };
    capital(text) + end
}
