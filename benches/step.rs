//! Times one kind of work on the CPU and prints it as one line of JSON, with the fields of the PyTorch side (`benches/pytorch.py`).
//!
//! `cargo bench --profile dev --bench step -- --method uq4ct --batch 4 --sequence 128`

use std::time::Instant;

use burn::data::dataloader::batcher::Batcher;
use burn::optim::ModuleOptimizer;
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::train::TrainStep;
use clap::Parser;
use data::source::{Finder, models};
use data::{Batch, EncodedQuestion, QuestionBatcher};
use model::load::ModelFiles;
use model::load::tiny::RandomWeights;
use model::{DropoutSeed, Llama};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use train::config::RunConfig;
use train::dashboard::state::peak_memory;
use train::method;
use train::optimizer::OnePassAdamW;
use train::step::Trainee;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ids of " A", " B", " C", " D" in SmolLM2's vocabulary, as in the PyTorch side.
const LETTERS: [u32; 4] = [330, 389, 340, 422];

#[derive(Parser)]
struct Options {
    /// A short name, a .gguf file or a directory in Hugging Face's layout.
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Whose objective and adapter: uq4ct, mixlora, lora, base.
    #[arg(long, default_value = "uq4ct")]
    method: String,
    /// Forward pass only, without a graph.
    #[arg(long)]
    evaluate: bool,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    #[arg(long, default_value_t = 128)]
    sequence: usize,
    #[arg(long, default_value_t = 5)]
    steps: usize,
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    #[arg(long, default_value_t = 8)]
    experts: usize,
    /// Of an expert, or of the one LoRA.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    #[arg(long, default_value_t = 2)]
    top_k: usize,
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// So many layers of random weights in the model's shape instead of its own.
    #[arg(long)]
    layers: Option<usize>,
    /// Keep only the layers' inputs and run each layer again in the backward pass.
    #[arg(long)]
    recompute: bool,
    /// Frozen weights in bf16.
    #[arg(long)]
    bf16: bool,
    /// Named by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    uq4ct::allocator::keep_pages();
    let options = Options::parse();
    let start = Instant::now();
    let config = settings(&options);
    let method = method::build(&config)?;
    let device = Device::flex();
    let base = load(&options, &device)?;
    let llama = base.attach(&method.adapter(), 1)?;
    let trainable = llama.trainable_parameters();
    let loaded = start.elapsed().as_secs_f64();
    let trains = !options.evaluate && trainable > 0;
    let at = match trains {
        true => device.autodiff(),
        false => device,
    };
    let batches = batches(&options, llama.vocabulary(), &at);
    // The seconds of each step up to the gradients, and the optimizer's.
    let mut phases: Vec<[f64; 2]> = Vec::new();
    let (mut loss, mut llama) = (0.0, llama);
    if trains {
        let mut trainee = Trainee::new(llama, method, &config.train, options.batch).train();
        let mut optimizer = ModuleOptimizer::from(OnePassAdamW::new(0.01));
        for mut batch in batches {
            batch.step = phases.len() + 1;
            let start = Instant::now();
            let step = trainee.step(batch);
            let gradients = start.elapsed().as_secs_f64();
            loss = step.item.facts().loss();
            trainee = trainee.optimize(&mut optimizer, 2e-4.into(), step.grads);
            phases.push([gradients, start.elapsed().as_secs_f64() - gradients]);
        }
    } else {
        for batch in batches {
            let start = Instant::now();
            let output = llama.forward(&method::input(&batch, DropoutSeed::OFF));
            loss = method
                .objective(&output, &batch)
                .total()
                .into_scalar::<f64>();
            phases.push([start.elapsed().as_secs_f64(), 0.0]);
            llama = llama.no_grad();
        }
    }
    let kept = &phases[options.warmup..];
    let total = median(kept.iter().map(|p| p.iter().sum()));
    let tokens = (options.batch * options.sequence) as f64;
    println!(
        "{}",
        json!({
            "method": options.method,
            "phase": if trains { "train" } else { "eval" },
            "batch": options.batch,
            "seq": options.sequence,
            "trainable": trainable,
            "s_per_step": total,
            "gradients": median(kept.iter().map(|p| p[0])),
            "optimizer": median(kept.iter().map(|p| p[1])),
            "tokens_per_s": tokens / total,
            "peak_rss_mib": peak_memory() as f64 / f64::from(1 << 20),
            "load_seconds": loaded,
            "last_loss": loss,
        })
    );
    Ok(())
}

fn settings(options: &Options) -> RunConfig {
    let mut config = RunConfig::default();
    config.method.name = options.method.clone();
    config.adapter.num_experts = options.experts;
    config.adapter.rank = options.rank;
    config.adapter.top_k = options.top_k;
    config.adapter.dropout = options.dropout;
    config.train.recompute = options.recompute;
    config
}

fn load(options: &Options, device: &Device) -> Result<Llama, Box<dyn std::error::Error>> {
    let located = models::find(&options.model, "main", &Finder::from_env())?;
    let ModelFiles {
        mut config,
        mut weights,
        ..
    } = model::load::open(&located.path)?;
    if let Some(layers) = options.layers {
        config.num_hidden_layers = layers;
        config.sliding_window = vec![None; layers];
        weights = Box::new(RandomWeights::new(config.clone(), 1));
    }
    let dtype = match options.bf16 {
        true => FloatDType::BF16,
        false => FloatDType::F32,
    };
    Ok(Llama::load(
        &config,
        &mut *weights,
        options.sequence,
        dtype,
        device,
    )?)
}

fn batches(options: &Options, vocabulary: usize, device: &Device) -> Vec<Batch> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut question = || {
        let prompt: Vec<u32> = (0..options.sequence)
            .map(|_| random.random_range(100..vocabulary as u32))
            .collect();
        EncodedQuestion::lettered("random", prompt, &LETTERS, random.random_range(0..4))
    };
    (0..options.warmup + options.steps)
        .map(|_| {
            let questions = (0..options.batch).map(|_| question()).collect();
            QuestionBatcher::default().batch(questions, device)
        })
        .collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
