//! The README's and the paper's commands exist: every flag and preset that the text names is one
//! that the program knows.

use std::path::{Path, PathBuf};
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
        "download",
        "warm",
    ];
    let known: String = verbs.map(help).concat();
    // Flags of cargo, of TensorBoard, of benches/gpu.sh and of patchelf.
    let others = [
        "--bin",
        "--release",
        "--quiet",
        "--features",
        "--workspace",
        "--path",
        "--logdir",
        "--profile",
        "--test",
        "--no-run",
        "--program",
        "--set-interpreter",
        "--set-rpath",
        "--",
    ];
    let guides = [
        "README.md",
        "docs/getting-started.md",
        "docs/concepts.md",
        "docs/own-data.md",
        "docs/models.md",
        "docs/methods.md",
        "docs/backends.md",
        "docs/troubleshooting.md",
    ];
    for word in guides
        .map(file)
        .concat()
        .split(|c: char| !(c.is_alphanumeric() || c == '-'))
    {
        let is_flag = word.starts_with("--") && word.chars().any(char::is_alphabetic);
        if is_flag && !others.contains(&word) {
            assert!(known.contains(word), "a page names {word}");
        }
    }
}

#[test]
fn every_dataset_and_preset_is_in_the_help() {
    let help = help("train");
    for dataset in data::dataset::DATASETS {
        assert!(help.contains(dataset.name()), "{}", dataset.name());
    }
    for preset in train::registry::method_presets() {
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

/// Every Markdown page that a reader may come to, and its directory.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let mut pages: Vec<PathBuf> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    pages.into_iter().map(read).collect()
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.replace(' ', "-");
    let plain = |c: &char| c.is_alphanumeric() || "-_".contains(*c);
    kept.chars().filter(plain).collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut links = 0;
    for (page, text) in pages() {
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: {target}", page.display());
            if !place.is_empty() {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line) == place);
                assert!(found, "{}: {target}", page.display());
            }
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
}

#[test]
fn every_file_that_the_code_map_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["docs/code-map.md", "CONTRIBUTING.md"] {
        // Without its examples of code.
        let text: String = file(page).split("```").step_by(2).collect();
        let quoted = text.split('`').skip(1).step_by(2);
        let named = quoted.filter(|word| {
            let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
            word.contains('/') && word.chars().all(plain)
        });
        let mut files = 0;
        for name in named {
            assert!(root.join(name).exists(), "{page}: {name}");
            files += 1;
        }
        assert!(files > 5, "{page}: {files}");
    }
}
