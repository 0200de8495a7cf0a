//! What a method says about a batch, and the scored rows of a whole set: the only place that averages.

use burn::prelude::*;
use burn::tensor::activation::softmax;
use data::Batch;
use serde::{Deserialize, Serialize};

/// A method's answer to a batch: one or more samples (passes of one model, or members of an ensemble).
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Logits of the choices, absent ones at minus infinity: `[samples, batch, choices]`.
    pub choice_logits: Tensor<3>,
    /// FLU of each question, where the adapter has routers: `[batch]`.
    pub flu: Option<Tensor<1>>,
}

/// The logits of each row's own choices; absent ones at minus infinity.
///
/// # Shapes
/// - logits: `[batch, vocabulary]`, output: `[batch, choices]`
pub fn choice_logits(logits: Tensor<2>, batch: &Batch) -> Tensor<2> {
    logits
        .gather(1, batch.labels.clone())
        .mask_fill(batch.no_choice.clone(), f32::NEG_INFINITY)
}

impl Prediction {
    /// Mean of the samples' probabilities (not of their logits), `[batch, choices]`.
    pub fn probabilities(&self) -> Tensor<2> {
        softmax(self.choice_logits.clone(), 2)
            .mean_dim(0)
            .squeeze_dim(0)
    }

    /// Reads the prediction to the host, a row a question.
    pub fn rows(&self, batch: &Batch) -> Vec<ScoredRow> {
        let [samples, rows, choices] = self.choice_logits.dims();
        let read = |t: Tensor<2>| -> Vec<f64> {
            t.into_data()
                .try_into_vec_as()
                .expect("floats convert to f64")
        };
        let probabilities = read(self.probabilities());
        let logits = read(
            self.choice_logits
                .clone()
                .mean_dim(0)
                .reshape([rows, choices]),
        );
        let answers: Vec<i64> = batch
            .answers
            .clone()
            .into_data()
            .try_into_vec_as()
            .expect("integers convert");
        let flu: Option<Vec<f64>> = self.flu.clone().map(|flu| {
            flu.into_data()
                .try_into_vec_as()
                .expect("floats convert to f64")
        });
        (0..rows)
            .map(|row| {
                let own = row * choices..row * choices + batch.choices[row];
                ScoredRow {
                    id: batch.ids[row].clone(),
                    label: answers[row] as usize,
                    // The mean logit of several samples is not the logit of their mean probability.
                    logits: match samples {
                        1 => logits[own.clone()].to_vec(),
                        _ => probabilities[own.clone()]
                            .iter()
                            .map(|p| p.max(1e-12).ln())
                            .collect(),
                    },
                    probabilities: probabilities[own].to_vec(),
                    flu: flu.as_ref().map(|flu| flu[row]),
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
    pub logits: Vec<f64>,
    /// Probabilities of its choices.
    pub probabilities: Vec<f64>,
    /// Functional-level uncertainty, high = certain; absent without routers.
    pub flu: Option<f64>,
}

impl ScoredRow {
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
