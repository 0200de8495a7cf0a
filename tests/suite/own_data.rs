//! Files of the user's own: `data check`, `init`, `train --dataset FILE`.

use std::path::Path;

use train::lock::Lock;

use crate::support::programs::{
    TINY, fails, json, json_lines, outcome, piped, stdout, succeeds, train,
};

/// Twelve questions, one a line, with a group each.
fn questions(path: &Path) {
    let text: String = (0..12)
        .map(|i| {
            format!(
                "{{\"question\": \"What is {i} plus one?\", \"choices\": [\"{}\", \"{}\", \"{}\"], \"answer\": \"B\", \"group\": \"g{}\"}}\n",
                i,
                i + 1,
                i + 2,
                i / 2
            )
        })
        .collect();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_sound_file_is_described_and_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sums.jsonl");
    questions(&file);
    let file = file.to_str().unwrap();
    let (code, out, err) = outcome(folder.path(), &["data", "check", file, "--model", "tiny"]);
    assert_eq!(code, 0, "{out}{err}");
    for part in [
        "rows: 12, of which 12 usable",
        "right answer: B: 12 (100 %)",
        "groups: 6",
        "row 1, the tokens in [] are scored",
        "* [ B]",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let train = [
        "train",
        "--dataset",
        file,
        "--model",
        "tiny",
        "--plain",
        "--set",
        "train.max_steps=2",
        "--set",
        "data.held_out_fraction=0.25",
    ];
    let (code, out, err) = outcome(folder.path(), &train);
    assert_eq!(code, 0, "{out}{err}");
    let run = folder.path().join("runs/sums-uq4ct-tiny-s42");
    assert!(run.join("report.html").is_file(), "{out}{err}");
}

/// As `predict` asks it: with the words of BoolQ, not with letters.
#[test]
fn a_run_on_true_and_false_is_asked_alike_by_evaluate_and_predict() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    train(root, "r", &["--set", "train.max_steps=1"]);
    let rows: String = (0..8)
        .map(|i| {
            let answer = i % 2 == 0;
            format!("{{\"question\": \"is {i} even\", \"choices\": [\"true\", \"false\"], \"answer\": \"{answer}\"}}\n")
        })
        .collect();
    std::fs::write(root.join("even.jsonl"), rows).unwrap();
    succeeds(root, &["evaluate", "r", "--on", "even.jsonl"]);
    let report = std::fs::read_to_string(root.join("r/evaluation/even/report.md")).unwrap();
    let asked = "answer the following question with true or false: is";
    assert!(report.contains(asked), "{report}");
    let path = root.join("r/evaluation/even/predictions.jsonl");
    let scored = json_lines(&std::fs::read_to_string(path).unwrap());
    let answers = json_lines(&stdout(root, &["predict", "r", "--input", "even.jsonl"]));
    for (scored, answer) in scored.iter().zip(&answers) {
        let of = |value: &serde_json::Value| value["probabilities"][0].as_f64().unwrap();
        assert!((of(scored) - of(answer)).abs() < 1e-6, "{scored} {answer}");
    }
    assert_eq!((scored.len(), answers.len()), (8, 8));
}

#[test]
fn rows_without_an_answer_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.jsonl");
    questions(&file);
    let whole = std::fs::read_to_string(&file).unwrap();
    let open = "{\"question\": \"What is it?\", \"choices\": [\"a\", \"b\"], \"answer\": null}\n";
    std::fs::write(&file, whole + &open.repeat(3)).unwrap();
    let args = [
        "train",
        "--dataset",
        "some.jsonl",
        "--model",
        "tiny",
        "--dry-run",
    ];
    let said = succeeds(folder.path(), &args);
    assert!(
        said.contains("3 of 15 rows have no answer and are left out"),
        "{said}"
    );
}

#[test]
fn a_refused_training_leaves_nothing_to_go_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    train(root, "mixture", &["--set", "train.max_steps=1"]);
    succeeds(
        root,
        &["export", "mixture", "--format", "uq4ct", "--output", "out"],
    );
    let lora = ["--run", "refused", "--method", "lora", "--adapter", "out"];
    fails(root, &[&TINY[..], &lora].concat(), &["holds a mixture"]);
    assert!(!root.join("refused").exists());
    // Before anything is read.
    std::fs::write(root.join("bad.jsonl"), "{").unwrap();
    let again = ["train", "--dataset", "bad.jsonl", "--run", "mixture"];
    fails(root, &again, &["mixture", "already holds a run"]);
    let lock = Lock::take(&root.join("mixture")).unwrap();
    let works = format!("process {} on", std::process::id());
    fails(root, &again, &["mixture", &works, "wait for that process"]);
    drop(lock);
}

#[test]
fn bad_rows_are_named_by_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("a.csv"), folder.path().join("b.csv"));
    std::fs::write(&one, "stem,A,B,key\nwhich?,x,y,A\nthat?,x,y,Q\n,x,y,B\n").unwrap();
    std::fs::write(&two, "stem,A,B,key\nWHICH?,y,x,B\n").unwrap();
    let args = [
        "data",
        "check",
        one.to_str().unwrap(),
        "--against",
        two.to_str().unwrap(),
        "--model",
        "none",
        "--question-field",
        "stem",
        "--choices-field",
        "A,B",
        "--answer-field",
        "key",
    ];
    let (code, out, err) = outcome(folder.path(), &args);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("a.csv, row 2: key: expected"), "{out}");
    assert!(out.contains("a.csv, row 3: question: is empty"), "{out}");
    assert!(out.contains("share 1 questions, rows 1 and 1"), "{out}");
    assert!(out.contains("Not usable yet: 2 rows"), "{out}");
    let args: Vec<&str> = args.into_iter().chain(["--json"]).collect();
    let (code, out, _) = outcome(folder.path(), &args);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["files"][0]["bad"][1]["row"]), (1, &3.into()));
    let absent = outcome(
        folder.path(),
        &["train", "--dataset", "none.jsonl", "--model", "tiny"],
    );
    assert!(
        absent.0 != 0 && absent.2.contains("none.jsonl"),
        "{absent:?}"
    );
}

#[test]
fn init_writes_settings_that_train_takes_and_never_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, err) = outcome(folder.path(), &["init"]);
    assert_eq!(code, 0, "{out}{err}");
    let dry = [
        "train",
        "--config",
        "uq4ct.toml",
        "--dataset",
        "boolq",
        "--model",
        "tiny",
        "--dry-run",
    ];
    let (code, out, err) = outcome(folder.path(), &dry);
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = outcome(folder.path(), &["init"]);
    assert!(
        code != 0 && err.contains("uq4ct.toml cannot be written"),
        "{err}"
    );
}

#[test]
fn a_file_says_what_it_lacks_and_what_its_rows_lose() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str, more: &[&str]| {
        std::fs::write(folder.path().join(name), text).unwrap();
        let model: &[&str] = match more.contains(&"--model") {
            true => &[],
            false => &["--model", "none"],
        };
        let args = [&["data", "check", name], model, more].concat();
        outcome(folder.path(), &args)
    };
    let (code, out, _) = check("a.csv", "stem;one;two;key\nwhich?;x;y;A\n", &[]);
    assert_eq!(code, 1, "{out}");
    for part in [
        "a.csv, row 1: choices: is missing; the row has stem, one, two, key",
        "--choices-field",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let unanswered = r#"{"question": "which?", "choices": ["x", "y"], "right": "A"}"#;
    let (code, out, _) = check("b.json", unanswered, &[]);
    assert_eq!(code, 1, "{out}");
    assert!(
        out.contains("no row has an answer; the fields are "),
        "{out}"
    );
    let (code, out, _) = check("b.json", unanswered, &["--answer-field", "right"]);
    assert_eq!(code, 0, "{out}");
    let long = format!(
        r#"{{"question": "{}", "choices": ["x", "y"], "label": 1}}"#,
        "水は何度で沸騰しますか".repeat(40)
    );
    let (code, out, err) = check("c.jsonl", &long, &["--model", "tiny"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        out.contains("1 questions are too long and lose their end, rows 1 ("),
        "{out}"
    );
    assert!(out.contains(" tokens); raise data.max_tokens"), "{out}");
    assert!(
        out.contains("| Please choose the correct answer to the question: 水は"),
        "{out}"
    );
}

#[test]
fn a_row_that_cannot_be_asked_is_left_out_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let rows: String = (0..40)
        .map(|i| {
            let choice = if i == 7 {
                "so ".repeat(400)
            } else {
                "so".into()
            };
            let row = serde_json::json!({
                "id": format!("q{i}"),
                "question": format!("is {i} even"),
                "choices": [choice, "not"],
                "answer": i % 2,
            });
            format!("{row}\n")
        })
        .collect();
    std::fs::write(directory.path().join("own.jsonl"), rows).unwrap();
    let own = ["train", "--model", "tiny", "--dataset", "own.jsonl"];
    let args = [&own[..], &["--plain", "--run", "r"]].concat();
    let said = succeeds(directory.path(), &args);
    let sentence = " question(s) of own cannot be asked and are left out: q7 (its choices";
    let report = std::fs::read_to_string(directory.path().join("r/report.md")).unwrap();
    for text in [&said, &report] {
        assert!(text.contains(sentence), "{text}");
    }
    let data = json(&directory.path().join("r/data.json"));
    let counts = |key: &str| -> u64 {
        let rows = data["split"][key].as_array().unwrap().iter();
        rows.map(|n| n.as_u64().unwrap()).sum()
    };
    assert_eq!((counts("available"), counts("used")), (40, 39));
    assert_eq!(data["left_out"][0]["id"], "q7");
    // Where nothing can be asked, that is an error.
    let all = directory.path().join("all.jsonl");
    let row =
        serde_json::json!({"question": "which", "choices": ["so ".repeat(400), "b"], "answer": 0});
    let lines: String = (0..9)
        .map(|i| {
            format!(
                "{}\n",
                row.to_string().replace("which", &format!("which {i}"))
            )
        })
        .collect();
    std::fs::write(&all, lines).unwrap();
    fails(
        directory.path(),
        &[
            "train",
            "--model",
            "tiny",
            "--dataset",
            "all.jsonl",
            "--plain",
        ],
        &["can be asked, the first because its choices alone need"],
    );
}

/// A sheet with columns as people name them, its answers counted from 1.
fn sheet(path: &Path, rows: std::ops::Range<usize>) {
    let mut text = String::from("Nr;Question Text;Option A;Option B;Option C;Correct Option\n");
    for i in rows {
        text += &format!(
            "{i};What is {i} plus {}?;{};{};{};{}\n",
            i % 3,
            i,
            i + 1,
            i + 2,
            i % 3 + 1
        );
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn usual_columns_are_found_told_and_remembered_by_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    sheet(&at("train.csv"), 0..30);
    sheet(&at("test.csv"), 30..39);
    let found = "question from Question Text; choices from Option A, Option B, Option C; answer from Correct Option; answers counted from 1";
    let check = ["data", "check", "train.csv", "--model", "tiny"];
    let out = succeeds(folder.path(), &check);
    assert!(out.contains(found), "{out}");
    let train = ["train", "--model", "tiny", "--plain", "--run", "r"];
    let files = ["--dataset", "train.csv", "--test", "test.csv"];
    let short = ["--set", "train.max_steps=2"];
    let out = succeeds(folder.path(), &[&train[..], &files, &short].concat());
    for file in ["train.csv", "test.csv"] {
        assert!(out.contains(&format!("{file}: {found}")), "{out}");
    }
    let data = json(&at("r/data.json"));
    assert_eq!(data["split"]["used"][2], 9);
    assert_eq!(data["split"]["notes"].as_array().unwrap().len(), 2);
    let ask = ["predict", "r", "--input", "test.csv", "--output", "a.jsonl"];
    succeeds(folder.path(), &ask);
    let answers = std::fs::read_to_string(at("a.jsonl")).unwrap();
    assert_eq!(answers.matches("\"correct\":").count(), 9, "{answers}");
}

#[test]
fn given_names_serve_in_train_and_in_predict_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |range: std::ops::Range<usize>| -> String {
        let row = |i: usize| serde_json::json!({"frage": format!("Was ist {i}?"), "eins": "x", "zwei": format!("y{i}"), "loesung": "B"});
        range.map(|i| format!("{}\n", row(i))).collect()
    };
    std::fs::write(folder.path().join("own.jsonl"), rows(0..20)).unwrap();
    std::fs::write(folder.path().join("held.jsonl"), rows(20..26)).unwrap();
    let names = [
        "--question-field",
        "frage",
        "--choices-field",
        "eins,zwei",
        "--answer-field",
        "loesung",
    ];
    let check = ["data", "check", "own.jsonl", "--model", "tiny"];
    let out = succeeds(folder.path(), &[&check[..], &names].concat());
    let command = "--question-field frage --answer-field loesung --choices-field eins,zwei";
    assert!(out.contains(command), "{out}");
    let train = ["train", "--model", "tiny", "--plain", "--run", "r"];
    let files = ["--dataset", "own.jsonl", "--held-out", "held.jsonl"];
    let short = ["--set", "train.max_steps=2"];
    succeeds(
        folder.path(),
        &[&train[..], &files, &short, &names].concat(),
    );
    let data = json(&folder.path().join("r/data.json"));
    assert_eq!(data["split"]["used"][1], 6);
    let ask = [
        "predict",
        "r",
        "--input",
        "held.jsonl",
        "--output",
        "a.jsonl",
    ];
    succeeds(folder.path(), &ask);
    let named = ["train", "--model", "tiny", "--dataset", "boolq", "--plain"];
    fails(
        folder.path(),
        &[&named[..], &names].concat(),
        &["--question-field: is about files of your own, but the dataset is boolq"],
    );
    fails(
        folder.path(),
        &[&named[..], &["--test", "held.jsonl"]].concat(),
        &["--test: is about files of your own"],
    );
}

/// Questions with four choices, whose answers count from 1 up to `most`.
fn counted(name: &str, count: usize, most: usize) -> String {
    let row = |i: usize| {
        let row = serde_json::json!({
            "question": format!("{name}: which of list {i}?"),
            "choices": [format!("red {i}"), format!("blue {i}"), format!("green {i}"), format!("grey {i}")],
            "answer": 1 + i % most,
        });
        format!("{row}\n")
    };
    (0..count).map(row).collect()
}

/// A file without the last choice counts as the others of its run do, and is named where nothing
/// tells it.
#[test]
fn the_files_of_a_run_count_alike() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, count, most) in [("train", 40, 4), ("test", 12, 3), ("later", 9, 3)] {
        let file = at.join(format!("{name}.jsonl"));
        std::fs::write(file, counted(name, count, most)).unwrap();
    }
    let said = succeeds(at, &["data", "check", "test.jsonl", "--model", "none"]);
    let told = "answers counted from 0, although none is 0";
    assert!(said.contains(told) && said.contains("B: 4"), "{said}");
    let check = [
        "data",
        "check",
        "train.jsonl",
        "--against",
        "test.jsonl",
        "--model",
        "none",
    ];
    let said = succeeds(at, &check);
    assert!(!said.contains(told) && said.contains("A: 4"), "{said}");
    let train = [
        "train",
        "--model",
        "tiny",
        "--plain",
        "--dataset",
        "train.jsonl",
        "--test",
    ];
    let brief = ["test.jsonl", "--run", "r", "--set", "train.max_steps=1"];
    succeeds(
        at,
        &[&train[..], &brief, &["--set", "data.scoring=letters"]].concat(),
    );
    let labels = |run: &str, set: &str| -> Vec<u64> {
        let rows = at.join(format!("{run}/evaluation/{set}/predictions.jsonl"));
        let rows = json_lines(&std::fs::read_to_string(rows).unwrap());
        rows.iter()
            .map(|row| row["label"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(
        labels("r", "custom"),
        (0..12).map(|i| i % 3).collect::<Vec<_>>()
    );
    succeeds(at, &["evaluate", "r", "--on", "later.jsonl"]);
    assert_eq!(
        labels("r", "later"),
        (0..9).map(|i| i % 3).collect::<Vec<_>>()
    );
    // The same from a file and from a pipe.
    let right = |text: &str| -> Vec<bool> {
        let lines = json_lines(text);
        lines
            .iter()
            .map(|line| line["correct"].as_bool().unwrap())
            .collect()
    };
    let file = stdout(at, &["predict", "r", "--input", "later.jsonl"]);
    let ask = ["predict", "r", "--input", "-"];
    let pipe = piped(at, &ask, counted("later", 9, 3).as_bytes()).stdout;
    assert_eq!(right(&file), right(&String::from_utf8(pipe).unwrap()));
    let said: Vec<u64> = json_lines(&file)
        .iter()
        .map(|line| line["answer"].as_u64().unwrap())
        .collect();
    let expected: Vec<bool> = said
        .iter()
        .zip(0..)
        .map(|(said, i)| *said == i % 3)
        .collect();
    assert_eq!(right(&file), expected);
    // A file that tells it is read as it says, whatever the run's own were.
    let zero = counted("zero", 40, 4).replace("\"answer\":4", "\"answer\":0");
    std::fs::write(at.join("zero.jsonl"), zero).unwrap();
    std::fs::write(at.join("one.jsonl"), counted("one", 8, 4)).unwrap();
    let zero = [
        "zero.jsonl",
        "--run",
        "z",
        "--set",
        "train.max_steps=1",
        "--set",
    ];
    let id = ["data.scoring=letters", "--set", "data.custom.id=question"];
    succeeds(at, &[&train[..5], &zero, &id].concat());
    succeeds(at, &["evaluate", "z", "--on", "one.jsonl,later.jsonl"]);
    assert_eq!(
        labels("z", "one"),
        (0..8).map(|i| i % 4).collect::<Vec<_>>()
    );
    assert_eq!(
        labels("z", "later"),
        (0..9).map(|i| 1 + i % 3).collect::<Vec<_>>()
    );
    // A name that the run remembers need not be in another file.
    let other = counted("later", 9, 3).replace("\"question\"", "\"query\"");
    std::fs::write(at.join("other.jsonl"), other).unwrap();
    let said = stdout(at, &["predict", "z", "--input", "other.jsonl"]);
    assert!(said.starts_with("{\"id\":\"row-00001\""), "{said}");
    let wrong = ["--set", "data.custom.count_from=2", "--overwrite"];
    fails(
        at,
        &[&train[..], &brief, &wrong].concat(),
        &["data.custom.count_from", "expected 0 or 1"],
    );
}

/// Rows may lack a group, a context or aliases, so a mistyped name of one would go unnoticed.
#[test]
fn a_field_that_no_row_has_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    questions(&at.join("sums.jsonl"));
    let check = ["data", "check", "sums.jsonl", "--model", "none"];
    let train = [
        "train",
        "--model",
        "tiny",
        "--plain",
        "--dataset",
        "sums.jsonl",
        "--run",
        "r",
    ];
    for flag in ["--group-field", "--context-field", "--aliases-field"] {
        let parts = [
            "grop: no row has it",
            "the fields are question, choices, answer, group",
        ];
        fails(at, &[&check[..], &[flag, "grop"]].concat(), &parts);
        fails(at, &[&train[..], &[flag, "grop"]].concat(), &parts[..1]);
    }
    let brief = [
        "--set",
        "train.max_steps=1",
        "--set",
        "data.held_out_fraction=0.25",
    ];
    succeeds(at, &[&train[..], &brief].concat());
    let ask = ["predict", "r", "--input", "sums.jsonl"];
    fails(
        at,
        &[&ask[..], &["--answer-field", "anser"]].concat(),
        &["anser: no row has it"],
    );
}

/// A number of more digits than a float has would be another one in every answer.
#[test]
fn a_number_that_would_be_rounded_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let row = r#"{"id": 123456789012345678901234, "question": "Q?", "choices": ["a", "b"], "answer": "A"}"#;
    std::fs::write(at.join("big.jsonl"), row).unwrap();
    let check = ["data", "check", "big.jsonl", "--model", "none"];
    fails(at, &check, &["row 1", "id: ", "write it as text"]);
}
