//! The scripts of `tests/reliability/` in their short form: real processes, real signals.

use std::path::Path;
use std::process::Command;

use crate::support::programs::text;

/// Runs a script; without Python it is left out, and says so.
fn script(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reliability");
    let mut python = Command::new("python3");
    python.arg(folder.join(name));
    python.args([env!("CARGO_BIN_EXE_uq4ct"), "--short"]);
    match python.output() {
        Ok(output) => assert!(output.status.success(), "{name}: {}", text(&output)),
        Err(error) => eprintln!("{name} was left out: python3 cannot be started: {error}"),
    }
}

#[test]
fn killed_work_ends_as_work_that_was_not() {
    script("kill.py");
}

#[test]
fn damaged_files_are_refused_by_name_or_passed_over() {
    script("torn.py");
}

#[test]
fn two_processes_do_not_write_one_place() {
    script("two_processes.py");
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_goes_away_ends_or_leaves_alone() {
    script("terminal.py");
}
