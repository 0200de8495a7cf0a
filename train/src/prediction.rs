//! What a method says about a batch, and the scored rows of a whole set: the only place that averages.

use burn::prelude::*;
use burn::tensor::activation::softmax;
use data::Batch;
use data::batch::Continuations;
use model::fused::log_likelihood::log_likelihood;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::TrainError;
use crate::linear_algebra::values;

/// A method's answer to a batch: one or more samples (passes of one model, or members of an ensemble).
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Logits of the choices, absent ones at minus infinity: `[samples, batch, choices]`.
    pub choice_logits: Tensor<3>,
    /// FLU of each question, where the adapter has routers: `[batch]`.
    pub flu: Option<Tensor<1>>,
}

/// The score of each row's own choices, absent ones at minus infinity: the label's logit, or the weighted log-likelihood of the
/// choice's text. Their softmax is the prediction.
///
/// # Shapes
/// - logits: `[reads, vocabulary]`, the rows of `batch.read`; output: `[batch, choices]`
pub fn choice_logits(logits: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let scores = match &batch.continuations {
        None => logits.gather(1, batch.labels.clone()),
        Some(targets) => targets
            .pool
            .clone()
            .matmul(token_log_probabilities(logits, targets).unsqueeze_dim(1))
            .reshape(batch.labels.dims()),
    };
    scores.mask_fill(batch.no_choice.clone(), f32::NEG_INFINITY)
}

/// `log p(token)` of every token of every choice, given the prompt and the choice's tokens before it.
///
/// # Shapes
/// - logits: `[reads, vocabulary]`, output: `[targets]`
pub fn token_log_probabilities(logits: Tensor<2>, targets: &Continuations) -> Tensor<1> {
    log_likelihood(logits, targets.row.clone(), targets.token.clone())
}

impl Prediction {
    /// Mean of the samples' probabilities (not of their logits), `[batch, choices]`.
    pub fn probabilities(&self) -> Tensor<2> {
        softmax(self.choice_logits.clone(), 2)
            .mean_dim(0)
            .squeeze_dim(0)
    }

    /// Reads the prediction to the host, a row a question.
    ///
    /// # Errors
    /// A probability that is no number: the model overflowed, and no choice can be named.
    pub fn rows(&self, batch: &Batch) -> Result<Vec<ScoredRow>, TrainError> {
        let [samples, rows, choices] = self.choice_logits.dims();
        let logits: Vec<f64> = values(self.choice_logits.clone());
        let probabilities: Vec<f64> = values(softmax(self.choice_logits.clone(), 2));
        let answers: Vec<i64> = batch
            .answers
            .clone()
            .into_data()
            .try_into_vec_as()
            .expect("integers convert");
        let flu: Option<Vec<f64>> = self.flu.clone().map(values);
        (0..rows)
            .map(|row| {
                let of = |values: &[f64], sample: usize| -> Vec<f64> {
                    let start = (sample * rows + row) * choices;
                    values[start..start + batch.choices[row]].to_vec()
                };
                let one = |sample: usize| ScoredRow {
                    id: batch.ids[row].clone(),
                    label: answers[row] as usize,
                    logits: of(&logits, sample),
                    probabilities: of(&probabilities, sample),
                    flu: flu.as_ref().map(|flu| flu[row]),
                    agreement: None,
                };
                let found: Vec<(f64, ScoredRow)> = (0..samples).map(|s| (1.0, one(s))).collect();
                let row = ScoredRow::mixed(&found);
                let finite = row.probabilities.iter().all(|p| p.is_finite());
                match finite && row.flu.is_none_or(f64::is_finite) {
                    true => Ok(row),
                    false => Err(TrainError::Training(format!(
                        "question {}: the model's answer is no number: lower train.learning_rate, or use model.dtype = \"f32\"",
                        row.id
                    ))),
                }
            })
            .collect()
    }
}

/// One scored question: a line of `predictions.jsonl`, from which every figure is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredRow {
    /// The question's name.
    pub id: String,
    /// Index of the right choice.
    pub label: usize,
    /// Logits of its choices.
    #[serde(serialize_with = "short_list")]
    pub logits: Vec<f64>,
    /// Probabilities of its choices.
    #[serde(serialize_with = "short_list")]
    pub probabilities: Vec<f64>,
    /// Functional-level uncertainty, high = certain; absent without routers.
    #[serde(serialize_with = "short")]
    pub flu: Option<f64>,
    /// Weighted share of the samples whose own prediction is the joint one; absent for one sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
}

/// The model computes in f32: more digits would be noise, and half of the file.
fn short_list<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| *value as f32))
}

fn short<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| value as f32).serialize(serializer)
}

impl ScoredRow {
    /// A row whose logits are the probabilities' logarithms.
    pub fn from_probabilities(
        id: impl Into<String>,
        label: usize,
        probabilities: &[f64],
        flu: Option<f64>,
    ) -> Self {
        Self {
            id: id.into(),
            label,
            logits: probabilities.iter().map(|p| p.max(1e-12).ln()).collect(),
            probabilities: probabilities.to_vec(),
            flu,
            agreement: None,
        }
    }

    /// The weighted mean of several answers' probabilities to one question; one answer stays as it is.
    ///
    /// # Panics
    /// Without an answer.
    pub fn mixed(answers: &[(f64, Self)]) -> Self {
        let mut mixed = answers[0].1.clone();
        if answers.len() == 1 {
            return mixed;
        }
        let total: f64 = answers.iter().map(|(weight, _)| weight).sum();
        let mean = |f: &dyn Fn(&Self) -> f64| {
            answers
                .iter()
                .map(|(weight, row)| weight * f(row))
                .sum::<f64>()
                / total
        };
        mixed.probabilities = (0..mixed.probabilities.len())
            .map(|choice| mean(&|row| row.probabilities[choice]))
            .collect();
        // The mean logit is not the logit of the mean probability.
        mixed.logits = mixed
            .probabilities
            .iter()
            .map(|p| p.max(1e-12).ln())
            .collect();
        mixed.flu = mixed.flu.map(|_| mean(&|row| row.flu.unwrap_or(f64::NAN)));
        let joint = mixed.prediction();
        mixed.agreement = Some(mean(&|row| f64::from(u8::from(row.prediction() == joint))));
        mixed
    }

    /// The most probable choice; ties go to the first.
    pub fn prediction(&self) -> usize {
        let mut best = 0;
        for (choice, p) in self.probabilities.iter().enumerate() {
            if *p > self.probabilities[best] {
                best = choice;
            }
        }
        best
    }

    /// The probability of the prediction.
    pub fn confidence(&self) -> f64 {
        self.probabilities[self.prediction()]
    }

    /// Whether the prediction is right.
    pub fn correct(&self) -> bool {
        self.prediction() == self.label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(probabilities: &[f64]) -> ScoredRow {
        ScoredRow::from_probabilities("q", 0, probabilities, Some(probabilities[0]))
    }

    #[test]
    fn answers_mix_by_probability_and_weight() {
        let mixed = ScoredRow::mixed(&[(1.0, row(&[0.9, 0.1])), (3.0, row(&[0.1, 0.9]))]);
        assert!((mixed.probabilities[0] - 0.3).abs() < 1e-12);
        assert!((mixed.logits[0] - 0.3f64.ln()).abs() < 1e-12);
        assert_eq!((mixed.agreement, mixed.prediction()), (Some(0.75), 1));
        assert!((mixed.flu.unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(
            ScoredRow::mixed(&[(2.0, row(&[0.5, 0.5]))]),
            row(&[0.5, 0.5])
        );
    }
}
