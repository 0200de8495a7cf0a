//! The JSON that goes in and comes out. `/openapi.json` describes it from these types.

use data::dataset::custom::Custom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use train::answering::Asked;

use super::outcome::Reply;

/// A question to answer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The question alone.
    pub question: String,
    /// 2 to 26 answers; left out where the model writes its answers.
    #[serde(default)]
    pub choices: Vec<String>,
    /// A text that answers it; other runs than those whose template reads one refuse it.
    #[serde(default)]
    pub context: Option<String>,
    /// Name of the question, given back with the answer.
    #[serde(default)]
    pub id: Option<String>,
    /// Whether to tell how every router spread the question.
    #[serde(default)]
    pub routing: bool,
}

/// What the questions of a run consist of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Takes {
    /// The model writes its answers: there are no choices.
    pub(super) writes: bool,
    /// The prompt holds a text that answers the question.
    pub(super) context: bool,
}

impl Question {
    /// The question as a run with such a prompt is asked it.
    ///
    /// # Errors
    /// The field that does not serve, and why.
    pub(super) fn asked(&self, takes: Takes) -> Result<Asked, String> {
        let Takes { writes, context } = takes;
        if !context
            && self
                .context
                .as_ref()
                .is_some_and(|text| !text.trim().is_empty())
        {
            return Err("context: this run's prompt has no place for one: leave it out".into());
        }
        if writes && !self.choices.is_empty() {
            return Err("choices: this run writes its answers: leave them out".into());
        }
        let row = serde_json::json!({
            "id": self.id,
            "question": self.question,
            "choices": self.choices,
            "context": self.context,
        });
        let (question, _) = Custom::default().writing(writes).ask(&row)?;
        Ok(Asked {
            question,
            answer: None,
        })
    }
}

/// Several questions to answer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Questions {
    /// The questions, in the order in which they are answered.
    pub questions: Vec<Question>,
}

/// The answers to several questions.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Answers {
    /// The answers, in the order of the questions.
    pub answers: Vec<Reply>,
}

/// The reason why a request got no answer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Problem {
    /// What went wrong and what to do.
    pub error: String,
}
