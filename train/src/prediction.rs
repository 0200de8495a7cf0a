//! What a method says about a batch, and the scored rows of a whole set: the only place that
//! averages.
//!
//! An answer that the model wrote itself is a row of two choices, "it is right" and "it is not", of
//! which the first is always the prediction: every figure then reads as for questions with choices.

use burn::prelude::*;
use burn::tensor::activation::softmax;
use data::Batch;
use data::rouge::rouge_l;
use data::written::normalized;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::TrainError;
use crate::forward::Reading;
use crate::linear_algebra::{integers, values};

/// A method's answer to a batch: one or more samples (passes of one model, or members of an
/// ensemble).
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Logits of the choices, absent ones at minus infinity: `[samples, batch, choices]`. Of
    /// answers to be written, those of the right one and of any other.
    pub choice_logits: Tensor<3>,
    /// For answers to be written: whether each token of the right one is the most probable,
    /// `[samples, batch]`.
    pub written_right: Option<Tensor<2, Bool>>,
    /// FLU of each question, where the adapter has routers: `[batch]`.
    pub flu: Option<Tensor<1>>,
}

impl Prediction {
    /// One sample: what a forward pass says.
    pub fn of(reading: &Reading, batch: &Batch) -> Self {
        let scores = reading.choice_logits.clone();
        let choice_logits = match batch.answers.written {
            false => scores,
            // The score of the one choice is the mean log-probability of its tokens.
            true => {
                let other = (-scores.clone().exp() + 1.0).clamp_min(1e-12).log();
                Tensor::cat(vec![scores, other], 1)
            }
        };
        Self {
            choice_logits: choice_logits.unsqueeze_dim(0),
            written_right: batch
                .answers
                .written
                .then(|| reading.tokens_are_right(batch).unsqueeze_dim(0)),
            flu: reading.flu.clone(),
        }
    }

    /// The samples of several predictions about one batch; FLU is their mean.
    ///
    /// # Panics
    /// Without a prediction.
    pub fn joined(samples: Vec<Self>) -> Self {
        let flu: Vec<Tensor<2>> = samples
            .iter()
            .filter_map(|sample| Some(sample.flu.clone()?.unsqueeze_dim(0)))
            .collect();
        let right: Vec<Tensor<2, Bool>> = samples
            .iter()
            .filter_map(|sample| sample.written_right.clone())
            .collect();
        let logits = samples.into_iter().map(|sample| sample.choice_logits);
        Self {
            choice_logits: Tensor::cat(logits.collect(), 0),
            written_right: (!right.is_empty()).then(|| Tensor::cat(right, 0)),
            flu: (!flu.is_empty()).then(|| Tensor::cat(flu, 0).mean_dim(0).squeeze_dim(0)),
        }
    }

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
        let answers = integers(batch.answers.index.clone());
        let flu: Option<Vec<f64>> = self.flu.clone().map(values);
        let right: Option<Vec<bool>> = self.written_right.clone().map(|right| {
            let data = right.into_data().try_into_vec_as();
            data.expect("truth values convert")
        });
        (0..rows)
            .map(|row| {
                let of = |values: &[f64], sample: usize| -> Vec<f64> {
                    let start = (sample * rows + row) * choices;
                    let own = if batch.answers.written {
                        2
                    } else {
                        batch.choices.counts[row]
                    };
                    values[start..start + own].to_vec()
                };
                let one = |sample: usize| ScoredRow {
                    id: batch.ids[row].clone(),
                    label: match &right {
                        None => answers[row] as usize,
                        Some(right) => usize::from(!right[sample * rows + row]),
                    },
                    logits: of(&logits, sample),
                    probabilities: of(&probabilities, sample),
                    flu: flu.as_ref().map(|flu| flu[row]),
                    agreement: None,
                    written: batch.answers.written.then(Written::default),
                };
                let found: Vec<(f64, ScoredRow)> = (0..samples).map(|s| (1.0, one(s))).collect();
                let row = ScoredRow::mixed(&found);
                let finite = row.probabilities.iter().all(|p| p.is_finite());
                match finite && row.flu.is_none_or(f64::is_finite) {
                    true => Ok(row),
                    false => Err(TrainError::not_finite(&row.id)),
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
    /// The answer that the model wrote itself; `probabilities` are then those of its being right
    /// and wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
}

/// An answer in the model's own words. Empty where the right answer's tokens were only scored, as
/// in training.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Written {
    /// Words of the answer.
    pub text: String,
    /// Log-probability of each of its tokens, the end among them.
    #[serde(serialize_with = "short_list")]
    pub log_probabilities: Vec<f64>,
}

/// How much a written answer is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerConfidence {
    /// The geometric mean of its tokens' probabilities.
    #[default]
    Mean,
    /// The product of its tokens' probabilities: the probability of the whole text.
    Product,
    /// The probability of the first token.
    First,
    /// Functional-level uncertainty; `mean` where there are no routers, as in the base model.
    Flu,
}

impl AnswerConfidence {
    /// Every way of trusting a written answer.
    pub const ALL: [Self; 4] = [Self::Mean, Self::Product, Self::First, Self::Flu];

    /// In `[0, 1]`.
    pub fn of(self, written: &Written, flu: Option<f64>) -> f64 {
        let tokens = &written.log_probabilities;
        let sum: f64 = tokens.iter().sum();
        let mean = || (sum / tokens.len().max(1) as f64).exp();
        match self {
            Self::Mean => mean(),
            Self::Product => sum.exp(),
            Self::First => tokens.first().map_or(0.0, |first| first.exp()),
            Self::Flu => flu.unwrap_or_else(mean),
        }
    }
}

/// The model computes in f32: more digits would be noise, and half of the file.
fn short_list<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| *value as f32))
}

fn short<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| value as f32).serialize(serializer)
}

/// Logits that give these probabilities.
pub(crate) fn logarithms(probabilities: &[f64]) -> Vec<f64> {
    probabilities.iter().map(|p| p.max(1e-12).ln()).collect()
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
            logits: logarithms(probabilities),
            probabilities: probabilities.to_vec(),
            flu,
            agreement: None,
            written: None,
        }
    }

    /// A row of an answer that the model wrote.
    pub fn from_written(
        id: impl Into<String>,
        right: bool,
        written: Written,
        flu: Option<f64>,
        confidence: AnswerConfidence,
    ) -> Self {
        let row = Self {
            written: Some(written),
            ..Self::from_probabilities(id, usize::from(!right), &[0.0, 0.0], flu)
        };
        row.trusted_by(confidence)
    }

    /// The same written answer with another confidence; a row with choices stays as it is.
    pub fn trusted_by(mut self, confidence: AnswerConfidence) -> Self {
        if let Some(written) = &self.written {
            let p = confidence.of(written, self.flu);
            self.trust(p);
        }
        self
    }

    fn trust(&mut self, p: f64) {
        self.probabilities = vec![p, 1.0 - p];
        self.logits = logarithms(&self.probabilities);
    }

    /// The first of several written answers to one question, trusted as far as the others are like
    /// it: the weighted mean of their ROUGE-L with it (SPUQ's inter-sample confidence), 1 where
    /// they count as the same. An answer without words is worth nothing, and one alone stays as it
    /// is.
    ///
    /// # Panics
    /// Without an answer.
    pub fn agreed(answers: &[(f64, Self)]) -> Self {
        let (first, others) = answers.split_first().expect("an answer");
        let mut agreed = first.1.clone();
        let text = |row: &Self| row.written.clone().unwrap_or_default().text;
        let own = text(&agreed);
        let said = normalized(&own);
        let alike = |other: &str| match (said.is_empty(), normalized(other) == said) {
            (true, _) => 0.0,
            (false, true) => 1.0,
            (false, false) => rouge_l(&own, other),
        };
        let total: f64 = others.iter().map(|(weight, _)| weight).sum();
        if total > 0.0 {
            let sum: f64 = others.iter().map(|(w, row)| w * alike(&text(row))).sum();
            agreed.trust(sum / total);
            agreed.agreement = Some(sum / total);
        }
        agreed
    }

    /// The weighted mean of several answers' probabilities to one question; one answer stays as it
    /// is.
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
        mixed.logits = logarithms(&mixed.probabilities);
        mixed.flu = mixed.flu.map(|_| mean(&|row| row.flu.unwrap_or(f64::NAN)));
        let joint = mixed.prediction();
        mixed.agreement = Some(mean(&|row| f64::from(u8::from(row.prediction() == joint))));
        mixed
    }

    /// The most probable choice; ties go to the first. What the model wrote is its answer, however
    /// improbable.
    pub fn prediction(&self) -> usize {
        if self.written.is_some() {
            return 0;
        }
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

    fn wrote(text: &str, logs: &[f64]) -> ScoredRow {
        let written = Written {
            text: text.into(),
            log_probabilities: logs.to_vec(),
        };
        ScoredRow::from_written("q", true, written, Some(0.7), AnswerConfidence::Mean)
    }

    #[test]
    fn a_written_answer_is_trusted_by_its_tokens_or_by_flu() {
        let row = wrote("x", &[0.5f64.ln(), 0.125f64.ln()]);
        for (kind, expected) in AnswerConfidence::ALL
            .into_iter()
            .zip([0.25, 0.0625, 0.5, 0.7])
        {
            let trusted = row.clone().trusted_by(kind);
            assert!((trusted.confidence() - expected).abs() < 1e-12, "{kind:?}");
            // Improbable or not, it is what was said.
            assert!(trusted.correct());
        }
        let again: ScoredRow = serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap();
        assert_eq!(again.written.unwrap().text, "x");
    }

    #[test]
    fn wordings_agree_as_far_as_their_answers_are_alike() {
        let own = wrote("the red fox", &[-0.1]);
        let others = [
            (1.0, wrote("the red fox", &[-1.0])),
            (3.0, wrote("a dog", &[-1.0])),
        ];
        let answers = [&[(1.0, own.clone())], &others[..]].concat();
        let agreed = ScoredRow::agreed(&answers);
        assert!((agreed.confidence() - 0.25).abs() < 1e-12);
        assert_eq!(agreed.written, own.written);
        assert_eq!(ScoredRow::agreed(&answers[..1]), own);
    }
}
