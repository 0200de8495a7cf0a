//! One file a verb. `dataset`, `flags` and `process` hold what several of them need, `crash` what a
//! user sees of a fault.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

mod compare;
mod completions;
pub mod crash;
mod data;
mod dataset;
mod doctor;
mod download;
mod evaluate;
mod examples;
mod export;
mod figures;
mod flags;
mod init;
mod manners;
mod models;
mod newest;
mod predict;
mod process;
mod reproduce;
mod runs;
mod serve;
mod short;
mod sweep;
mod train;
mod usage;
mod warm;

/// Fine-tune a language model and know how far its confidence can be trusted.
#[derive(Debug, Parser)]
#[command(name = "uq4ct", version, about)]
struct Cli {
    #[command(flatten)]
    manners: manners::Manners,
    #[command(subcommand)]
    verb: Verb,
}

/// In the order of the work.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what is there (devices, memory, caches, Hub, pip), and what to do about what is not.
    Doctor(doctor::DoctorArgs),
    /// List the models that have a short name, with their licences.
    Models(models::ModelsArgs),
    /// Fetch models and questions ahead of time.
    Download(download::DownloadArgs),
    /// Compile and tune ahead what a graphics card needs for a training.
    Warm(warm::WarmArgs),
    /// Look at a file of your own before training on it.
    #[command(subcommand)]
    Data(data::DataVerb),
    /// Write a commented file of settings to start from.
    Init(init::InitArgs),
    /// Fine-tune on a dataset, score it, write a report.
    Train(train::TrainArgs),
    /// List runs with their key figures.
    Runs(runs::RunsArgs),
    /// Score a finished run on other datasets, or ask it by another method.
    Evaluate(evaluate::EvaluateArgs),
    /// Finished runs side by side, with paired tests.
    Compare(compare::CompareArgs),
    /// Answer questions of your own with a finished run, or abstain.
    Predict(predict::PredictArgs),
    /// Answer questions over HTTP, with a page to try it.
    Serve(serve::ServeArgs),
    /// Write a run's adapter for others: peft, MixLoRA, a merged model.
    Export(export::ExportArgs),
    /// Make a table of the UQ4CT paper: train and score its rows, once each.
    Reproduce(reproduce::ReproduceArgs),
    /// Print what completes commands in your shell.
    Completions(completions::CompletionsArgs),
    /// Write the manual's pages.
    Man(completions::ManArgs),
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
    manners: manners::Manners,
    #[command(flatten)]
    args: train::TrainArgs,
}

/// `uq4ct`, with the examples of its verbs.
pub fn command() -> clap::Command {
    with_examples(Cli::command())
}

/// A command with examples below the long help of it and of what is below it.
fn with_examples(mut command: clap::Command) -> clap::Command {
    let below: Vec<String> = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .collect();
    for verb in below {
        command = command.mut_subcommand(verb, with_examples);
    }
    match examples::text(command.get_name()) {
        Some(text) => command.after_long_help(text),
        None => command,
    }
}

/// The words of the command line, or its end with help or a refusal.
fn parsed<T: FromArgMatches>(command: clap::Command) -> T {
    let command = command.color(manners::help_color(std::env::args_os()));
    let matches = command.clone().get_matches();
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command.clone()).exit())
}

/// `uq4ct <verb>`
pub fn main() -> ExitCode {
    crash::guarded(|| chosen(parsed(command())))
}

fn chosen(cli: Cli) -> ExitCode {
    cli.manners.adopt();
    finish(match cli.verb {
        Verb::Train(args) => train::run(args),
        Verb::Evaluate(args) => evaluate::run(args),
        Verb::Predict(args) => predict::run(args),
        Verb::Export(args) => export::run(&args),
        Verb::Runs(args) => runs::run(&args),
        Verb::Models(args) => models::run(&args),
        Verb::Download(args) => download::run(&args),
        Verb::Warm(args) => warm::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Serve(args) => serve::run(args),
        Verb::Data(verb) => data::run(verb),
        Verb::Init(args) => init::run(&args),
        Verb::Compare(args) => compare::run(&args),
        Verb::Reproduce(args) => reproduce::run(args),
        Verb::Completions(args) => completions::run(&args, command()),
        Verb::Man(args) => completions::man(&args, command()),
    })
}

/// `train`
pub fn train_main() -> ExitCode {
    crash::guarded(|| {
        let cli: TrainCli = parsed(with_examples(TrainCli::command()));
        cli.manners.adopt();
        finish(train::run(cli.args))
    })
}

/// Prints an error with its causes. The exit code tells success from failure, from a command that
/// is wrong, and from a stop on request.
fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        process::complain(format_args!("error: {}", with_causes(&error)));
        match usage::is_usage(&error) {
            true => ExitCode::from(usage::WRONG),
            false => ExitCode::FAILURE,
        }
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
