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
    assert!(printed.contains("BAD   model of the main job"), "{printed}");
    assert!(printed.contains("ok    devices: cpu"), "{printed}");
    let (_, list, _) = outcome(root.path(), &["doctor", "--offline", "--json"]);
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    assert!(
        list.iter()
            .any(|f| f["what"] == "memory" && f["verdict"] != "bad")
    );
}
