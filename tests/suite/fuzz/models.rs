//! Base models: `tokenizer.json`, `config.json`, weights with their index, GGUF.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::FloatDType;
use data::tokenizer::Tokenizer;
use model::load::{ModelFiles, open};
use model::{DropoutSeed, Llama, LlamaInput};
use serde_json::{Value, json};

use super::{Files, files, fuzz, one};
use crate::support::{fixture, floats};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";

/// A small model in Hugging Face's layout, with the tokenizer of the tiny model.
fn small() -> Files {
    let mut small = files(&fixture("parity/llama"), &[CONFIG, WEIGHTS]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(TOKENIZER);
    Tokenizer::tiny().save(&path).unwrap();
    small.insert(TOKENIZER.into(), std::fs::read(path).unwrap());
    small
}

/// Loads every weight and asks the model.
pub(super) fn asked(files: ModelFiles) -> Result<(), String> {
    let ModelFiles {
        config,
        mut weights,
        ..
    } = files;
    // No prompt is longer than the model's context: whoever asks sees to that.
    if config.max_position_embeddings < 4 {
        return Err("the context is too short to ask".into());
    }
    let device = Device::flex();
    let loaded = Llama::load(&config, &mut *weights, 8, FloatDType::F32, &device);
    forward(&loaded.map_err(|e| e.to_string())?);
    Ok(())
}

/// A forward pass over four tokens.
pub(super) fn forward(llama: &Llama) {
    let device = Device::flex();
    let row = |values: [i32; 4]| Tensor::<2, Int>::from_data([values], &device);
    let output = llama.forward(&LlamaInput {
        tokens: row([0, 1, 2, 1]),
        positions: row([0, 1, 2, 3]),
        segments: row([1; 4]),
        branches: row([0; 4]),
        scored: Tensor::from_data([3], &device),
        dropout: DropoutSeed::OFF,
        probe: None,
        routers_apart: false,
    });
    floats(output.logits);
}

/// Text to ids and back, as prompts go, and the file that an export writes.
fn spoken(tokenizer: tokenizers::Tokenizer, folder: &Path) -> Result<(), String> {
    let tokenizer = Tokenizer::new(tokenizer);
    tokenizer.vocabulary();
    let long = "unbelievable ".repeat(50);
    for text in [
        "",
        "Is it so?\n(A) yes\n(B) no\nAnswer: (",
        "naïve 😀\u{200d} \u{0}",
        &long,
    ] {
        let ids = tokenizer.encode(text).map_err(|e| e.to_string())?;
        tokenizer.decode(&ids).map_err(|e| e.to_string())?;
        tokenizer.written(&ids).map_err(|e| e.to_string())?;
    }
    let out = folder.join("written.json");
    tokenizer.save(&out).map_err(|e| e.to_string())
}

/// One tokenizer of every kind of model, with what stands around it.
fn tokenizers() -> Vec<Value> {
    let words = [
        "[UNK]", "is", "it", "##s", "so", "a", "b", "##e", "?", "<s>", "</s>",
    ];
    let vocab: serde_json::Map<String, Value> = words
        .iter()
        .zip(0..)
        .map(|(word, id)| ((*word).into(), json!(id)))
        .collect();
    let special = |id: usize, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let around = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}},
    });
    let whole = |model: Value, normalizer: Value, pre: Value, decoder: Value| {
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(9, "<s>"), special(10, "</s>")],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": around,
            "decoder": decoder, "model": model,
        })
    };
    let piece = whole(
        json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
        json!({"type": "BertPreTokenizer"}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
    );
    let unigram = whole(
        json!({"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [["<unk>", 0.0], ["\u{2581}", -1.0], ["a", -2.0], ["is", -2.5], ["<0x41>", -3.0]]}),
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}, {"type": "NFKC"}]}),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
        json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
    );
    let level = whole(
        json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab}),
        json!({"type": "Lowercase"}),
        json!({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s"}, "behavior": "Isolated", "invert": false}, {"type": "Digits", "individual_digits": true}]}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
    );
    let pairs = whole(
        json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
               "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "i": 4, "s": 5, "is": 6, "<0x20>": 7}, "merges": [["a", "b"], ["i", "s"]]}),
        Value::Null,
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
    );
    vec![piece, unigram, level, pairs]
}

#[test]
fn tokenizer() {
    let small = small();
    let mut seeds = vec![small.clone()];
    seeds.extend(tokenizers().into_iter().map(|json| {
        let mut seed = small.clone();
        seed.insert(TOKENIZER.into(), json.to_string().into_bytes());
        seed
    }));
    fuzz("tokenizer", &seeds, &[CONFIG, WEIGHTS], |folder| {
        let files = open(folder).map_err(|e| e.to_string())?;
        spoken(files.tokenizer, folder)
    });
}

#[test]
fn config() {
    let rope = |scaling: Value| {
        let mut seed = small();
        let mut config: Value = serde_json::from_slice(&seed[CONFIG]).unwrap();
        config["rope_parameters"] = scaling;
        seed.insert(CONFIG.into(), config.to_string().into_bytes());
        seed
    };
    let seeds = [
        small(),
        rope(json!({"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0})),
        rope(
            json!({"rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
        ),
    ];
    fuzz("config", &seeds, &[TOKENIZER, WEIGHTS], |folder| {
        asked(open(folder).map_err(|e| e.to_string())?)
    });
}

#[test]
fn safetensors() {
    let small = small();
    // The same weights as two shards with their index.
    let whole = safetensors::SafeTensors::deserialize(&small[WEIGHTS]).unwrap();
    let (mut map, mut parts) = (serde_json::Map::new(), [Vec::new(), Vec::new()]);
    for (place, (name, view)) in whole.tensors().into_iter().enumerate() {
        map.insert(
            name.clone(),
            format!("part-{}.safetensors", place % 2).into(),
        );
        parts[place % 2].push((name, view));
    }
    let mut shards = small.clone();
    shards.remove(WEIGHTS);
    for (number, part) in parts.into_iter().enumerate() {
        let bytes = safetensors::serialize(part, None).unwrap();
        shards.insert(format!("part-{number}.safetensors"), bytes);
    }
    let index = json!({ "weight_map": map }).to_string();
    shards.insert("model.safetensors.index.json".into(), index.into());
    fuzz(
        "safetensors",
        &[small, shards],
        &[TOKENIZER, CONFIG],
        |folder| asked(open(folder).map_err(|e| e.to_string())?),
    );
}

#[test]
fn gguf() {
    let seeds = [
        "tokens.gguf",
        "llama.gguf",
        "qwen2_bias.gguf",
        "quantized.gguf",
    ]
    .map(|name| one("m.gguf", std::fs::read(fixture("gguf").join(name)).unwrap()));
    // A file of one tensor for each type says nothing of a whole model.
    let quantized = model::load::open(&fixture("gguf/quantized.gguf"))
        .unwrap()
        .config;
    fuzz("gguf", &seeds, &[], |folder| {
        let mut files = open(&folder.join("m.gguf")).map_err(|e| e.to_string())?;
        if files.config.num_hidden_layers == quantized.num_hidden_layers {
            for layer in 0..quantized.num_hidden_layers {
                let name = format!("model.layers.{layer}.mlp.up_proj.weight");
                files.weights.tensor(&name).map_err(|e| e.to_string())?;
            }
            return Ok(());
        }
        spoken(files.tokenizer.clone(), folder)?;
        asked(files)
    });
}
