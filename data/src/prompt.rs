//! Templates: a question as the text that the model completes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::example::MultipleChoice;
use crate::seed::mix;

/// The wording of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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

/// How a choice is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// The choices stand in the prompt; softmax over their labels' tokens (the paper's).
    #[default]
    Letters,
    /// The choices do not stand in the prompt; softmax over the log-likelihoods of their texts after it.
    Cloze,
}

/// What a log-likelihood is divided by, so that long choices are not at a disadvantage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// The choice's tokens.
    #[default]
    Token,
    /// The choice's characters.
    Character,
    /// Nothing.
    Sum,
}

/// How questions become prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rendering {
    /// The wording.
    pub template: Template,
    /// What stands for an answer.
    pub labels: LabelStyle,
    /// How choices are scored.
    pub scoring: Scoring,
    /// Of log-likelihoods.
    pub normalization: Normalization,
    /// Tokens of the longest answer that the model may write itself.
    pub answer_tokens: usize,
    /// With cloze scoring, compute the choices' last tokens as well.
    pub whole_choices: bool,
}

impl Rendering {
    /// Renders a question.
    pub fn render(&self, question: &MultipleChoice) -> Prompt {
        match (self.scoring, self.labels) {
            (Scoring::Cloze, LabelStyle::Letter) => self.template.cloze(question),
            (_, style) => self.template.render(question, style),
        }
    }
}

/// What stands for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelStyle {
    /// ` A`, ` B`, ..
    Letter,
    /// A space and the choice itself: ` true`, ` false`.
    Choice,
    /// Nothing: the model writes the answer itself, to the end of the line.
    Written,
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
    /// One text a choice, to follow the tail: its label, or for cloze scoring the choice itself.
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
            (_, LabelStyle::Written) => return self.written(question),
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
    /// An open-ended question, in the wording of bayesian-peft; every template has the same. The label is what training appends: the
    /// answer and the end of its line.
    fn written(self, question: &MultipleChoice) -> Prompt {
        const INSTRUCTION: &str = "Answer the question below. Question: ";
        let passage = question.passage.as_ref().filter(|_| self == Self::Passage);
        let (head, shortenable, tail) = match passage {
            Some(passage) => (
                String::new(),
                passage.clone(),
                format!("\n{INSTRUCTION}{} Answer:", question.question),
            ),
            None => (
                INSTRUCTION.into(),
                question.question.clone(),
                " Answer:".into(),
            ),
        };
        // One that is asked may come without its answer.
        let answer = question.choices.get(question.answer);
        let answer = answer.map(String::as_str).unwrap_or_default();
        Prompt {
            head,
            shortenable,
            tail,
            labels: vec![format!(" {}\n", one_line(answer))],
        }
    }

    /// The question without its choices, each of which may follow.
    fn cloze(self, question: &MultipleChoice) -> Prompt {
        let passage = question.passage.as_ref().filter(|_| self == Self::Passage);
        let (head, shortenable, tail) = match passage {
            Some(passage) => (
                String::new(),
                passage.clone(),
                format!("\nQuestion: {}\nAnswer:", question.question),
            ),
            None => (
                "Question: ".into(),
                question.question.clone(),
                "\nAnswer:".into(),
            ),
        };
        Prompt {
            head,
            shortenable,
            tail,
            labels: question.choices.iter().map(|c| format!(" {c}")).collect(),
        }
    }

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
            LabelStyle::Choice | LabelStyle::Written => {
                question.choices.iter().map(|c| format!(" {c}")).collect()
            }
        }
    }
}

/// A text without line ends, since one ends the answer.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn moe_peft_question(question: &MultipleChoice, style: LabelStyle) -> String {
    match style {
        LabelStyle::Letter => format!(
            "Please choose the correct answer to the question: {} {}",
            question.question,
            lettered(question, |letter, text| format!("({letter}) {text}"))
        ),
        LabelStyle::Choice | LabelStyle::Written => format!(
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

/// Lines that change nothing about a question, put before the prompt.
const SYSTEM_LINES: [&str; 5] = [
    "You are a helpful assistant.\n",
    "You are a question-answering assistant.\n",
    "You are a nice assistant.\n",
    "You are an AI support tool.\n",
    "You are a friendly helper.\n",
];

/// Marks that mean nothing, put at one end of the question.
const DUMMY_TOKENS: [&str; 5] = ["\n", "\t", "...", " um, ", "?"];

/// Instructions and other wordings of each.
const REWORDINGS: &[(&str, [&str; 3])] = &[
    (
        "Please choose the correct answer to the question: ",
        [
            "Choose the right answer to this question: ",
            "Which choice answers the question correctly? ",
            "Select the correct answer to the following question: ",
        ],
    ),
    (
        "Please answer the following question with true or false: ",
        [
            "Answer this question with true or false: ",
            "Is the answer to this question true or false? ",
            "Reply to the question below with true or false: ",
        ],
    ),
    (
        "Select one of the choices that answers the following question: ",
        [
            "Choose the option that answers this question: ",
            "Which of the choices answers the following question? ",
            "Pick one of the choices as the answer to the question: ",
        ],
    ),
    (
        "Answer the question below. Question: ",
        [
            "Answer this question. Question: ",
            "Reply to the question below. Question: ",
            "What is the answer to the question below? Question: ",
        ],
    ),
    (
        "Question: ",
        [
            "Q: ",
            "Here is a question: ",
            "Please answer this question: ",
        ],
    ),
];

/// Other wordings of a prompt with their likeness to it (ROUGE-L), for SPUQ: a system line, a meaningless mark and another
/// instruction in turn, drawn from `seed`. The choices and the place where the answer is read stay as they are.
pub fn perturbations(prompt: &Prompt, count: usize, seed: u64) -> Vec<(Prompt, f64)> {
    // Rounds of one kind follow each other, so that none comes twice before all have come.
    let draw = |i: usize, n: usize| (mix(seed, (i % 3) as u64) as usize % n + i / 3) % n;
    (0..count)
        .map(|i| {
            let mut other = prompt.clone();
            match i % 3 {
                0 => other.head = [SYSTEM_LINES[draw(i, 5)], &prompt.head].concat(),
                1 => {
                    let mark = DUMMY_TOKENS[draw(i, 5)];
                    match mix(seed, 100 + i as u64) % 2 {
                        0 => other.shortenable = [mark, &prompt.shortenable].concat(),
                        _ => other.shortenable.push_str(mark),
                    }
                }
                _ => {
                    let known = REWORDINGS
                        .iter()
                        .find(|(head, _)| prompt.head.starts_with(head));
                    other.head = match known {
                        Some((head, others)) => prompt.head.replacen(head, others[draw(i, 3)], 1),
                        None => ["Read this and answer. ", &prompt.head].concat(),
                    };
                }
            }
            let likeness = rouge_l(&prompt.text(), &other.text());
            (other, likeness)
        })
        .collect()
}

/// ROUGE-L's F1: the longest common subsequence of words against the lengths of both texts (Lin 2004). Words are runs of ASCII
/// letters and digits, in lower case, as the `rouge-score` package takes them.
pub fn rouge_l(a: &str, b: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        text.to_lowercase()
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (a, b) = (words(a), words(b));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut row = vec![0usize; b.len() + 1];
    for left in &a {
        let mut diagonal = 0;
        for (j, right) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = match left == right {
                true => diagonal + 1,
                false => above.max(row[j]),
            };
            diagonal = above;
        }
    }
    2.0 * row[b.len()] as f64 / (a.len() + b.len()) as f64
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
            group: None,
            written: false,
        }
    }

    fn boolean_question() -> MultipleChoice {
        MultipleChoice {
            id: "2".into(),
            question: "does ice melt".into(),
            passage: Some("Ice -- Ice melts at 0 degrees.".into()),
            choices: vec!["true".into(), "false".into()],
            answer: 0,
            group: None,
            written: false,
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

    #[test]
    fn perturbations_keep_choices_and_end_and_follow_the_seed() {
        let prompt = Template::MoePeft.render(&lettered_question(), LabelStyle::Letter);
        let found = perturbations(&prompt, 5, 7);
        assert_eq!(found.len(), 5);
        for (other, likeness) in &found {
            assert_eq!((&other.tail, &other.labels), (&prompt.tail, &prompt.labels));
            assert_ne!(other.text(), prompt.text());
            assert!(other.text().contains("What melts?"));
            assert!((0.5..=1.0).contains(likeness), "{likeness}");
        }
        assert_eq!(found, perturbations(&prompt, 5, 7));
        assert_ne!(found, perturbations(&prompt, 5, 8));
        assert!(found[0].0.head.starts_with("You are "));
        assert!(!found[2].0.head.starts_with("Please choose"));
    }

    #[test]
    fn rouge_l_equals_the_packages_values() {
        // rouge-score 0.1.2, RougeScorer(["rougeL"]).score(a, b)["rougeL"].fmeasure
        let a = "The quick brown fox jumps over the lazy dog.";
        for (b, expected) in [
            (a, 1.0),
            ("the brown dog jumps over a fox", 0.5),
            (
                "you are helpful. The quick brown fox jumps over the lazy dog",
                6.0 / 7.0,
            ),
            ("...", 0.0),
        ] {
            assert!(
                (rouge_l(a, b) - expected).abs() < 1e-6,
                "{b}: {}",
                rouge_l(a, b)
            );
        }
    }
}
