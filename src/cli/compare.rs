//! `uq4ct compare`: runs side by side.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use data::source::sha256;
use train::reproduce::alike;
use train::reproduce::compare::compare;
use train::run_directory::RunDirectory;

use super::evaluate::set_name;
use super::flags;
use super::process::{logging, print, tell};

/// Flags of `compare`.
#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Finished runs' directories; the first is what the others are compared with
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Dataset whose test questions are compared, or a file that all runs were evaluated on
    /// [default: the runs' own]
    #[arg(long, value_name = "NAME|FILE", value_parser = flags::dataset)]
    on: Option<String>,
    /// Where compare.html, .md, .csv, .tex and .json are written
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `compare`.
pub(super) fn run(args: &CompareArgs) -> Result<ExitCode> {
    logging();
    let on = args.on.as_deref().map(set_name);
    if let (Some(target), Some(name)) = (&args.on, &on)
        && name != target
    {
        scored_on(&args.runs, target, name)?;
    }
    let comparison = compare(&args.runs, on.as_deref())?;
    comparison.write(&args.out)?;
    let written = args.out.join("compare.html");
    let written = format!("Written to {}", written.display());
    if args.json {
        print(serde_json::json!({
            "dataset": comparison.dataset,
            "table": comparison.by_method,
            "differences": comparison.differences,
        }));
        tell(written);
        return Ok(ExitCode::SUCCESS);
    }
    print(comparison.markdown());
    print(written);
    Ok(ExitCode::SUCCESS)
}

/// Refuses runs that were not scored on a file of the user's own, or a dataset of the Hub.
fn scored_on(runs: &[PathBuf], target: &str, name: &str) -> Result<()> {
    let digest = sha256(target.as_ref()).ok();
    for root in runs {
        let run = RunDirectory::at(root);
        let shown = root.display();
        if !run.predictions_file(name).is_file() {
            bail!(
                "--on {target}: {shown} has not been scored on it: `uq4ct evaluate {shown} --on {target}` does that"
            );
        }
        if let Some(digest) = &digest
            && !alike::holds(&run, name, digest)?
        {
            bail!(
                "--on {target}: what {shown} was scored on under this name was another file: rename this one, and score it with `uq4ct evaluate`"
            );
        }
    }
    Ok(())
}
