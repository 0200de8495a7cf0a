//! Questions in other words, for methods that ask each several times.

use data::perturbation::perturbations;
use data::prompt::Prompt;
use data::seed::hash_name;
use data::{DataError, EncodedQuestion, MultipleChoice};

use super::Prepared;
use crate::error::TrainError;

/// Other wordings of a set of questions, one for each, with their likeness to the original.
#[derive(Debug, Clone)]
pub struct View {
    /// The other wordings, in the order of the originals.
    pub questions: Vec<EncodedQuestion>,
    /// Weight of each wording in the joint answer.
    pub weights: Vec<f64>,
}

impl Prepared {
    /// Other wordings of questions, `count` views of all of them. A question's wordings follow from
    /// its text and the seed, whatever it is called.
    ///
    /// # Errors
    /// A wording that cannot be encoded.
    pub fn views(
        &self,
        questions: &[MultipleChoice],
        count: usize,
        seed: u64,
    ) -> Result<Vec<View>, TrainError> {
        let worded: Vec<Vec<(Prompt, f64)>> = questions
            .iter()
            .map(|question| {
                let own = hash_name(seed, &question.fingerprint());
                Ok(perturbations(&self.rendering.render(question)?, count, own))
            })
            .collect::<Result<_, DataError>>()?;
        (0..count)
            .map(|view| {
                let mut found = View {
                    questions: Vec::with_capacity(questions.len()),
                    weights: Vec::with_capacity(questions.len()),
                };
                for (question, worded) in questions.iter().zip(&worded) {
                    let (prompt, weight) = &worded[view];
                    let (encoded, weight) = self.in_words(question, prompt, *weight)?;
                    found.questions.push(encoded);
                    found.weights.push(weight);
                }
                Ok(found)
            })
            .collect()
    }

    /// A question in other words; where these do not fit, in its own once more.
    fn in_words(
        &self,
        question: &MultipleChoice,
        prompt: &Prompt,
        weight: f64,
    ) -> Result<(EncodedQuestion, f64), TrainError> {
        let encode = |prompt: &Prompt| {
            let one = std::iter::once((question, prompt));
            let encoded = self
                .tokenizer
                .encode_prompts(one, &self.rendering, self.prompt_tokens);
            encoded.map(|mut one| one.swap_remove(0))
        };
        match encode(prompt) {
            Ok(encoded) => Ok((encoded, weight)),
            Err(DataError::Question { .. }) => {
                Ok((encode(&self.rendering.render(question)?)?, 1.0))
            }
            Err(error) => Err(error.into()),
        }
    }
}
