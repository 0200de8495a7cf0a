//! Templates: a question as the text that the model completes.

use serde::{Deserialize, Serialize};

use crate::example::MultipleChoice;

/// The wording of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// MoE-PEFT's, the paper's: BoolQ closed book, choices on the question's line.
    #[default]
    MoePeft,
    /// Laplace-LoRA's wording. Its code reads BoolQ's answer after an appended end-of-text token and drops rows without exactly
    /// four choices; here every row is read after `Answer:` and kept.
    LaplaceLora,
    /// MoE-PEFT's with the passage, where there is one, before the question.
    Passage,
}

/// What stands for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelStyle {
    /// ` A`, ` B`, ..
    Letter,
    /// A space and the choice itself: ` true`, ` false`.
    Choice,
}

/// A prompt in parts, so that one that is too long can be shortened where it does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Before the part that may be shortened.
    pub head: String,
    /// The question, or the passage.
    pub shortenable: String,
    /// After it; always kept whole, ends where the answer is read.
    pub tail: String,
    /// One label a choice, each to be one token after the tail.
    pub labels: Vec<String>,
}

impl Prompt {
    /// The whole text.
    pub fn text(&self) -> String {
        [&*self.head, &self.shortenable, &self.tail].concat()
    }
}

impl Template {
    /// Renders a question.
    pub fn render(self, question: &MultipleChoice, style: LabelStyle) -> Prompt {
        let labels = self.labels(question, style);
        let (head, shortenable, tail) = match (self, style) {
            (Self::LaplaceLora, LabelStyle::Letter) => (
                "Select one of the choices that answers the following question: ".into(),
                question.question.clone(),
                format!(
                    " Choices: {} Answer:",
                    lettered(question, |letter, text| format!(
                        "{letter}. {}",
                        sentence(text)
                    ))
                ),
            ),
            (Self::LaplaceLora, LabelStyle::Choice) => (
                format!(
                    "Answer the question with only True or False: {} Context: ",
                    question.question
                ),
                question.passage.clone().unwrap_or_default(),
                "\nAnswer:".into(),
            ),
            (Self::Passage, style) if question.passage.is_some() => (
                String::new(),
                question.passage.clone().unwrap_or_default(),
                format!("\n{}\nAnswer:", moe_peft_question(question, style)),
            ),
            (_, LabelStyle::Letter) => (
                "Please choose the correct answer to the question: ".into(),
                question.question.clone(),
                format!(
                    " {}\nAnswer:",
                    lettered(question, |letter, text| format!("({letter}) {text}"))
                ),
            ),
            (_, LabelStyle::Choice) => (
                "Please answer the following question with true or false: ".into(),
                question.question.clone(),
                "?\nAnswer:".into(),
            ),
        };
        Prompt {
            head,
            shortenable,
            tail,
            labels,
        }
    }
}

impl Template {
    fn labels(self, question: &MultipleChoice, style: LabelStyle) -> Vec<String> {
        match style {
            LabelStyle::Letter => letters(question.choices.len())
                .map(|letter| format!(" {letter}"))
                .collect(),
            // "True or False", as the prompt spells them.
            LabelStyle::Choice if self == Self::LaplaceLora => question
                .choices
                .iter()
                .map(|c| format!(" {}", capital(c)))
                .collect(),
            LabelStyle::Choice => question.choices.iter().map(|c| format!(" {c}")).collect(),
        }
    }
}

fn moe_peft_question(question: &MultipleChoice, style: LabelStyle) -> String {
    match style {
        LabelStyle::Letter => format!(
            "Please choose the correct answer to the question: {} {}",
            question.question,
            lettered(question, |letter, text| format!("({letter}) {text}"))
        ),
        LabelStyle::Choice => format!(
            "Please answer the following question with true or false: {}?",
            question.question
        ),
    }
}

fn letters(count: usize) -> impl Iterator<Item = char> {
    ('A'..='Z').take(count)
}

fn lettered(question: &MultipleChoice, line: impl Fn(char, &str) -> String) -> String {
    letters(question.choices.len())
        .zip(&question.choices)
        .map(|(letter, choice)| line(letter, choice))
        .collect::<Vec<_>>()
        .join(" ")
}

/// First letter upper case.
fn capital(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), characters.as_str())
}

/// First letter upper case, a period at the end.
fn sentence(text: &str) -> String {
    let end = if text.ends_with('.') { "" } else { "." };
    capital(text) + end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lettered_question() -> MultipleChoice {
        MultipleChoice {
            id: "1".into(),
            question: "What melts?".into(),
            passage: None,
            choices: vec!["ice".into(), "Steel.".into(), "stone".into()],
            answer: 0,
        }
    }

    fn boolean_question() -> MultipleChoice {
        MultipleChoice {
            id: "2".into(),
            question: "does ice melt".into(),
            passage: Some("Ice -- Ice melts at 0 degrees.".into()),
            choices: vec!["true".into(), "false".into()],
            answer: 0,
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
