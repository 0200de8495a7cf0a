//! A fault of the program itself, as its user sees it.

use std::path::Path;
use std::process::{Command, ExitCode};

/// Run by the test below, in a process of its own: a panic is for the whole process.
#[test]
#[ignore = "run by `a_panic_is_one_line_with_the_file_at_hand`"]
fn panics_while_it_reads() {
    let code = uq4ct::cli::crash::guarded(|| {
        let _at_hand = fault::reading(Path::new("runs/a/data.json"));
        assert!(fault::caught(|| panic!("for a reader to catch")).is_err());
        let choices: Vec<u32> = Vec::new();
        println!("{}", choices[4]);
        ExitCode::SUCCESS
    });
    assert_eq!(code, ExitCode::from(uq4ct::cli::crash::FAULT));
    std::process::exit(70);
}

#[test]
fn a_panic_is_one_line_with_the_file_at_hand() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::panics_while_it_reads",
            "--ignored",
            "--nocapture",
        ])
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in [
        "has a fault",
        "the index is 4",
        "crash.rs:",
        "while runs/a/data.json was read",
        "Please report",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
