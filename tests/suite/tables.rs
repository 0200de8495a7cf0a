//! `reproduce` and `compare` on the tiny model: every table, every method, one machine or several.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use train::reproduce::figure::Figure;
use train::reproduce::recorded::KEPT;

use crate::support::programs::{fails, json_lines, late_right, outcome, uq4ct};

/// Runs `uq4ct`, which must succeed.
fn succeeds(root: &Path, words: &[&str]) -> Output {
    let output = uq4ct(root, words);
    assert!(
        output.status.success(),
        "{words:?}: {}",
        text(&output.stderr)
    );
    output
}

fn reproduce(table: &str, root: &Path, more: &[&str]) -> Output {
    let place = root.to_str().unwrap();
    let words = [
        "reproduce",
        table,
        "--model",
        "tiny",
        "--plain",
        "--offline",
        "--root",
        place,
    ];
    succeeds(root, &[&words[..], more].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A table's folder.
fn folder(root: &Path, table: &str) -> std::path::PathBuf {
    let name = format!("{table}-tiny-");
    let folders = std::fs::read_dir(root.join("tables")).unwrap();
    folders
        .map(|folder| folder.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&name)
        })
        .unwrap()
}

/// A table's file.
fn file(root: &Path, table: &str, ending: &str) -> String {
    let path = folder(root, table).join(format!("{table}.{ending}"));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn table_1_runs_every_method_on_every_column_and_nothing_twice() {
    let root = tempfile::tempdir().unwrap();
    let size = ["--limit", "8", "--seeds", "2"];
    let shown = text(&reproduce("table1", root.path(), &size).stdout);
    let json: serde_json::Value =
        serde_json::from_str(&file(root.path(), "table1", "json")).unwrap();
    let cells = json["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 25 * 7);
    for cell in cells {
        assert_eq!(
            (&cell["n"], &cell["seeds"]),
            (&8.into(), &2.into()),
            "{cell}"
        );
        let values = cell["values"].as_array().unwrap();
        // AUROC is undefined where all answers are wrong.
        assert!(values.len() >= 7, "{cell}");
        assert!(
            values
                .iter()
                .all(|v| v["over_seeds"]["deviation"].is_number())
        );
    }
    assert_eq!(json["costs"].as_array().unwrap().len(), 25);
    let passes = |row: &str| {
        let costs = json["costs"].as_array().unwrap();
        let found = costs.iter().find(|cost| cost["row"] == row).unwrap();
        found["forward_passes"].as_u64().unwrap()
    };
    assert_eq!(
        (passes("LoRA"), passes("MC Drop"), passes("Ensemble")),
        (1, 10, 3)
    );
    assert_eq!(
        (passes("SPUQ"), passes("Checkpoints"), passes("TFB")),
        (6, 2, 10)
    );
    assert!(
        shown.contains("| ACC ↑ | LLLA |") && shown.contains("Mean and sample standard deviation")
    );
    assert!(file(root.path(), "table1", "tex").contains("\\begin{tabular}{llrrrrrrr}"));
    assert!(file(root.path(), "table1", "csv").lines().count() > 25 * 7 * 7);
    // A square in both legends for each row.
    let bars = file(root.path(), "table1", "svg");
    assert_eq!(bars.matches(r#"width="10" height="10""#).count(), 2 * 25);
    // A point and its mark in the legend for each row.
    let shift = folder(root.path(), "table1").join("table1-shift.svg");
    let shift = std::fs::read_to_string(shift).unwrap();
    let marks = shift.matches("<circle").count() + shift.matches("<polygon").count();
    assert_eq!(marks, 2 * 25);
    // LoRA's three members and their other seed; MixLoRA and UQ4CT in both placements and
    // normalized, UQ4CT-delta, BLoB, BLoB-cycles and LoRA-published with both.
    let trainings = std::fs::read_dir(root.path().join("trainings"))
        .unwrap()
        .count();
    assert_eq!(trainings, 26);
    let again = reproduce("table1", root.path(), &size);
    assert!(
        !text(&again.stderr).contains("step ") && !text(&again.stderr).contains(" on "),
        "{}",
        text(&again.stderr)
    );
    assert_eq!(text(&again.stdout), shown);
    // The same from what was recorded, without model or data.
    let folder = folder(root.path(), "table1");
    let place = folder.to_str().unwrap();
    let printed = text(&succeeds(root.path(), &["reproduce", "table1", "--from", place]).stdout);
    let whole = shown.split("\nWritten to").next().unwrap();
    assert_eq!(printed.trim_end(), whole.trim_end());
    std::fs::rename(
        folder.join("reproduce.toml"),
        root.path().join("reproduce.toml"),
    )
    .unwrap();
    let beside = text(&succeeds(root.path(), &["reproduce", "table1", "--from", "."]).stdout);
    assert_eq!(beside, printed);
    let alone = root.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    std::fs::copy(
        root.path().join("reproduce.toml"),
        alone.join("reproduce.toml"),
    )
    .unwrap();
    // Evaluations that lie beside the table's folder are its own.
    let shared = text(&succeeds(root.path(), &["reproduce", "table1", "--from", "alone"]).stdout);
    assert_eq!(shared, printed);
    let deeper = alone.join("deeper");
    std::fs::create_dir(&deeper).unwrap();
    std::fs::copy(alone.join("reproduce.toml"), deeper.join("reproduce.toml")).unwrap();
    let none = ["reproduce", "table1", "--from", "alone/deeper"];
    fails(root.path(), &none, &["holds no results of table1"]);
    kept_results_are_complete(root.path(), ".", &printed);
    // Another table finds UQ4CT's and SPUQ's trainings there.
    reproduce(
        "table6",
        root.path(),
        &["--limit", "8", "--seeds", "1", "--on", "openbookqa"],
    );
    let trainings = std::fs::read_dir(root.path().join("trainings"))
        .unwrap()
        .count();
    assert_eq!(trainings, 26);
}

/// Keeps table 1 apart from its trainings and evaluations, which then are not needed.
fn kept_results_are_complete(root: &Path, from: &str, printed: &str) {
    let kept = tempfile::tempdir().unwrap();
    let place = kept.path().to_str().unwrap();
    let own = root.join("trainings");
    let rename = format!("{}=somewhere", own.display());
    let words = ["reproduce", "table1", "--from", from, "--keep", place];
    succeeds(root, &[&words[..], &["--rename", &rename]].concat());
    let folder = kept.path().join("table1");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let names = [
        "runs.parquet",
        "reproduce.toml",
        "table1.md",
        "table1-tests.md",
        "table1.csv",
    ];
    let first = names.map(read);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 6);
    let from_kept = ["reproduce", "table1", "--from", place];
    assert_eq!(text(&succeeds(root, &from_kept).stdout), printed);
    // Once more changes nothing, from either place.
    succeeds(root, &words);
    assert!(names.map(read) == first);
    succeeds(root, &[&from_kept[..], &["--keep", place]].concat());
    assert!(names.map(read) == first);
    // Another table in the same place would be lost.
    let settings = folder.join("reproduce.toml");
    let other = text(&first[1]).replacen("[settings.data]", "[settings.data]\nmax_tokens = 99", 1);
    std::fs::write(&settings, other).unwrap();
    let refused = "kept here already, with other settings (data.max_tokens is 99, not 512)";
    fails(root, &words, &["reproduce.toml", refused]);
    std::fs::write(&settings, &first[1]).unwrap();
    let archive = folder.join("runs.parquet");
    std::fs::write(&archive, &first[0][..first[0].len() / 2]).unwrap();
    fails(root, &from_kept, &["runs.parquet", "is damaged"]);
    let wrong = [&from_kept[..], &["--keep", place, "--rename", "x"]].concat();
    fails(root, &wrong, &["--rename x: expected PREFIX=SHORT"]);
}

#[test]
fn every_other_table_runs_at_its_smallest() {
    let root = tempfile::tempdir().unwrap();
    for table in train::reproduce::TABLES {
        if table.name == "table1" {
            continue;
        }
        let size = [
            "--limit",
            "4",
            "--train-limit",
            "16",
            "--seeds",
            "1",
            "--set",
            "train.max_steps=2",
        ];
        let shown = text(&reproduce(table.name, root.path(), &size).stdout);
        for row in table.rows.all() {
            let line = format!("| ACC ↑ | {} |", row.label);
            let found = shown.lines().find(|l| l.starts_with(&line));
            assert!(
                found.is_some_and(|l| !l.contains('–')),
                "{}: {shown}",
                table.name
            );
        }
        assert!(file(root.path(), table.name, "svg").contains("</svg>"));
    }
}

/// The columns of `first-answers` are what was said on the way, in the second half of the steps.
#[test]
fn first_answers_are_taken_from_the_training() {
    let root = tempfile::tempdir().unwrap();
    let size = ["--limit", "4", "--train-limit", "32", "--seeds", "1"];
    let more = ["--methods", "uq4ct", "--set", "train.batch_size=8"];
    reproduce("first-answers", root.path(), &[&size[..], &more].concat());
    let json = file(root.path(), "first-answers", "json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let cell = &json["cells"][0];
    let training = std::fs::read_dir(root.path().join("trainings")).unwrap();
    let training = training.map(|t| t.unwrap().path()).next().unwrap();
    let lines = std::fs::read_to_string(training.join("prequential.jsonl")).unwrap();
    let answers = json_lines(&lines);
    let (right, late) = late_right(&answers);
    assert_eq!((answers.len(), late), (32, 16));
    assert_eq!(cell["n"], 16);
    assert_eq!(json["costs"].as_array().unwrap().len(), 0);
    let names = cell["values"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|v| v["figure"].as_str().unwrap()).collect();
    assert!(names.contains(&"nll") && !names.contains(&"nll_temperature"));
    let evaluation = std::fs::read_dir(root.path().join("evaluations")).unwrap();
    let evaluation = evaluation.map(|t| t.unwrap().path()).next().unwrap();
    assert!(!evaluation.join("evaluation/held-out").exists());
    let temperature = ["--set", "method.temperature=prequential"];
    let words = ["reproduce", "first-answers", "--model", "tiny", "--offline"];
    fails(
        root.path(),
        &[&words[..], &temperature].concat(),
        &["method.temperature", "leave it out"],
    );
    let accuracy = &cell["values"][0];
    assert_eq!(accuracy["figure"], "accuracy");
    assert_eq!(accuracy["over_seeds"]["mean"], right as f64 / 16.0);
}

#[test]
fn a_plan_is_independent_commands_that_several_processes_may_run() {
    let root = tempfile::tempdir().unwrap();
    let size = [
        "--limit",
        "4",
        "--train-limit",
        "16",
        "--seeds",
        "1",
        "--on",
        "openbookqa,mmlu-eng",
        "--methods",
        "deep_ensemble,lora,base",
    ];
    let planned = reproduce("table1", root.path(), &[&size[..], &["--plan"]].concat());
    let plan = text(&planned.stdout);
    assert_eq!(plan.lines().count(), 3 + 3, "{plan}");
    assert!(text(&planned.stderr).contains("3 trainings, 3 evaluations"));
    assert!(!root.path().join("trainings").exists());
    // Evaluations first: each trains what it needs, or waits for whoever does.
    let commands: Vec<&str> = plan.lines().rev().collect();
    let list = root.path().join("plan.txt");
    std::fs::write(&list, commands.join("\n")).unwrap();
    let status = Command::new("xargs")
        .args([
            "-d", "\n", "-P", "2", "-I", "COMMAND", "sh", "-c", "COMMAND",
        ])
        .stdin(std::fs::File::open(&list).unwrap())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let assembled = reproduce("table1", root.path(), &size);
    assert!(!text(&assembled.stderr).contains("step "));
    assert!(text(&assembled.stdout).contains("| ACC ↑ | Ensemble |"));
    let locks = ["trainings", "evaluations"].map(|kind| {
        let folders = std::fs::read_dir(root.path().join(kind)).unwrap();
        folders
            .filter(|f| f.as_ref().unwrap().path().join("lock.json").exists())
            .count()
    });
    assert_eq!(locks, [0, 0]);
}

#[test]
fn a_table_is_printed_while_its_first_dataset_is_open() {
    let root = tempfile::tempdir().unwrap();
    let size = ["--limit", "4", "--train-limit", "16", "--seeds", "1"];
    let done = ["--on", "arc-easy", "--methods", "lora"];
    reproduce("fig3", root.path(), &[&size[..], &done[..]].concat());
    let settings = folder(root.path(), "fig3").join("reproduce.toml");
    let settings = std::fs::read_to_string(settings).unwrap();
    let wider = settings.replace("\"arc-easy\"", "\"boolq\", \"arc-easy\"");
    assert_ne!(wider, settings);
    std::fs::create_dir(root.path().join("fig3")).unwrap();
    std::fs::write(root.path().join("fig3/reproduce.toml"), wider).unwrap();
    let from = root.path().to_str().unwrap();
    let printed = succeeds(root.path(), &["reproduce", "fig3", "--from", from]);
    let printed = text(&printed.stdout);
    assert!(printed.contains("1 of 2 evaluations are open"), "{printed}");
    let cost = printed.lines().find(|line| line.starts_with("| LoRA |"));
    let parameters = cost.and_then(|line| line.split(" | ").nth(1));
    assert!(
        parameters.is_some_and(|p| p.parse::<u64>().is_ok_and(|p| p > 0)),
        "{printed}"
    );
}

/// A recorded table goes on elsewhere with another seed: what is recorded is not done again.
#[test]
fn a_recorded_table_is_restored_and_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    let size = [
        "--limit",
        "8",
        "--methods",
        "LoRA,MixLoRA",
        "--on",
        "openbookqa,arc-easy",
    ];
    let with = |seeds: &'static str| [&size[..], &["--seeds", seeds]].concat();
    let once = at.join("once");
    std::fs::create_dir(&once).unwrap();
    reproduce("table1", &once, &with("1"));
    let from = folder(&once, "table1");
    let keep = [
        "reproduce",
        "table1",
        "--from",
        from.to_str().unwrap(),
        "--keep",
        "kept",
    ];
    succeeds(at, &keep);
    let restore = [
        "reproduce",
        "table1",
        "--from",
        "kept",
        "--restore",
        "again",
    ];
    let said = |words: &[&str]| text(&succeeds(at, words).stdout);
    assert!(said(&restore).contains("2 trainings and 2 evaluations"));
    // What is there stays.
    assert!(said(&restore).contains("0 trainings and 0 evaluations"));
    let again = at.join("again");
    let nothing = reproduce("table1", &again, &with("1"));
    assert_eq!(file(&again, "table1", "csv"), file(&once, "table1", "csv"));
    assert!(!text(&nothing.stderr).contains("trainings/"), "{nothing:?}");
    reproduce("table1", &again, &with("2"));
    let adapters = |root: &Path| {
        let trainings = std::fs::read_dir(root.join("trainings")).unwrap();
        let adapter = |path: PathBuf| path.join("adapter/adapter.bpk").is_file();
        trainings
            .filter(|found| adapter(found.as_ref().unwrap().path()))
            .count()
    };
    assert_eq!((adapters(&once), adapters(&again)), (2, 2));
    let both = std::fs::read_dir(again.join("trainings")).unwrap().count();
    assert_eq!(both, 4);
}

#[test]
fn runs_are_compared_and_asked_by_another_method() {
    let root = tempfile::tempdir().unwrap();
    let run = |method: &str| root.path().join(method).to_str().unwrap().to_owned();
    let train = |method: &str, seed: &str, run: &str| {
        let words = [
            "train",
            "--dataset",
            "boolq",
            "--model",
            "tiny",
            "--plain",
            "--method",
            method,
            "--seed",
            seed,
            "--run",
            run,
        ];
        succeeds(root.path(), &words);
    };
    train("lora", "42", &run("lora"));
    train("uq4ct", "42", &run("uq4ct"));
    let out = root.path().to_str().unwrap();
    let shown = text(
        &succeeds(
            root.path(),
            &["compare", &run("lora"), &run("uq4ct"), "--out", out],
        )
        .stdout,
    );
    assert!(
        shown.contains("2 runs on boolq (n = 24)") && shown.contains("p = "),
        "{shown}"
    );
    let page = std::fs::read_to_string(root.path().join("compare.html")).unwrap();
    // Risk and coverage of both, and a diagram of each.
    assert_eq!(page.matches("<svg role=img aria-label=").count(), 3);
    // Another seed joins its method's row.
    let other = run("lora-43");
    train("lora", "43", &other);
    succeeds(
        root.path(),
        &["compare", &run("lora"), &other, &run("uq4ct"), "--out", out],
    );
    let json = std::fs::read_to_string(root.path().join("compare.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 2);
    assert_eq!(json["cells"][0]["seeds"], 2);
    assert!(root.path().join("compare.tex").is_file() && root.path().join("compare.csv").is_file());
    let asked = succeeds(
        root.path(),
        &[
            "evaluate",
            &run("lora"),
            "--on",
            "boolq,mmlu-law",
            "--method",
            "mc_dropout",
            "--set",
            "method.samples=2",
        ],
    );
    assert_eq!(text(&asked.stdout).matches("accuracy, %").count(), 2);
    assert!(
        root.path()
            .join("lora/evaluation/mmlu-law-mc_dropout/cost.json")
            .is_file()
    );
    let refused = |words: &[&str], reason: &str| fails(root.path(), words, &[reason]);
    refused(
        &[
            "evaluate",
            &run("uq4ct"),
            "--on",
            "mmlu-law",
            "--method",
            "laplace",
        ],
        "queries a lora training",
    );
    refused(
        &[
            "evaluate",
            &run("lora"),
            "--on",
            "mmlu-law",
            "--method",
            "deep_ensemble",
        ],
        "needs 3 trainings",
    );
    refused(
        &["compare", &run("lora"), &run("uq4ct"), "--on", "mmlu-law"],
        "uq4ct evaluate",
    );
    refused(&["compare", &run("lora"), "/nowhere"], "/nowhere");
    refused(
        &["train", "--dataset", "mmlu-law", "--model", "tiny"],
        "has no training questions",
    );
    refused(
        &[
            "train",
            "--dataset",
            "boolq",
            "--method",
            "lora",
            "--set",
            "adapter.num_experts=4",
        ],
        "does not read it",
    );
    refused(
        &["reproduce", "table9"],
        "unknown table `table9`. Did you mean `table1`?",
    );
}

/// A dataset that cannot be read costs its own column alone, and the table is printed.
#[test]
fn a_damaged_dataset_keeps_nothing_else_from_being_asked() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let write = |file: &str, text: &str| {
        let path = root.join("data").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for (split, size) in [("train", 40), ("validation", 8), ("test", 8)] {
        let row = |n: usize| {
            let choices = r#"{"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}"#;
            let answer = ["A", "B", "C", "D"][n % 4];
            let text = format!(r#""question_stem": "{split} {n}", "choices": {choices}"#);
            format!("{{{text}, \"answerKey\": \"{answer}\"}}\n")
        };
        let rows: String = (0..size).map(row).collect();
        write(&format!("openbookqa/{split}.jsonl"), &rows);
    }
    write("arc-easy/test.jsonl", "{\"question\": \n");
    let words = [
        "reproduce",
        "table1",
        "--model",
        "tiny",
        "--plain",
        "--json",
    ];
    let size = ["--seeds", "1", "--limit", "8", "--data-dir", "data"];
    let methods = "lora,mixlora,LoRA (first answers)";
    let rows = ["--on", "openbookqa,arc-easy", "--methods", methods];
    let (code, out, err) = outcome(root, &[&words[..], &size, &rows].concat());
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("test.jsonl") && err.contains("3 of 5 pieces failed"),
        "{err}"
    );
    let table: serde_json::Value = serde_json::from_str(&out).unwrap();
    let cells = table["cells"].as_array().unwrap().iter();
    let asked: Vec<u64> = cells.map(|cell| cell["n"].as_u64().unwrap()).collect();
    assert_eq!(asked, [8, 0, 8, 0, 8, 0], "{out}");
}

/// Every folder anywhere below `results` that says how a table was made.
fn recorded(results: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(results).unwrap() {
        let folder = folder.unwrap().path();
        if folder.join("reproduce.toml").is_file() {
            found.push(folder);
        } else if folder.is_dir() {
            found.extend(recorded(&folder));
        }
    }
    found.sort();
    found
}

/// The cells of a line of a Markdown table, without marks of the best.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim_matches(['|', ' ']);
    let cells = line.split(" | ").map(|cell| cell.replace("**", ""));
    cells
        .map(|cell| cell.replace("<u>", "").replace("</u>", ""))
        .collect()
}

/// A recorded table with these columns and figures alone, and with these rows if any are named. One
/// column has a figure a cell, with its deviation; of several, each cell has all figures, without.
fn excerpt(folder: &Path, columns: &[&str], figures: &[&str], wanted: &[&str]) -> String {
    let table = folder.file_name().unwrap().to_str().unwrap();
    let read =
        |ending: &str| std::fs::read_to_string(folder.join(format!("{table}{ending}"))).unwrap();
    let (markdown, csv) = (read(".md"), read(".csv"));
    let mut lines = markdown.lines().filter(|line| line.starts_with('|'));
    let head = cells(lines.next().unwrap());
    // The first cell of the head is empty and lost with its bar.
    let (first, known) = head.split_first().unwrap();
    let rows: Vec<Vec<String>> = lines.map(cells).collect();
    let figure = |row: &str, column: &str, figure: &str| {
        let known_figure = Figure::ALL.iter().find(|known| known.name() == figure);
        let better = known_figure
            .unwrap_or_else(|| panic!("{table}: no figure is named {figure:?}"))
            .higher_is_better();
        let name = format!("{figure} {}", if better { '\u{2191}' } else { '\u{2193}' });
        let place = known.iter().position(|known| known == column);
        let place = place.unwrap_or_else(|| panic!("{table} has no column {column:?}"));
        let line = rows.iter().find(|line| line[0] == name && line[1] == row);
        line.map_or("\u{2013}".to_owned(), |line| line[place + 2].clone())
    };
    let accuracies = rows.iter().filter(|line| line[0].starts_with("ACC "));
    let mut labels: Vec<String> = accuracies.map(|line| line[1].clone()).collect();
    labels.dedup();
    let unknown = wanted.iter().find(|row| !labels.iter().any(|l| l == *row));
    assert_eq!(unknown, None, "{table} has no such row");
    labels.retain(|label| wanted.is_empty() || wanted.contains(&&**label));
    let single = columns.len() == 1;
    let heads = if single { figures } else { columns };
    let mut text = format!("\n| {first} | seeds | {} |\n", heads.join(" | "));
    text += &format!("|---|---:|{}\n", "---:|".repeat(heads.len()));
    for row in labels {
        let shown: Vec<String> = match single {
            true => figures
                .iter()
                .map(|f| figure(&row, columns[0], f))
                .collect(),
            false => columns
                .iter()
                .map(|column| {
                    let values = figures.iter().map(|f| figure(&row, column, f));
                    let values = values.map(|v| v.split(" \u{b1}").next().unwrap().to_owned());
                    values.collect::<Vec<_>>().join(" / ")
                })
                .collect(),
        };
        text += &format!(
            "| {row} | {} | {} |\n",
            seeds(&csv, &row, columns),
            shown.join(" | ")
        );
    }
    text
}

/// How many seeds a row has in these columns: `2`, or `1 to 3`.
fn seeds(csv: &str, row: &str, columns: &[&str]) -> String {
    let mut counts = Vec::new();
    for line in csv.lines() {
        // From the right: the label of a row may hold a comma.
        let fields: Vec<&str> = line.rsplitn(8, ',').collect();
        let [_, _, seeds, _, _, "ACC", column, head] = fields[..] else {
            continue;
        };
        let (_, label) = head.split_once(',').unwrap();
        if label.trim_matches('"') == row && columns.contains(&column) {
            counts.push(seeds.parse::<usize>().unwrap());
        }
    }
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    match least == most {
        true => least.to_string(),
        false => format!("{least} to {most}"),
    }
}

/// The page with every part between `<!-- results/TABLE: COLUMN, COLUMN: FIGURE / FIGURE -->` and
/// `<!-- end -->` made anew. `: ROW, ROW` after the figures leaves out all other rows.
fn page_from_results(page: &str, root: &Path) -> String {
    let mut made = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("<!-- results/") {
        let (marker, after) = after.split_once(" -->").expect("an end of the mark");
        let (_, after) = after
            .split_once("<!-- end -->")
            .expect("an end of the part");
        // A long mark stands on two lines.
        let flat = marker.split_whitespace().collect::<Vec<_>>().join(" ");
        let parts: Vec<&str> = flat.split(": ").collect();
        let (table, columns, figures, rows) = match parts[..] {
            [table, columns, figures] => (table, columns, figures, None),
            [table, columns, figures, rows] => (table, columns, figures, Some(rows)),
            _ => panic!("{marker}: expected TABLE: COLUMNS: FIGURES: ROWS"),
        };
        let rows: Vec<&str> = rows.map_or(Vec::new(), |rows| rows.split(", ").collect());
        let columns: Vec<&str> = columns.split(", ").collect();
        let figures: Vec<&str> = figures.split(" / ").collect();
        let table = excerpt(&root.join("results").join(table), &columns, &figures, &rows);
        made += &format!("{before}<!-- results/{marker} -->{table}<!-- end -->");
        rest = after;
    }
    made + rest
}

/// `UPDATE_RESULTS=1` writes the tables and their places in the documents anew.
#[test]
fn the_recorded_results_print_the_tables_that_stand_beside_them() {
    const HINT: &str = "UPDATE_RESULTS=1 cargo test --workspace recorded_results";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let update = std::env::var_os("UPDATE_RESULTS").is_some();
    let results = root.join("results");
    let folders = recorded(&results);
    assert!(folders.len() > 1);
    for folder in folders {
        let table = folder.file_name().unwrap().to_str().unwrap();
        let made = tempfile::tempdir().unwrap();
        let from = folder.to_str().unwrap();
        let keep = folder.parent().unwrap().to_str().unwrap();
        let out = made.path().to_str().unwrap();
        let place = if update {
            ["--keep", keep]
        } else {
            ["--out", out]
        };
        let words = ["reproduce", table, "--from", from, place[0], place[1]];
        succeeds(made.path(), &words);
        // What is always there, and what stands there besides.
        let mut endings: Vec<String> = KEPT.map(str::to_owned).into();
        for file in std::fs::read_dir(&folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            endings.extend(name.strip_prefix(table).map(str::to_owned));
        }
        let file = |folder: &Path, ending: &str| {
            std::fs::read_to_string(folder.join(format!("{table}{ending}"))).ok()
        };
        for ending in endings.iter().filter(|_| !update) {
            assert!(
                file(made.path(), ending) == file(&folder, ending),
                "{table}{ending} is not what {from} says: {HINT}"
            );
        }
    }
    let page = root.join("docs/results.md");
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("<!-- results/"));
    let new = page_from_results(&text, root);
    if update {
        std::fs::write(&page, new).unwrap();
    } else {
        assert!(new == text, "{} is old: {HINT}", page.display());
    }
    // The commands that the page names print something.
    let commands: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("    uq4ct "))
        .filter(|command| command.contains(" --from "))
        .collect();
    assert!(!commands.is_empty());
    for command in commands {
        succeeds(root, &command.split(' ').collect::<Vec<_>>());
    }
}
