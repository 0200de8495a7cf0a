//! The application: choose, wire, exit. It computes nothing and decides no order of work.
//!
//! | module | content |
//! |---|---|
//! | [`cli`] | `uq4ct VERB`: one file a verb |
//! | [`serve`] | a finished run over HTTP |
//! | [`backend`] | names of devices; no other file names a backend |
//! | [`kernels`] | what GPUs compile: where it is kept, how much it is |
//! | [`allocator`] | the binaries' allocator |
//!
//! Programs of your own stand on the crates below it, `data`, `model` and `train`: see
//! `docs/library.md`, and these examples, which the tests run.
//!
//! # Load a model and read its logits
//!
//! ```ignore
#![doc = include_str!("../examples/logits.rs")]
//! ```
//!
//! # Train a LoRA on rows in memory
//!
//! ```ignore
#![doc = include_str!("../examples/rows_in_memory.rs")]
//! ```
//!
//! # Answer with a calibrated confidence in a service
//!
//! ```ignore
#![doc = include_str!("../examples/calibrated_service.rs")]
//! ```
//!
//! # A method of your own
//!
//! ```ignore
#![doc = include_str!("../examples/own_method.rs")]
//! ```
#![recursion_limit = "256"]

pub mod allocator;
pub mod backend;
pub mod cli;
pub mod kernels;
pub mod serve;
