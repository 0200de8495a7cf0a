//! The base model, zero-shot.

use data::Batch;
use model::{AdapterConfig, LlamaOutput};

use super::{Method, answer_logits};
use crate::loss::{Objective, Term, cross_entropy};

/// `base`
#[derive(Debug)]
pub struct Base;

impl Method for Base {
    fn name(&self) -> &'static str {
        "base"
    }

    fn adapter(&self) -> AdapterConfig {
        AdapterConfig::None
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        let logits = answer_logits(output, batch);
        Objective {
            terms: vec![Term {
                name: "cross_entropy",
                value: cross_entropy::answer(logits, batch.answer_tokens.clone()),
                weight: 1.0,
            }],
        }
    }
}
