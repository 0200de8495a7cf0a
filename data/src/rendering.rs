//! How questions become prompts, and how their choices are scored.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chat::ChatTemplate;
use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::prompt::{LabelStyle, Prompt};
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
}

impl Rendering {
    /// Whether a text that answers the question stands in the prompt.
    pub fn reads_passage(&self) -> bool {
        match self.template {
            Template::Passage => true,
            Template::LaplaceLora => self.labels == LabelStyle::Choice,
            Template::MoePeft => false,
        }
    }

    /// The prompt of a question.
    ///
    /// # Errors
    /// A question that the chat template refuses.
    pub fn render(&self, question: &MultipleChoice) -> Result<Prompt, DataError> {
        let prompt = match (self.scoring, self.labels) {
            (Scoring::Cloze, LabelStyle::Letter) => self.template.cloze(question),
            (_, style) => self.template.render(question, style),
        };
        match &self.chat {
            Some(chat) => chat.frame(prompt).map_err(|error| DataError::Question {
                id: question.id.clone(),
                reason: error.to_string(),
            }),
            None => Ok(prompt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_read_exactly_where_it_changes_the_prompt() {
        let choices = vec!["true".into(), "false".into()];
        let plain = MultipleChoice::new("does ice melt", choices, 0);
        let with = MultipleChoice {
            passage: Some("Ice melts at 0 degrees.".into()),
            ..plain.clone()
        };
        for template in [Template::MoePeft, Template::LaplaceLora, Template::Passage] {
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
                    };
                    let prompt = |question| rendering.render(question).unwrap();
                    let changes = prompt(&plain) != prompt(&with);
                    assert_eq!(rendering.reads_passage(), changes, "{rendering:?}");
                }
            }
        }
    }
}
