//! Everything that needs both data and model: losses, methods, the fine-tuning recipe, calibration
//! metrics, dashboard, report.
//!
//! To depend on it: `train = { package = "uq4ct-train", path = ".." }`. `docs/library.md` has more.
//!
//! From settings to figures, on a model of random weights:
//!
//! ```
//! use burn::data::dataloader::batcher::Batcher;
//! use burn::tensor::{Device, FloatDType};
//! use data::{EncodedQuestion, QuestionBatcher};
//! use model::Llama;
//! use model::load::tiny::{self, RandomWeights};
//! use train::config::ConfigLayers;
//! use train::method::FitContext;
//! use train::metric::Metrics;
//! use train::registry;
//!
//! // A preset, and what is changed in it.
//! let mut layers = ConfigLayers::default();
//! layers.method("uq4ct")?;
//! layers.set("adapter.rank=4")?;
//! let config = layers.resolve()?;
//!
//! // The method says what is trained. Here the adapter stays as it was drawn.
//! let device = Device::flex();
//! let shape = tiny::config(300);
//! let mut weights = RandomWeights::new(shape.clone(), 0);
//! let base = Llama::load(&shape, &mut weights, 64, FloatDType::F32, &device)?;
//! let method = registry::build(&config)?;
//! let member = base.attach(&method.adapter(), config.train.seed)?;
//!
//! // Fitted on its members, the method answers.
//! let predictor = method.fit(vec![member], &FitContext::without_questions(&device))?;
//! let asked = vec![EncodedQuestion::lettered("q", vec![5, 17, 42], &[100, 103], 0)];
//! let batch = QuestionBatcher::default().batch(asked, &device);
//! let rows = predictor.predict(&batch).rows(&batch)?;
//! assert!(rows[0].flu.is_some_and(|flu| flu > 0.0));
//!
//! // Figures are taken over the whole set.
//! let figures = Metrics::of(&rows, config.evaluation.bins, config.bootstrap());
//! assert_eq!(figures.n, 1);
//! # Ok::<(), train::TrainError>(())
//! ```
//!
//! Imports flow down this table.
//!
//! | module | content |
//! |---|---|
//! | [`reproduce`] | the paper's tables: plan, work, results |
//! | [`fine_tune`] | the recipe on one page |
//! | [`elsewhere`] | a finished run scored on other questions |
//! | [`answering`] | a finished run answers questions of the user's own |
//! | [`export`] | an adapter for others with its calibration, and theirs to start from |
//! | [`fitted`] | a finished run: open, score, answer |
//! | [`report`] | `report.html` and `report.md` |
//! | [`evaluation`] | scoring questions with a fitted method |
//! | [`writing`] | answers in the model's own words |
//! | [`trial`] | a base model tried on a few questions in every way |
//! | [`passes`], [`card`] | how many tokens a graphics card takes at once; its memory |
//! | [`warm`] | what a graphics card compiles, ahead |
//! | [`pace`] | how fast this machine is at a run's own work |
//! | [`prepare`] | model and questions before the first step |
//! | [`estimate`] | what a run will need |
//! | [`training`] | one training through burn's Learner |
//! | [`checkpoint`] | resume at an optimizer step |
//! | [`context`] | where and how a run happens |
//! | [`provenance`] | what a run was made of |
//! | [`run_directory`] | what a run leaves on disk |
//! | [`lock`] | who works on a directory or a file |
//! | [`telemetry`] | where a run's numbers go while it runs |
//! | [`dashboard`] | the terminal dashboard |
//! | [`tracker`] | metrics as a log, a table and TensorBoard's events |
//! | [`alarm`] | what goes wrong in a training although it goes on |
//! | [`step`] | burn's `TrainStep` and `InferenceStep` around a method's objective |
//! | [`gradient`] | the norm of a step's gradient |
//! | [`recompute`] | gradients with the memory of one layer |
//! | [`optimizer`] | AdamW in one pass over memory, and its learning rate |
//! | [`reference`](mod@reference) | every setting with its default and meaning |
//! | [`resolve`] | settings checked against ranges, dataset and method |
//! | [`registry`] | every method by its name |
//! | [`method`] | one row of the paper's table one file |
//! | [`way`] | ways of putting questions, and which are free |
//! | [`config`] | the settings of a run, strict |
//! | [`prequential`] | first answers to the training questions, and their temperature |
//! | [`posthoc`] | temperature, conformal sets, confidence from softmax and FLU |
//! | [`metric`] | pure functions over the whole set; `live` wraps them as burn metrics |
//! | [`prediction`] | what a method says about a batch, and the scored rows of a whole set |
//! | [`loss`] | cross-entropy, load balancing, calibration |
//! | [`forward`] | one forward pass: what goes in, what is read from it |
//! | [`functional_uncertainty`] | FLU, and over which tokens it is taken |
#![recursion_limit = "256"]

pub mod alarm;
pub mod answering;
pub mod card;
pub mod checkpoint;
pub mod config;
pub mod context;
pub mod dashboard;
pub mod elsewhere;
pub mod error;
pub mod estimate;
pub mod evaluation;
pub mod export;
pub mod fine_tune;
pub mod fitted;
pub mod forward;
pub mod functional_uncertainty;
pub mod gradient;
mod json_lines;
mod linear_algebra;
pub mod lock;
pub mod loss;
pub mod method;
pub mod metric;
pub mod optimizer;
pub mod pace;
pub mod passes;
pub mod posthoc;
pub mod prediction;
pub mod prepare;
pub mod prequential;
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
pub mod trial;
pub mod warm;
pub mod way;
pub mod writing;

pub use config::RunConfig;
pub use error::TrainError;
