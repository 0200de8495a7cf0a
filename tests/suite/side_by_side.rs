//! Runs set side by side: only what was asked the same questions is compared, and what one command
//! has scored another one finds.

use std::path::Path;

use crate::support::programs::{
    ASK, TINY, fails, json as read_json, refuses, stdout, succeeds, train,
};

/// Questions of a user's own, from number `first` on; without ids they are numbered when read.
fn rows(first: usize, count: usize, named: bool) -> String {
    let row = |i: usize| {
        let mut row = serde_json::json!({
            "question": format!("what is {i} plus {i}"),
            "choices": [(2 * i).to_string(), (3 * i + 1).to_string()],
            "answer": 0,
        });
        if named {
            row["id"] = format!("sum-{i}").into();
        }
        format!("{row}\n")
    };
    (first..first + count).map(row).collect()
}

/// Trains on a file of one's own, a step.
fn briefly<'a>(file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = ["train", "--model", "tiny", "--plain", "--dataset", file];
    let set = [
        "--set",
        "train.max_steps=1",
        "--set",
        "data.scoring=letters",
    ];
    [&own[..], &set, more].concat()
}

fn own(at: &Path, run: &str, file: &str, test: &str) {
    succeeds(at, &briefly(file, &["--test", test, "--run", run]));
}

/// Asks a run a question of such files.
fn ask<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let ask = ["predict", run, "--question", "what is 1"];
    [&ask[..], &["--choice", "1", "--choice", "2"], more].concat()
}

#[test]
fn numbered_rows_of_different_files_are_not_compared() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    for (name, first, count, named) in [
        ("train.jsonl", 1, 30, false),
        ("one.jsonl", 100, 8, false),
        ("two.jsonl", 200, 8, false),
        ("named.jsonl", 100, 8, true),
        ("fewer.jsonl", 100, 6, true),
    ] {
        std::fs::write(at.join(name), rows(first, count, named)).unwrap();
    }
    own(at, "a", "train.jsonl", "one.jsonl");
    own(at, "b", "train.jsonl", "two.jsonl");
    own(at, "c", "train.jsonl", "one.jsonl");
    succeeds(at, &["compare", "a", "c"]);
    let numbered = ["one.jsonl", "two.jsonl", "without an id"];
    fails(at, &["compare", "a", "b"], &numbered);
    fails(at, &["evaluate", "a", "b", "--on", "custom"], &numbered);
    // With names, questions that both were asked are compared, whatever the files.
    own(at, "d", "train.jsonl", "named.jsonl");
    own(at, "e", "train.jsonl", "fewer.jsonl");
    assert!(succeeds(at, &["compare", "d", "e"]).contains("(n = 6)"));
    succeeds(at, &["evaluate", "d", "e", "--on", "custom"]);
    // One name, and another answer.
    let other = rows(100, 8, true).replace("\"answer\":0", "\"answer\":1");
    std::fs::write(at.join("other.jsonl"), other).unwrap();
    own(at, "f", "train.jsonl", "other.jsonl");
    fails(
        at,
        &["compare", "d", "f"],
        &["different questions", "sum-100"],
    );
}

/// What is refused costs nothing that was there.
#[test]
fn an_overwriting_training_that_is_refused_leaves_the_old_run() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    train(at, "r", &[]);
    let before = stdout(at, &ASK);
    let files = || {
        let mut all: Vec<_> = std::fs::read_dir(at.join("r"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        all.sort();
        all
    };
    let there = files();
    let pissa = "adapter.init_lora_weights=pissa";
    let absent = "adapter.target_modules=['layers.9.self_attn.q_proj']";
    for (method, wrong, named) in [
        ("lora", pissa, "PiSSA"),
        ("deep_ensemble", pissa, "PiSSA"),
        ("lora", absent, "fits no projection"),
    ] {
        let rest = [
            "--run",
            "r",
            "--overwrite",
            "--method",
            method,
            "--set",
            wrong,
        ];
        fails(at, &[&TINY[..], &rest].concat(), &[named]);
        assert_eq!(
            (stdout(at, &ASK), files()),
            (before.clone(), there.clone()),
            "{wrong}"
        );
    }
    let again = [
        &TINY[..],
        &["--run", "r", "--overwrite", "--method", "lora"],
    ]
    .concat();
    succeeds(at, &again);
    assert_ne!(stdout(at, &ASK), before);
}

/// Rows of one table are of the same questions, and a fit is of those that the run knows.
#[test]
fn files_that_have_changed_are_not_mixed_with_what_was_made_of_them() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    std::fs::write(at.join("q.jsonl"), rows(1, 40, true)).unwrap();
    std::fs::write(at.join("t.jsonl"), rows(100, 12, true)).unwrap();
    let lora = ["--method", "lora"];
    let tested = briefly("q.jsonl", &[&lora[..], &["--test", "t.jsonl"]].concat());
    succeeds(at, &[&tested[..], &["--run", "l"]].concat());
    let custom = ["evaluate", "l", "--on", "custom", "--method", "mc_dropout"];
    let said = stdout(at, &[&custom[..], &["--json"]].concat());
    assert!(
        said.contains("\"tuned\"") && !said.contains("with_temperature"),
        "what nothing was calibrated on has no such figures: {said}"
    );
    let sweep = [&tested[..], &["--sweep"]].concat();
    succeeds(at, &[&sweep[..], &["train.learning_rate=1e-3"]].concat());
    // Another test file of the same name.
    std::fs::write(at.join("t.jsonl"), rows(200, 10, true)).unwrap();
    let more = [&sweep[..], &["train.learning_rate=1e-3,1e-2"]].concat();
    fails(at, &more, &["t.jsonl", "has changed since"]);
    fails(at, &custom, &["t.jsonl", "has changed since"]);
    // A method that is fitted on the training questions does not take others.
    let last = ["--method", "laplace-last", "--run", "a"];
    succeeds(at, &briefly("q.jsonl", &last));
    std::fs::write(at.join("q.jsonl"), rows(300, 40, true)).unwrap();
    fails(at, &ask("a", &[]), &["q.jsonl", "has changed since"]);
    // What needs none of them still answers.
    succeeds(at, &ask("l", &[]));
}

#[test]
fn a_run_beside_itself_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    train(at, "a", &[]);
    fails(at, &["compare", "a", "./a"], &["./a stands twice"]);
}

/// Intervals and promises count questions, and one that is asked again tells nothing new.
#[test]
fn repeated_questions_count_once() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    std::fs::write(at.join("q.jsonl"), rows(1, 40, true)).unwrap();
    let repeats: String = (0..30).map(|_| rows(100, 2, false)).collect();
    std::fs::write(at.join("t.jsonl"), repeats).unwrap();
    own(at, "a", "q.jsonl", "t.jsonl");
    let known = read_json(&at.join("a/data.json"));
    assert_eq!(known["split"]["used"][2], 2, "{known}");
    let said = succeeds(at, &["evaluate", "a", "--on", "t.jsonl"]);
    assert!(
        said.contains("58 row(s) that repeat one of the other 2"),
        "{said}"
    );
    let held_out = ["--held-out", "t.jsonl", "--overwrite", "--run", "a"];
    succeeds(at, &briefly("q.jsonl", &held_out));
    let risk = ask("a", &["--target-risk", "0.3"]);
    fails(at, &risk, &["held-out questions"]);
}

/// A base model's answers that were changed are not left out without a word.
#[test]
fn a_damaged_file_of_the_base_model_is_named() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    train(at, "a", &[]);
    train(at, "b", &["--method", "lora"]);
    let compare = ["compare", "a", "b"];
    succeeds(at, &compare);
    let file = at.join("a/evaluation/boolq/base-predictions.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replacen("true", "fals", 1).replacen('1', "2", 1),
    )
    .unwrap();
    fails(at, &compare, &["base-predictions.jsonl"]);
}

#[test]
fn a_file_is_compared_by_its_name_and_not_scored_over() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    train(at, "a", &[]);
    train(at, "b", &["--method", "lora"]);
    std::fs::create_dir(at.join("s")).unwrap();
    std::fs::write(at.join("Mine.jsonl"), rows(1, 9, false)).unwrap();
    std::fs::write(at.join("s/mine.jsonl"), rows(50, 4, false)).unwrap();
    let compare = ["compare", "a", "b", "--on", "Mine.jsonl"];
    fails(at, &compare, &["has not been scored", "uq4ct evaluate"]);
    succeeds(at, &["evaluate", "a", "b", "--on", "Mine.jsonl"]);
    assert!(succeeds(at, &compare).contains("(n = 9)"));
    let over = ["evaluate", "a", "--on", "s/mine.jsonl"];
    fails(at, &over, &["evaluation/mine", "rename the file"]);
    let other = ["compare", "a", "b", "--on", "s/mine.jsonl"];
    fails(at, &other, &["under this name was another file"]);
    // A copy is the same file, and so is one by another path.
    std::fs::copy(at.join("Mine.jsonl"), at.join("s/mine.jsonl")).unwrap();
    succeeds(at, &over);
    assert!(succeeds(at, &other).contains("(n = 9)"));
    refuses(
        at,
        &["evaluate", "a", "--on", "Mine.jsonl", "--limit", "0"],
        &["--limit 0"],
    );
    // The same file may be scored again.
    succeeds(at, &["evaluate", "a", "--on", "Mine.jsonl"]);
    assert!(succeeds(at, &compare).contains("(n = 9)"));
}

/// A file may hold what a run was trained or calibrated on; other words around it do not matter.
#[test]
fn questions_that_a_run_has_seen_are_counted() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    for (name, first, count) in [
        ("train.jsonl", 1, 30),
        ("test.jsonl", 100, 8),
        ("mixed.jsonl", 25, 10),
        ("fresh.jsonl", 200, 5),
    ] {
        std::fs::write(at.join(name), rows(first, count, false)).unwrap();
    }
    own(at, "a", "train.jsonl", "test.jsonl");
    let said = succeeds(at, &["evaluate", "a", "--on", "mixed.jsonl,fresh.jsonl"]);
    let warned = "--on mixed.jsonl: the run was trained or calibrated on 6 of these 10 questions";
    assert!(said.contains(warned), "{said}");
    assert_eq!(said.matches("trained or calibrated").count(), 1, "{said}");
    for (set, count) in [("mixed", "6 of 10"), ("fresh", "0 of 5")] {
        let report = at.join(format!("a/evaluation/{set}/report.md"));
        let report = std::fs::read_to_string(report).unwrap();
        let line = report.lines().find(|line| line.contains("Seen before"));
        assert!(line.is_some_and(|line| line.contains(count)), "{report}");
    }
    let asked = stdout(at, &["evaluate", "a", "--on", "mixed.jsonl", "--json"]);
    let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked[0]["seen"], 6);
    // A run of an earlier version does not say.
    std::fs::remove_file(at.join("a/seen.bin")).unwrap();
    let asked = stdout(at, &["evaluate", "a", "--on", "mixed.jsonl", "--json"]);
    let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
    assert!(asked[0]["seen"].is_null());
}

/// Clap leaves a `requires` out where the flag that it names conflicts with one that is given.
#[test]
fn a_flag_that_would_do_nothing_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    let ask = [
        "predict",
        "r",
        "--question",
        "q",
        "--choice",
        "a",
        "--choice",
        "b",
    ];
    let table = ["reproduce", "first-answers", "--seeds", "1"];
    let from_file = ["predict", "r", "--input", "q.jsonl"];
    let cases: [(&[&str], &[&str]); 14] = [
        (&ask, &["--output", "x"]),
        (&ask, &["--batch", "2"]),
        (&ask, &["--answer-field", "a"]),
        (&from_file, &["--choice", "a"]),
        (&from_file, &["--context", "a"]),
        (&from_file, &["--delta", "0.1"]),
        (&from_file, &["--delta", "0.1", "--coverage", "0.5"]),
        (&table, &["--keep", "k"]),
        (&table, &["--out", "k"]),
        (&table, &["--restore", "k"]),
        (&table, &["--rename", "a=b"]),
        (&TINY, &["--seed", "1", "--seeds", "5"]),
        (&TINY, &["--seeds", "3", "--overwrite"]),
        (&TINY, &["--seeds", "3", "--resume", "r"]),
    ];
    for (command, more) in cases {
        refuses(at, &[command, more].concat(), &[more[0]]);
    }
}

#[test]
fn the_pieces_of_a_sweep_are_nobodys_newest_run() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    train(at, "runs/own", &[]);
    let sweep = ["--sweep", "train.learning_rate=1e-3,1e-2"];
    let sweep = [&TINY[..], &sweep].concat();
    let planned = stdout(at, &[&sweep[..], &["--dry-run", "--json"]].concat());
    let planned: serde_json::Value = serde_json::from_str(&planned).unwrap();
    assert_eq!(planned.as_array().unwrap().len(), 4);
    assert_eq!(planned[0]["done"], false);
    let table = succeeds(at, &sweep);
    assert!(table.contains("learning rate 0.001 or 0.01,"), "{table}");
    let ask = ["predict", "--question", "is ice warm", "--choice", "true"];
    let said = succeeds(at, &[&ask[..], &["--choice", "false"]].concat());
    assert!(said.contains("The newest finished run: runs/own"), "{said}");
    fails(at, &["train", "--resume"], &["--resume: no unfinished run"]);
    let listed = succeeds(at, &["runs"]);
    assert!(!listed.contains("To go on:"), "{listed}");
}

/// A directory without a step is free for the corrected command, but only one that this program
/// began.
#[test]
fn a_foreign_directory_is_never_taken_for_an_unbegun_run() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    let settings = stdout(at, &[&TINY[..], &["--dry-run"]].concat());
    std::fs::write(at.join("config.toml"), &settings).unwrap();
    std::fs::write(at.join("data.json"), rows(1, 3, false)).unwrap();
    let here = [&TINY[..], &["--run", "."]].concat();
    fails(at, &here, &["already holds a run"]);
    let kept = std::fs::read_to_string(at.join("data.json")).unwrap();
    assert_eq!(kept, rows(1, 3, false));
}

#[test]
fn a_split_without_questions_says_why() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    std::fs::write(at.join("q.jsonl"), rows(1, 40, false)).unwrap();
    let own = [
        "train",
        "--model",
        "tiny",
        "--plain",
        "--dataset",
        "q.jsonl",
    ];
    let with = |more: &[&'static str]| [&own[..], more].concat();
    let same = with(&["--test", "q.jsonl"]);
    fails(
        at,
        &same,
        &["row(s) of", "q.jsonl were dropped", "share none"],
    );
    for share in ["0.001", "0.999"] {
        let set = format!("data.held_out_fraction={share}");
        let said = format!("cannot be divided with data.held_out_fraction = {share}");
        fails(at, &[&own[..], &["--set", &set]].concat(), &[&said]);
    }
    let none = with(&["--set", "data.held_out_limit=0"]);
    fails(at, &none, &["data.held_out_limit is 0"]);
    std::fs::write(at.join("empty.jsonl"), "").unwrap();
    let check = ["data", "check", "empty.jsonl", "--model", "none"];
    fails(at, &check, &["empty.jsonl holds no row"]);
}
