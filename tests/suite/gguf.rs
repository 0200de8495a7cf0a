//! GGUF against gguf-py and the same weights in safetensors; the fixtures are made by
//! `tests/fixtures/make_gguf.py`.

use burn::prelude::*;
use burn::tensor::FloatDType;
use model::load::open;
use model::load::safetensors::Safetensors;
use model::{DropoutSeed, Llama, LlamaInput, ModelConfig};

use crate::support::{assert_close, fixture, floats, tensors};

#[test]
fn every_quantisation_is_read_as_gguf_py_reads_it() {
    let mut files = open(&fixture("gguf/quantized.gguf")).unwrap();
    let expected = tensors(&fixture("gguf/quantized.safetensors"));
    let kinds = [
        "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K",
    ];
    for (layer, kind) in kinds.iter().enumerate() {
        let name = format!("model.layers.{layer}.mlp.up_proj.weight");
        let data = files.weights.tensor(&name).unwrap();
        let found: Vec<f32> = data.try_into_vec_as().unwrap();
        assert_close(kind, &found, &expected[*kind].1, 1e-6);
    }
    assert_eq!(expected.len(), kinds.len());
}

/// The logits of a short prompt at every position.
fn logits(llama: &Llama) -> Vec<f32> {
    let device = Device::flex();
    let row = |values: [i32; 6]| Tensor::<2, Int>::from_data([values], &device);
    floats(
        llama
            .forward(&LlamaInput {
                tokens: row([5, 17, 3, 44, 9, 60]),
                positions: row([0, 1, 2, 3, 4, 5]),
                segments: row([1; 6]),
                branches: row([0; 6]),
                scored: Tensor::from_data([0, 1, 2, 3, 4, 5], &device),
                dropout: DropoutSeed::OFF,
                probe: None,
                routers_apart: false,
            })
            .logits,
    )
}

#[test]
fn llama_and_qwen2_from_gguf_equal_themselves_from_safetensors() {
    let device = Device::flex();
    for name in ["llama", "qwen2_bias"] {
        let folder = fixture("parity").join(name);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config = ModelConfig::from_json(&text).unwrap();
        let mut weights = Safetensors::open(&folder).unwrap();
        let expected = Llama::load(&config, &mut weights, 64, FloatDType::F32, &device).unwrap();
        let mut files = open(&fixture("gguf").join(format!("{name}.gguf"))).unwrap();
        assert_eq!(files.config.qkv_bias, config.qkv_bias);
        assert_eq!(files.config.tie_word_embeddings, config.tie_word_embeddings);
        let found = Llama::load(
            &files.config,
            &mut *files.weights,
            64,
            FloatDType::F32,
            &device,
        )
        .unwrap();
        assert_close(name, &logits(&found), &logits(&expected), 1e-5);
    }
}

#[test]
fn weights_in_bf16_give_nearly_the_same_logits_and_half_the_type() {
    let device = Device::flex();
    let load = |dtype| {
        let mut files = open(&fixture("gguf/llama.gguf")).unwrap();
        logits(&Llama::load(&files.config, &mut *files.weights, 64, dtype, &device).unwrap())
    };
    let (full, half) = (load(FloatDType::F32), load(FloatDType::BF16));
    assert_ne!(full, half);
    assert_close("bf16", &half, &full, 5e-2);
}

#[test]
fn types_of_tensors_that_are_not_read_are_named() {
    let mut bytes = std::fs::read(fixture("gguf/llama.gguf")).unwrap();
    let name = b"token_embd.weight";
    let place = bytes.windows(name.len()).position(|part| part == name);
    // Behind the name: the number of dimensions, two of them, and the type.
    let place = place.unwrap() + name.len() + 4 + 16;
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    for (number, named) in [(23u32, "IQ4_XS"), (99, "number 99")] {
        bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
        std::fs::write(file.path(), &bytes).unwrap();
        let error = open(file.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("type {named}, which")), "{error}");
        assert!(error.contains("Q4_K"), "{error}");
    }
}

/// Names of pre-tokenizers decide how text is cut before bytes are joined.
#[test]
fn byte_level_tokenizers_of_every_kind_read_text_as_the_tokenizers_library_does() {
    let text = std::fs::read_to_string(fixture("byte_level.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
    let kinds = expected.as_object().unwrap().iter();
    let kinds = kinds.filter(|(kind, _)| !["tokenizers", "texts"].contains(&kind.as_str()));
    let mut compared = 0;
    for (kind, rows) in kinds {
        let path = fixture("gguf").join(format!("tokens_{kind}.gguf"));
        let tokenizer = data::Tokenizer::new(open(&path).unwrap().tokenizer);
        let rows: Vec<Vec<u32>> = serde_json::from_value(rows.clone()).unwrap();
        for (text, ids) in texts.iter().zip(rows) {
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{kind}: {text:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 8 * texts.len());
}

/// candle-core divides by it.
#[test]
fn an_alignment_of_zero_is_a_damaged_file() {
    let mut bytes = std::fs::read(fixture("gguf/llama.gguf")).unwrap();
    let name = b"general.architecture";
    let place = bytes
        .windows(name.len())
        .position(|part| part == name)
        .unwrap();
    // One setting more, before the first: its length, name, type (4: u32) and value.
    let mut setting = Vec::from(17u64.to_le_bytes());
    setting.extend(b"general.alignment");
    setting.extend(4u32.to_le_bytes());
    setting.extend(0u32.to_le_bytes());
    bytes.splice(place - 8..place - 8, setting);
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    bytes[16..24].copy_from_slice(&(count + 1).to_le_bytes());
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let error = open(file.path()).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert!(model::load::chat_source(file.path()).is_err());
}

#[test]
fn a_bias_that_would_not_be_read_is_refused() {
    let bytes = std::fs::read(fixture("gguf/qwen2_bias.gguf")).unwrap();
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    // Of a part that has none, or of a group of which only others have one.
    for name in ["blk.0.attn_k.bias", "blk.0.attn_q.bias"] {
        let mut bytes = bytes.clone();
        let found = bytes
            .windows(name.len())
            .position(|part| part == name.as_bytes());
        let place = found.unwrap() + "blk.0.attn_".len();
        bytes[place] = b'x';
        std::fs::write(file.path(), &bytes).unwrap();
        let error = open(file.path()).unwrap_err().to_string();
        assert!(
            error.contains(".bias") && error.contains("not implemented"),
            "{error}"
        );
    }
}

/// Positions are i32 on a device: 2^32 would be a window of 0, and 2^31 a negative one.
#[test]
fn a_window_wider_than_any_text_hides_nothing() {
    let device = Device::flex();
    let folder = fixture("parity/llama");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let found = |window: Option<usize>| {
        let mut config = ModelConfig::from_json(&text).unwrap();
        // With a cap, attention takes the form that asks for what is hidden.
        config.variant.attention_soft_cap = Some(50.0);
        config.sliding_window.fill(window);
        let mut weights = Safetensors::open(&folder).unwrap();
        logits(&Llama::load(&config, &mut weights, 64, FloatDType::F32, &device).unwrap())
    };
    let expected = found(None);
    assert_ne!(found(Some(2)), expected);
    for window in [1 << 31, 1 << 32, usize::MAX] {
        assert_close("window", &found(Some(window)), &expected, 1e-6);
    }
}
