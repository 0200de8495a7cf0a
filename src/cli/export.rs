//! `uq4ct export`: a finished run's adapter for others.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use train::export::{Format, export};
use train::lock::{LOCK, Lock};
use train::run_directory::RunDirectory;

use super::flags::PlaceArgs;
use super::process::{logging, print, tell};
use super::usage::wrong;
use crate::kernels::Told;

/// Flags of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A finished run's directory
    run: PathBuf,
    /// The form to write the adapter in
    #[arg(long, ignore_case = true)]
    format: FormatName,
    /// Directory to write to; new or empty
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Merged: keep the base's type; where that is 16 bits, the sum is rounded to them
    #[arg(long)]
    keep_type: bool,
    /// Read it again and compare its logits with the run's
    #[arg(long)]
    verify: bool,
    /// Print what was written, and the difference, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

/// The values of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// Plain LoRA for Hugging Face's peft
    Peft,
    /// Experts as whole feed-forward blocks, for the public MixLoRA code
    Mixlora,
    /// Plain LoRA added to the base model: a whole model in safetensors
    Merged,
    /// Any adapter, in this program's own format
    Uq4ct,
}

/// Runs `export`.
pub(super) fn run(args: &ExportArgs) -> Result<ExitCode> {
    logging();
    let _lock = Lock::take(&args.output)?;
    let mut files = std::fs::read_dir(&args.output)?.flatten();
    // Another process may be trying for the lock, in a file whose name begins like it.
    if files.any(|file| !file.file_name().to_string_lossy().starts_with(LOCK)) {
        let name = args.output.display();
        bail!("{name}: is not empty: name another --output");
    }
    if args.keep_type && args.format != FormatName::Merged {
        return Err(wrong(
            "--keep-type: only --format merged writes the base model's weights",
        ));
    }
    let (_, config) = RunDirectory::open(&args.run)?;
    let _compiling = Told::start(tell);
    let setup = args.places.finished(&args.run, &config, Arc::default())?;
    let format = match args.format {
        FormatName::Peft => Format::Peft,
        FormatName::Mixlora => Format::MixLora,
        FormatName::Merged => Format::Merged {
            keep_type: args.keep_type,
        },
        FormatName::Uq4ct => Format::Own,
    };
    let exported = export(&setup, format, &args.output, args.verify)?;
    if args.json {
        print(serde_json::json!({
            "directories": exported.directories,
            "difference": exported.difference,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    for directory in &exported.directories {
        print(format_args!("Written to {}", directory.display()));
    }
    if let Some(difference) = exported.difference {
        print(format_args!(
            "Read again: logits differ by at most {difference:.1e} of the largest."
        ));
    }
    Ok(ExitCode::SUCCESS)
}
