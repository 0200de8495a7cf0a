//! `uq4ct predict` as a user runs it.

use std::path::Path;

use serde_json::Value;

use crate::support::programs::{ASK, fails, json_lines, outcome, piped, stdout, succeeds, train};

const QUESTIONS: &str = r#"{"id": "sky", "question": "is the sky blue", "choices": ["true", "false"], "answer": "true"}
{"question": "is ice warm", "choices": ["true", "false"], "context": "Ice is frozen water."}
{"question": "is the sea dry", "choices": ["true", "false"], "answer": 1}
"#;

fn trained(root: &Path) {
    train(root, "r", &[]);
    std::fs::write(root.join("in.jsonl"), QUESTIONS).unwrap();
}

#[test]
fn answers_come_with_probability_confidence_flu_set_and_decision() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    trained(root);
    let printed = stdout(root, &ASK);
    assert!(
        printed.contains("% sure [") && printed.contains("FLU"),
        "{printed}"
    );
    let one = json_lines(&stdout(root, &[&ASK[..], &["--json"]].concat()));
    let file = [
        "predict",
        "r",
        "--input",
        "in.jsonl",
        "--output",
        "out.jsonl",
    ];
    succeeds(root, &[&file[..], &["--coverage", "0.5"]].concat());
    let whole = std::fs::read_to_string(root.join("out.jsonl")).unwrap();
    let answers = json_lines(&whole);
    assert_eq!(answers.len(), 3);
    for answer in &answers {
        let p: Vec<f64> = serde_json::from_value(answer["probabilities"].clone()).unwrap();
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-5);
        let best = answer["answer"].as_u64().unwrap() as usize;
        assert_eq!(answer["probability"].as_f64().unwrap(), p[best]);
        assert!(answer["confidence"].as_f64().unwrap() > 0.0);
        assert!(
            answer["set"]
                .as_array()
                .unwrap()
                .contains(&answer["answer"])
        );
        assert!(["answer", "abstain"].contains(&answer["decision"].as_str().unwrap()));
    }
    assert_eq!(answers[0]["calibration"], "as_stated");
    assert_eq!(answers[0]["id"], "sky");
    assert_eq!(answers[1]["id"], "row-00002");
    assert_eq!(answers[1].get("correct"), None);
    let right = answers[2]["answer"] == 1;
    assert_eq!(answers[2]["correct"], right);
    // The same question alone, in a batch and through a pipe.
    let close = |a: &Value, b: &Value| {
        let difference = a["probability"].as_f64().unwrap() - b["probability"].as_f64().unwrap();
        assert!(difference.abs() < 1e-5, "{a} {b}");
    };
    close(&one[0], &answers[0]);
    let pipe = ["predict", "r", "--input", "-", "--batch", "1"];
    let piped = piped(root, &pipe, QUESTIONS.as_bytes()).stdout;
    let piped = json_lines(&String::from_utf8(piped).unwrap());
    assert_eq!(piped.len(), 3);
    piped.iter().zip(&answers).for_each(|(a, b)| close(a, b));
    // Cut within the second answer, as a killed process leaves it: the rest is asked again, the
    // first is not.
    let first = whole.find('\n').unwrap();
    std::fs::write(root.join("out.jsonl"), &whole[..first + 20]).unwrap();
    succeeds(root, &[&file[..], &["--coverage", "0.5"]].concat());
    let again = json_lines(&std::fs::read_to_string(root.join("out.jsonl")).unwrap());
    assert_eq!(again.len(), 3);
    again.iter().zip(&answers).for_each(|(a, b)| close(a, b));
}

#[test]
fn what_cannot_be_answered_or_promised_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    trained(root);
    fails(
        root,
        &["predict", "r"],
        &["nothing to answer", "--question"],
    );
    fails(
        root,
        &[
            "predict",
            "r",
            "--input",
            "in.jsonl",
            "--target-risk",
            "0.001",
        ],
        &["held-out questions are too few", "at least", "promised"],
    );
    // Read rightly, but the tiny tokenizer has no label F: those before it in the same batch are
    // answered.
    let long = r#"{"question": "q", "choices": ["1", "2", "3", "4", "5", "6"]}"#;
    std::fs::write(
        root.join("long.jsonl"),
        format!("{QUESTIONS}{long}\n{QUESTIONS}"),
    )
    .unwrap();
    let input = [
        "predict",
        "r",
        "--input",
        "long.jsonl",
        "--output",
        "some.jsonl",
    ];
    let (code, _, reason) = outcome(root, &input);
    let some = std::fs::read_to_string(root.join("some.jsonl")).unwrap();
    assert!(code == 1 && some.lines().count() == 3, "{some} {reason}");
    let bad = format!("{QUESTIONS}{{\"question\": \"one\", \"choices\": [\"a\"]}}\n");
    std::fs::write(root.join("bad.jsonl"), bad).unwrap();
    fails(
        root,
        &["predict", "r", "--input", "bad.jsonl", "--batch", "1"],
        &["bad.jsonl", "row 4", "at least 2"],
    );
    std::fs::write(root.join("other.jsonl"), "{\"id\": \"else\"}\n").unwrap();
    fails(
        root,
        &[
            "predict",
            "r",
            "--input",
            "in.jsonl",
            "--output",
            "other.jsonl",
        ],
        &["other.jsonl, line 1", "name another --output"],
    );
    std::fs::write(root.join("note.txt"), "one line of mine").unwrap();
    fails(
        root,
        &[
            "predict", "r", "--input", "in.jsonl", "--output", "note.txt",
        ],
        &["note.txt holds no answers"],
    );
    assert_eq!(
        std::fs::read(root.join("note.txt")).unwrap(),
        b"one line of mine"
    );
    // As a saved response of an API begins: whole, so no answer that was cut.
    for mine in [
        r#"{"id":"chatcmpl-1","choices":[]}"#,
        r#"{"error":"rate limit"}"#,
    ] {
        std::fs::write(root.join("mine.json"), mine).unwrap();
        let args = [
            "predict",
            "r",
            "--input",
            "in.jsonl",
            "--output",
            "mine.json",
        ];
        fails(root, &args, &["mine.json", "name another --output"]);
        let kept = std::fs::read_to_string(root.join("mine.json")).unwrap();
        assert_eq!(kept, mine);
    }
    fails(
        root,
        &[
            "predict",
            "r",
            "--input",
            "in.jsonl",
            "--output",
            "./in.jsonl",
        ],
        &["is the --input"],
    );
    fails(
        root,
        &["predict", "nowhere", "--input", "in.jsonl"],
        &["nowhere"],
    );
}

/// Runs of earlier versions keep their held-out predictions beside those on their own dataset.
#[test]
fn a_run_of_an_earlier_version_answers_as_it_did() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    let ask = [&ASK[..], &["--json"]].concat();
    let before = stdout(root, &ask);
    let place = |name: &str| root.join("r/evaluation").join(name);
    let now = place("held-out/predictions.jsonl");
    let former = place("boolq/held-out-predictions.jsonl");
    std::fs::rename(&now, &former).unwrap();
    std::fs::remove_dir_all(place("held-out")).unwrap();
    assert_eq!(stdout(root, &ask), before);
    // Cut, they would give another confidence: refused by name.
    let whole = std::fs::read_to_string(&former).unwrap();
    let half = &whole[..=whole.match_indices('\n').nth(2).unwrap().0];
    std::fs::write(&former, half).unwrap();
    let parts = ["held-out-predictions.jsonl", "holds 3 of", "--resume"];
    fails(root, &ask, &parts);
    std::fs::write(&former, whole.replacen("\"label\":", "\"label\":9", 1)).unwrap();
    let parts = ["held-out-predictions.jsonl: line 1", "label: expected"];
    for verb in [
        &ask[..],
        &["export", "r", "--format", "uq4ct", "--output", "x"],
    ] {
        fails(root, verb, &parts);
    }
    fails(root, &["compare", "r"], &parts);
}

#[test]
fn a_context_is_read_or_refused_never_ignored() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    trained(root);
    let with = [&ASK[..], &["--context", "Ice is frozen water."]].concat();
    fails(root, &with, &["--context: this run's prompt has no place"]);
    let file = ["predict", "r", "--input", "in.jsonl"];
    let (code, _, said) = outcome(root, &file);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("in.jsonl, row 2: context: this run's prompt"),
        "{said}"
    );
    train(root, "p", &["--set", "data.template=passage"]);
    let ask = |more: &[&str]| {
        let args = [&["predict", "p", "--json"], &ASK[2..], more].concat();
        json_lines(&stdout(root, &args)).remove(0)["probability"].clone()
    };
    assert_ne!(ask(&[]), ask(&["--context", "Ice is frozen water."]));
}

/// Answers that were kept are not taken for those to other questions, or of another run.
#[test]
fn an_output_is_gone_on_with_only_for_the_same_questions_and_run() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    trained(root);
    let file = [
        "predict",
        "r",
        "--input",
        "in.jsonl",
        "--output",
        "out.jsonl",
    ];
    succeeds(root, &file);
    let whole = std::fs::read_to_string(root.join("out.jsonl")).unwrap();
    let first = whole.lines().next().unwrap();
    std::fs::write(root.join("out.jsonl"), format!("{first}\n")).unwrap();
    succeeds(root, &file);
    let again = std::fs::read_to_string(root.join("out.jsonl")).unwrap();
    assert_eq!(again.lines().count(), 3);
    let changed = QUESTIONS.replace("is ice warm", "is ice cold");
    std::fs::write(root.join("in.jsonl"), changed).unwrap();
    let parts = ["out.jsonl, line 2", "row-00002 is another question"];
    fails(root, &file, &parts);
    std::fs::write(root.join("in.jsonl"), QUESTIONS).unwrap();
    succeeds(root, &file);
    let alpha = [&file[..], &["--alpha", "0.2"]].concat();
    fails(root, &alpha, &["line 1", "with another --alpha"]);
    train(root, "r", &["--overwrite", "--seed", "7"]);
    fails(root, &file, &["line 1", "was answered by another run"]);
    // Lines of earlier versions do not say what they are of.
    let former: String = json_lines(&whole)
        .into_iter()
        .map(|mut line| {
            line.as_object_mut().unwrap().remove("origin").unwrap();
            format!("{line}\n")
        })
        .collect();
    std::fs::write(root.join("out.jsonl"), &former).unwrap();
    succeeds(root, &file);
    let kept = std::fs::read_to_string(root.join("out.jsonl")).unwrap();
    assert_eq!(kept, former);
}

/// What is drawn by chance follows from the question's text, not from its name or its company.
#[test]
fn sampled_answers_do_not_depend_on_the_questions_beside_them() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let row = |id: &str, question: &str| {
        format!(
            "{}\n",
            serde_json::json!({"id": id, "question": question, "choices": ["true", "false"]})
        )
    };
    let rows = [
        ("a", "is the sky blue"),
        ("b", "is ice warm"),
        ("c", "is the sky blue"),
    ];
    let text: String = rows
        .iter()
        .map(|(id, question)| row(id, question))
        .collect();
    std::fs::write(root.join("in.jsonl"), text).unwrap();
    std::fs::write(root.join("one.jsonl"), row("z", "is the sky blue")).unwrap();
    for method in ["laplace", "spuq", "mc_dropout"] {
        train(root, method, &["--method", method]);
        let ask = |input: &str| {
            let answers = stdout(root, &["predict", method, "--input", input]);
            let probability = |row: Value| row["probability"].as_f64().unwrap();
            json_lines(&answers)
                .into_iter()
                .map(probability)
                .collect::<Vec<_>>()
        };
        let (three, one) = (ask("in.jsonl"), ask("one.jsonl"));
        for found in [three[2], one[0]] {
            assert!(
                (found - three[0]).abs() < 1e-5,
                "{method}: {three:?} {one:?}"
            );
        }
        assert_ne!(three[0], three[1], "{method}");
    }
}

/// A bound on the labels that chose the prior would prove nothing.
#[test]
fn labels_that_chose_a_prior_promise_no_risk() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &["--method", "laplace-centred"]);
    let risk = [&ASK[..], &["--target-risk", "0.4"]].concat();
    fails(
        root,
        &risk,
        &["--target-risk", "prove nothing", "--coverage"],
    );
    succeeds(root, &[&ASK[..], &["--coverage", "0.5"]].concat());
    let report = std::fs::read_to_string(root.join("r/report.md")).unwrap();
    assert!(!report.contains("what can be promised"), "{report}");
}
