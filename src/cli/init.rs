//! `uq4ct init`: a commented file of settings.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use train::reference;

use super::process::print;

/// Flags of `init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The file to write; - prints it
    #[arg(default_value = "uq4ct.toml")]
    file: PathBuf,
}

/// Runs `init`.
pub(super) fn run(args: &InitArgs) -> Result<ExitCode> {
    let text = reference::commented_toml();
    let name = args.file.display();
    if args.file.as_os_str() == "-" {
        print(text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.file)
        .with_context(|| format!("{name} cannot be written: name another file"))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("{name} cannot be written"))?;
    print(format_args!(
        "{name}: take the # off what you change, then: uq4ct train --config {name} --dataset boolq --dry-run"
    ));
    Ok(ExitCode::SUCCESS)
}
