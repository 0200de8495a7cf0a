//! One file a verb. `dataset`, `flags` and `process` hold what several of them need, `crash` what a
//! user sees of a fault.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod compare;
pub mod crash;
mod data;
mod dataset;
mod doctor;
mod evaluate;
mod export;
mod figures;
mod flags;
mod init;
mod models;
mod newest;
mod predict;
mod process;
mod reproduce;
mod runs;
mod serve;
mod short;
mod train;

/// Fine-tune a language model and know how far its confidence can be trusted.
#[derive(Debug, Parser)]
#[command(name = "uq4ct", version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Fine-tune on a dataset, score it, write a report.
    Train(train::TrainArgs),
    /// Score a finished run on other datasets, or ask it by another method.
    Evaluate(evaluate::EvaluateArgs),
    /// Answer questions of your own with a finished run, or abstain.
    Predict(predict::PredictArgs),
    /// Write a run's adapter for others: peft, MixLoRA, a merged model.
    Export(export::ExportArgs),
    /// Look at a file of your own before training on it.
    #[command(subcommand)]
    Data(data::DataVerb),
    /// Write a commented file of settings to start from.
    Init(init::InitArgs),
    /// List runs with their key figures.
    Runs(runs::RunsArgs),
    /// List the models that have a short name, with their licences.
    Models(models::ModelsArgs),
    /// Say what is there (devices, memory, caches, Hub, pip), and what to do about what is not.
    Doctor(doctor::DoctorArgs),
    /// Answer questions over HTTP, with a page to try it.
    Serve(serve::ServeArgs),
    /// Finished runs side by side, with paired tests.
    Compare(compare::CompareArgs),
    /// A table of the paper: train and score what it compares, once each.
    Reproduce(reproduce::ReproduceArgs),
}

/// `uq4ct train` alone.
#[derive(Debug, Parser)]
#[command(
    name = "train",
    version,
    about = "Fine-tune on a dataset, score it, write a report."
)]
struct TrainCli {
    #[command(flatten)]
    args: train::TrainArgs,
}

/// `uq4ct <verb>`
pub fn main() -> ExitCode {
    crash::guarded(|| chosen(Cli::parse()))
}

fn chosen(cli: Cli) -> ExitCode {
    finish(match cli.verb {
        Verb::Train(args) => train::run(args),
        Verb::Evaluate(args) => evaluate::run(args),
        Verb::Predict(args) => predict::run(args),
        Verb::Export(args) => export::run(&args),
        Verb::Runs(args) => runs::run(&args),
        Verb::Models(args) => models::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Serve(args) => serve::run(args),
        Verb::Data(verb) => data::run(verb),
        Verb::Init(args) => init::run(&args),
        Verb::Compare(args) => compare::run(&args),
        Verb::Reproduce(args) => reproduce::run(args),
    })
}

/// `train`
pub fn train_main() -> ExitCode {
    crash::guarded(|| finish(train::run(TrainCli::parse().args)))
}

/// Prints an error with its causes. The exit code tells success from failure and from a stop on
/// request.
fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        process::tell(format_args!("error: {}", with_causes(&error)));
        ExitCode::FAILURE
    })
}

/// The message of an error and of its causes. A cause whose text the message holds already is not
/// said twice.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
