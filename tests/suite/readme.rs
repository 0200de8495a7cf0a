//! The README's and the paper's commands exist: every flag and preset that the text names is one that the program knows.

use std::path::Path;
use std::process::Command;

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn help(verb: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_uq4ct"))
        .args(verb.split(' '))
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_flag_of_the_readme_and_the_guides_is_known() {
    let verbs = [
        "train",
        "evaluate",
        "predict",
        "compare",
        "reproduce",
        "data check",
        "init",
        "serve",
        "export",
        "runs",
        "doctor",
    ];
    let known: String = verbs.map(help).concat();
    // Flags of cargo, of Rust's documentation and of TensorBoard.
    let others = [
        "--bin",
        "--release",
        "--features",
        "--workspace",
        "--examples",
        "--logdir",
        "--",
    ];
    let guides = [
        "README.md",
        "docs/own-data.md",
        "docs/troubleshooting.md",
        "docs/concepts.md",
    ];
    for word in guides
        .map(file)
        .concat()
        .split(|c: char| !(c.is_alphanumeric() || c == '-'))
    {
        let is_flag = word.starts_with("--") && word.chars().any(char::is_alphabetic);
        if is_flag && !others.contains(&word) {
            assert!(known.contains(word), "README names {word}");
        }
    }
}

#[test]
fn every_dataset_and_preset_is_in_the_help() {
    let help = help("train");
    for dataset in data::dataset::DATASETS {
        assert!(help.contains(dataset.name()), "{}", dataset.name());
    }
    for preset in train::config::method_presets() {
        assert!(help.contains(preset), "{preset}");
    }
}

#[test]
fn ci_runs_the_readmes_commands() {
    let (readme, ci) = (file("README.md"), file(".ci/run"));
    assert!(readme.contains("cargo run --bin train -- --dataset boolq"));
    assert!(ci.contains("cargo run --quiet --bin train -- --dataset boolq"));
    assert!(readme.contains("cargo test --workspace") && ci.contains("\ncargo test --workspace\n"));
}
