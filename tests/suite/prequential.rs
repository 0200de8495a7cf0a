//! The preset `calibrated`: a temperature from the first answers to the training questions.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::programs::{
    ASK, TINY, fails, json, json_lines, late_right, outcome, predictions, stdout, succeeds, train,
};

const CALIBRATED: [&str; 2] = ["--method", "calibrated"];

fn first_answers(directory: &Path, run: &str) -> Vec<Value> {
    json_lines(&fs::read_to_string(directory.join(run).join("prequential.jsonl")).unwrap())
}

fn temperature(directory: &Path, run: &str) -> f64 {
    let found = json(&directory.join(run).join("adapter/temperature.json"));
    found["temperature"].as_f64().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap()).collect()
}

/// The training is MixLoRA's and so are its answers; their scores are divided by the temperature.
#[test]
fn it_answers_as_mixlora_with_scores_divided_by_the_temperature() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "plain", &["--method", "mixlora"]);
    train(root, "r", &CALIBRATED);
    let first = first_answers(root, "r");
    assert_eq!(first, first_answers(root, "plain"));
    let ids: HashSet<&str> = first.iter().map(|a| a["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids.len(),
        first.len(),
        "a question is met for the first time once"
    );
    let split = &json(&root.join("r/data.json"))["split"]["used"];
    assert_eq!(split[0].as_u64().unwrap() as usize, first.len());
    let report = fs::read_to_string(root.join("r/report.md")).unwrap();
    let (right, late) = late_right(&first);
    let accuracy = 100.0 * right as f64 / late as f64;
    let line = format!("- First answers: accuracy {accuracy:.1} ");
    assert!(report.contains(&line), "{line} {report}");
    // Held-out questions calibrate nothing here.
    assert!(
        report.contains("No held-out question changes it."),
        "{report}"
    );
    assert!(
        !report.contains("Confidence by temperature scaling"),
        "{report}"
    );
    let figures = json(&root.join("r/evaluation/boolq/metrics.json"));
    assert!(figures["calibrated"].get("trust").is_none());
    let temperature = temperature(root, "r");
    assert!(temperature > 0.0 && temperature != 1.0);
    let (plain, calibrated) = (predictions(root, "plain"), predictions(root, "r"));
    assert_eq!(plain.len(), calibrated.len());
    for (plain, calibrated) in plain.iter().zip(&calibrated) {
        assert_eq!(plain["flu"], calibrated["flu"]);
        let scaled = numbers(&calibrated["logits"]);
        for (logit, scaled) in numbers(&plain["logits"]).iter().zip(scaled) {
            assert!((logit / temperature - scaled).abs() < 1e-5);
        }
    }
}

/// The temperature lies beside the adapter and goes with every export: no held-out answer is
/// needed.
#[test]
fn its_state_is_in_the_adapter_and_in_the_export() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &CALIBRATED);
    let ask = [&ASK[..], &["--json"]].concat();
    let answer = |root: &Path| -> Value { json_lines(&stdout(root, &ask)).remove(0) };
    let whole = answer(root);
    assert_eq!(whole["confidence"], whole["probability"]);
    assert!(!whole["set"].as_array().unwrap().is_empty());
    fs::remove_dir_all(root.join("r/evaluation")).unwrap();
    let alone = answer(root);
    assert_eq!(alone["confidence"], whole["confidence"]);
    assert!(
        alone.get("set").is_none(),
        "a set needs held-out answers: {alone}"
    );

    train(root, "other", &CALIBRATED);
    succeeds(
        root,
        &["export", "other", "--format", "uq4ct", "--output", "out"],
    );
    let card = json(&root.join("out/uq.json"));
    let kept = card["prequential"]["temperature"].as_f64().unwrap();
    assert_eq!(kept, temperature(root, "other"));
    let from = ["--adapter", "out", "--set", "train.max_steps=0"];
    train(root, "again", &[&CALIBRATED[..], &from].concat());
    // Trained further, it may meet questions that it knows.
    let on = [&TINY[..], &CALIBRATED, &["--run", "on", "--adapter", "out"]].concat();
    let said = succeeds(root, &on);
    assert!(said.contains("is no first answer"), "{said}");
    assert_eq!(temperature(root, "again"), kept);
    let (one, two) = (predictions(root, "other"), predictions(root, "again"));
    for (one, two) in one.iter().zip(&two) {
        let two = numbers(&two["probabilities"]);
        for (one, two) in numbers(&one["probabilities"]).iter().zip(two) {
            assert!((one - two).abs() < 1e-6);
        }
    }
}

#[test]
fn what_has_no_first_answers_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &CALIBRATED);
    fs::remove_file(root.join("r/adapter/temperature.json")).unwrap();
    fails(root, &ASK, &["method.temperature", "kept no first answers"]);
    let written = [
        "train",
        "--model",
        "tiny",
        "--dataset",
        "triviaqa",
        "--plain",
        "--method",
        "calibrated",
    ];
    fails(root, &written, &["method.temperature", "open-ended"]);
    let unread = [
        "--method",
        "spuq",
        "--set",
        "method.temperature=prequential",
    ];
    let (code, _, err) = outcome(root, &[&TINY[..], &unread[..]].concat());
    assert!(code != 0 && err.contains("method.temperature"), "{err}");
}

/// In a table nothing is asked twice: the answers are those of the row without the temperature.
#[test]
fn a_table_asks_once_for_both_rows() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let words = [
        "reproduce",
        "table1",
        "--model",
        "tiny",
        "--plain",
        "--seeds",
        "1",
    ];
    let rows = ["--on", "openbookqa,arc-easy", "--methods", "Calibrated"];
    succeeds(root, &[&words[..], &rows[..]].concat());
    let folders = fs::read_dir(root.join("runs/evaluations")).unwrap();
    let folders: Vec<_> = folders.map(|folder| folder.unwrap().path()).collect();
    let of = |wanted: bool| {
        let scaled = |folder: &&std::path::PathBuf| {
            let settings = fs::read_to_string(folder.join("config.toml")).unwrap();
            settings.contains("temperature = \"prequential\"") == wanted
        };
        folders.iter().find(scaled).unwrap()
    };
    let training = fs::read_dir(root.join("runs/trainings")).unwrap().next();
    let temperature = temperature(&training.unwrap().unwrap().path(), "");
    for set in ["held-out", "openbookqa", "arc-easy"] {
        let rows = |folder: &Path| {
            let file = folder
                .join("evaluation")
                .join(set)
                .join("predictions.jsonl");
            json_lines(&fs::read_to_string(file).unwrap())
        };
        let cost = |folder: &Path| json(&folder.join("evaluation").join(set).join("cost.json"));
        assert_eq!(cost(of(false)), cost(of(true)), "{set} was asked twice");
        let (plain, calibrated) = (rows(of(false)), rows(of(true)));
        assert!(!plain.is_empty() && plain.len() == calibrated.len());
        for (plain, calibrated) in plain.iter().zip(&calibrated) {
            let scaled = numbers(&calibrated["logits"]);
            for (logit, scaled) in numbers(&plain["logits"]).iter().zip(scaled) {
                assert!((logit / temperature - scaled).abs() < 1e-5);
            }
        }
    }
}
