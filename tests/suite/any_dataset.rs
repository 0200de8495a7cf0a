//! Any dataset of the Hub, by `--dataset owner/name[:configuration]`, against a loopback server
//! that speaks the Hub's URLs; and task files.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use data::check::CheckedFile;
use data::dataset::custom::Custom;
use data::dataset::{OfficialSplit, load};
use data::source::Finder;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use crate::support::allocation::most_bytes;
use crate::support::programs::{fails, json as read_json, succeeds, text, train_from_hub};

/// A branch with such a file cannot be listed now.
const BUSY: &str = "busy";

/// Files by `revision/path`, of the one dataset `owner/quiz`.
type Files = BTreeMap<String, Vec<u8>>;

struct Server {
    endpoint: String,
    log: Arc<Mutex<Vec<String>>>,
}

fn serve(files: Files) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, files) = (log.clone(), Arc::new(files));
    std::thread::spawn(move || {
        for stream in listener.incoming().take(200) {
            let (seen, files) = (seen.clone(), files.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &seen, &files));
        }
    });
    Server { endpoint, log }
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>, files: &Files) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut from = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
            break;
        }
        if let Some(bytes) = header.to_lowercase().strip_prefix("range: bytes=") {
            from = bytes.split('-').next().unwrap().trim().parse().unwrap_or(0);
        }
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    // A request for nothing is a look whether the host is there.
    if path.is_empty() {
        return;
    }
    seen.lock().unwrap().push(format!("{method} {path}"));
    let path = path.split('?').next().unwrap().replace("%2F", "/");
    let no = "HTTP/1.1 404 Not Found\r\nX-Error-Code: RevisionNotFound\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    if let Some(revision) = path.strip_prefix("/api/datasets/owner/quiz/tree/") {
        let prefix = format!("{revision}/");
        let listed: Vec<_> = files
            .iter()
            .filter_map(|(name, bytes)| Some((name.strip_prefix(&prefix)?, bytes)))
            .map(|(path, bytes)| json!({"type": "file", "oid": "0", "size": bytes.len(), "path": path}))
            .collect();
        if listed.is_empty() {
            let _ = stream.write_all(no.as_bytes());
            return;
        }
        if files.contains_key(&format!("{prefix}{BUSY}")) {
            let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(busy.as_bytes());
            return;
        }
        let body = serde_json::to_string(&listed).unwrap();
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        return;
    }
    let found = path.strip_prefix("/datasets/owner/quiz/resolve/");
    let Some(bytes) = found.and_then(|name| files.get(name)) else {
        let _ = stream.write_all(no.as_bytes());
        return;
    };
    let (status, part) = match from {
        0 => ("200 OK", &bytes[..]),
        from => ("206 Partial Content", &bytes[from.min(bytes.len())..]),
    };
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: \"{}-{}\"\r\nX-Repo-Commit: {commit}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        path.len(),
        bytes.len(),
        part.len()
    );
    if method != "HEAD" {
        let _ = stream.write_all(part);
    }
}

/// A parquet file of columns of text.
fn table(columns: &[(&str, Vec<String>)]) -> Vec<u8> {
    let fields = columns
        .iter()
        .map(|(name, _)| format!("required binary {name} (UTF8);"));
    let schema = format!("message schema {{ {} }}", fields.collect::<String>());
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, cells) in columns {
        let cells: Vec<ByteArray> = cells.iter().map(|cell| cell.as_str().into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&cells, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    out
}

/// So many questions with columns as people name them.
fn quiz(rows: std::ops::Range<usize>) -> Vec<u8> {
    let of = |cell: &dyn Fn(usize) -> String| rows.clone().map(cell).collect::<Vec<_>>();
    table(&[
        ("stem", of(&|i| format!("What is {i}?"))),
        ("opt_a", of(&|i| format!("x{i}"))),
        ("opt_b", of(&|i| format!("y{i}"))),
        ("explanation", of(&|_| "because".into())),
        ("gold", of(&|i| ["A", "B"][i % 2].into())),
    ])
}

fn train(server: &Server, home: &Path, more: &[&str]) -> Output {
    let mut command = train_from_hub(&server.endpoint, home);
    command.args(more).output().unwrap()
}

const CONVERTED: &str = "refs/convert/parquet";

#[test]
fn a_dataset_of_the_hub_is_found_with_its_splits_and_columns() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(Files::from([
        (
            format!("{CONVERTED}/default/train/0000.parquet"),
            quiz(0..20),
        ),
        (
            format!("{CONVERTED}/default/train/0001.parquet"),
            quiz(20..32),
        ),
        (
            format!("{CONVERTED}/default/test/0000.parquet"),
            quiz(100..105),
        ),
        ("main/README.md".into(), b"no rows".to_vec()),
    ]));
    let output = train(&server, home.path(), &["--dataset", "owner/quiz"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("question from stem; choices from opt_a, opt_b; answer from gold"),
        "{said}"
    );
    let data = read_json(&home.path().join("r/data.json"));
    assert_eq!(data["split"]["available"][2], 5);
    let rows: u64 = (0..3)
        .map(|split| data["split"]["used"][split].as_u64().unwrap())
        .sum();
    assert_eq!(rows, 37);
    assert!(
        said.contains(
            "owner/quiz@0123456789abcdef0123456789abcdef01234567:default/train/0001.parquet"
        ),
        "{said}"
    );
    // From then on nothing is asked, also to look at every split.
    let asked = server.log.lock().unwrap().len();
    let known = train_from_hub(&server.endpoint, home.path());
    let mut check = Command::new(env!("CARGO_BIN_EXE_uq4ct"));
    let look = [
        "data",
        "check",
        "owner/quiz",
        "--model",
        "tiny",
        "--offline",
    ];
    check.current_dir(home.path()).args(look);
    for (key, value) in known.get_envs() {
        match value {
            Some(value) => check.env(key, value),
            None => check.env_remove(key),
        };
    }
    let output = check.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "owner/quiz train",
        "owner/quiz test",
        "rows: 32",
        "rows: 5",
        "--dataset owner/quiz",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let output = train(
        &server,
        home.path(),
        &["--dataset", "owner/quiz", "--offline"],
    );
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(server.log.lock().unwrap().len(), asked);
}

/// A Hub that is busy for a moment must not decide for good which files a dataset has.
#[test]
fn a_branch_that_cannot_be_listed_now_is_not_taken_for_absent() {
    let home = tempfile::tempdir().unwrap();
    let own = ("main/README.md".to_owned(), b"no rows".to_vec());
    let busy = serve(Files::from([
        (format!("{CONVERTED}/{BUSY}"), Vec::new()),
        own.clone(),
    ]));
    let flags = ["--dataset", "owner/quiz"];
    let said = text(&train(&busy, home.path(), &flags));
    assert!(
        said.contains("owner/quiz") && said.contains("503"),
        "{said}"
    );
    // Not converted yet, and nothing of its own that can be read.
    let early = serve(Files::from([own]));
    let output = train(&early, home.path(), &flags);
    assert!(!output.status.success());
    let server = serve(Files::from([
        (
            format!("{CONVERTED}/default/train/0000.parquet"),
            quiz(0..20),
        ),
        (
            format!("{CONVERTED}/default/test/0000.parquet"),
            quiz(100..105),
        ),
    ]));
    let output = train(&server, home.path(), &flags);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn configurations_unlabelled_tests_and_missing_columns() {
    let home = tempfile::tempdir().unwrap();
    let rows = |range: std::ops::Range<usize>, label: &dyn Fn(usize) -> i64| -> Vec<u8> {
        let row = |i: usize| json!({"question": format!("{i}?"), "choices": [format!("x{i}"), "y"], "label": label(i)});
        let rows: String = range.map(|i| format!("{}\n", row(i))).collect();
        rows.into_bytes()
    };
    // Without a converted branch, the repository's own files.
    let server = serve(Files::from([
        (
            "main/en/train.jsonl".into(),
            rows(0..30, &|i| (i % 2) as i64),
        ),
        (
            "main/en/validation.jsonl".into(),
            rows(50..56, &|i| (i % 2) as i64),
        ),
        ("main/en/test.jsonl".into(), rows(60..64, &|_| -1)),
        ("main/de/train.jsonl".into(), rows(0..30, &|_| 0)),
    ]));
    let output = train(&server, home.path(), &["--dataset", "owner/quiz"]);
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("name one of de, en behind a colon"),
        "{said}"
    );
    let output = train(&server, home.path(), &["--dataset", "owner/quiz:en"]);
    assert!(output.status.success(), "{}", text(&output));
    let data = read_json(&home.path().join("r/data.json"));
    assert_eq!(
        (&data["split"]["test_from"], &data["split"]["used"][2]),
        (&"validation".into(), &6.into())
    );
    let wrong = ["--dataset", "owner/quiz:en", "--question-field", "frage"];
    let output = train(&server, home.path(), &wrong);
    let said = text(&output);
    assert!(
        said.contains("frage: is missing; the row has question, choices, label"),
        "{said}"
    );
    let output = train(&server, home.path(), &["--dataset", "owner/none"]);
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("the Hub's dataset owner/none was not found"),
        "{said}"
    );
}

#[test]
fn a_task_file_words_prompt_choices_and_answer() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let rows = |range: std::ops::Range<usize>| -> String {
        let row = |i: usize| json!({"ctx": format!("Kai has {i} nuts. "), "ask": "How many?", "right": i.to_string(), "wrong": [(i + 1).to_string()], "n": i});
        range.map(|i| format!("{}\n", row(i))).collect()
    };
    std::fs::write(at("rows.jsonl"), rows(0..30)).unwrap();
    std::fs::write(at("test.jsonl"), rows(40..45)).unwrap();
    let task = r#"train = "rows.jsonl"
test = "test.jsonl"
prompt = """
{{ ctx | trim }} {{ ask }}
{% for choice in [wrong[0], right] %}{{ ["A", "B"][loop.index0] }}. {{ choice }}
{% endfor %}Answer:"""
choices = "[wrong[0], right]"
answer = "B"
id = "kai-{{ n }}"
"#;
    std::fs::write(at("nuts.toml"), task).unwrap();
    let train = [
        "train",
        "--model",
        "tiny",
        "--plain",
        "--set",
        "train.max_steps=2",
        "--set",
        "data.scoring=letters",
    ];
    succeeds(
        folder.path(),
        &[&train[..], &["--dataset", "nuts.toml", "--run", "r"]].concat(),
    );
    let data = read_json(&at("r/data.json"));
    assert_eq!(
        data["prompt"],
        "Kai has 40 nuts. How many?\nA. 41\nB. 40\nAnswer:"
    );
    assert_eq!(data["split"]["used"][2], 5);
    let files = data["split"]["files"].as_array().unwrap();
    assert!(
        files
            .iter()
            .any(|file| file["origin"].as_str().unwrap().ends_with("nuts.toml")),
        "{files:?}"
    );
    // Looked at before, with every file that it names.
    let said = succeeds(
        folder.path(),
        &["data", "check", "nuts.toml", "--model", "tiny"],
    );
    for part in ["Kai has 0 nuts. How many?", "train --dataset nuts.toml"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    // Other rows of the kind are read by the run's own task.
    let ask = [
        "predict",
        "r",
        "--input",
        "test.jsonl",
        "--output",
        "a.jsonl",
    ];
    succeeds(folder.path(), &ask);
    let answers = std::fs::read_to_string(at("a.jsonl")).unwrap();
    assert_eq!(answers.matches("\"correct\":").count(), 5, "{answers}");
    assert!(answers.starts_with("{\"id\":\"kai-40\""), "{answers}");
    // Another wording would ask what was never learned.
    std::fs::write(at("nuts.toml"), task.replace("Answer:", "Reply:")).unwrap();
    fails(
        folder.path(),
        &["predict", "r", "--input", "test.jsonl"],
        &["nuts.toml", "has changed since", "train again"],
    );
    std::fs::remove_file(at("nuts.toml")).unwrap();
    fails(
        folder.path(),
        &["predict", "r", "--input", "test.jsonl"],
        &["nuts.toml", "no such task file"],
    );
    std::fs::write(at("nuts.toml"), task).unwrap();
    // With the wording of the house around the question.
    let worded = task.split("prompt").next().unwrap().to_owned()
        + "question = \"{{ ctx }} {{ ask }}\"\nchoices = [\"{{ right }}\", \"{{ wrong[0] }}\"]\nanswer = \"0\"\n";
    std::fs::write(at("worded.toml"), worded).unwrap();
    let moe = [
        "--dataset",
        "worded.toml",
        "--run",
        "w",
        "--set",
        "data.template=moe_peft",
        "--set",
        "data.chat=off",
    ];
    succeeds(folder.path(), &[&train[..], &moe].concat());
    assert!(at("w/report.html").is_file());
    std::fs::write(
        at("bad.toml"),
        task.replace("\"[wrong[0], right]\"", "\"[missing[0], right]\""),
    )
    .unwrap();
    fails(
        folder.path(),
        &[&train[..], &["--dataset", "bad.toml"]].concat(),
        &[
            "choices = \"[missing[0], right]\": undefined value",
            "the row has ctx, ask, right, wrong, n",
        ],
    );
    std::fs::write(at("odd.toml"), task.replace("answer", "answr")).unwrap();
    fails(
        folder.path(),
        &[&train[..], &["--dataset", "odd.toml"]].concat(),
        &["odd.toml: line ", "unknown field `answr`"],
    );
}

/// A template would write the text "None", and `int` would make a 0 of it.
#[test]
fn what_is_null_is_absent_in_a_task_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let row = |i: usize, label: &str| {
        format!(
            r#"{{"ask": "Which of {i}?", "options": ["red {i}", "blue {i}"], "label": {label}, "note": null}}"#
        ) + "\n"
    };
    let task = "train = \"rows.jsonl\"\nquestion = \"{{ ask }}\"\nchoices = \"options\"\nanswer = \"{{ label | int }}\"\n";
    let rows =
        row(1, "0") + &row(2, "1") + &row(3, "null") + &row(4, "1").replace(r#""label": 1, "#, "");
    std::fs::write(at("rows.jsonl"), rows).unwrap();
    std::fs::write(at("task.toml"), task).unwrap();
    let check = |task: &str| {
        [
            "data".to_owned(),
            "check".into(),
            task.into(),
            "--model".into(),
            "none".into(),
        ]
    };
    let words = check("task.toml");
    let said = succeeds(folder.path(), &words.each_ref().map(String::as_str));
    for part in [
        "2 usable",
        "2 without an answer",
        "A: 1 (50 %), B: 1 (50 %)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let noted = |note: &str| {
        std::fs::write(
            at("noted.toml"),
            task.replace("{{ ask }}", &format!("{{{{ ask }}}} {note}")),
        )
        .unwrap();
        check("noted.toml")
    };
    let words = noted("{{ note }}");
    let parts = [
        "{{ note }}",
        "undefined value; the row has ask, options, label",
    ];
    fails(folder.path(), &words.each_ref().map(String::as_str), &parts);
    // What asks for it first may go without.
    for guard in [
        "{% if note %}{{ note }}{% endif %}",
        "{{ note or '' }}",
        "{% if note is not none %}{{ note }}{% endif %}",
        "{{ note | default('') }}",
    ] {
        let words = noted(guard);
        let said = succeeds(folder.path(), &words.each_ref().map(String::as_str));
        assert!(said.contains("2 usable"), "{guard}: {said}");
    }
    // A value that the template does not know is no missing one.
    let mapped = task.replace("{{ label | int }}", "{{ {0: 'A'}[label] }}");
    std::fs::write(at("mapped.toml"), mapped).unwrap();
    let words = check("mapped.toml");
    fails(
        folder.path(),
        &words.each_ref().map(String::as_str),
        &["row 2", "undefined value"],
    );
}

/// Nine of ten rows have no answer. Held whole, the file would take 20 MB and more.
#[test]
fn rows_of_parquet_become_questions_as_they_come() {
    let rows = 20_000;
    let of = |cell: &dyn Fn(usize) -> String| (0..rows).map(cell).collect::<Vec<_>>();
    let bytes = table(&[
        (
            "stem",
            of(&|i| format!("What is {i}? {}", "and why ".repeat(120))),
        ),
        ("opt_a", of(&|i| format!("x{i}"))),
        ("opt_b", of(&|i| format!("y{i}"))),
        (
            "gold",
            of(&|i| if i % 10 == 7 { ["A", "B"][i % 2] } else { "" }.into()),
        ),
    ]);
    assert!(bytes.len() > 19_000_000, "{}", bytes.len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    std::fs::write(&path, &bytes).unwrap();
    drop(bytes);
    let mut custom = Custom::default();
    custom.train = Some(path.clone());
    let custom = custom.prepared().unwrap();
    let load = || load(&custom, OfficialSplit::Train, &Finder::from_env());
    let (loaded, most) = most_bytes(load);
    let questions = loaded.unwrap().questions;
    assert_eq!(questions.len(), rows / 10);
    assert_eq!(questions[3].answer, 1);
    // Pages of four columns, a few rows, and the questions.
    assert!(most < 12 << 20, "{most} bytes at once");
    let (checked, most) = most_bytes(|| CheckedFile::read(&path, &Custom::default()));
    let checked = checked.unwrap();
    let counted = [checked.rows, checked.usable, checked.unanswered];
    assert_eq!(counted, [rows, rows / 10, rows - rows / 10]);
    assert!(most < 12 << 20, "{most} bytes at once");
}
