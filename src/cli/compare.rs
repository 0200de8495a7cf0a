//! `uq4ct compare`: runs side by side.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use train::reproduce::compare::compare;

use super::process::{logging, print};

/// Flags of `compare`.
#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Finished runs' directories; the first is what the others are compared with
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Dataset whose test questions are compared [default: the runs' own]
    #[arg(long)]
    on: Option<String>,
    /// Where compare.html, .md, .csv, .tex and .json are written
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

/// Runs `compare`.
pub(super) fn run(args: &CompareArgs) -> Result<ExitCode> {
    logging();
    let comparison = compare(&args.runs, args.on.as_deref())?;
    comparison.write(&args.out)?;
    print(comparison.markdown());
    let written = args.out.join("compare.html");
    print(format_args!("Written to {}", written.display()));
    Ok(ExitCode::SUCCESS)
}
