//! How questions of the user's own are put is tried with the base model, where nobody says it.

use std::path::Path;

use crate::support::programs::{json, succeeds};

/// Questions of three choices, of which the tiny model knows nothing.
fn questions(path: &Path, rows: std::ops::Range<usize>) {
    let text: String = rows
        .map(|i| {
            let choices: Vec<String> = (0..3).map(|k| "x".repeat(1 + (i * k) % 7)).collect();
            let row = serde_json::json!({
                "question": format!("What is number {i}?"), "choices": choices, "answer": i % 3,
            });
            format!("{row}\n")
        })
        .collect();
    std::fs::write(path, text).unwrap();
}

fn settings(run: &Path) -> String {
    std::fs::read_to_string(run.join("config.toml")).unwrap()
}

#[test]
fn what_wins_on_a_slice_of_train_is_taken_said_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    questions(&folder.path().join("own.jsonl"), 0..60);
    let train = ["train", "--model", "tiny", "--plain", "--run", "r"];
    let own = ["--dataset", "own.jsonl", "--set", "train.max_steps=2"];
    let args = [&train[..], &own].concat();
    let out = succeeds(folder.path(), &args);
    assert!(out.contains("The base model on "), "{out}");
    let trial = json(&folder.path().join("r/trial.json"));
    let ways = trial["ways"].as_array().unwrap();
    let words: Vec<_> = ways
        .iter()
        .map(|way| (&way["scoring"], &way["template"]))
        .collect();
    assert_eq!(words.len(), 3, "{words:?}");
    // The first of the most right, and of those the likeliest.
    let figure = |way: &serde_json::Value, key: &str| way[key].as_f64().unwrap();
    let best = ways.iter().rev().max_by(|one, other| {
        let accuracy = figure(one, "accuracy").total_cmp(&figure(other, "accuracy"));
        let nll = figure(one, "negative_log_likelihood")
            .total_cmp(&figure(other, "negative_log_likelihood"));
        accuracy.then(nll.reverse())
    });
    let kept = settings(&folder.path().join("r"));
    for key in ["scoring", "template"] {
        let line = format!("{key} = {}", best.unwrap()[key]);
        assert!(kept.contains(&line), "{line}: {kept}");
    }
    // The same command goes on, with what was chosen.
    let again = [&args[..], &["--resume"]].concat();
    let out = succeeds(folder.path(), &again);
    assert!(!out.contains("The base model on "), "{out}");
    assert_eq!(settings(&folder.path().join("r")), kept);
    let ask = [
        "predict",
        "r",
        "--input",
        "own.jsonl",
        "--output",
        "a.jsonl",
    ];
    succeeds(folder.path(), &ask);
}

#[test]
fn what_is_said_stays_and_datasets_by_name_are_not_tried() {
    let folder = tempfile::tempdir().unwrap();
    questions(&folder.path().join("own.jsonl"), 0..60);
    let train = [
        "train",
        "--model",
        "tiny",
        "--plain",
        "--set",
        "train.max_steps=2",
    ];
    for (number, scoring) in ["letters", "cloze"].into_iter().enumerate() {
        let run = format!("r{number}");
        let said = [
            format!("data.scoring={scoring}"),
            "data.template=moe_peft".into(),
            "data.chat=off".into(),
        ];
        let sets = said.iter().flat_map(|said| ["--set", said]);
        let own = ["--dataset", "own.jsonl", "--run", &run];
        let args: Vec<&str> = train.into_iter().chain(own).chain(sets).collect();
        let out = succeeds(folder.path(), &args);
        assert!(!out.contains("The base model on "), "{out}");
        let kept = settings(&folder.path().join(&run));
        assert!(kept.contains(&format!("scoring = \"{scoring}\"")), "{kept}");
    }
    let named = ["--dataset", "arc-easy", "--run", "named"];
    let out = succeeds(folder.path(), &[&train[..], &named].concat());
    assert!(!out.contains("The base model on "), "{out}");
    assert!(!folder.path().join("named/trial.json").exists());
}

/// The check's figures are those that the base model has where it is scored by a run.
#[test]
fn the_checks_figures_are_the_base_models() {
    let folder = tempfile::tempdir().unwrap();
    questions(&folder.path().join("own.jsonl"), 0..60);
    questions(&folder.path().join("few.jsonl"), 60..90);
    let check = ["data", "check", "few.jsonl", "--model", "tiny"];
    let out = succeeds(folder.path(), &[&check[..], &["--json"]].concat());
    let start = out.find('{').unwrap();
    let mut found = serde_json::Deserializer::from_str(&out[start..]).into_iter();
    let found: serde_json::Value = found.next().unwrap().unwrap();
    let ways = found["trial"]["ways"].as_array().unwrap();
    assert_eq!(found["trial"]["questions"], 30);
    for (place, way) in ways.iter().enumerate() {
        let run = format!("r{place}");
        let sets = ["scoring", "template"].map(|key| format!("data.{key}={}", way[key]));
        let sets = sets.iter().flat_map(|said| ["--set", said]);
        let train = [
            "train", "--method", "base", "--model", "tiny", "--plain", "--run", &run,
        ];
        let files = ["--dataset", "own.jsonl", "--test", "few.jsonl"];
        let args: Vec<&str> = train.into_iter().chain(files).chain(sets).collect();
        succeeds(
            folder.path(),
            &[&args[..], &["--set", "data.chat=off"]].concat(),
        );
        let metrics = json(
            &folder
                .path()
                .join(&run)
                .join("evaluation/custom/metrics.json"),
        );
        let base = |key: &str| metrics["base"][key]["value"].as_f64().unwrap();
        for key in ["accuracy", "negative_log_likelihood"] {
            let known = way[key].as_f64().unwrap();
            assert!((known - base(key)).abs() < 1e-6, "{way} {metrics}");
        }
    }
    let none = succeeds(folder.path(), &[&check[..], &["--tried", "0"]].concat());
    assert!(!none.contains("is recommended"), "{none}");
}
