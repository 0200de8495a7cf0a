//! The base model, zero-shot.

use data::Batch;
use model::{AdapterConfig, LlamaOutput};

use super::lora::{CrossEntropy, term};
use super::{Method, Training};
use crate::loss::Objective;

/// `base`
#[derive(Debug)]
pub struct Base;

impl Training for Base {
    fn adapter(&self) -> AdapterConfig {
        AdapterConfig::None
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        Objective {
            terms: vec![term(CrossEntropy::Answer, output, batch, None)],
        }
    }
}

impl Method for Base {
    fn name(&self) -> &'static str {
        "base"
    }

    fn training(&self) -> &dyn Training {
        self
    }
}
