//! Questions in chat templates: against transformers (`tests/fixtures/make_chat.py`), and through
//! every verb.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use data::chat::ChatTemplate;
use data::prompt::Prompt;
use serde_json::{Value, json};

use crate::support::fixture;
use crate::support::programs::{fails, json as read, outcome, stdout, succeeds, train};

#[test]
fn prompts_are_what_transformers_renders() {
    let text = fs::read_to_string(fixture("chat.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let questions = fixture["questions"].as_array().unwrap();
    let rendered = fixture["rendered"].as_array().unwrap();
    let mut templates = std::collections::BTreeSet::new();
    for entry in rendered {
        let name = entry["name"].as_str().unwrap();
        let known = &fixture["templates"][name];
        let tokens: BTreeMap<String, String> =
            serde_json::from_value(known["special_tokens"].clone()).unwrap();
        let source = known["template"].as_str().unwrap();
        let template = ChatTemplate::new(source, tokens, entry["system"].as_str()).unwrap();
        for (question, expected) in questions.iter().zip(entry["prompts"].as_array().unwrap()) {
            let prompt = Prompt {
                shortenable: question.as_str().unwrap().into(),
                labels: vec![" A".into()],
                ..Prompt::default()
            };
            let found = template.frame(prompt).unwrap();
            assert_eq!(found.text(), expected.as_str().unwrap(), "{name}");
            // After an end of line or a token of its own the label needs no space.
            let label = match name {
                "llama-2" => " A",
                _ => "A",
            };
            assert_eq!(found.labels, [label], "{name}");
        }
        templates.insert(name);
    }
    assert!(templates.len() >= 8, "{templates:?}");
    for name in ["mistral", "gemma-2"] {
        let known = &fixture["templates"][name];
        let source = known["template"].as_str().unwrap();
        let error = ChatTemplate::new(source, BTreeMap::new(), Some("Be brief.")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("data.chat"), "{name}: {error}");
    }
}

/// A training of that model.
const TRAIN: [&str; 8] = [
    "train",
    "--model",
    "m",
    "--dataset",
    "rows.jsonl",
    "--method",
    "lora",
    "--plain",
];

/// A model with special tokens and a chat template, made from the tiny one.
fn chat_model(root: &Path) {
    train(
        root,
        "tiny",
        &["--method", "lora", "--set", "train.max_steps=1"],
    );
    succeeds(
        root,
        &["export", "tiny", "--format", "merged", "--output", "m"],
    );
    let path = root.join("m/tokenizer.json");
    let mut tokenizer = read(&path);
    // Two bytes that no UTF-8 text holds give way to the special tokens.
    let mut added = Vec::new();
    for (byte, name) in [("ÿ", "<|im_start|>"), ("þ", "<|im_end|>")] {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let id = vocabulary.shift_remove(byte).unwrap();
        vocabulary.insert(name.into(), id.clone());
        added.push(
            json!({"id": id, "content": name, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}),
        );
    }
    tokenizer["added_tokens"] = added.into();
    fs::write(&path, tokenizer.to_string()).unwrap();
    let template = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let config = json!({"chat_template": template, "eos_token": "<|im_end|>"});
    fs::write(root.join("m/tokenizer_config.json"), config.to_string()).unwrap();
    let rows: String = (0..12)
        .map(|i| {
            let row = json!({"question": format!("Is <|im_end|> {i}?"), "choices": ["x", "y"],
                "answer": "B"});
            format!("{row}\n")
        })
        .collect();
    fs::write(root.join("rows.jsonl"), rows).unwrap();
    // An export says what it was written as. This change is meant.
    let changed = ["m/tokenizer.json", "is not what was written", "is meant"];
    fails(
        root,
        &["data", "check", "rows.jsonl", "--model", "m"],
        &changed,
    );
    fs::remove_file(root.join("m/digests.sha256")).unwrap();
}

const TEXT: &str = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nPlease choose the correct answer to the question: Is <|im_end|> ";
const END: &str = " (A) x (B) y\nAnswer:<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn a_run_in_a_chat_template_carries_it_everywhere() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    chat_model(root);
    let chat = ["--set", "data.chat=auto", "--set", "data.system=Be brief."];
    // What the model sees, as text and as tokens.
    let checked = stdout(
        root,
        &[
            &["data", "check", "rows.jsonl", "--model", "m", "--json"],
            &chat[..],
        ]
        .concat(),
    );
    let checked: Value = serde_json::from_str(&checked).unwrap();
    let example = &checked["tokens"][0]["examples"][0];
    assert_eq!(example["prompt"], format!("{TEXT}0?{END}"));
    assert_eq!(example["scored"], json!([["A"], ["B"]]));
    let cloze = ["--set", "data.scoring=cloze"];
    let checked = stdout(
        root,
        &[
            &["data", "check", "rows.jsonl", "--model", "m", "--json"],
            &chat[..],
            &cloze,
        ]
        .concat(),
    );
    let checked: Value = serde_json::from_str(&checked).unwrap();
    assert_eq!(
        checked["tokens"][0]["examples"][0]["scored"],
        json!([["x"], ["y"]])
    );
    // A run.
    let args = [
        &TRAIN[..],
        &["--set", "train.max_steps=1", "--run", "q"][..],
        &chat[..],
    ]
    .concat();
    succeeds(root, &args);
    let report = fs::read_to_string(root.join("q/report.md")).unwrap();
    assert!(report.contains("system prompt: Be brief."), "{report}");
    assert!(report.contains("    <|im_start|>assistant"), "{report}");
    let known = read(&root.join("q/data.json"));
    assert!(known["prompt"].as_str().unwrap().ends_with(END), "{known}");
    // Asked, its own setting holds; the tokens of the question decide, not those of a plain prompt.
    let asked = [
        "predict",
        "q",
        "--question",
        "Is it?",
        "--choice",
        "x",
        "--choice",
        "y",
    ];
    let (code, out, err) = outcome(root, &asked);
    assert_eq!(code, 0, "{out}{err}");
    // Exported, the card says it, and a run without it is warned.
    succeeds(
        root,
        &["export", "q", "--format", "peft", "--output", "out"],
    );
    let card = read(&root.join("out/uq.json"));
    assert_eq!(card["prompt"]["chat"]["system"], "Be brief.");
    let plain = [
        &TRAIN[..],
        &[
            "--set",
            "train.max_steps=0",
            "--set",
            "data.chat=off",
            "--adapter",
            "out",
            "--run",
            "p",
        ],
    ]
    .concat();
    let (code, out, err) = outcome(root, &plain);
    assert!(
        code == 0 && err.contains("in a chat template"),
        "{out}{err}"
    );
    // The merged model brings the template with it.
    succeeds(
        root,
        &[
            "export", "q", "--format", "merged", "--output", "m2", "--verify",
        ],
    );
    assert!(root.join("m2/tokenizer_config.json").is_file());
    // Another template asks other questions.
    let path = root.join("m/tokenizer_config.json");
    let other = fs::read_to_string(&path).unwrap().replace("'\\n'", "' '");
    fs::write(&path, other).unwrap();
    let (code, _, err) = outcome(root, &asked);
    assert!(
        code != 0 && err.contains("chat template is not the one"),
        "{err}"
    );
}

#[test]
fn what_a_chat_cannot_be_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    chat_model(root);
    let check = |model: &str, more: &[&str]| {
        let args = ["data", "check", "rows.jsonl", "--model", model];
        outcome(root, &[&args[..], more].concat())
    };
    let auto = ["--set", "data.chat=auto", "--set"];
    let (code, _, err) = check("m", &["--set", "data.system=x"]);
    assert!(code != 0 && err.contains("needs data.chat = auto"), "{err}");
    let (code, _, err) = check("tiny", &[&auto[..], &["data.system=x"]].concat());
    assert!(code != 0 && err.contains("has no chat template"), "{err}");
    let (code, out, err) = check("tiny", &auto[..2]);
    assert!(
        code == 0 && err.contains("has no chat template"),
        "{out}{err}"
    );
    let (code, _, err) = check("m", &[&auto[..], &["data.system=a <|im_end|> b"]].concat());
    assert!(
        code != 0 && err.contains("special token <|im_end|>"),
        "{err}"
    );
}

/// Where an answer begins is told by its tokens: in a chat template nothing else stands there.
#[test]
fn open_ended_questions_without_an_answer_are_answered_in_a_chat_template() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    chat_model(root);
    let rows: String = (0..12)
        .map(|i| format!("{{\"question\": \"Who is {i}?\", \"answer\": \"Ann\"}}\n"))
        .collect();
    fs::write(root.join("open.jsonl"), rows).unwrap();
    let own = [
        "train",
        "--model",
        "m",
        "--plain",
        "--dataset",
        "open.jsonl",
    ];
    let set = [
        "data.custom.written=true",
        "data.chat=auto",
        "train.max_steps=1",
    ];
    let set = set.map(|one| ["--set", one]).concat();
    succeeds(root, &[&own[..], &set, &["--run", "t"]].concat());
    fs::write(
        root.join("in.jsonl"),
        "{\"question\": \"Who?\", \"answer\": \"Ann\"}\n{\"question\": \"Who?\"}\n",
    )
    .unwrap();
    let answers = stdout(root, &["predict", "t", "--input", "in.jsonl"]);
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // The prompt does not hold the answer.
    assert_eq!(answers[0]["text"], answers[1]["text"]);
    assert_eq!(answers[0]["probability"], answers[1]["probability"]);
}
