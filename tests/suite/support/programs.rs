//! The programs as a user runs them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `uq4ct` in a directory of its own.
pub(crate) fn uq4ct(directory: &Path, args: &[&str]) -> Output {
    program(env!("CARGO_BIN_EXE_uq4ct"), directory, args)
        .output()
        .unwrap()
}

/// Runs `uq4ct` with something on its standard input.
pub(crate) fn piped(directory: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = program(env!("CARGO_BIN_EXE_uq4ct"), directory, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Exit code, standard output and standard error.
pub(crate) fn outcome(directory: &Path, args: &[&str]) -> (i32, String, String) {
    let output = uq4ct(directory, args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    (code, text(&output.stdout), text(&output.stderr))
}

/// A program in a directory, without this machine's data, caches and network.
pub(crate) fn program(path: &str, directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    command
        .current_dir(directory)
        .args(args)
        .env_remove("UQ4CT_DATA")
        .env_remove("RUST_LOG")
        // As typed, not as `cargo run` starts it.
        .env_remove("CARGO_PKG_NAME")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", directory.join("hf"))
        .env("UQ4CT_CACHE", directory.join("cache"))
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
        .stdin(Stdio::null());
    command
}

/// Status, standard output and standard error, for the message of a failed test.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Everything that a command printed, which must succeed.
pub(crate) fn succeeds(directory: &Path, args: &[&str]) -> String {
    let output = uq4ct(directory, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

/// A command must fail with exit code 1 or 2, without a panic, with a message that holds `parts`.
pub(crate) fn fails(directory: &Path, args: &[&str], parts: &[&str]) {
    ends(directory, args, &[1, 2], parts);
}

/// A command that is wrong itself must be refused with exit code 2, as [`fails`] says.
pub(crate) fn refuses(directory: &Path, args: &[&str], parts: &[&str]) {
    ends(directory, args, &[2], parts);
}

fn ends(directory: &Path, args: &[&str], codes: &[i32], parts: &[&str]) {
    let output = uq4ct(directory, args);
    let text = text(&output);
    let code = output.status.code().unwrap_or(-1);
    assert!(codes.contains(&code), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(text.contains(part), "{args:?}: no {part:?} in {text}");
    }
}

/// The smallest training: seconds.
pub(crate) const TINY: [&str; 6] = ["train", "--model", "tiny", "--dataset", "boolq", "--plain"];

/// One question to the run `r`, as `predict` takes it.
pub(crate) const ASK: [&str; 8] = [
    "predict",
    "r",
    "--question",
    "is the sky blue",
    "--choice",
    "true",
    "--choice",
    "false",
];

/// Trains the tiny model in `run` below a directory.
pub(crate) fn train(directory: &Path, run: &str, more: &[&str]) {
    succeeds(directory, &[&TINY[..], &["--run", run], more].concat());
}

/// Standard output of a command, which must succeed.
pub(crate) fn stdout(directory: &Path, args: &[&str]) -> String {
    let output = uq4ct(directory, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The values of JSON lines.
pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Of a training's first answers in the second half of its steps: how many are right, and how many
/// there are.
pub(crate) fn late_right(first: &[Value]) -> (usize, usize) {
    let step = |answer: &Value| answer["step"].as_u64().unwrap();
    let half = first.iter().map(step).max().unwrap() / 2;
    let late: Vec<&Value> = first.iter().filter(|answer| step(answer) > half).collect();
    let right = late.iter().filter(|answer| {
        let probabilities = answer["probabilities"].as_array().unwrap().iter();
        let probabilities: Vec<f64> = probabilities.map(|p| p.as_f64().unwrap()).collect();
        let label = answer["label"].as_u64().unwrap() as usize;
        probabilities.iter().all(|p| *p <= probabilities[label])
    });
    (right.count(), late.len())
}

/// The value of a JSON file.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The predictions of a run on BoolQ's test questions.
pub(crate) fn predictions(directory: &Path, run: &str) -> Vec<Value> {
    let path = directory
        .join(run)
        .join("evaluation/boolq/predictions.jsonl");
    json_lines(&std::fs::read_to_string(path).unwrap())
}

/// A training of the tiny model on what a stand-in of the Hub has, with an empty cache and no pip.
pub(crate) fn train_from_hub(endpoint: &str, home: &Path) -> Command {
    std::fs::create_dir_all(home.join("data")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_uq4ct"));
    command
        .current_dir(home)
        .args(["train", "--model", "tiny", "--plain", "--data-dir", "data"])
        .args(["--overwrite", "--run", "r"])
        .args(["--set", "train.max_steps=2"])
        .args(["--set", "evaluation.bootstrap=10"])
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home.join("hf"))
        .env("UQ4CT_CACHE", home.join("cache"))
        .env("PATH", "")
        .stdin(Stdio::null());
    for name in [
        "HF_HUB_OFFLINE",
        "UQ4CT_DATA",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
    ] {
        command.env_remove(name);
    }
    command
}
