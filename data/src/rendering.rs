//! How questions become prompts, and how their choices are scored.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chat::ChatTemplate;
use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::prompt::{LabelStyle, Prompt};
use crate::shots::Shots;
use crate::template::Template;

/// How a choice is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// The choices stand in the prompt; softmax over their labels' tokens (the paper's).
    #[default]
    Letters,
    /// The choices do not stand in the prompt; softmax over the log-likelihoods of their texts
    /// after it.
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

/// Everything that decides how a question reads to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendering {
    /// The wording of the prompt.
    pub template: Template,
    /// What stands for an answer.
    pub labels: LabelStyle,
    /// How choices are scored.
    pub scoring: Scoring,
    /// What the log-likelihood of a choice's text is divided by.
    pub normalization: Normalization,
    /// Tokens of the longest answer that the model may write itself.
    pub answer_tokens: usize,
    /// Whether cloze scoring computes the choices' last tokens as well.
    pub whole_choices: bool,
    /// The model's chat template, whose user's turn the prompt is; absent where the prompt is all
    /// that the model reads.
    pub chat: Option<Arc<ChatTemplate>>,
    /// Examples before every question; absent where there are none.
    pub shots: Option<Arc<Shots>>,
}

impl Rendering {
    /// Whether a text that answers the question stands in the prompt.
    pub fn reads_passage(&self) -> bool {
        match self.template {
            Template::Passage => true,
            Template::LaplaceLora => self.labels == LabelStyle::Choice,
            Template::MoePeft | Template::Plain => false,
        }
    }

    /// The prompt of a question.
    ///
    /// # Errors
    /// A question that the chat template refuses.
    pub fn render(&self, question: &MultipleChoice) -> Result<Prompt, DataError> {
        let prompt = self.alone(question);
        let examples = self.shots.iter().flat_map(|shots| shots.before(question));
        let examples: Vec<[String; 2]> = examples.map(|shot| self.example(shot)).collect();
        match &self.chat {
            Some(chat) => {
                chat.frame_after(&examples, prompt)
                    .map_err(|error| DataError::Question {
                        id: question.id.clone(),
                        reason: error.to_string(),
                    })
            }
            None => {
                let texts = examples.iter();
                let texts = texts.map(|[asked, answered]| format!("{asked}{answered}\n\n"));
                Ok(Prompt {
                    examples: texts.collect(),
                    ..prompt
                })
            }
        }
    }

    /// A question as the template words it, without chat and examples.
    fn alone(&self, question: &MultipleChoice) -> Prompt {
        match (self.scoring, self.labels) {
            (Scoring::Cloze, LabelStyle::Letter) => self.template.cloze(question),
            (_, style) => self.template.render(question, style),
        }
    }

    /// An example: the text of its question, and its right answer as it follows.
    fn example(&self, shot: &MultipleChoice) -> [String; 2] {
        let prompt = self.alone(shot);
        // What is written has one label, the answer.
        let place = match self.labels {
            LabelStyle::Written => 0,
            LabelStyle::Letter | LabelStyle::Choice => shot.answer,
        };
        let label = prompt
            .labels
            .get(place)
            .map_or("", |label| label.trim_end());
        [prompt.text(), label.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_passage_is_read_exactly_where_it_changes_the_prompt() {
        let choices = vec!["true".into(), "false".into()];
        let plain = MultipleChoice::new("does ice melt", choices, 0);
        let with = MultipleChoice {
            passage: Some("Ice melts at 0 degrees.".into()),
            ..plain.clone()
        };
        for template in [
            Template::MoePeft,
            Template::LaplaceLora,
            Template::Passage,
            Template::Plain,
        ] {
            for labels in [LabelStyle::Letter, LabelStyle::Choice, LabelStyle::Written] {
                for scoring in [Scoring::Letters, Scoring::Cloze] {
                    let rendering = Rendering {
                        template,
                        labels,
                        scoring,
                        normalization: Normalization::Token,
                        answer_tokens: 16,
                        whole_choices: false,
                        chat: None,
                        shots: None,
                    };
                    let prompt = |question| rendering.render(question).unwrap();
                    let changes = prompt(&plain) != prompt(&with);
                    assert_eq!(rendering.reads_passage(), changes, "{rendering:?}");
                }
            }
        }
    }

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn with_shots(chat: bool, scoring: Scoring, labels: LabelStyle) -> Rendering {
        let example = MultipleChoice::new("Is ice cold?", vec!["yes".into(), "no".into()], 0);
        let chat = chat.then(|| ChatTemplate::new(CHATML, BTreeMap::new(), None).unwrap());
        Rendering {
            template: Template::MoePeft,
            labels,
            scoring,
            normalization: Normalization::Token,
            answer_tokens: 16,
            whole_choices: false,
            chat: chat.map(Arc::new),
            shots: Some(Arc::new(Shots::draw(&[example], 1, 0))),
        }
    }

    #[test]
    fn examples_stand_before_the_question_in_the_text_or_as_earlier_turns() {
        let asked = MultipleChoice::new("Is fire hot?", vec!["yes".into(), "no".into()], 0);
        let text = |chat, scoring, labels| {
            let rendering = with_shots(chat, scoring, labels);
            rendering.render(&asked).unwrap().text()
        };
        let start = "Please choose the correct answer to the question: ";
        assert_eq!(
            text(false, Scoring::Letters, LabelStyle::Letter),
            format!(
                "{start}Is ice cold? (A) yes (B) no\nAnswer: A\n\n{start}Is fire hot? (A) yes (B) no\nAnswer:"
            )
        );
        let cloze = text(false, Scoring::Cloze, LabelStyle::Letter);
        assert!(cloze.contains("Is ice cold?\nAnswer: yes\n\n"), "{cloze}");
        let written = text(false, Scoring::Letters, LabelStyle::Written);
        assert!(
            written.contains("Is ice cold? Answer: yes\n\n"),
            "{written}"
        );
        assert_eq!(
            text(true, Scoring::Letters, LabelStyle::Letter),
            format!(
                "<|im_start|>user\n{start}Is ice cold? (A) yes (B) no\nAnswer:<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\n{start}Is fire hot? (A) yes (B) no\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
            )
        );
        // The example itself is asked without one.
        let example = MultipleChoice::new("Is ice cold?", vec!["yes".into(), "no".into()], 0);
        for chat in [false, true] {
            let rendering = with_shots(chat, Scoring::Letters, LabelStyle::Letter);
            let prompt = rendering.render(&example).unwrap();
            assert!(!prompt.has_examples());
            let with = rendering.render(&asked).unwrap();
            assert!(with.has_examples());
            let none = Rendering {
                shots: None,
                ..rendering
            };
            assert_eq!(none.render(&asked).unwrap(), with.alone());
        }
    }
}
