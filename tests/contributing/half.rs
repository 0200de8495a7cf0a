//! LoRA with its logits halved: an example.

use std::sync::Arc;

use data::Batch;
use model::Llama;

use super::lora::{self, Lora};
use super::{Entry, FitContext, Members, Method, Predictor, Training};
use crate::error::TrainError;
use crate::functional_uncertainty::FluTokens;
use crate::prediction::Prediction;

/// The entry of `half`. It queries LoRA's training, so what it does not say is as in LoRA's entry.
pub const ENTRY: Entry = Entry {
    name: "half",
    about: "LoRA with its logits halved",
    construct: |config| Arc::new(Half(Lora::new(&config.adapter, &config.objective))),
    ..lora::ENTRY
};

/// A LoRA whose logits are divided by 2.
#[derive(Debug)]
pub struct Half(Lora);

impl Method for Half {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn training(&self) -> &dyn Training {
        &self.0
    }

    fn fit(&self, members: Vec<Llama>, _: &FitContext) -> Result<Box<dyn Predictor>, TrainError> {
        Ok(Box::new(Halved(Members::new(
            members,
            FluTokens::default(),
        ))))
    }
}

struct Halved(Members);

impl Predictor for Halved {
    fn predict(&self, batch: &Batch) -> Prediction {
        let mut prediction = self.0.predict(batch);
        prediction.choice_logits = prediction.choice_logits / 2.0;
        prediction
    }

    fn forward_passes(&self) -> usize {
        self.0.forward_passes()
    }
}
