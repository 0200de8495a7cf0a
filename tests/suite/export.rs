//! `uq4ct export` and starting from an adapter; the peers themselves are asked in `.ci/peers`.

use serde_json::Value;

use crate::support::programs::{ASK, TINY, fails, json, outcome, predictions, succeeds, train};

fn same(one: &[Value], other: &[Value], key: &str) {
    assert_eq!(one.len(), other.len());
    for (a, b) in one.iter().zip(other) {
        let list = |v: &Value| match &v[key] {
            Value::Array(list) => list.iter().map(|x| x.as_f64().unwrap()).collect(),
            one => vec![one.as_f64().unwrap()],
        };
        for (x, y) in list(a).iter().zip(list(b)) {
            assert!((x - y).abs() < 1e-5, "{key}: {x} {y}");
        }
    }
}

/// Written, verified, and asked again without a step of training: the same answers.
#[test]
fn every_format_gives_the_same_answers_again() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let ffn = ["--set", "adapter.placement=ffn"];
    let normalized = ["--set", "adapter.mixture_weights=normalized_delta"];
    let dora = [
        "--set",
        "adapter.use_dora=true",
        "--set",
        "adapter.use_rslora=true",
    ];
    let patterns = [
        "--set",
        "adapter.target_modules=\"model\\\\.layers\\\\..*(q|v|down)_proj\"",
        "--set",
        "adapter.rank_pattern={\"layers.1.mlp.down_proj\" = 2}",
    ];
    let pissa = [
        "--set",
        "adapter.rank=8",
        "--set",
        "adapter.init_lora_weights=pissa",
    ];
    for (method, format, more) in [
        ("lora", "peft", &[][..]),
        ("lora", "peft", &dora),
        ("lora", "peft", &patterns),
        ("lora", "uq4ct", &pissa),
        ("lora", "uq4ct", &[]),
        ("blob", "uq4ct", &[]),
        ("uq4ct", "uq4ct", &[]),
        ("uq4ct", "uq4ct", &normalized),
        ("uq4ct", "mixlora", &ffn),
    ] {
        let variants = [
            (&normalized[..], "normalized"),
            (&dora, "dora"),
            (&patterns, "patterns"),
            (&pissa, "pissa"),
        ];
        let variant = variants.into_iter().find(|(settings, _)| *settings == more);
        let name = match variant {
            Some((_, name)) => name.to_owned(),
            None => format!("{method}-{format}"),
        };
        train(root, &name, &[&["--method", method], more].concat());
        let out = format!("out-{name}");
        let (code, said, err) = outcome(
            root,
            &[
                "export", &name, "--format", format, "--output", &out, "--verify",
            ],
        );
        assert!(
            code == 0 && said.contains("Read again: logits differ by at most"),
            "{name}: {said}{err}"
        );
        let card = json(&root.join(&out).join("uq.json"));
        assert_eq!(card["method"], method);
        let held_out = &card["held_out"];
        // Ten passes of random weights answer; what they have shown is not the mean adapter's.
        assert_eq!(held_out.is_null(), method == "blob");
        assert!(method == "blob" || held_out["questions"].as_u64().unwrap() > 0);
        assert_eq!(held_out["flu_quantiles"].is_null(), method != "uq4ct");
        let again = format!("again-{name}");
        train(
            root,
            &again,
            &[
                "--method",
                method,
                "--adapter",
                &out,
                "--set",
                "train.max_steps=0",
            ],
        );
        same(
            &predictions(root, &name),
            &predictions(root, &again),
            "probabilities",
        );
        if method == "uq4ct" {
            same(&predictions(root, &name), &predictions(root, &again), "flu");
        }
    }
    // It is asked as it was trained.
    train(
        root,
        "cloze",
        &["--method", "lora", "--set", "data.scoring=cloze"],
    );
    let export = [
        "export",
        "cloze",
        "--format",
        "peft",
        "--output",
        "out-cloze",
    ];
    succeeds(root, &export);
    let from = ["--adapter", "out-cloze", "--set", "train.max_steps=0"];
    train(root, "asked", &[&["--method", "lora"], &from[..]].concat());
    let [cloze, asked] = ["cloze", "asked"].map(|run| predictions(root, run));
    same(&cloze, &asked, "probabilities");
    // A start, not the end: a step away from it, and far from what one step makes of a fresh
    // adapter.
    let one = ["--method", "lora", "--set", "train.max_steps=1"];
    train(
        root,
        "further",
        &[&one[..], &["--adapter", "out-lora-peft"]].concat(),
    );
    train(root, "fresh", &one);
    let first = |run: &str| {
        let rows = predictions(root, run);
        rows[0]["logits"][1].as_f64().unwrap()
    };
    let (start, further, fresh) = (first("lora-peft"), first("further"), first("fresh"));
    assert!(further != start, "a step moves something");
    assert!(
        (further - start).abs() < 0.5 * (fresh - start).abs(),
        "{start} {further} {fresh}"
    );
    // Another kind of adapter, or another size, is refused; the corrected command may take the
    // directory.
    let run = ["--adapter", "out-lora-peft", "--run", "mended"];
    let mended = |more: &[&'static str]| [&TINY[..], &run, more].concat();
    let plain = ["out-lora-peft", "holds a plain LoRA", "say --method lora"];
    fails(root, &mended(&["--method", "uq4ct"]), &plain);
    let lora = ["--method", "lora", "--set", "train.max_steps=0"];
    let wide = [&lora[..], &["--set", "adapter.rank=3"]].concat();
    fails(
        root,
        &mended(&wide),
        &["its adapter has adapter.rank=", "leave that"],
    );
    succeeds(root, &mended(&lora));
    // What has begun needs the adapter no more.
    std::fs::remove_dir_all(root.join("out-lora-peft")).unwrap();
    let resumed = [
        &TINY[..],
        &one[..],
        &["--adapter", "out-lora-peft", "--run", "further", "--resume"],
    ]
    .concat();
    succeeds(root, &resumed);
    let taken_over = succeeds(
        root,
        &[
            &TINY[..],
            &[
                "--method",
                "uq4ct",
                "--adapter",
                "out-uq4ct-mixlora",
                "--dry-run",
            ],
        ]
        .concat(),
    );
    assert!(taken_over.contains("placement = \"ffn\""), "{taken_over}");
}

#[test]
fn a_merged_model_answers_as_base_and_lora_did() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &["--method", "lora"]);
    let (code, said, err) = outcome(
        root,
        &[
            "export", "r", "--format", "merged", "--output", "m", "--verify",
        ],
    );
    assert_eq!(code, 0, "{said}{err}");
    let model = model::load::open(&root.join("m")).unwrap();
    assert_eq!(model.config.num_hidden_layers, 2);
    assert!(root.join("m/tokenizer.json").is_file());
}

#[test]
fn a_model_by_a_relative_path_is_found_from_another_directory() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(
        root,
        "r",
        &["--method", "lora", "--set", "train.max_steps=1"],
    );
    succeeds(
        root,
        &["export", "r", "--format", "merged", "--output", "m"],
    );
    let rows: String = (0..12)
        .map(|i| {
            format!(
                "{{\"question\": \"Is it {i}?\", \"choices\": [\"x\", \"y\"], \"answer\": \"B\"}}\n"
            )
        })
        .collect();
    std::fs::write(root.join("rows.jsonl"), rows).unwrap();
    let args = [
        "train",
        "--model",
        "m",
        "--set",
        "data.dataset=custom",
        "--set",
        "data.custom.train=rows.jsonl",
        "--set",
        "train.max_steps=1",
        "--plain",
        "--run",
        "q",
    ];
    succeeds(root, &args);
    let elsewhere = root.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let ask = [&["predict", "../q"], &ASK[2..]].concat();
    succeeds(&elsewhere, &ask);
    // A run of an earlier version holds the path as it was given and no digests, and goes on.
    std::fs::remove_file(root.join("q/digests.sha256")).unwrap();
    let config = root.join("q/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let inside = format!("{}/", std::path::absolute(root).unwrap().display());
    assert!(text.contains(&inside), "{text}");
    std::fs::write(&config, text.replace(&inside, "")).unwrap();
    succeeds(root, &[&args[..], &["--resume"]].concat());
}

#[test]
fn what_a_format_cannot_hold_and_another_base_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "mix", &["--method", "uq4ct"]);
    train(root, "lora", &["--method", "lora"]);
    let normalized = ["--method", "uq4ct", "--set", "adapter.placement=ffn"];
    let weights = ["--set", "adapter.mixture_weights=normalized_delta"];
    train(root, "normalized", &[&normalized[..], &weights].concat());
    for (run, format, reason) in [
        ("normalized", "mixlora", "it renormalises"),
        ("mix", "peft", "mixture of experts"),
        ("mix", "mixlora", "adapter.placement = all"),
        ("lora", "mixlora", "plain LoRA: use peft"),
    ] {
        let (code, _, err) = outcome(root, &["export", run, "--format", format, "--output", "no"]);
        assert!(
            code == 2 && err.contains(reason),
            "{run} {format}: {code} {err}"
        );
    }
    outcome(
        root,
        &["export", "lora", "--format", "peft", "--output", "p"],
    );
    let (code, _, err) = outcome(
        root,
        &["export", "lora", "--format", "peft", "--output", "p"],
    );
    assert!(code == 1 && err.contains("is not empty"), "{err}");
    let from = |method: &str| {
        let args = [
            &TINY[..],
            &[
                "--run",
                "x",
                "--overwrite",
                "--method",
                method,
                "--adapter",
                "p",
            ],
        ]
        .concat();
        outcome(root, &args)
    };
    let (code, _, err) = from("uq4ct");
    assert!(code != 0 && !err.contains("panicked"), "{err}");
    train(
        root,
        "begun",
        &[
            "--method",
            "lora",
            "--adapter",
            "p",
            "--set",
            "train.max_steps=1",
        ],
    );
    let known = json(&root.join("begun/data.json"));
    assert_eq!(known["adapter"].as_array().unwrap().len(), 2, "{known}");
    assert_eq!(known["adapter"][0]["sha256"].as_str().unwrap().len(), 64);
    let weights = root.join("p/adapter_model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, flipped).unwrap();
    let refused = |reason: &str| {
        let (code, _, err) = from("lora");
        let named = err.contains("adapter_model.safetensors") && err.contains(reason);
        assert!(code == 1 && named, "{err}");
    };
    refused("is not what was written");
    // The card is of these weights alone, whatever lies beside it.
    std::fs::remove_file(root.join("p/digests.sha256")).unwrap();
    refused("has changed since uq.json was written");
    std::fs::write(&weights, whole).unwrap();
    let card = root.join("p/uq.json");
    let mut other = json(&card);
    other["base_files"][0]["sha256"] = "another".into();
    std::fs::write(&card, other.to_string()).unwrap();
    let (code, _, err) = from("lora");
    assert!(code == 1 && err.contains("was trained on"), "{err}");
    std::fs::write(
        root.join("p/adapter_config.json"),
        r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_qalora": true}"#,
    )
    .unwrap();
    let (code, _, err) = from("lora");
    assert!(
        code == 1 && err.contains("use_qalora = true is not implemented"),
        "{err}"
    );
    let (code, _, err) = outcome(
        root,
        &[
            "train",
            "--model",
            "tiny",
            "--dataset",
            "boolq",
            "--set",
            "train.max_steps=0",
        ],
    );
    assert!(code == 2 && err.contains("train.max_steps"), "{err}");
}
