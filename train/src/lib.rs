//! Everything that needs both data and model: losses, methods, the fine-tuning recipe, calibration metrics, dashboard, report.
//!
//! | module | content |
//! |---|---|
//! | [`fine_tune`] | the recipe on one page |
//! | [`fitted`] | a finished run: loaded, fitted, asked |
//! | [`prepare`] | model and questions before the first step |
//! | [`training`] | one training through burn's Learner |
//! | [`writing`] | answers in the model's own words |
//! | [`evaluation`] | scoring questions with a fitted method |
//! | [`config`] | a run's settings, strict |
//! | [`method`] | one row of the paper's table one file |
//! | [`loss`] | cross-entropy, load balancing, calibration |
//! | [`step`] | burn's `TrainStep` and `InferenceStep` around a method's objective |
//! | [`prediction`] | what a method says about a batch, and the scored rows of a whole set |
//! | [`answering`] | a finished run answers questions of the user's own |
//! | [`export`] | an adapter for others with its calibration, and theirs to start from |
//! | [`recompute`] | gradients with the memory of one layer |
//! | [`optimizer`] | AdamW in one pass over memory |
//! | [`posthoc`] | temperature, conformal sets, confidence from softmax and FLU: fitted on held-out predictions |
//! | [`metric`] | pure functions over the whole set; `live` wraps them as burn metrics |
//! | [`checkpoint`] | resume at an optimizer step |
//! | [`run_directory`] | what a run leaves on disk |
//! | [`provenance`] | from what a run is made |
//! | [`tracker`] | metrics as a log, a table and TensorBoard's events |
//! | [`reference`](mod@reference) | every setting with its default and meaning |
//! | [`telemetry`] | where a run's numbers go while it runs |
//! | [`dashboard`] | the terminal dashboard |
//! | [`report`] | `report.html` and `report.md` |
//! | [`reproduce`] | the paper's tables: plan, work, results |
#![recursion_limit = "256"]

pub mod answering;
pub mod checkpoint;
pub mod config;
pub mod dashboard;
pub mod error;
pub mod estimate;
pub mod evaluation;
pub mod export;
pub mod fine_tune;
pub mod fitted;
mod linear_algebra;
pub mod loss;
pub mod method;
pub mod metric;
pub mod optimizer;
pub mod posthoc;
pub mod prediction;
pub mod prepare;
pub mod provenance;
pub mod recompute;
pub mod reference;
pub mod report;
pub mod reproduce;
pub mod run_directory;
pub mod step;
pub mod telemetry;
pub mod tracker;
pub mod training;
pub mod writing;

pub use config::RunConfig;
pub use error::TrainError;
