//! The paper's tables as plans of trainings and evaluations, each done once and found again by its
//! content.
//!
//! A [`Table`] names rows (methods with settings) and columns (a dataset to train on, a dataset to
//! test on). [`plan`] turns it into [`TrainingJob`]s and [`EvaluationJob`]s. Their directories are
//! named by a hash of everything that decides their content. So tables share them, an interrupted
//! run goes on, and several machines can work on one file system. [`scheduler`] does them,
//! [`records`] reads what they left, [`results`] makes figures of it, [`render`] and [`plot`] show
//! them.
//!
//! | module | content |
//! |---|---|
//! | [`tables`] | rows and columns of the paper's tables and of the ablations |
//! | [`sweep`] | a table of one's own: settings that are varied |
//! | [`options`] | what of a table is asked for |
//! | [`plan`] | rows and columns to trainings and evaluations |
//! | `places` | where they lie on disk |
//! | [`scheduler`] | what is open, in which order, what a failure does |
//! | [`work`] | one training or evaluation, idempotent |
//! | [`records`] | what trainings and evaluations left |
//! | [`archive`] | the same as one compressed columnar file |
//! | [`recorded`] | finding a finished table again, and keeping it small |
//! | [`figure`] | accuracy, ECE, NLL and the others: their names and how they are computed |
//! | [`results`] | figures over seeds |
//! | [`paired_tests`] | differences between rows on the same questions |
//! | [`render`] | Markdown, CSV, LaTeX |
//! | [`plot`] | grouped bars and curves |
//! | [`table_files`] | a table in all its forms on disk |
//! | [`paper`] | the published values |
//! | [`compare`] | finished runs side by side, without a plan |

pub mod alike;
pub mod archive;
mod caption;
mod columns;
pub mod compare;
pub mod figure;
pub mod options;
pub mod paired_tests;
pub mod paper;
mod places;
pub mod plan;
pub mod plot;
pub mod recorded;
pub mod records;
pub mod render;
pub mod results;
pub mod scheduler;
pub mod sweep;
pub mod table_files;
pub mod tables;
pub mod work;

pub use options::Options;
pub use plan::{EvaluationJob, Plan, TrainingJob};
pub use recorded::Recorded;
pub use records::Records;
pub use results::ResultTable;
pub use tables::{Column, Layout, Row, TABLES, Table};
