//! The paper's tables as plans of trainings and evaluations, each done once and found again by its
//! content.
//!
//! A [`Table`] names rows (methods with settings) and columns (a dataset to train on, a dataset to
//! test on). [`plan`] turns it into [`TrainingJob`]s and [`EvaluationJob`]s. Their directories are named
//! by a hash of everything that decides their content. So tables share them, an interrupted run
//! goes on, and several machines can work on one file system. [`scheduler`] does them, [`results`]
//! reads what they left, [`render`] prints it.
//!
//! | module | content |
//! |---|---|
//! | [`tables`] | the paper's tables and the ablations |
//! | [`plan`] | rows and columns to trainings and evaluations |
//! | [`scheduler`] | what is open, in which order, what a failure does |
//! | [`work`] | one training or evaluation, idempotent |
//! | [`lock`] | who works on a directory |
//! | [`results`] | figures over seeds |
//! | [`render`] | Markdown, CSV, LaTeX, JSON |
//! | [`plot`] | grouped bars and curves |
//! | [`table_files`] | a table in all its forms on disk, and recorded tables |
//! | [`paper`] | the published values |

pub mod lock;
pub mod paper;
pub mod plan;
pub mod plot;
pub mod render;
pub mod results;
pub mod scheduler;
pub mod table_files;
pub mod tables;
pub mod work;

pub use plan::{EvaluationJob, Options, Plan, TrainingJob};
pub use results::ResultTable;
pub use tables::{Column, Layout, Row, TABLES, Table};
