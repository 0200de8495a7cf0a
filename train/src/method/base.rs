//! The base model, zero-shot.

use std::sync::Arc;

use data::Batch;
use model::AdapterConfig;

use super::{Entry, Method, Training};
use crate::forward::Reading;
use crate::loss::Objective;
use crate::loss::cross_entropy::{self, CrossEntropy};

/// The entry of `base`.
pub const ENTRY: Entry = Entry {
    name: "base",
    about: "the model as it is, no adaptation",
    trained_as: |_| "base",
    trains_with: &[],
    asks_with: &[],
    ranges: &[],
    fixes: |_| {},
    construct: |_| Arc::new(Base),
};

/// The base model, unchanged.
#[derive(Debug)]
pub struct Base;

impl Training for Base {
    fn adapter(&self) -> AdapterConfig {
        AdapterConfig::None
    }

    fn objective(&self, reading: &Reading, batch: &Batch) -> Objective {
        Objective {
            terms: vec![cross_entropy::term(
                CrossEntropy::Answer,
                reading,
                batch,
                None,
            )],
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
