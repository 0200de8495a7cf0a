//! The wordings of prompts, one a file.
//!
//! [`Template`] is the setting that a user chooses. A template words two kinds of questions: those
//! with lettered choices, and those whose choices are the words of the answer, such as true and
//! false. Cloze prompts and open-ended questions read the same under every template.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::example::MultipleChoice;
use crate::prompt::{LabelStyle, Prompt};

mod cloze;
mod laplace_lora;
mod moe_peft;
mod open_ended;
mod passage;
mod plain;

/// The wording of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// MoE-PEFT's, the paper's: BoolQ closed book, choices on the question's line.
    #[default]
    MoePeft,
    /// Laplace-LoRA's wording. Its code reads BoolQ's answer after an appended end-of-text token
    /// and drops rows without exactly four choices; here every row is read after `Answer:` and
    /// kept.
    LaplaceLora,
    /// MoE-PEFT's with the passage, where there is one, before the question.
    Passage,
    /// The question's own text and nothing around it, as the `prompt` of a task file has it.
    Plain,
}

impl Template {
    /// The prompt of a question whose choices stand in it, or whose answer the model writes.
    pub fn render(self, question: &MultipleChoice, style: LabelStyle) -> Prompt {
        let prompt = match (self, style) {
            (Self::Plain, style) => plain::prompt(question, style),
            (_, LabelStyle::Written) => open_ended::prompt(question),
            (Self::LaplaceLora, LabelStyle::Letter) => laplace_lora::lettered(question),
            (Self::LaplaceLora, LabelStyle::Choice) => laplace_lora::in_words(question),
            (_, LabelStyle::Letter) => moe_peft::lettered(question),
            (_, LabelStyle::Choice) => moe_peft::in_words(question),
        };
        self.with_passage(prompt, question)
    }

    /// The prompt of a question without its choices, each of which may follow.
    pub fn cloze(self, question: &MultipleChoice) -> Prompt {
        match self {
            Self::Plain => plain::prompt(question, LabelStyle::Choice),
            _ => self.with_passage(cloze::prompt(question), question),
        }
    }

    fn with_passage(self, prompt: Prompt, question: &MultipleChoice) -> Prompt {
        match (self, &question.passage) {
            (Self::Passage, Some(passage)) => passage::before(passage, &prompt),
            _ => prompt,
        }
    }
}

/// The sentence that asks a question, and other wordings of it.
pub(crate) struct Instruction {
    /// The sentence as the template has it; a prompt's head begins with it.
    pub text: &'static str,
    /// Sentences that ask the same.
    pub rewordings: [&'static str; 3],
}

/// The instructions of all templates.
pub(crate) const INSTRUCTIONS: &[&Instruction] = &[
    &moe_peft::LETTERED,
    &moe_peft::TRUE_OR_FALSE,
    &moe_peft::IN_WORDS,
    &laplace_lora::LETTERED,
    &open_ended::INSTRUCTION,
    &cloze::INSTRUCTION,
];

/// The labels ` A`, ` B`, .. of a question's choices.
fn letter_labels(question: &MultipleChoice) -> Vec<String> {
    letters(question)
        .map(|letter| format!(" {letter}"))
        .collect()
}

/// The question's choices, each after a space, as labels.
fn choice_labels(question: &MultipleChoice) -> Vec<String> {
    question.choices.iter().map(|c| format!(" {c}")).collect()
}

/// The question's choices with their letters, on one line.
fn lettered_line(question: &MultipleChoice, one: impl Fn(char, &str) -> String) -> String {
    let choices = letters(question).zip(&question.choices);
    let parts: Vec<String> = choices
        .map(|(letter, choice)| one(letter, choice))
        .collect();
    parts.join(" ")
}

fn letters(question: &MultipleChoice) -> impl Iterator<Item = char> {
    ('A'..='Z').take(question.choices.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lettered_question() -> MultipleChoice {
        let choices = ["ice", "Steel.", "stone"].map(String::from);
        MultipleChoice::new("What melts?", choices.into(), 0)
    }

    fn boolean_question() -> MultipleChoice {
        MultipleChoice {
            passage: Some("Ice -- Ice melts at 0 degrees.".into()),
            ..MultipleChoice::new("does ice melt", vec!["true".into(), "false".into()], 0)
        }
    }

    #[test]
    fn moe_peft_is_the_public_wording() {
        let prompt = Template::MoePeft.render(&lettered_question(), LabelStyle::Letter);
        assert_eq!(
            prompt.text(),
            "Please choose the correct answer to the question: What melts? (A) ice (B) Steel. (C) stone\nAnswer:"
        );
        assert_eq!(prompt.labels, [" A", " B", " C"]);
        let prompt = Template::MoePeft.render(&boolean_question(), LabelStyle::Choice);
        assert_eq!(
            prompt.text(),
            "Please answer the following question with true or false: does ice melt?\nAnswer:"
        );
        assert_eq!(prompt.labels, [" true", " false"]);
    }

    #[test]
    fn laplace_lora_makes_sentences_of_choices() {
        let prompt = Template::LaplaceLora.render(&lettered_question(), LabelStyle::Letter);
        assert_eq!(
            prompt.text(),
            "Select one of the choices that answers the following question: What melts? Choices: A. Ice. B. Steel. C. Stone. Answer:"
        );
        let prompt = Template::LaplaceLora.render(&boolean_question(), LabelStyle::Choice);
        assert!(prompt.text().contains("Context: Ice -- Ice melts"));
        assert_eq!(prompt.labels, [" True", " False"]);
    }

    #[test]
    fn other_words_than_true_and_false_stand_in_the_prompt() {
        let choices = ["yes", "no", "iPhone"].map(String::from);
        let question = MultipleChoice::new("Does it ring?", choices.into(), 0);
        let prompt = Template::MoePeft.render(&question, LabelStyle::Choice);
        assert_eq!(
            prompt.text(),
            "Please answer the following question with one of yes, no, iPhone: Does it ring?\nAnswer:"
        );
        assert_eq!(prompt.labels, [" yes", " no", " iPhone"]);
        let prompt = Template::LaplaceLora.render(&question, LabelStyle::Choice);
        assert!(
            prompt
                .text()
                .contains("with only yes or no or iPhone: Does")
        );
        assert_eq!(prompt.labels, [" yes", " no", " iPhone"]);
    }

    #[test]
    fn plain_is_the_question_alone_and_its_last_line_stays() {
        let mut question = lettered_question();
        question.question = "Q: What melts?\nA. ice B. steel\nAnswer:".into();
        let prompt = Template::Plain.render(&question, LabelStyle::Letter);
        assert_eq!(prompt.text(), question.question);
        assert_eq!((&*prompt.tail, &*prompt.labels[0]), ("\nAnswer:", " A"));
        let cloze = Template::Plain.cloze(&question);
        assert_eq!((cloze.text(), &*cloze.labels[0]), (prompt.text(), " ice"));
    }

    #[test]
    fn passage_comes_first_and_is_what_may_be_shortened() {
        let prompt = Template::Passage.render(&boolean_question(), LabelStyle::Choice);
        assert_eq!(prompt.shortenable, "Ice -- Ice melts at 0 degrees.");
        assert!(prompt.tail.ends_with("does ice melt?\nAnswer:"));
        let without = Template::Passage.render(&lettered_question(), LabelStyle::Letter);
        assert_eq!(
            without,
            Template::MoePeft.render(&lettered_question(), LabelStyle::Letter)
        );
    }
}
