//! Damaged and hostile model files: an error that names the place, never a panic.

use std::path::Path;

use model::ModelConfig;
use model::load::safetensors::Safetensors;
use model::load::{Weights, open};
use proptest::prelude::*;

use crate::support::allocation::most_bytes;
use crate::support::fixture;
use crate::support::programs::{program, text};

/// Writes the files of a small model, its weights changed by `damage`.
fn damaged_safetensors(damage: impl Fn(&mut Vec<u8>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(fixture("parity/llama/model.safetensors")).unwrap();
    damage(&mut bytes);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

fn read_all(folder: &Path) -> Result<(), model::ModelError> {
    let mut weights = Safetensors::open(folder)?;
    weights.tensor("model.embed_tokens.weight")?;
    weights.tensor("lm_head.weight").map(drop)
}

#[test]
fn truncated_and_hostile_safetensors_are_refused_by_name() {
    let cases: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes.truncate(4),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()),
        |bytes| bytes[8] = b'x',
        |bytes| bytes.clear(),
    ];
    for damage in cases {
        let folder = damaged_safetensors(damage);
        let error = read_all(folder.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_directory_that_is_no_model_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refused = |parts: &[&str]| {
        let error = open(folder.path()).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "no {part} in {error}");
        }
    };
    refused(&["holds no config.json", "or a .gguf file"]);
    std::fs::write(at("model-q4_0.gguf"), "x").unwrap();
    refused(&["give the file itself, model-q4_0.gguf"]);
    std::fs::write(at("adapter_config.json"), "{}").unwrap();
    refused(&["holds an adapter", "--adapter"]);
    std::fs::remove_file(at("adapter_config.json")).unwrap();
    std::fs::copy(fixture("parity/llama/config.json"), at("config.json")).unwrap();
    std::fs::write(at("tokenizer.model"), "x").unwrap();
    refused(&["holds no tokenizer.json", "save_pretrained"]);
    let tokenizer = data::Tokenizer::tiny();
    tokenizer.save(&at("tokenizer.json")).unwrap();
    refused(&["holds no model.safetensors"]);
    std::fs::write(at("pytorch_model.bin"), "x").unwrap();
    refused(&["pytorch_model.bin", "save_pretrained"]);
    // Packed weights whose config.json says nothing of them.
    let bytes = std::fs::read(fixture("parity/llama/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let packed = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name.replace("q_proj.weight", "q_proj.qweight"), view));
    safetensors::serialize_to_file(packed, None, &at("model.safetensors")).unwrap();
    let mut weights = open(folder.path()).unwrap().weights;
    let error = weights.tensor("model.layers.0.self_attn.q_proj.weight");
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("q_proj.qweight") && error.contains("GPTQ or AWQ"),
        "{error}"
    );
}

#[test]
fn an_index_cannot_reach_outside_its_directory_and_absent_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map":{"a":"../../etc/passwd"}}"#).unwrap();
    let error = Safetensors::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("weight_map.a"), "{error}");
    std::fs::write(
        &index,
        r#"{"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#,
    )
    .unwrap();
    let error = Safetensors::open(folder.path()).err().unwrap().to_string();
    assert!(
        error.contains("model-00001-of-00001.safetensors"),
        "{error}"
    );
    let mut weights = Safetensors::open(&fixture("parity/llama")).unwrap();
    let error = weights.tensor("nothing").unwrap_err().to_string();
    assert!(error.contains("`nothing` is missing"), "{error}");
}

#[test]
fn shards_are_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fixture("parity/llama/model.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (mut map, mut parts) = (serde_json::Map::new(), [Vec::new(), Vec::new()]);
    for (i, (name, view)) in file.tensors().into_iter().enumerate() {
        map.insert(name.clone(), format!("part-{}.safetensors", i % 2).into());
        parts[i % 2].push((name, view));
    }
    for (i, part) in parts.into_iter().enumerate() {
        let path = folder.path().join(format!("part-{i}.safetensors"));
        safetensors::serialize_to_file(part, None, &path).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(
        folder.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    let mut shards = Safetensors::open(folder.path()).unwrap();
    let mut single = Safetensors::open(&fixture("parity/llama")).unwrap();
    for name in [
        "model.embed_tokens.weight",
        "model.layers.1.mlp.up_proj.weight",
        "lm_head.weight",
    ] {
        assert_eq!(shards.tensor(name).unwrap(), single.tensor(name).unwrap());
    }
}

/// The small model's weights, the embedding in another type and shape.
fn embedding_of(dtype: safetensors::Dtype, bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("parity/llama/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut tensors = file.tensors();
    for (name, view) in &mut tensors {
        if name == "model.embed_tokens.weight" {
            let count: usize = view.shape().iter().product();
            let data = &view.data()[..count * bytes];
            let shape = view.shape().to_vec();
            *view = safetensors::tensor::TensorView::new(dtype, shape, data).unwrap();
        }
    }
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    folder
}

#[test]
fn integers_are_no_weights() {
    use safetensors::Dtype;
    for (dtype, bytes) in [
        (Dtype::I8, 1),
        (Dtype::U8, 1),
        (Dtype::I32, 4),
        (Dtype::BOOL, 1),
    ] {
        let folder = embedding_of(dtype, bytes);
        let error = read_all(folder.path()).unwrap_err().to_string();
        for part in [
            "model.safetensors",
            "`model.embed_tokens.weight`",
            "quantized",
        ] {
            assert!(error.contains(part), "{dtype:?}: {error}");
        }
    }
    read_all(embedding_of(Dtype::BF16, 2).path()).unwrap();
}

#[test]
fn old_shards_beside_a_single_file_are_refused() {
    let folder = damaged_safetensors(|_| ());
    let index = folder.path().join("model.safetensors.index.json");
    let shard = folder.path().join("model-00001-of-00001.safetensors");
    std::fs::copy(folder.path().join("model.safetensors"), &shard).unwrap();
    std::fs::write(
        &index,
        r#"{"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#,
    )
    .unwrap();
    let error = read_all(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("index.json: lists other weights than"),
        "{error}"
    );
    std::fs::write(&index, r#"{"weight_map":{"a":"model.safetensors"}}"#).unwrap();
    read_all(folder.path()).unwrap();
}

#[test]
fn parameters_without_a_place_are_named() {
    let text = std::fs::read_to_string(fixture("parity/llama/config.json")).unwrap();
    let config = ModelConfig::from_json(&text).unwrap();
    let mut weights = Safetensors::open(&fixture("parity/llama")).unwrap();
    let float = burn::tensor::FloatDType::F32;
    let device = burn::tensor::Device::flex();
    let base = model::Llama::load(&config, &mut weights, 8, float, &device).unwrap();
    let stray = burn::tensor::TensorData::new(vec![1f32], [1, 1]);
    let tensors = [("layers.9.self_attn.q_proj.lora_a".to_owned(), stray)].into();
    let error = base.with_adapter_tensors(&tensors).unwrap_err().to_string();
    assert!(
        error.contains("(layers.9.self_attn.q_proj.lora_a, ..)"),
        "{error}"
    );
}

#[test]
fn a_weight_of_the_wrong_shape_is_named() {
    let text = std::fs::read_to_string(fixture("parity/llama/config.json")).unwrap();
    let mut config = ModelConfig::from_json(&text).unwrap();
    config.intermediate_size += 1;
    let mut weights = Safetensors::open(&fixture("parity/llama")).unwrap();
    let loaded = model::Llama::load(
        &config,
        &mut weights,
        8,
        burn::tensor::FloatDType::F32,
        &burn::tensor::Device::flex(),
    );
    let error = loaded.unwrap_err().to_string();
    assert!(
        error.contains("mlp.gate_proj.weight") && error.contains("shape"),
        "{error}"
    );
}

/// A GGUF of one small tensor with what a llama needs.
fn gguf() -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    };
    let numbers: [(&str, u32); 6] = [
        ("llama.embedding_length", 4),
        ("llama.block_count", 1),
        ("llama.feed_forward_length", 4),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 2),
        ("llama.context_length", 8),
    ];
    out.extend(12u64.to_le_bytes());
    for (key, value) in numbers {
        text(&mut out, key);
        out.extend(4u32.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    text(&mut out, "llama.attention.layer_norm_rms_epsilon");
    out.extend(6u32.to_le_bytes());
    out.extend(1e-5f32.to_le_bytes());
    for (key, value) in [
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ] {
        text(&mut out, key);
        out.extend(8u32.to_le_bytes());
        text(&mut out, value);
    }
    let lists: [(&str, &[&str]); 2] = [
        ("tokenizer.ggml.tokens", &["a", "b", "ab"]),
        ("tokenizer.ggml.merges", &["a b"]),
    ];
    for (key, items) in lists {
        text(&mut out, key);
        out.extend(9u32.to_le_bytes());
        out.extend(8u32.to_le_bytes());
        out.extend((items.len() as u64).to_le_bytes());
        for item in items {
            text(&mut out, item);
        }
    }
    text(&mut out, "token_embd.weight");
    out.extend(2u32.to_le_bytes());
    out.extend(4u64.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32), 0);
    for value in 0..8 {
        out.extend((value as f32).to_le_bytes());
    }
    out
}

/// Opens a file and reads its embedding.
fn read_gguf(bytes: &[u8]) -> Result<Vec<f32>, model::ModelError> {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut files = open(file.path())?;
    let data = files.weights.tensor("model.embed_tokens.weight")?;
    Ok(data.try_into_vec_as().unwrap())
}

#[test]
fn a_gguf_is_read_and_a_truncated_or_hostile_one_refused() {
    let whole = gguf();
    assert_eq!(read_gguf(&whole).unwrap(), [0., 1., 2., 3., 4., 5., 6., 7.]);
    let mut unknown = whole.clone();
    let at = unknown.windows(3).position(|w| w == b"a b").unwrap();
    unknown[at..at + 3].copy_from_slice(b"b a");
    let error = read_gguf(&unknown).unwrap_err().to_string();
    assert!(error.contains("tokenizer"), "a merge of no token: {error}");
    for length in [0, 3, 8, 24, 100, whole.len() / 2, whole.len() - 40] {
        assert!(read_gguf(&whole[..length]).is_err(), "{length}");
    }
    let mut huge = whole.clone();
    huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(read_gguf(&huge).is_err(), "2^64 tensors");
    let mut layers = whole.clone();
    let key = b"llama.block_count";
    let at = layers.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    layers[at..at + 4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    let (read, memory) = most_bytes(|| read_gguf(&layers));
    let error = read.unwrap_err().to_string();
    assert!(
        error.contains("llama.block_count: 2147483648 layers"),
        "{error}"
    );
    assert!(memory < 1 << 20, "{memory}");
    let mut other = whole;
    let at = other.windows(5).rposition(|w| w == b"llama").unwrap();
    other[at..at + 5].copy_from_slice(b"bloom");
    let error = read_gguf(&other).unwrap_err().to_string();
    assert!(error.contains("general.architecture"), "{error}");
}

/// A directory with a small model whose tokenizer.json is this.
fn with_tokenizer(text: &str) -> tempfile::TempDir {
    let folder = damaged_safetensors(|_| ());
    std::fs::copy(
        fixture("parity/llama/config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), text).unwrap();
    folder
}

/// A page of a recorded table whose header says that it is 2 GB.
#[test]
fn a_parquet_page_cannot_ask_for_more_memory_than_its_file_holds() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/table5/runs.parquet");
    let whole = std::fs::read(recorded).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.parquet");
    // The first page: its kind, then its size in memory as a number of two or three bytes.
    assert_eq!(
        (&whole[..4], whole[4], whole[6]),
        (&b"PAR1"[..], 0x15, 0x15)
    );
    let end = 8 + whole[7..].iter().position(|byte| *byte < 0x80).unwrap();
    let mut huge = whole[..7].to_vec();
    huge.extend([0xfe, 0xff, 0xff, 0xff, 0x0f]);
    huge.extend(&whole[end..]);
    std::fs::write(&path, huge).unwrap();
    let (read, memory) = most_bytes(|| train::reproduce::archive::read(&path));
    let error = read.unwrap_err().to_string();
    assert!(
        error.contains("runs.parquet") && error.contains("are a page of"),
        "{error}"
    );
    assert!(memory < 16 << 20, "{memory}");
    let mut rows = data::rows::read(&path, &[]).unwrap_err().to_string();
    rows.truncate(400);
    assert!(rows.contains("are a page of"), "{rows}");
}

/// Inputs on which the tokenizers library panics.
#[test]
fn a_tokenizer_that_its_library_does_not_survive_is_refused() {
    let folder = with_tokenizer(r#"{"decoder":{x}}"#);
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    let prefix = "x".repeat(2000);
    let piece = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": prefix,
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1},
        },
    });
    let folder = with_tokenizer(&piece.to_string());
    let told = match open(folder.path()) {
        Ok(files) => data::tokenizer::Tokenizer::new(files.tokenizer)
            .encode("abc")
            .map(drop)
            .map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = told {
        assert!(error.contains("tokenizer"), "{error}");
    }
}

/// A flipped byte in a length of the pickle once took 4 GB.
#[test]
fn a_pickle_cannot_ask_for_more_memory_than_its_file_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.bin");
    let tensors = [("a.weight", 6), ("b.weight", 4)].map(|(name, n)| {
        let data = burn::tensor::TensorData::new(vec![1f32; n], [n / 2, 2]);
        (name.to_owned(), data)
    });
    model::exchange::torch::write(&path, &tensors.into()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] = 0xff;
        std::fs::write(&path, bytes).unwrap();
        let (read, memory) = most_bytes(|| model::exchange::torch::read(&path));
        assert!(memory < 4 << 20, "byte {at}: {memory} bytes");
        if let Err(error) = read {
            assert!(error.to_string().contains("adapter_model.bin"), "{error}");
        }
    }
    // A tensor that repeats one value a million times.
    std::fs::write(&path, repeated(&whole)).unwrap();
    let (read, memory) = most_bytes(|| model::exchange::torch::read(&path));
    let error = read.unwrap_err().to_string();
    assert!(
        error.contains("adapter_model.bin") && memory < 4 << 20,
        "{error} {memory}"
    );
}

/// The archive with its first tensor's shape made huge and its strides 0.
fn repeated(whole: &[u8]) -> Vec<u8> {
    use std::io::{Cursor, Read, Write};
    let mut old = zip::ZipArchive::new(Cursor::new(whole)).unwrap();
    let mut new = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for place in 0..old.len() {
        let mut entry = old.by_index(place).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        // Shape (3, 2), strides (2, 1), as the writer of this project says them.
        let integers = |values: [i32; 2]| {
            let values = values
                .map(|n| [b"J", &n.to_le_bytes()[..]].concat())
                .concat();
            [b"(", &values[..], b"t"].concat()
        };
        let (shape, strides) = (integers([3, 2]), integers([2, 1]));
        let both = [&shape[..], &strides].concat();
        if let Some(at) = content.windows(both.len()).position(|part| part == both) {
            let huge = [integers([1 << 20, 100]), integers([0, 0])].concat();
            content.splice(at..at + both.len(), huge);
        }
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        new.start_file(name, stored).unwrap();
        new.write_all(&content).unwrap();
    }
    new.finish().unwrap().into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changed_bytes_of_a_gguf_never_panic(changes in prop::collection::vec((0usize..600, any::<u8>()), 1..6)) {
        let mut bytes = gguf();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let _ = read_gguf(&bytes);
    }

    #[test]
    fn changed_bytes_of_safetensors_never_panic(changes in prop::collection::vec((0usize..3000, any::<u8>()), 1..6)) {
        let folder = damaged_safetensors(|bytes| {
            for (at, value) in &changes {
                let at = at % bytes.len();
                bytes[at] = *value;
            }
        });
        let _ = read_all(folder.path());
    }

    #[test]
    fn any_config_json_is_read_or_refused(hidden in any::<u64>(), heads in any::<u64>(), layers in any::<u32>(), dim in any::<u64>()) {
        let text = format!(
            r#"{{"model_type":"llama","vocab_size":8,"hidden_size":{hidden},"intermediate_size":16,"num_hidden_layers":{layers},"num_attention_heads":{heads},"head_dim":{dim}}}"#
        );
        let _ = ModelConfig::from_json(&text);
    }
}

/// candle-core writes its stack into its messages where `RUST_BACKTRACE` asks for it.
#[test]
fn an_error_holds_no_stack_whatever_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(fixture("gguf/qwen2_bias.gguf")).unwrap();
    // The length of a key, beyond the file's end.
    bytes[262] = 1;
    std::fs::write(folder.path().join("m.gguf"), bytes).unwrap();
    let rows = "{\"question\":\"a?\",\"choices\":[\"x\",\"y\"],\"answer\":0}\n";
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let args = ["data", "check", "rows.jsonl", "--model", "m.gguf"];
    let output = program(env!("CARGO_BIN_EXE_uq4ct"), folder.path(), &args)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(error.contains("m.gguf: gguf: string length"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
