//! What `predict` makes of files and streams: tables, bad lines, progress.

use std::path::Path;

use serde_json::Value;

use crate::support::programs::{fails, json_lines, outcome, piped, succeeds, train};

const ROWS: &str = "id,question,choices,answer
sky,is the sky blue,\"[\"\"true\"\", \"\"false\"\"]\",true
,\"is ice
warm, or \"\"hot\"\"\",\"[\"\"true\"\", \"\"false\"\"]\",
sea,is the sea dry,\"[\"\"true\"\", \"\"false\"\"]\",1
";

/// The records of a table by the names of their columns.
fn table(path: &Path, delimiter: u8) -> Vec<Value> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_path(path)
        .unwrap();
    let columns = reader.headers().unwrap().clone();
    let row = |record: csv::StringRecord| -> Value {
        let cells = columns.iter().zip(&record);
        cells.map(|(name, cell)| (name, cell.to_owned())).collect()
    };
    reader
        .records()
        .map(|record| row(record.unwrap()))
        .collect()
}

#[test]
fn a_table_is_answered_by_a_table_and_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    std::fs::write(root.join("in.csv"), ROWS).unwrap();
    let ask = |output: &str, more: &[&str]| {
        let args = ["predict", "r", "--input", "in.csv", "--output", output];
        succeeds(root, &[&args[..], more].concat())
    };
    let said = ask("out.csv", &["--coverage", "0.5"]);
    // Off a terminal progress is lines.
    assert!(said.contains("3 questions in 0:00"), "{said}");
    ask("out.jsonl", &["--coverage", "0.5"]);
    ask("out.tsv", &[]);
    let found = table(&root.join("out.csv"), b',');
    let text = std::fs::read_to_string(root.join("out.jsonl")).unwrap();
    let lines = json_lines(&text);
    assert_eq!((found.len(), lines.len()), (3, 3));
    for (cells, line) in found.iter().zip(&lines) {
        for key in [
            "id",
            "answer",
            "label",
            "text",
            "confidence",
            "calibrated_on",
            "calibration",
            "flu",
            "decision",
            "origin",
        ] {
            let cell = cells[key].as_str().unwrap();
            let expected = match &line[key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(cell, expected, "{key}");
        }
        let list =
            |key: &str| -> Value { serde_json::from_str(cells[key].as_str().unwrap()).unwrap() };
        assert_eq!(list("probabilities"), line["probabilities"]);
        assert_eq!(list("set"), line["set"]);
        assert_eq!(list("interval_low"), line["interval"][0]);
        assert_eq!(list("interval_high"), line["interval"][1]);
        assert_eq!(cells["error"], "");
    }
    assert_eq!(found[1]["id"], "row-00002");
    assert_eq!(found[1]["correct"], "");
    assert_eq!(found[2]["correct"], lines[2]["correct"].to_string());
    assert_eq!(table(&root.join("out.tsv"), b'\t').len(), 3);
    // Cut, as a killed process leaves it.
    let whole = std::fs::read(root.join("out.csv")).unwrap();
    let mut second = whole.iter().enumerate().filter(|(_, b)| **b == b'\n');
    let (second, _) = second.nth(1).unwrap();
    std::fs::write(root.join("out.csv"), &whole[..second + 30]).unwrap();
    ask("out.csv", &["--coverage", "0.5"]);
    assert_eq!(std::fs::read(root.join("out.csv")).unwrap(), whole);
    let again = ["predict", "r", "--input", "in.csv", "--output", "out.csv"];
    fails(root, &again, &["out.csv, line 2", "another promise"]);
    std::fs::write(root.join("mine.csv"), "a,b\n1,2\n").unwrap();
    let mine = ["predict", "r", "--input", "in.csv", "--output", "mine.csv"];
    fails(root, &mine, &["mine.csv holds no answers"]);
    let nowhere = ["predict", "r", "--input", "in.csv", "--output", "no/x.csv"];
    fails(root, &nowhere, &["no/x.csv: there is no directory no"]);
    let parquet = ["predict", "r", "--input", "in.csv", "--output", "x.parquet"];
    fails(root, &parquet, &[".jsonl, .csv or .tsv"]);
}

#[test]
fn a_bad_line_of_a_stream_gets_its_own_error_and_the_others_their_answers() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    let good = r#"{"question": "is ice warm", "choices": ["true", "false"]}"#;
    // The tiny tokenizer has no label F.
    let many = r#"{"question": "q", "choices": ["1", "2", "3", "4", "5", "6"]}"#;
    let bad = b"not utf-8 \xff".to_vec();
    let lines: [&[u8]; 8] = [
        good.as_bytes(),
        b"no json",
        b"",
        br#"{"choices": ["a", "b"]}"#,
        many.as_bytes(),
        &bad,
        b"[1, 2]",
        good.as_bytes(),
    ];
    let stream = [lines.join(&b'\n'), b"\n".to_vec()].concat();
    let ask = |more: &[&str]| {
        let args = [&["predict", "r", "--input", "-"], more].concat();
        let output = piped(root, &args, &stream);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("5 line(s) could not be answered"), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    for batch in ["1", "4", "16"] {
        let found = json_lines(&ask(&["--batch", batch]));
        let errors: Vec<(u64, &str)> = found
            .iter()
            .filter_map(|line| Some((line["line"].as_u64()?, line["error"].as_str()?)))
            .collect();
        let numbers: Vec<u64> = errors.iter().map(|(line, _)| *line).collect();
        assert_eq!(numbers, [2, 4, 5, 6, 7], "{found:?}");
        assert!(errors[1].1.contains("question: is missing"), "{errors:?}");
        assert!(errors[3].1.contains("UTF-8"), "{errors:?}");
        let answered = |place: usize| found[place]["confidence"].is_number();
        assert!(found.len() == 7 && answered(0) && answered(6), "{found:?}");
    }
    // Into a file, and gone on with: what failed is known, and still said.
    for name in ["out.jsonl", "out.csv"] {
        ask(&["--output", name]);
        let whole = std::fs::read(root.join(name)).unwrap();
        let end = whole.iter().rposition(|b| *b == b'\n').unwrap();
        std::fs::write(root.join(name), &whole[..end]).unwrap();
        ask(&["--output", name]);
        assert_eq!(std::fs::read(root.join(name)).unwrap(), whole, "{name}");
    }
}

#[test]
fn a_refusal_offers_a_risk_that_is_then_promised_as_the_report_says() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let rows: String = (0..300)
        .map(|n| format!("is {n} so,yes,no,{}\n", if n % 20 == 3 { "B" } else { "A" }))
        .collect();
    let rows = format!("question,A,B,answer\n{rows}");
    std::fs::write(root.join("easy.csv"), &rows).unwrap();
    let train = [
        "train",
        "--model",
        "tiny",
        "--dataset",
        "easy.csv",
        "--plain",
    ];
    let more = ["--run", "r", "--epochs", "4"];
    let share = ["--set", "data.held_out_fraction=0.4"];
    succeeds(root, &[&train[..], &more, &share].concat());
    let ask = |risk: &str| {
        let args = ["predict", "r", "--input", "easy.csv", "--target-risk", risk];
        outcome(root, &args)
    };
    let (code, _, said) = ask("0.001");
    assert_eq!(code, 1, "{said}");
    let (_, offered) = said.split_once("What can be promised").unwrap();
    let (_, offered) = offered.split_once("--target-risk ").unwrap();
    let risk = offered.split(':').next().unwrap();
    let (code, answers, said) = ask(risk);
    assert_eq!(code, 0, "{said}");
    assert!(
        json_lines(&answers)
            .iter()
            .all(|line| line["decision"].is_string())
    );
    // Half a percent less is what could not be proved.
    let least: f64 = risk.parse().unwrap();
    assert_eq!(ask(&format!("{:.3}", least - 0.005)).0, 1);
    let report = std::fs::read_to_string(root.join("r/report.md")).unwrap();
    let (_, table) = report
        .split_once("## Abstention: what can be promised")
        .unwrap();
    let first = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .nth(1)
        .unwrap();
    assert!(
        first.starts_with(&format!("| {:.1} |", 100.0 * least)),
        "{first}"
    );
}
