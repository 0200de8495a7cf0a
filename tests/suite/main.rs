//! The integration suite, one binary. Tests of tensors loop over every compiled backend whose
//! device is really there, so `cargo test --features cuda` is all that a user with a GPU types.
#![recursion_limit = "256"]

/// Counts where a test asks for it.
#[global_allocator]
static ALLOCATOR: support::allocation::Counting = support::allocation::Counting;

mod adapters;
mod answer_files;
mod any_dataset;
mod calibration;
mod chat;
mod choice_losses;
mod command_line;
mod configs;
mod contributing;
mod crash;
mod datasets;
mod every_prompt;
mod export;
mod families;
mod forms;
mod fuzz;
mod gguf;
mod housekeeping;
mod hub;
mod imports;
mod invariants;
mod kernels;
mod language_part;
mod library;
mod malformed;
mod manners;
mod measures;
mod methods;
mod metrics;
mod models;
mod nested_parquet;
mod openai;
mod own_data;
mod parity;
mod predict;
mod prequential;
mod readme;
mod reliability;
mod serve;
mod serve_limits;
mod shots;
mod side_by_side;
mod smollm2;
mod support;
mod tables;
mod training;
mod trial;
mod weight_types;
mod writing;
