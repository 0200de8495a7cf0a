//! `uq4ct runs`, `uq4ct doctor`, and what a training leaves for trackers.

use serde_json::Value;

use crate::support::programs::{TINY, outcome, succeeds};

#[test]
fn runs_are_listed_with_their_figures_and_state() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    succeeds(root, &[&TINY[..], &["--run", "runs/a"]].concat());
    std::fs::create_dir_all(root.join("runs/deep/b")).unwrap();
    std::fs::copy(
        root.join("runs/a/config.toml"),
        root.join("runs/deep/b/config.toml"),
    )
    .unwrap();
    std::fs::write(root.join("runs/config.json"), "{}").unwrap();
    let printed = succeeds(root, &["runs"]);
    assert!(
        printed.contains("finished") && printed.contains("not begun"),
        "{printed}"
    );
    let (code, lines, _) = outcome(root, &["runs", "--json"]);
    let rows: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!((code, rows.len()), (0, 2));
    let text = std::fs::read_to_string(root.join("runs/a/evaluation/boolq/metrics.json")).unwrap();
    let figures: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows[0]["accuracy"], figures["tuned"]["accuracy"]["value"]);
    assert_eq!(
        rows[0]["flu_auroc"],
        figures["tuned"]["flu"]["auroc"]["value"]
    );
    assert_eq!(rows[1]["run"], "deep/b");
    assert_eq!(outcome(root, &["runs", "none"]).0, 1);
    // What is not finished says how to go on, and that command does.
    let go_on = "uq4ct train --resume runs/deep/b";
    assert_eq!(rows[1]["go_on"], go_on);
    assert_eq!(
        (&rows[1]["state"], rows[0].get("go_on")),
        (&"not begun".into(), None)
    );
    assert!(
        printed.contains(&format!("To go on:\n  {go_on}\n")),
        "{printed}"
    );
    let words: Vec<&str> = go_on.split(' ').skip(1).chain(["--plain"]).collect();
    succeeds(root, &words);
    succeeds(
        root,
        &[&TINY[..], &["--run", "runs/c", "--method", "base"]].concat(),
    );
    let sorted = |by: &str| -> Vec<Value> {
        let (_, lines, _) = outcome(root, &["runs", "--json", "--sort", by]);
        let rows = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        rows.collect()
    };
    let names = |by: &str| -> Vec<String> {
        let rows = sorted(by);
        rows.iter()
            .map(|row| row["run"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(names("name"), ["a", "c", "deep/b"]);
    assert_eq!(names("date")[2], "a");
    let figures = |by: &str, key: &str| -> Vec<f64> {
        sorted(by)
            .iter()
            .map(|row| row[key].as_f64().unwrap())
            .collect()
    };
    assert!(figures("accuracy", "accuracy").is_sorted_by(|a, b| a >= b));
    assert!(figures("ece", "expected_calibration_error").is_sorted());
    assert_eq!(outcome(root, &["runs", "--sort", "size"]).0, 2);
    // The best of runs on as many questions of one dataset are marked; a date is a minute of UTC.
    let printed = succeeds(root, &["runs", "--sort", "accuracy"]);
    let first = printed.lines().nth(3).unwrap();
    let best = format!("{:.1}*", 100.0 * figures("accuracy", "accuracy")[0]);
    assert!(first.contains(&best), "{printed}");
    let date = sorted("accuracy")[0]["date"].as_str().unwrap()[..16].replace('T', " ");
    assert!(first.contains(&date), "{printed}");
    assert!(printed.contains("* the best of the runs"), "{printed}");
}

/// And a run that replaces another leaves none of the old ones.
#[test]
fn the_table_holds_every_number_of_the_log() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    succeeds(root, &[&TINY[..], &["--run", "r"]].concat());
    let log = std::fs::read_to_string(root.join("r/metrics.jsonl")).unwrap();
    let numbers: usize = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            line["values"]
                .as_object()
                .unwrap()
                .values()
                .filter(|v| v.is_number())
                .count()
        })
        .sum();
    let table = std::fs::read_to_string(root.join("r/metrics.csv")).unwrap();
    assert_eq!(table.lines().count(), numbers + 1);
    let events = std::fs::read_dir(root.join("r")).unwrap();
    let events = events.filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("events.out.tfevents.")
    });
    assert_eq!(events.count(), 1);
    succeeds(root, &[&TINY[..], &["--run", "r", "--overwrite"]].concat());
    let again = std::fs::read_to_string(root.join("r/metrics.csv")).unwrap();
    assert_eq!(again.lines().count(), numbers + 1);
}

#[test]
fn doctor_says_what_is_missing_and_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    // Offline, with empty caches: the main job cannot run here.
    let (code, printed, _) = outcome(root.path(), &["doctor", "--offline"]);
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains("bad   model of the main job"), "{printed}");
    assert!(printed.contains("ok    devices: cpu"), "{printed}");
    let (_, list, _) = outcome(root.path(), &["doctor", "--offline", "--json"]);
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    assert!(
        list.iter()
            .any(|f| f["what"] == "memory" && f["verdict"] != "bad")
    );
    // Both say the same words.
    for finding in &list {
        let word = |key: &str| finding[key].as_str().unwrap();
        let line = format!("{:<4}  {}: ", word("verdict"), word("what"));
        assert!(printed.contains(&line), "no {line:?} in {printed}");
        let remedy = finding["remedy"].as_str();
        assert!(
            remedy.is_none_or(|text| printed.contains(text)),
            "{finding}"
        );
    }
}
