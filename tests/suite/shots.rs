//! Examples before every question: `data.shots`.

use std::path::Path;

use crate::support::programs::{fails, json, succeeds};

fn questions(path: &Path, rows: std::ops::Range<usize>) {
    let text: String = rows
        .map(|i| format!("{{\"question\": \"What is <n{i}>?\", \"choices\": [\"x{i}\", \"y{i}\"], \"answer\": {}}}\n", i % 2))
        .collect();
    std::fs::write(path, text).unwrap();
}

/// A directory with questions to train on and others to test on.
fn own_and_test() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    questions(&folder.path().join("own.jsonl"), 0..40);
    questions(&folder.path().join("test.jsonl"), 100..110);
    folder
}

/// How the questions are put, in full.
const LETTERS: [&str; 6] = [
    "--set",
    "data.scoring=letters",
    "--set",
    "data.template=moe_peft",
    "--set",
    "data.chat=off",
];

/// The names of the questions in a text, in their order.
fn asked(text: &str) -> Vec<usize> {
    let parts = text.split("<n").skip(1);
    parts
        .map(|part| part.split('>').next().unwrap().parse().unwrap())
        .collect()
}

const TRAIN: [&str; 9] = [
    "train",
    "--model",
    "tiny",
    "--plain",
    "--dataset",
    "own.jsonl",
    "--set",
    "train.max_steps=2",
    "--set",
];

#[test]
fn examples_are_training_questions_and_stay_with_the_run() {
    let folder = own_and_test();
    let at = |name: &str| folder.path().join(name);
    let said = LETTERS;
    let files = ["data.shots=2", "--test", "test.jsonl", "--run", "r"];
    succeeds(folder.path(), &[&TRAIN[..], &files, &said].concat());
    let data = json(&at("r/data.json"));
    let prompt = data["prompt"].as_str().unwrap();
    let order = asked(prompt);
    assert_eq!((order.len(), order[2]), (3, 100), "{prompt}");
    for example in &order[..2] {
        let right = ['A', 'B'][example % 2];
        assert!(
            prompt.contains(&format!("y{example}\nAnswer: {right}\n\n")),
            "{prompt}"
        );
    }
    // Training questions, none that is held out.
    let held_out = std::fs::read_to_string(at("r/evaluation/held-out/predictions.jsonl")).unwrap();
    let held_out: Vec<usize> = held_out
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let id = row["id"].as_str().unwrap();
            id.rsplit('-').next().unwrap().parse::<usize>().unwrap() - 1
        })
        .collect();
    assert_eq!(held_out.len(), 8);
    let pool = std::fs::read_to_string(at("r/shots.json")).unwrap();
    let pool = asked(&pool);
    assert_eq!(pool.len(), 4, "two, and two that take the place of others");
    assert!(
        pool.iter().all(|n| *n < 40 && !held_out.contains(n)),
        "{pool:?} {held_out:?}"
    );
    // A run is asked with its own examples, whatever becomes of the file.
    std::fs::remove_file(at("own.jsonl")).unwrap();
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
    let scored = std::fs::read_to_string(at("r/evaluation/custom/predictions.jsonl")).unwrap();
    let probability = |line: &str, place: usize| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["probabilities"][place].as_f64().unwrap()
    };
    for (one, other) in answers.lines().zip(scored.lines()) {
        assert!(
            (probability(one, 0) - probability(other, 0)).abs() < 1e-4,
            "{one} {other}"
        );
    }
    let copy = at("copy.jsonl");
    std::fs::copy(at("test.jsonl"), &copy).unwrap();
    let elsewhere = succeeds(
        folder.path(),
        &["evaluate", "r", "--on", "copy.jsonl", "--json"],
    );
    let start = elsewhere.find('[').unwrap();
    let mut found = serde_json::Deserializer::from_str(&elsewhere[start..]).into_iter();
    let found: serde_json::Value = found.next().unwrap().unwrap();
    let own = json(&at("r/evaluation/custom/metrics.json"));
    let nll = |figures: &serde_json::Value| {
        figures["tuned"]["negative_log_likelihood"]["value"]
            .as_f64()
            .unwrap()
    };
    assert!(
        (nll(&found[0]["figures"]) - nll(&own)).abs() < 1e-5,
        "{found} {own}"
    );
}

#[test]
fn examples_count_in_the_prompts_length_and_the_check_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    questions(&folder.path().join("own.jsonl"), 0..40);
    let check = [
        "data",
        "check",
        "own.jsonl",
        "--model",
        "tiny",
        "--tried",
        "0",
    ];
    let shown = [
        "--examples",
        "1",
        "--set",
        "data.template=moe_peft",
        "--set",
        "data.shots=3",
    ];
    let out = succeeds(folder.path(), &[&check[..], &shown].concat());
    assert_eq!(asked(&out).len(), 4, "{out}");
    let few = ["data.shots=3", "--set", "data.max_tokens=200", "--run", "r"];
    fails(
        folder.path(),
        &[&TRAIN[..], &few].concat(),
        &[
            "its choices and the examples before it alone need",
            "lower data.shots",
        ],
    );
}

/// An adapter brings the examples that it was trained with to a run that asks for as many.
#[test]
fn examples_travel_with_an_exported_adapter() {
    let folder = own_and_test();
    let at = |name: &str| folder.path().join(name);
    let said = ["--test", "test.jsonl", "--method", "lora"];
    let run =
        |more: &[&str]| succeeds(folder.path(), &[&TRAIN[..], more, &LETTERS, &said].concat());
    run(&["data.shots=2", "--run", "r"]);
    let export = ["export", "r", "--format", "peft", "--output", "out"];
    succeeds(folder.path(), &export);
    let own = json(&at("r/shots.json"));
    assert_eq!(json(&at("out/uq.json"))["prompt"]["shots"], own);
    // Other training questions: the examples are none of them.
    questions(&at("own.jsonl"), 200..240);
    let asked_as_it_is = ["--adapter", "out", "--set", "train.max_steps=0"];
    let again = [&["data.shots=2", "--run", "again"][..], &asked_as_it_is].concat();
    let said_again = run(&again);
    assert!(!said_again.contains("examples"), "{said_again}");
    assert_eq!(json(&at("again/shots.json")), own);
    let logits = |run: &str| -> Vec<serde_json::Value> {
        let path = at(run).join("evaluation/custom/predictions.jsonl");
        let rows = std::fs::read_to_string(path).unwrap();
        let logits = rows.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["logits"].clone()
        });
        logits.collect()
    };
    let close = |a: &serde_json::Value, b: &serde_json::Value| {
        let (a, b) = (a.as_array().unwrap(), b.as_array().unwrap());
        let far = |(a, b): (&serde_json::Value, &serde_json::Value)| {
            (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() > 1e-4
        };
        !a.iter().zip(b).any(far)
    };
    let (first, second) = (logits("r"), logits("again"));
    assert!(first.iter().zip(&second).all(|(a, b)| close(a, b)));
    // Another number is said, and the run draws its own.
    let one = run(&[&["data.shots=1", "--run", "one"][..], &asked_as_it_is].concat());
    assert!(
        one.contains("was trained with data.shots = 2, the run has 1"),
        "{one}"
    );
    let none = run(&[&["data.shots=0", "--run", "none"][..], &asked_as_it_is].concat());
    assert!(
        none.contains("was trained with data.shots = 2, the run has 0"),
        "{none}"
    );
}
