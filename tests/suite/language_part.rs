//! Models that see, of which the language part is read: Gemma 3 of 4B and more. What transformers
//! and peft make of one is compared in `families` and `adapters`.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::FloatDType;
use data::Tokenizer;
use model::exchange::{self, Tensors, merged};
use model::load::tiny::RandomWeights;
use model::{DropoutSeed, Llama, LlamaInput, LoraConfig, ModelConfig};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::programs::{fails, json as json_of, succeeds};
use crate::support::{fixture, floats};

/// The fixture's `config.json`, changed.
fn settings(change: impl FnOnce(&mut Value)) -> Value {
    let mut settings = json_of(&fixture("families/gemma3_vision/config.json"));
    change(&mut settings);
    settings
}

/// Writes the weights of a file in shards, under other names.
fn in_shards(from: &Path, to: &Path, name: impl Fn(&str) -> String) {
    let bytes = std::fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (mut map, mut parts) = (serde_json::Map::new(), [Vec::new(), Vec::new()]);
    for (i, (old, view)) in file.tensors().into_iter().enumerate() {
        let name = name(&old);
        let part = format!("model-0000{}-of-00002.safetensors", i % 2 + 1);
        map.insert(name.clone(), part.into());
        parts[i % 2].push((name, view));
    }
    for (i, part) in parts.into_iter().enumerate() {
        let path = to.join(format!("model-0000{}-of-00002.safetensors", i + 1));
        safetensors::serialize_to_file(part, None, &path).unwrap();
    }
    let index = json!({"weight_map": map}).to_string();
    std::fs::write(to.join("model.safetensors.index.json"), index).unwrap();
}

/// Logits of a few tokens.
pub(crate) fn logits(folder: &Path, settings: &Value) -> Result<Vec<f32>, model::ModelError> {
    let config = ModelConfig::from_json(&settings.to_string())?;
    let device = Device::flex();
    let mut weights = model::load::weights(folder, &config)?;
    let llama = Llama::load(&config, &mut *weights, 16, FloatDType::F32, &device)?;
    let tokens = [5, 17, 3, 44, 9, 58];
    let n = tokens.len();
    let row =
        |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, [1, n]), &device);
    let output = llama.forward(&LlamaInput {
        tokens: row(tokens.to_vec()),
        positions: row((0..n as i32).collect()),
        segments: row(vec![1; n]),
        branches: row(vec![0; n]),
        scored: Tensor::arange(0..n as i64, &device),
        dropout: DropoutSeed::OFF,
        probe: None,
        routers_apart: false,
    });
    Ok(floats(output.logits))
}

/// Names as transformers gives them since 4.52.
fn new_name(old: &str) -> String {
    match old.strip_prefix("language_model.") {
        Some("lm_head.weight") => "lm_head.weight".into(),
        Some(inner) => inner.replacen("model.", "model.language_model.", 1),
        None => format!("model.{old}"),
    }
}

#[test]
fn both_spellings_and_shards_are_the_same_model() {
    let published = fixture("families/gemma3_vision");
    let settings = settings(|_| ());
    let expected = logits(&published, &settings).unwrap();
    let root = tempfile::tempdir().unwrap();
    for (spelling, name) in [
        ("old", str::to_owned as fn(&str) -> String),
        ("new", new_name),
    ] {
        let folder = root.path().join(spelling);
        std::fs::create_dir(&folder).unwrap();
        in_shards(&published.join("model.safetensors"), &folder, name);
        assert_eq!(logits(&folder, &settings).unwrap(), expected, "{spelling}");
    }
    // A weight that is not there is named as the files would name it.
    let folder = root.path().join("empty");
    std::fs::create_dir(&folder).unwrap();
    in_shards(&published.join("model.safetensors"), &folder, |name| {
        name.replace("layers.3.mlp.up_proj", "layers.3.mlp.other")
    });
    let error = logits(&folder, &settings).unwrap_err().to_string();
    assert!(
        error.contains("language_model.model.layers.3.mlp.up_proj"),
        "{error}"
    );
}

/// A head of its own, and scaling in the new spelling.
#[test]
fn what_the_whole_says_of_its_language_part_counts() {
    let published = fixture("families/gemma3_vision");
    let tied = logits(&published, &settings(|_| ())).unwrap();
    let same = settings(|settings| {
        let part = &mut settings["text_config"];
        part["rope_scaling"] = Value::Null;
        part["rope_parameters"] = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_type": "default"},
        });
    });
    assert_eq!(logits(&published, &same).unwrap(), tied);
    let plain = settings(|settings| settings["text_config"]["rope_scaling"] = Value::Null);
    let plain = logits(&published, &plain).unwrap();
    assert!(plain.iter().zip(&tied).any(|(a, b)| (a - b).abs() > 1e-3));
    for whole in [true, false] {
        let untied = settings(|settings| {
            let part = if whole {
                settings
            } else {
                &mut settings["text_config"]
            };
            part["tie_word_embeddings"] = false.into();
        });
        let error = logits(&published, &untied).unwrap_err().to_string();
        assert!(error.contains("lm_head.weight"), "{error}");
    }
    let quantized = settings(|settings| {
        settings["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
    });
    let error = ModelConfig::from_json(&quantized.to_string()).unwrap_err();
    assert!(error.to_string().contains("gptq, 4 bits"), "{error}");
}

/// An adapter of peft's whose tensors have other names, with some of a vision part.
fn renamed_adapter(to: &Path, name: impl Fn(&str) -> String, sight: bool) {
    let from = fixture("adapters/gemma3_vision");
    std::fs::create_dir(to).unwrap();
    let settings = from.join("adapter_config.json");
    let mut settings = json_of(&settings);
    // As peft writes "all-linear" out.
    settings["target_modules"] = json!(["q_proj", "v_proj", "down_proj", "fc1", "out_proj"]);
    std::fs::write(to.join("adapter_config.json"), settings.to_string()).unwrap();
    let bytes = std::fs::read(from.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file.tensors();
    let (first, view) = &tensors[0];
    let seen = first.replace("language_model.layers", "vision_tower.encoder.layers");
    let seen = (seen, view.clone());
    tensors.extend(sight.then_some(seen));
    let tensors = tensors.into_iter().map(|(old, view)| (name(&old), view));
    let path = to.join("adapter_model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
}

#[test]
fn adapters_of_older_peft_and_of_what_sees_are_read() {
    let root = tempfile::tempdir().unwrap();
    let known = exchange::read(&fixture("adapters/gemma3_vision")).unwrap();
    let old = |name: &str| {
        name.replace("model.model.language_model.", "model.language_model.model.")
            .replace("model.model.vision_tower.", "model.vision_tower.")
    };
    for (is_old, sight) in [(false, false), (false, true), (true, false), (true, true)] {
        let folder = root.path().join(format!("{is_old}-{sight}"));
        let name = |name: &str| if is_old { old(name) } else { name.to_owned() };
        renamed_adapter(&folder, name, sight);
        let found = exchange::read(&folder).unwrap();
        let values = |tensors: &Tensors| -> Vec<(String, Vec<f32>)> {
            let all = tensors.iter();
            all.map(|(name, data)| (name.clone(), data.iter::<f32>().collect()))
                .collect()
        };
        assert_eq!(values(&found.tensors), values(&known.tensors), "{is_old}");
    }
    let folder = root.path().join("sight");
    let only = |name: &str| name.replace("language_model.layers", "vision_tower.encoder.layers");
    renamed_adapter(&folder, only, false);
    let error = exchange::read(&folder).unwrap_err().to_string();
    assert!(error.contains("holds no LoRA"), "{error}");
}

/// A directory with a model that sees, a vision tower of one tensor, and the tiny tokenizer.
fn model_that_sees(folder: &Path) {
    let tokenizer = Tokenizer::tiny();
    let settings = settings(|settings| {
        settings["text_config"]["vocab_size"] = tokenizer.vocabulary().into();
    });
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("config.json"), settings.to_string()).unwrap();
    tokenizer.save(&folder.join("tokenizer.json")).unwrap();
    let config = ModelConfig::from_json(&settings.to_string()).unwrap();
    let plain = tempfile::tempdir().unwrap();
    let mut weights = RandomWeights::new(config.clone(), 3);
    let none = (LoraConfig::default(), Tensors::new());
    merged::write(plain.path(), &config, &mut weights, &none.0, &none.1, false).unwrap();
    in_shards(&plain.path().join("model.safetensors"), folder, |name| {
        format!("language_model.{name}")
    });
}

#[test]
fn a_model_that_sees_is_trained_exported_and_merged() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    model_that_sees(&root.join("seeing"));
    let rows = (0..40).map(|i| {
        let choices = ["x", "yes", "no"];
        json!({"question": format!("Is {i} more than 20?"), "choices": choices, "answer": i % 3})
    });
    let rows: Vec<String> = rows.map(|row| row.to_string() + "\n").collect();
    std::fs::write(root.join("rows.jsonl"), rows.concat()).unwrap();
    let seeing = [
        "train",
        "--model",
        "seeing",
        "--dataset",
        "rows.jsonl",
        "--plain",
    ];
    let targets = r"adapter.target_modules='.*language_model.*\.(q|down)_proj'";
    for (run, more) in [
        ("plain", &[][..]),
        ("expression", &["--set", targets]),
        ("dora", &["--set", "adapter.use_dora=true"]),
    ] {
        let lora = [
            "--method",
            "lora",
            "--run",
            run,
            "--set",
            "train.max_steps=2",
        ];
        succeeds(root, &[&seeing[..], &lora, more].concat());
        for format in ["peft", "merged"] {
            let out = format!("{run}-{format}");
            let export = [
                "export", run, "--format", format, "--output", &out, "--verify",
            ];
            let said = succeeds(root, &export);
            assert!(said.contains("Read again"), "{said}");
        }
        let config = json_of(&root.join(format!("{run}-merged/config.json")));
        assert_eq!(config["model_type"], "gemma3_text");
        assert_eq!(config["architectures"][0], "Gemma3ForCausalLM");
        let settings = json_of(&root.join(format!("{run}-peft/adapter_config.json")));
        let target = settings["target_modules"].to_string();
        assert!(target.contains("language_model"), "{target}");
        let bytes = std::fs::read(root.join(format!("{run}-peft/adapter_model.safetensors")));
        let bytes = bytes.unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let prefix = "base_model.model.model.language_model.layers.";
        assert!(file.names().iter().all(|name| name.starts_with(prefix)));
        // A start for another training.
        let again = format!("{run}-again");
        let start = format!("{run}-peft");
        let start = ["--method", "lora", "--run", &again, "--adapter", &start];
        succeeds(
            root,
            &[&seeing[..], &start, &["--set", "train.max_steps=0"]].concat(),
        );
    }
    // The public MixLoRA code knows no such base model.
    let ffn = [
        "--method",
        "mixlora-repo",
        "--run",
        "mix",
        "--set",
        "train.max_steps=1",
    ];
    succeeds(root, &[&seeing[..], &ffn].concat());
    fails(
        root,
        &["export", "mix", "--format", "mixlora", "--output", "out"],
        &["llama, mistral, qwen2, not gemma3_text", "--format uq4ct"],
    );
    // The merged model stands by itself.
    let merged = [
        "--model",
        "plain-merged",
        "--dataset",
        "rows.jsonl",
        "--plain",
    ];
    let base = ["--method", "base", "--run", "asked"];
    succeeds(root, &[&["train"][..], &merged, &base].concat());
    std::fs::write(
        root.join("seeing/config.json"),
        r#"{"model_type":"gemma3"}"#,
    )
    .unwrap();
    fails(
        root,
        &[&seeing[..], &["--run", "broken"]].concat(),
        &["text_config", "config.json"],
    );
}
