//! MixLoRA and UQ4CT: the same mixture, without and with the calibration loss (Eq. 14).

use burn::prelude::*;
use data::Batch;
use model::{AdapterConfig, LlamaOutput};

use super::lora::{CrossEntropy, correct, term};
use super::{Method, Training, functional_uncertainty, read_logits};
use crate::config::RunConfig;
use crate::loss::calibration::{self, Correctness, FluTokens};
use crate::loss::load_balancing::{LoadBalancing, load_balancing};
use crate::loss::{Objective, Term};
use crate::prediction::{all_tokens_best, choice_logits};

/// `mixlora` and `uq4ct`
#[derive(Debug)]
pub struct Mixture {
    name: &'static str,
    adapter: AdapterConfig,
    scope: CrossEntropy,
    form: LoadBalancing,
    gamma: f64,
    beta: f64,
    warmup_steps: usize,
    flu_tokens: FluTokens,
    correctness: Correctness,
}

impl Mixture {
    /// Beta as the settings say.
    pub fn uq4ct(config: &RunConfig) -> Self {
        let objective = &config.objective;
        Self {
            name: "uq4ct",
            adapter: AdapterConfig::MixLora(config.adapter.mixture()),
            scope: objective.cross_entropy,
            form: objective.load_balancing,
            gamma: objective.load_balancing_weight,
            beta: objective.calibration_weight,
            warmup_steps: objective.calibration_warmup_steps,
            flu_tokens: objective.flu_tokens,
            correctness: objective.correctness,
        }
    }

    /// Beta = 0.
    pub fn mixlora(config: &RunConfig) -> Self {
        Self {
            name: "mixlora",
            beta: 0.0,
            ..Self::uq4ct(config)
        }
    }

    /// The indicator of Eq. 13, from this very forward pass.
    fn correct(&self, logits: Tensor<2>, batch: &Batch) -> Tensor<1, Bool> {
        match self.correctness {
            Correctness::Choices if !batch.written => correct(choice_logits(logits, batch), batch),
            _ => all_tokens_best(logits, batch),
        }
    }
}

impl Training for Mixture {
    fn adapter(&self) -> AdapterConfig {
        self.adapter.clone()
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        let flu = functional_uncertainty(output, batch, self.flu_tokens);
        let correct = self.correct(read_logits(output, batch), batch);
        let balance = load_balancing(&output.routing, &batch.token_mean, self.form);
        Objective {
            terms: vec![
                term(self.scope, output, batch),
                Term {
                    name: "load_balancing_loss",
                    value: balance,
                    weight: self.gamma,
                },
                Term {
                    name: "calibration_loss",
                    value: calibration::calibration_loss(flu, correct),
                    weight: calibration::beta(self.beta, self.warmup_steps, batch.step),
                },
            ],
        }
    }
}

impl Method for Mixture {
    fn name(&self) -> &'static str {
        self.name
    }

    fn training(&self) -> &dyn Training {
        self
    }

    fn flu_tokens(&self) -> FluTokens {
        self.flu_tokens
    }
}
