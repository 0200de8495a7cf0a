//! Everything that needs both data and model: losses, methods, the fine-tuning recipe, calibration
//! metrics, dashboard, report.
//!
//! Imports flow down this table.
//!
//! | module | content |
//! |---|---|
//! | [`reproduce`] | the paper's tables: plan, work, results |
//! | [`fine_tune`] | the recipe on one page |
//! | [`fitted`] | a finished run: open, score, answer |
//! | [`answering`] | a finished run answers questions of the user's own |
//! | [`export`] | an adapter for others with its calibration, and theirs to start from |
//! | [`report`] | `report.html` and `report.md` |
//! | [`evaluation`], [`writing`] | scoring questions with a fitted method; answers in the model's own words |
//! | [`prepare`], [`estimate`] | model and questions before the first step; what a run will need |
//! | [`training`], [`checkpoint`] | one training through burn's Learner; resume at an optimizer step |
//! | [`context`], [`provenance`], [`run_directory`] | where a run happens; what it was made of; what it leaves on disk |
//! | [`telemetry`], [`dashboard`] | where a run's numbers go while it runs; the terminal |
//! | [`tracker`] | metrics as a log, a table and TensorBoard's events |
//! | [`step`], [`recompute`], [`optimizer`] | a training step; gradients with the memory of one layer; AdamW |
//! | [`resolve`], [`reference`](mod@reference) | settings checked; every setting with its meaning |
//! | [`registry`] | every method by its name |
//! | [`method`] | one row of the paper's table one file |
//! | [`config`] | the settings of a run, strict |
//! | [`posthoc`] | temperature, conformal sets, confidence from softmax and FLU: fitted on held-out predictions |
//! | [`metric`] | pure functions over the whole set; `live` wraps them as burn metrics |
//! | [`prediction`] | what a method says about a batch, and the scored rows of a whole set |
//! | [`loss`] | cross-entropy, load balancing, calibration |
//! | [`forward`] | one forward pass: what goes in, what is read from it |
//! | [`functional_uncertainty`] | FLU, and over which tokens it is taken |
#![recursion_limit = "256"]

pub mod answering;
pub mod checkpoint;
pub mod config;
pub mod context;
pub mod dashboard;
pub mod error;
pub mod estimate;
pub mod evaluation;
pub mod export;
pub mod fine_tune;
pub mod fitted;
pub mod forward;
pub mod functional_uncertainty;
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
pub mod registry;
mod renderer;
pub mod report;
pub mod reproduce;
pub mod resolve;
pub mod run_directory;
pub mod step;
pub mod telemetry;
pub mod tracker;
pub mod training;
pub mod writing;

pub use config::RunConfig;
pub use error::TrainError;
