//! The manners of the command line: names, flags, help, what is said and how it ends.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::support::programs::{
    TINY, json, outcome, program, refuses, stdout, succeeds, text, train,
};

/// Every command of the program by its words, without `help`.
fn verbs() -> Vec<(Vec<String>, clap::Command)> {
    fn below(
        path: &[String],
        command: &clap::Command,
        found: &mut Vec<(Vec<String>, clap::Command)>,
    ) {
        for verb in command.get_subcommands() {
            let path = [path, &[verb.get_name().to_owned()]].concat();
            match verb.has_subcommands() {
                true => below(&path, verb, found),
                false => found.push((path, verb.clone())),
            }
        }
    }
    let mut found = Vec::new();
    below(&[], &uq4ct::cli::command(), &mut found);
    found
}

#[test]
fn a_wrong_value_ends_with_2_and_the_nearest_right_one() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    let with = |more: &[&'static str]| [&["train", "--model", "tiny"], more].concat();
    let boolq = |more: &[&'static str]| with(&[&["--dataset", "boolq"], more].concat());
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (
            with(&["--dataset", "bolq"]),
            &["Did you mean `boolq`?", "arc-easy"],
        ),
        (boolq(&["--method", "uq4c"]), &["Did you mean `uq4ct`?"]),
        (
            vec!["train", "--dataset", "boolq", "--model", "smollm2-135"],
            &["Did you mean `smollm2-135m`?", "uq4ct models"],
        ),
        (boolq(&["--device", "cdua"]), &["Did you mean `cuda`?"]),
        (
            boolq(&["--set", "train.epoch=1"]),
            &["Did you mean `epochs`?"],
        ),
        (
            boolq(&["--set", "data.scoring=close"]),
            &["Did you mean `cloze`?"],
        ),
        (
            boolq(&["--set", "data.dataset=bolq"]),
            &["Did you mean `boolq`?"],
        ),
        (
            boolq(&["--set", "method.name=uq4c"]),
            &["Did you mean `uq4ct`?"],
        ),
        (
            boolq(&["--epochs=0"]),
            &["train.epochs", "a positive number"],
        ),
        (boolq(&["--lr=7"]), &["train.learning_rate", "at most 1"]),
        (vec!["reproduce", "tabel1"], &["Did you mean `table1`?"]),
        (
            vec!["reproduce", "table1", "--on", "openbokqa", "--plan"],
            &["column of table1", "Did you mean `openbookqa`?"],
        ),
        (
            vec!["reproduce", "table1", "--methods", "loar", "--plan"],
            &["row of table1", "Did you mean `lora`?"],
        ),
        (vec!["reproduce", "table1", "--seeds", "0"], &["--seeds"]),
        (
            vec!["evaluate", "r", "--on", "arc-esay"],
            &["Did you mean `arc-easy`?"],
        ),
        (
            vec!["export", "r", "--format", "pfet", "--output", "x"],
            &["peft"],
        ),
        (vec!["predict", "r"], &["--question", "--input"]),
        (vec!["download"], &["--model", "--dataset"]),
        (
            vec!["download", "--dataset", "bolq"],
            &["Did you mean `boolq`?"],
        ),
        (vec!["trian"], &["train"]),
    ];
    for (args, parts) in cases {
        refuses(root, &args, parts);
    }
    // What is merely not there is a failure, not a wrong command.
    for args in [
        &["evaluate", "nowhere", "--on", "arc-easy"][..],
        &["runs", "nowhere"],
        &["train", "--model", "tiny", "--dataset", "nowhere.csv"],
        &[
            "train",
            "--model",
            "tiny",
            "--dataset",
            "boolq",
            "--config",
            "nowhere.toml",
        ],
    ] {
        assert_eq!(outcome(root, args).0, 1, "{args:?}");
    }
}

#[test]
fn names_are_taken_whatever_their_case() {
    let root = tempfile::tempdir().unwrap();
    let plan = |args: &[&str]| -> Value {
        let more = ["--dry-run", "--json"];
        serde_json::from_str(&stdout(root.path(), &[args, &more].concat())).unwrap()
    };
    let typed = [
        "train",
        "--model",
        "TINY",
        "--dataset",
        "BoolQ",
        "--method",
        "UQ4CT",
        "--device",
        "CPU",
    ];
    let set = [
        "train",
        "--set",
        "model.name=Tiny",
        "--set",
        "data.dataset=BOOLQ",
        "--set",
        "method.name=UQ4ct",
        "--device",
        "cpu",
    ];
    let known = plan(&[
        "train",
        "--model",
        "tiny",
        "--dataset",
        "boolq",
        "--device",
        "cpu",
    ]);
    assert_eq!(known["settings"]["data"]["dataset"], "boolq");
    assert_eq!(plan(&typed)["settings"], known["settings"]);
    assert_eq!(plan(&set)["settings"], known["settings"]);
    let printed = succeeds(
        root.path(),
        &[
            "reproduce",
            "TABLE1",
            "--model",
            "Tiny",
            "--on",
            "OpenBookQA",
            "--methods",
            "LoRA",
            "--seeds",
            "1",
            "--plan",
        ],
    );
    assert!(
        printed.contains("trainings/openbookqa-lora-tiny-s42-"),
        "{printed}"
    );
}

#[test]
fn what_is_changed_most_has_flags_and_lists_need_no_brackets() {
    let root = tempfile::tempdir().unwrap();
    let args = [
        "--method",
        "lora",
        "--epochs",
        "1.5",
        "--lr",
        "1e-3",
        "--batch-size",
        "4",
        "--limit",
        "7",
        "--train-limit",
        "9",
        "--set",
        "adapter.target_modules=['q_proj', 'v_proj']",
        "--set",
        "data.custom.choices=A,B,C",
        "--dry-run",
        "--json",
    ];
    let printed = stdout(root.path(), &[&TINY[..], &args].concat());
    let plan: Value = serde_json::from_str(&printed).unwrap();
    let settings = &plan["settings"];
    assert_eq!(settings["train"]["epochs"], 1.5);
    assert_eq!(settings["train"]["learning_rate"], 1e-3);
    assert_eq!(settings["train"]["batch_size"], 4);
    assert_eq!(settings["data"]["test_limit"], 7);
    assert_eq!(settings["data"]["held_out_limit"], 7);
    assert_eq!(
        settings["adapter"]["target_modules"],
        serde_json::json!(["q_proj", "v_proj"])
    );
    assert_eq!(
        settings["data"]["custom"]["choices"],
        serde_json::json!(["A", "B", "C"])
    );
    assert_eq!(plan["questions"]["train"], 9);
    assert!(plan["estimate"]["steps"].as_u64().unwrap() > 0);
    // `--set` is the last word.
    let both = [
        &TINY[..],
        &["--epochs", "1", "--set", "train.epochs=3", "--dry-run"],
    ]
    .concat();
    assert!(succeeds(root.path(), &both).contains("epochs = 3.0"));
    // A single word is a list of one.
    let one = [
        "--set",
        "data.custom.choices=options",
        "--dry-run",
        "--json",
    ];
    let printed = stdout(root.path(), &[&TINY[..], &one].concat());
    let plan: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        plan["settings"]["data"]["custom"]["choices"],
        serde_json::json!(["options"])
    );
}

#[test]
fn training_without_questions_asks_for_them() {
    let root = tempfile::tempdir().unwrap();
    refuses(
        root.path(),
        &["train"],
        &["--dataset", "boolq", "arc-easy", ".csv"],
    );
    refuses(
        root.path(),
        &["train", "--model", "tiny", "--dry-run"],
        &["--dataset"],
    );
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_run_records_the_command_that_was_typed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let recorded = |run: &str| {
        let environment = json(&root.join(run).join("environment.json"));
        environment["command"].as_str().unwrap().to_owned()
    };
    let own = env!("CARGO_BIN_EXE_uq4ct");
    let args = [
        &TINY[..],
        &["--run", "a", "--set", "data.custom.question=a b"],
    ]
    .concat();
    let typed = program(own, root, &args).output().unwrap();
    assert!(typed.status.success(), "{}", text(&typed));
    let rest =
        "train --model tiny --dataset boolq --plain --run a --set 'data.custom.question=a b'";
    assert_eq!(recorded("a"), format!("{own} {rest}"));
    // Going on keeps the command that began the run.
    succeeds(root, &[&args[..], &["--resume"]].concat());
    assert_eq!(recorded("a"), format!("{own} {rest}"));
    let mut by_cargo = program(own, root, &[&TINY[..], &["--run", "b"]].concat());
    assert!(
        by_cargo
            .env("CARGO_PKG_NAME", "uq4ct")
            .status()
            .unwrap()
            .success()
    );
    let command = recorded("b");
    assert!(command.starts_with("cargo run "), "{command}");
    assert!(
        command.ends_with("--bin uq4ct -- train --model tiny --dataset boolq --plain --run b"),
        "{command}"
    );
}

#[test]
fn every_verb_shows_examples_that_it_would_take() {
    let all = verbs();
    assert!(all.len() >= 15, "{}", all.len());
    for (path, mut verb) in all {
        let help = verb.render_long_help().to_string();
        let examples: Vec<&str> = help
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("uq4ct "))
            .collect();
        assert!(examples.len() >= 2, "{path:?}: {examples:?}");
        for example in examples {
            let words = example.split(' ');
            let parsed = uq4ct::cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            assert!(
                example.starts_with(&format!("uq4ct {}", path.join(" "))),
                "{example}"
            );
        }
        let short = verb.render_help().to_string();
        assert!(!short.contains("Examples:"), "{path:?}");
        assert!(short.lines().count() < help.lines().count(), "{path:?}");
    }
    let order: Vec<String> = verbs()
        .into_iter()
        .map(|(path, _)| path[0].clone())
        .collect();
    let place = |verb: &str| order.iter().position(|known| known == verb).unwrap();
    let work = [
        "doctor",
        "data",
        "train",
        "evaluate",
        "predict",
        "reproduce",
    ];
    assert!(
        work.windows(2).all(|pair| place(pair[0]) < place(pair[1])),
        "{order:?}"
    );
}

#[test]
fn shells_and_readers_of_manuals_get_every_verb() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for shell in ["bash", "zsh", "fish", "PowerShell", "elvish"] {
        let script = stdout(root, &["completions", shell]);
        for (path, _) in verbs() {
            assert!(script.contains(&path[0]), "{shell}: {path:?}");
        }
        assert!(script.contains("target-risk"), "{shell}");
    }
    refuses(root, &["completions", "bsh"], &["bash"]);
    assert!(stdout(root, &["man"]).contains(".TH"));
    succeeds(root, &["man", "pages"]);
    let pages: BTreeSet<String> = std::fs::read_dir(root.join("pages"))
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(pages.contains("uq4ct.1"), "{pages:?}");
    for (path, _) in verbs() {
        assert!(
            pages.contains(&format!("uq4ct-{}.1", path.join("-"))),
            "{path:?}: {pages:?}"
        );
    }
    let bash = Command::new("bash")
        .args(["-n", "/dev/stdin"])
        .stdin(std::process::Stdio::piped())
        .spawn();
    if let Ok(mut bash) = bash {
        let script = stdout(root, &["completions", "bash"]);
        std::io::Write::write_all(&mut bash.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success());
    }
}

#[test]
fn quiet_says_results_alone_and_json_is_json_alone() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let (code, printed, said) = outcome(root, &[&["-q"], &TINY[..], &["--run", "a"]].concat());
    assert_eq!((code, said.as_str()), (0, ""), "{printed}");
    assert!(printed.contains("accuracy, %"), "{printed}");
    let (code, _, said) = outcome(root, &["runs", "nowhere", "--quiet"]);
    assert_eq!(code, 1);
    assert!(said.contains("nowhere"), "{said}");
    refuses(root, &["runs", "-q", "-v"], &["--quiet"]);
    let printed = stdout(root, &[&TINY[..], &["--run", "b", "--json"]].concat());
    let figures: Value = serde_json::from_str(&printed).unwrap();
    let kept = json(&root.join("b/evaluation/boolq/metrics.json"));
    assert_eq!(
        figures["figures"]["tuned"]["accuracy"],
        kept["tuned"]["accuracy"]
    );
    let printed = stdout(root, &["compare", "a", "b", "--json"]);
    let compared: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(compared["differences"].as_array().unwrap().len(), 1);
    let small = [
        "--model",
        "tiny",
        "--methods",
        "lora",
        "--on",
        "openbookqa",
        "--seeds",
        "1",
        "--limit",
        "4",
        "--train-limit",
        "8",
    ];
    let printed = stdout(
        root,
        &[&["reproduce", "table1", "--json", "--plain"], &small[..]].concat(),
    );
    let table: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(table["columns"][0], "OBQA");
    let (_, help, _) = outcome(root, &["--color", "always", "train", "--help"]);
    assert!(help.contains("\u{1b}["), "{help}");
    let (_, help, _) = outcome(root, &["train", "--help", "--color=never"]);
    assert!(!help.contains("\u{1b}["), "{help}");
}

#[test]
fn files_can_be_had_ahead_of_time() {
    let root = tempfile::tempdir().unwrap();
    let printed = stdout(
        root.path(),
        &[
            "download",
            "--model",
            "Tiny",
            "--dataset",
            "BoolQ,pira",
            "--json",
        ],
    );
    let lines = crate::support::programs::json_lines(&printed);
    assert!(lines.iter().any(|line| line["of"] == "boolq"), "{printed}");
    assert!(lines.iter().any(|line| line["of"] == "pira"), "{printed}");
    assert!(
        lines
            .iter()
            .all(|line| line["sha256"].as_str().unwrap().len() == 64)
    );
    let (code, _, said) = outcome(
        root.path(),
        &["download", "--model", "smollm2-135m", "--offline"],
    );
    assert_eq!(code, 1);
    assert!(
        said.contains("smollm2-135m") && said.contains("--offline"),
        "{said}"
    );
}

/// Words that only Rust knows.
#[test]
fn nothing_is_said_in_the_words_of_the_source() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    train(root, "cloze", &["--set", "data.scoring=cloze"]);
    let mut said: Vec<String> = ["r", "cloze"]
        .iter()
        .flat_map(|run| ["report.md", "report.html"].map(|name| root.join(run).join(name)))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    said.push(succeeds(root, &["runs", "."]));
    said.push(succeeds(root, &["compare", "r", "cloze"]));
    said.push(succeeds(root, &[&TINY[..], &["--dry-run"]].concat()));
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/results");
    said.push(succeeds(root, &["reproduce", "table1", "--from", recorded]));
    for (_, mut verb) in verbs() {
        said.push(verb.render_long_help().to_string());
    }
    for text in said {
        for word in [
            "Some(",
            "None)",
            "Ok(",
            "Err(",
            "MoePeft",
            "LaplaceLora",
            "PathBuf",
            "Cloze,",
            "per Token",
        ] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

/// A sweep is a plan of one's own: every combination and seed once, found again, with its table.
#[test]
fn a_sweep_of_ones_own_data_is_a_table_and_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let rows: String = (0..60)
        .map(|n| {
            let answer = n % 2;
            format!(
                "{{\"question\":\"{n} or?\",\"choices\":[\"a{n}\",\"b\"],\"answer\":{answer}}}\n"
            )
        })
        .collect();
    std::fs::write(root.join("rows.jsonl"), rows).unwrap();
    let own = [
        "train",
        "--model",
        "tiny",
        "--dataset",
        "rows.jsonl",
        "--method",
        "lora",
        "--plain",
        "--epochs",
        "1",
    ];
    let vary = |more: &[&'static str]| [&own[..], more].concat();
    let sweep = vary(&["--sweep", "train.learning_rate=1e-4,1e-3", "--seeds", "2"]);
    let plan = succeeds(root, &[&sweep[..], &["--dry-run"]].concat());
    assert_eq!(
        plan.matches("trainings/rows-lora-tiny-").count(),
        4,
        "{plan}"
    );
    assert!(
        plan.contains("open") && !root.join("runs").exists(),
        "{plan}"
    );
    // What is set back to its default is set.
    let calibrated = [
        "--method",
        "calibrated",
        "--sweep",
        "train.learning_rate=1e-4",
        "--dry-run",
    ];
    let plan = |more: &[&'static str]| {
        let own = ["train", "--model", "tiny", "--dataset", "rows.jsonl"];
        let said = succeeds(root, &[&own[..], &calibrated, more].concat());
        let names = said
            .lines()
            .filter_map(|line| line.split_once(": ").map(|(name, _)| name));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let (preset, plain) = (plan(&[]), plan(&["--set", "method.temperature=one"]));
    let asked = |names: &[String]| {
        let mut names = names.iter().filter(|name| name.starts_with("evaluations/"));
        names.next().unwrap().clone()
    };
    assert_ne!(asked(&preset), asked(&plain));
    let printed = succeeds(root, &sweep);
    assert!(
        printed.contains("| learning_rate 1e-4 |") && printed.contains("| learning_rate 1e-3 |"),
        "{printed}"
    );
    let done = succeeds(root, &[&sweep[..], &["--dry-run"]].concat());
    assert!(!done.contains("open, about"), "{done}");
    // Again: nothing is trained; more seeds train what is new alone.
    let again = stdout(root, &[&sweep[..], &["--json"]].concat());
    let table: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(
        table["rows"],
        serde_json::json!(["learning_rate 1e-4", "learning_rate 1e-3"])
    );
    assert_eq!(
        table["columns"],
        serde_json::json!(["rows", "rows, held out"])
    );
    // The held-out questions are others than the test's, and nothing calibrates them by themselves.
    let cells = table["cells"].as_array().unwrap();
    let [test, held_out] = &cells[..2] else {
        panic!("{cells:?}");
    };
    let figures = |cell: &Value| {
        let all = cell["values"].as_array().unwrap();
        let name = |value: &Value| value["figure"].as_str().unwrap().to_owned();
        all.iter().map(name).collect::<Vec<_>>()
    };
    assert!(
        figures(test).contains(&"ece_temperature".to_owned()),
        "{test}"
    );
    assert!(
        figures(held_out).contains(&"accuracy".to_owned()),
        "{held_out}"
    );
    assert!(
        !figures(held_out).contains(&"ece_temperature".to_owned()),
        "{held_out}"
    );
    assert!(
        held_out["seeds"] == 2 && held_out["n"].as_u64().unwrap() > 0,
        "{held_out}"
    );
    // No mean is taken of the two.
    assert!(!again.contains("mean of"), "{again}");
    let trainings = |runs: &str| {
        let folder = root.join(runs).join("trainings");
        std::fs::read_dir(folder).unwrap().count()
    };
    assert_eq!(trainings("runs"), 4);
    let both = vary(&[
        "--sweep",
        "train.learning_rate=1e-4",
        "--sweep",
        "adapter.rank=4,8",
        "--run",
        "other",
    ]);
    let printed = succeeds(root, &both);
    assert!(printed.contains("learning_rate 1e-4, rank 8"), "{printed}");
    assert_eq!(trainings("runs"), 4);
    refuses(
        root,
        &vary(&["--sweep", "train.epoch=1,2"]),
        &["Did you mean `epochs`?"],
    );
    refuses(
        root,
        &vary(&["--sweep", "adapter.top_k=1,3"]),
        &["does not read it"],
    );
    refuses(
        root,
        &vary(&["--sweep", "train.epochs"]),
        &["section.key=value,value"],
    );
    refuses(root, &vary(&["--seeds", "2"]), &["--sweep"]);
    // A training that fails takes nothing else along: the next is trained and scored.
    let broken = [
        "--sweep",
        "adapter.alpha=2,1e300",
        "--run",
        "broken",
        "--set",
        "evaluation.batch_tokens=64",
        "--json",
    ];
    let (code, out, err) = outcome(root, &vary(&broken));
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("2 of 4 pieces failed"), "{err}{out}");
    assert!(
        err.contains(" is no number") && err.contains("failed before"),
        "{err}"
    );
    assert_eq!(trainings("broken"), 2);
    let table: Value = serde_json::from_str(&out).unwrap();
    let cells = table["cells"].as_array().unwrap();
    let tested = cells.iter().filter(|cell| cell["column"] == "rows");
    let asked: Vec<u64> = tested.map(|c| c["n"].as_u64().unwrap()).collect();
    assert_eq!(asked, [6, 0], "{out}");
}
