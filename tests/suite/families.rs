//! Every family beside LLaMA, Mistral and Qwen2 against transformers; the fixtures are made by
//! `tests/fixtures/make_families.py` and `make_sentencepiece.py`.

use burn::data::dataloader::batcher::Batcher;
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::{FloatDType, TensorData};
use data::Tokenizer;
use model::config::FAMILIES;
use model::{AdapterConfig, DropoutSeed, KeyValueCache, Llama, LlamaInput, ModelConfig};
use serde_json::Value;
use train::forward::{self, Reading};
use train::functional_uncertainty::FluTokens;
use train::method::{self, Training};

use crate::parity::{all_logits, generate, load as load_llama, lora, questions, real_rows};
use crate::support::{assert_close, devices, exact, fixture, floats, named_gradients, tensors};

/// Positions of the longest question of the fixtures.
const POSITIONS: usize = 13;

/// One model a family, and one for each kind of rotation.
const MODELS: [&str; 13] = [
    "qwen3",
    "phi3",
    "phi3_longrope_short",
    "phi3_longrope_long",
    "gemma2",
    "gemma3",
    "gemma3_vision",
    "olmo2",
    "smollm3",
    "granite",
    "llama_yarn",
    "llama_dynamic",
    "llama_wide",
];

pub(crate) fn load(name: &str, device: &Device) -> Llama {
    load_for(name, POSITIONS, device)
}

/// The model for sequences of so many tokens.
pub(crate) fn load_for(name: &str, positions: usize, device: &Device) -> Llama {
    let folder = fixture("families").join(name);
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = ModelConfig::from_json(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut weights = model::load::weights(&folder, &config).unwrap();
    Llama::load(&config, &mut *weights, positions, FloatDType::F32, device).unwrap()
}

#[test]
fn logits_and_loss_of_further_families_equal_transformers() {
    for (name, device, tolerance) in devices() {
        for family in MODELS {
            let llama = load(family, &device);
            let batch = exact().batch(questions(), &device);
            let expected = tensors(
                &fixture("families")
                    .join(family)
                    .join("expected.safetensors"),
            );
            let input = forward::input(&batch, DropoutSeed::OFF);
            let what = format!("{family} on {name}");
            let logits = real_rows(&expected["logits"]);
            assert_close(&what, &all_logits(&llama, &input), &logits, tolerance);
            let reading = Reading::of(llama.forward(&input), &batch, FluTokens::default());
            let loss = method::base::Base.objective(&reading, &batch).total();
            assert_close(&what, &floats(loss), &expected["loss"].1, tolerance);
        }
    }
}

#[test]
fn every_family_has_a_model_that_is_compared() {
    let compared: Vec<String> = ["families", "parity"]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(fixture(folder)).unwrap())
        .filter_map(|entry| {
            let config = std::fs::read_to_string(entry.ok()?.path().join("config.json")).ok()?;
            let config: Value = serde_json::from_str(&config).ok()?;
            Some(config["model_type"].as_str()?.to_owned())
        })
        .collect();
    for family in FAMILIES {
        let known = compared.iter().any(|kind| kind == family.model_type);
        assert!(known, "{}: no fixture", family.model_type);
    }
}

/// One row of tokens from a position on, the last of which is scored.
fn row(tokens: &[i32], first: i32, device: &Device) -> LlamaInput {
    let n = tokens.len();
    let grid =
        |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, [1, n]), device);
    LlamaInput {
        tokens: grid(tokens.to_vec()),
        positions: grid((first..first + n as i32).collect()),
        segments: grid(vec![1; n]),
        branches: grid(vec![0; n]),
        scored: Tensor::from_data([n as i32 - 1], device),
        dropout: DropoutSeed::OFF,
        probe: None,
        routers_apart: false,
    }
}

#[test]
fn further_families_write_token_by_token_as_they_read_at_once() {
    let tokens = [5, 17, 3, 44, 9, 60, 21, 8];
    for (name, device, tolerance) in devices() {
        for family in MODELS {
            let llama = load(family, &device);
            let whole = floats(llama.forward(&row(&tokens, 0, &device)).logits);
            let mut cache = KeyValueCache::default();
            llama.forward_with_cache(&row(&tokens[..5], 0, &device), &mut cache);
            let mut last = Vec::new();
            for (place, token) in (5..).zip(&tokens[5..]) {
                let next = row(&[*token], place, &device);
                last = floats(llama.forward_with_cache(&next, &mut cache).logits);
            }
            assert_close(&format!("{family} on {name}"), &last, &whole, tolerance);
        }
    }
}

#[test]
fn greedy_generation_of_every_family_equals_transformers() {
    let text = std::fs::read_to_string(fixture("generated.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, device, tolerance) in devices() {
        for (family, _) in expected.as_object().unwrap() {
            if family == "transformers" {
                continue;
            }
            let llama = match fixture("parity").join(family).is_dir() {
                true => load_llama(family, &device),
                false => load_for(family, 64, &device),
            };
            for forget in [8, 3] {
                let found = generate(&llama, 8, forget, &device);
                for (row, (tokens, logs)) in found.into_iter().enumerate() {
                    let steps = if row == 0 { 8.min(forget + 1) } else { 8 };
                    assert_eq!(tokens.len(), steps);
                    let expected = &expected[family][row];
                    let what = format!("{family} on {name}, row {row}");
                    let known: Vec<i64> =
                        serde_json::from_value(expected["tokens"].clone()).unwrap();
                    assert_eq!(tokens, known[..steps], "{what}");
                    let known: Vec<f32> =
                        serde_json::from_value(expected["log_probabilities"].clone()).unwrap();
                    assert_close(&what, &logs, &known[..steps], tolerance);
                }
            }
        }
    }
}

/// Every parameter moved along a wave.
struct Along(f32);

impl ModuleMapper for Along {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| {
            let shape = old.shape();
            let wave = (0..).map(|i| self.0 * (i as f32 * 1.3 + 0.4).sin());
            // A leaf of its own, of which gradients are asked.
            let values = floats(old.clone()).into_iter().zip(wave);
            let moved: Vec<f32> = values.map(|(value, step)| value + step).collect();
            Tensor::from_data(TensorData::new(moved, shape), &old.device())
        })
    }
}

#[test]
fn gradients_of_further_families_agree_with_finite_differences() {
    let device = Device::flex().autodiff();
    let adapter = AdapterConfig::Lora(model::LoraConfig {
        dropout: 0.0,
        ..lora()
    });
    for family in MODELS {
        let llama = load(family, &device).attach(&adapter, 3).unwrap();
        let llama = llama.map(&mut Along(0.2)).train();
        let batch = exact().batch(questions(), &device);
        let loss = |llama: &Llama| {
            let output = llama.forward(&forward::input(&batch, DropoutSeed::OFF));
            let reading = Reading::of(output, &batch, FluTokens::default());
            method::base::Base.objective(&reading, &batch).total()
        };
        let gradients = loss(&llama).backward();
        let gradients = GradientsParams::from_grads(gradients, &llama);
        let slope: f64 = named_gradients(&llama, &gradients)
            .values()
            .flat_map(|gradient| gradient.iter().enumerate())
            .map(|(i, g)| f64::from(*g) * f64::from((i as f32 * 1.3 + 0.4).sin()))
            .sum();
        let at = |step: f32| f64::from(floats(loss(&llama.clone().map(&mut Along(step))))[0]);
        let difference = |step: f32| (at(step) - at(-step)) / (2.0 * f64::from(step));
        // What is left of the third derivative cancels: seven layers bend much.
        let found = (4.0 * difference(1e-3) - difference(2e-3)) / 3.0;
        assert!(
            (found - slope).abs() < 0.02 * slope.abs().max(0.05),
            "{family}: {slope} by the graph, {found} by differences"
        );
    }
}

/// The configuration of a family's fixture, in so far as a GGUF file says it.
fn config_in_gguf(name: &str) -> ModelConfig {
    let text = std::fs::read_to_string(fixture("families").join(name).join("config.json"));
    let mut json: Value = serde_json::from_str(&text.unwrap()).unwrap();
    if name.starts_with("gemma") {
        // llama.cpp knows the released models' scale, and which of their layers have a window.
        let part = if name == "gemma3_vision" {
            &mut json["text_config"]
        } else {
            &mut json
        };
        part["query_pre_attn_scalar"] = part["head_dim"].clone();
    }
    if name == "gemma3" {
        json["layer_types"] = vec!["sliding_attention"; 3].into();
    }
    if name == "phi3_longrope_short" {
        json["sliding_window"] = Value::Null;
    }
    ModelConfig::from_json(&json.to_string()).unwrap()
}

#[test]
fn families_from_gguf_equal_themselves_from_safetensors() {
    let device = Device::flex();
    let input = row(&[5, 17, 3, 44, 9, 60], 0, &device);
    for (name, file) in [
        ("qwen3", "qwen3"),
        ("llama3_rope", "llama3_rope"),
        ("phi3", "family_phi3"),
        ("phi3_longrope_short", "family_phi3_longrope_short"),
        ("phi3_longrope_long", "family_phi3_longrope_long"),
        ("gemma2", "family_gemma2"),
        ("gemma3", "family_gemma3"),
        ("gemma3_vision", "family_gemma3_vision"),
        ("olmo2", "family_olmo2"),
        ("smollm3", "family_smollm3"),
        ("granite", "family_granite"),
    ] {
        let expected = match file.starts_with("family") {
            true => {
                let config = config_in_gguf(name);
                let folder = fixture("families").join(name);
                let mut weights = model::load::weights(&folder, &config).unwrap();
                Llama::load(&config, &mut *weights, POSITIONS, FloatDType::F32, &device).unwrap()
            }
            false if name == "llama3_rope" => load_llama(name, &device),
            false => load(name, &device),
        };
        let path = fixture("gguf").join(format!("{file}.gguf"));
        let mut files = model::load::open(&path).unwrap();
        let weights = &mut *files.weights;
        let found = Llama::load(&files.config, weights, POSITIONS, FloatDType::F32, &device);
        let (found, expected) = (found.unwrap().forward(&input), expected.forward(&input));
        assert_close(name, &floats(found.logits), &floats(expected.logits), 1e-5);
        // What a merged model says of itself is read as what it was.
        let text = files.config.to_json().to_string();
        assert_eq!(
            ModelConfig::from_json(&text).unwrap(),
            files.config,
            "{name}"
        );
    }
}

#[test]
fn sentence_piece_from_gguf_reads_text_as_sentencepiece_does() {
    for name in ["sentence_piece", "sentence_piece_gemma"] {
        let files = model::load::open(&fixture("gguf").join(format!("{name}.gguf")));
        let tokenizer = Tokenizer::new(files.unwrap().tokenizer);
        let text = std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let texts = expected["texts"].as_array().unwrap();
        assert!(texts.len() > 10);
        for entry in texts {
            let text = entry["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(entry["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
            // A piece that stands for a space cannot be told from a space.
            if !text.contains('▁') {
                assert_eq!(tokenizer.decode(&ids[1..]).unwrap(), text, "{name}");
            }
        }
    }
    let path = fixture("gguf/sentence_piece.gguf");
    let chat = model::load::chat_source(&path).unwrap().unwrap();
    assert_eq!(chat.special_tokens["bos_token"], "<s>");
    assert_eq!(chat.special_tokens["unk_token"], "<unk>");
}

#[test]
fn what_is_no_family_is_refused_by_name() {
    let refused = |kind: &str, more: &str| {
        let text = format!(
            r#"{{"model_type":"{kind}","vocab_size":8,"hidden_size":8,"intermediate_size":8,
            "num_hidden_layers":2,"num_attention_heads":2{more}}}"#
        );
        ModelConfig::from_json(&text).unwrap_err().to_string()
    };
    for kind in [
        "qwen3_moe",
        "mixtral",
        "mamba",
        "bert",
        "gpt2",
        "deepseek_v3",
    ] {
        let message = refused(kind, "");
        assert!(
            message.contains(kind) && message.contains("gemma2"),
            "{message}"
        );
    }
    for kind in ["llava", "gemma3n", "qwen2_vl"] {
        let message = refused(kind, "");
        assert!(message.contains("other vision model"), "{message}");
    }
    let message = refused("gemma3", "");
    assert!(
        message.contains("text_config: expected an object"),
        "{message}"
    );
    let message = refused("gemma3_text", r#","use_bidirectional_attention":true"#);
    assert!(message.contains("use_bidirectional_attention"), "{message}");
    let longrope =
        r#","rope_scaling":{"rope_type":"longrope","short_factor":[1.0],"long_factor":[2.0,1.0]}"#;
    let message = refused("phi3", longrope);
    assert!(message.contains("short_factor"), "{message}");
}
