//! `uq4ct completions` and `uq4ct man`: what a shell and a reader of manuals get, made from the
//! flags themselves.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

use super::process::{print, tell};

/// Flags of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(ignore_case = true)]
    shell: Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Directory for every page, uq4ct.1 and one a verb [default: print uq4ct.1]
    directory: Option<PathBuf>,
}

/// Runs `completions`.
pub(super) fn run(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "uq4ct", &mut script);
    print(String::from_utf8_lossy(&script).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Runs `man`.
pub(super) fn man(args: &ManArgs, command: Command) -> Result<ExitCode> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        print(String::from_utf8_lossy(&page).trim_end());
        return Ok(ExitCode::SUCCESS);
    };
    let name = directory.display();
    std::fs::create_dir_all(directory).with_context(|| format!("{name} cannot be made"))?;
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("{name}: pages cannot be written"))?;
    tell(format_args!(
        "Written to {name}; man -l {name}/uq4ct.1 shows the first"
    ));
    Ok(ExitCode::SUCCESS)
}
