//! Times one kind of work on a device and prints a line of JSON for each size of batch, with the
//! fields of the PyTorch side (`benches/pytorch.py`).
//!
//! `cargo bench --profile dev --bench step -- --method uq4ct --batch 4 --sequence 128`

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::optim::ModuleOptimizer;
use burn::prelude::*;
use burn::tensor::{DType, Distribution, FloatDType, TensorData};
use burn::train::TrainStep;
use clap::Parser;
use data::loader::{EvaluationLoader, LoaderState, TrainLoader};
use data::source::{Finder, models};
use data::{Batch, EncodedQuestion, QuestionBatcher};
use model::fused::linear::linear;
use model::fused::{Form, in_form};
use model::load::Weights;
use model::load::tiny::RandomWeights;
use model::visibility::AttentionKind;
use model::{DropoutSeed, Llama, ModelConfig, ModelError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tracing_subscriber::prelude::*;
use train::config::{RunConfig, WeightType};
use train::dashboard::state::peak_memory;
use train::forward;
use train::method::Method;
use train::optimizer::OnePassAdamW;
use train::prepare::prepare;
use train::registry;
use train::step::Trainee;
use uq4ct::kernels::{Made, counter};

/// Ids of " A", " B", " C", " D" in SmolLM2's vocabulary, as in the PyTorch side.
const LETTERS: [u32; 4] = [330, 389, 340, 422];

/// SmolLM2-135M with so many layers.
fn smollm2(layers: usize) -> ModelConfig {
    ModelConfig {
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: layers,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        max_position_embeddings: 8192,
        rope_theta: 100_000.0,
        sliding_window: vec![None; layers],
        ..model::load::tiny::config(49_152)
    }
}

/// LLaMA-2-7B with so many layers.
fn llama_2_7b(layers: usize) -> ModelConfig {
    ModelConfig {
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: layers,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        max_position_embeddings: 4096,
        sliding_window: vec![None; layers],
        tie_word_embeddings: false,
        ..model::load::tiny::config(32_000)
    }
}

/// The shapes that random weights can have.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Shape {
    #[default]
    #[value(name = "smollm2-135m")]
    SmolLm2,
    #[value(name = "llama-2-7b")]
    Llama2,
}

impl Shape {
    fn config(self, layers: usize) -> ModelConfig {
        match self {
            Self::SmolLm2 => smollm2(layers),
            Self::Llama2 => llama_2_7b(layers),
        }
    }
}

/// Random weights of which every layer has the same: a 7B model's are drawn in seconds, brought to
/// their type once, and the host holds one layer.
struct Repeated {
    drawn: RandomWeights,
    /// The type of the frozen weights.
    dtype: DType,
    known: HashMap<String, TensorData>,
}

impl Weights for Repeated {
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError> {
        let parts = name.split('.').map(|part| match part.parse::<usize>() {
            Ok(_) => "0",
            Err(_) => part,
        });
        let name = parts.collect::<Vec<_>>().join(".");
        if let Some(known) = self.known.get(&name) {
            return Ok(known.clone());
        }
        let drawn = self.drawn.tensor(&name)?.convert_dtype(self.dtype);
        self.known.insert(name, drawn.clone());
        Ok(drawn)
    }
}

/// The forms that `--form` names.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Forced {
    Lean,
    Composed,
}

/// Small enough to be run by an emulator of the processor.
fn small() -> ModelConfig {
    ModelConfig {
        hidden_size: 64,
        intermediate_size: 192,
        head_dim: 16,
        ..model::load::tiny::config(1024)
    }
}

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
    /// Questions of a batch: several sizes are measured one after another with one model. With a
    /// dataset the settings' own.
    #[arg(long, value_delimiter = ',', default_value = "4")]
    batch: Vec<usize>,
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
    /// So many layers of random weights in `--shape` instead of a model.
    #[arg(long)]
    layers: Option<usize>,
    #[arg(long, value_enum, default_value_t, requires = "layers")]
    shape: Shape,
    /// The form of the operations, instead of the best that the device has.
    #[arg(long, value_enum)]
    form: Option<Forced>,
    /// Two layers of random weights in a small shape instead: for `benches/instructions.sh`.
    #[arg(long, conflicts_with = "layers")]
    small: bool,
    /// Keep only the layers' inputs and run each layer again in the backward pass.
    #[arg(long)]
    recompute: bool,
    /// Attention by the fastest kernel there is, as `model.attention = "flash"`.
    #[arg(long)]
    flash: bool,
    /// Frozen weights in bf16.
    #[arg(long)]
    bf16: bool,
    /// Questions of a real dataset instead of random tokens of one length: training questions in
    /// the order and the batches of training, or with --evaluate test questions in the batches of
    /// evaluation.
    #[arg(long)]
    dataset: Option<String>,
    /// Writes the lengths of the dataset's questions for the PyTorch side.
    #[arg(long, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Measures the rate of large products instead, on all cores.
    #[arg(long)]
    products: bool,
    /// As `train --device` takes it.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Named by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Measures as the flags say, of which the first is the program's name.
///
/// # Errors
/// A device or a model that is not there. Flags that fit nothing end the process.
pub(crate) fn run(flags: impl Iterator<Item = OsString>) -> Result<(), Box<dyn Error>> {
    let _ = tracing_subscriber::registry().with(counter()).try_init();
    let options = Options::parse_from(flags);
    if options.products {
        println!("{}", json!({ "gflops": products() }));
        return Ok(());
    }
    match options.form {
        Some(Forced::Lean) => in_form(Form::Lean, || measure(&options)),
        Some(Forced::Composed) => in_form(Form::Composed, || measure(&options)),
        None => measure(&options),
    }
}

fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let config = settings(options);
    let method = registry::build(&config)?;
    let device = uq4ct::backend::find(&options.device)?.device;
    let (shape, base, questions) = load(options, &config, &device)?;
    if let Some(path) = &options.lengths {
        let lengths: Vec<usize> = questions.iter().map(EncodedQuestion::length).collect();
        std::fs::write(path, serde_json::to_string(&lengths)?)?;
    }
    let llama = base.with_attention(config.model.attention);
    let mut llama = llama.attach(&method.adapter(), 1)?;
    let trainable = llama.trainable_parameters();
    let loaded = start.elapsed().as_secs_f64();
    let trains = !options.evaluate && trainable > 0;
    let at = match trains {
        true => device.clone().autodiff(),
        false => device.clone(),
    };
    let sizes = match options.dataset {
        Some(_) => &options.batch[..1],
        None => &options.batch[..],
    };
    let mut made_before = Made::default();
    for &size in sizes {
        let batches = batches(options, &config, &questions, size, trains, &at)?;
        let (mut useful, mut computed) = (Vec::new(), Vec::new());
        for batch in &batches {
            useful.push(batch.input.real_tokens as f64);
            computed.push(batch.computed_tokens() as f64);
        }
        let mut taken = Taken::default();
        llama = match trains {
            true => train(llama, &method, &config, batches, &mut taken, &at)?,
            false => evaluate(llama, &method, batches, &mut taken, &at),
        };
        let made = (device != Device::flex()).then(|| {
            let now = Made::settled();
            let made = now - made_before;
            made_before = now;
            made.to_string()
        });
        let phases = &taken.phases;
        let kept = &phases[options.warmup..];
        let seconds = |phases: &[[f64; 2]]| -> f64 { phases.iter().flatten().sum() };
        let tokens = |counts: &[f64]| -> f64 { counts[options.warmup..].iter().sum() };
        let flops = flops(&shape, options, trains) * tokens(&useful);
        let line = json!({
            "method": options.method,
            "phase": if trains { "train" } else { "eval" },
            "batch": size,
            "sequence": options.sequence,
            "dataset": options.dataset,
            "device": options.device,
            "trainable": trainable,
            "s_per_step": median(kept.iter().map(|p| p.iter().sum())),
            "gradients": median(kept.iter().map(|p| p[0])),
            "optimizer": median(kept.iter().map(|p| p[1])),
            "tokens_per_s": tokens(&useful) / seconds(kept),
            "useful_share": tokens(&useful) / tokens(&computed),
            "gflops": flops / seconds(kept) / 1e9,
            "form": options.form.map(|form| match form {
                Forced::Lean => "lean",
                Forced::Composed => "composed",
            }),
            "attention": config.model.attention,
            "recompute": options.recompute,
            "made": made,
            "first_step_s": phases[0].iter().sum::<f64>(),
            "pool_mib": taken.pool.map(|bytes| bytes >> 20),
            "peak_rss_mib": peak_memory() as f64 / f64::from(1 << 20),
            "load_seconds": loaded,
            "last_loss": taken.loss,
        });
        // At once, so that a run that is ended has said what it knew.
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        // The next size starts without the pages of this one.
        device.memory_cleanup();
    }
    Ok(())
}

/// What the steps of one size of batch took.
#[derive(Default)]
struct Taken {
    /// The seconds of each step up to the gradients, and the optimizer's.
    phases: Vec<[f64; 2]>,
    /// The last step's loss.
    loss: f64,
    /// Most bytes that the device had reserved after a step; none where it does not say.
    pool: Option<u64>,
}

impl Taken {
    /// Adds a step that has ended. Asking the device for its memory is not in its time.
    fn step(&mut self, seconds: [f64; 2], loss: f64, device: &Device) {
        self.phases.push(seconds);
        self.loss = loss;
        let reserved = device.memory_pool_usage().map(|pool| pool.bytes_reserved);
        self.pool = self.pool.max(reserved);
    }
}

/// Trains on the batches, and gives the model back outside the graph.
fn train(
    llama: Llama,
    method: &Arc<dyn Method>,
    config: &RunConfig,
    batches: Vec<Batch>,
    taken: &mut Taken,
    device: &Device,
) -> Result<Llama, Box<dyn Error>> {
    let questions = batches.iter().map(Batch::len).sum();
    let mut trainee = Trainee::new(llama, method.clone(), &config.train, questions).train();
    let mut optimizer = ModuleOptimizer::from(OnePassAdamW::new(0.01));
    for mut batch in batches {
        batch.training.get_or_insert_default().step = taken.phases.len() + 1;
        let start = Instant::now();
        let step = trainee.step(batch);
        let gradients = start.elapsed().as_secs_f64();
        let loss = step.item.facts().loss();
        trainee = trainee.optimize(&mut optimizer, 2e-4.into(), step.grads);
        device.sync()?;
        let seconds = [gradients, start.elapsed().as_secs_f64() - gradients];
        taken.step(seconds, loss, device);
    }
    Ok(trainee.llama.valid())
}

/// Asks the model about the batches, and gives it back.
fn evaluate(
    mut llama: Llama,
    method: &Arc<dyn Method>,
    batches: Vec<Batch>,
    taken: &mut Taken,
    device: &Device,
) -> Llama {
    for batch in batches {
        let start = Instant::now();
        let output = llama.forward(&forward::input(&batch, DropoutSeed::OFF));
        let loss = method
            .objective(&method.read(output, &batch), &batch)
            .total()
            .into_scalar::<f64>();
        taken.step([start.elapsed().as_secs_f64(), 0.0], loss, device);
        llama = llama.no_grad();
    }
    llama
}

fn settings(options: &Options) -> RunConfig {
    let mut config = RunConfig::default();
    config.model.name = options.model.clone();
    config.method.name = options.method.clone();
    config.adapter.num_experts = options.experts;
    config.adapter.rank = options.rank;
    config.adapter.top_k = options.top_k;
    config.adapter.dropout = options.dropout;
    config.train.recompute = options.recompute;
    if let Some(dataset) = &options.dataset {
        config.data.dataset = dataset.clone();
    }
    if options.flash {
        config.model.attention = AttentionKind::Flash;
    }
    if options.bf16 {
        config.model.dtype = WeightType::Bf16;
    }
    config
}

type Loaded = (ModelConfig, Llama, Vec<EncodedQuestion>);

/// The model, and the dataset's questions if one was asked for.
fn load(options: &Options, config: &RunConfig, device: &Device) -> Result<Loaded, Box<dyn Error>> {
    let finder = Finder::from_env();
    if options.dataset.is_some() {
        let mut prepared = prepare(config, &finder)?;
        let llama = prepared.load(config, device)?;
        let questions = match options.evaluate {
            true => prepared.test,
            false => prepared.train.to_vec(),
        };
        return Ok((prepared.model, llama, questions));
    }
    let dtype = match options.bf16 {
        true => FloatDType::BF16,
        false => FloatDType::F32,
    };
    let random = match options.small {
        true => Some(small()),
        false => options.layers.map(|layers| options.shape.config(layers)),
    };
    let (shape, mut weights): (ModelConfig, Box<dyn Weights>) = match random {
        Some(shape) => {
            let drawn = RandomWeights::new(shape.clone(), 1);
            match options.layers {
                Some(_) => {
                    let repeated = Repeated {
                        drawn,
                        dtype: DType::from(dtype),
                        known: HashMap::new(),
                    };
                    (shape, Box::new(repeated))
                }
                None => (shape, Box::new(drawn)),
            }
        }
        None => {
            let located = models::find(&options.model, &config.model.revision, &finder)?;
            let files = model::load::open(&located.path)?;
            (files.config, files.weights)
        }
    };
    let llama = Llama::load(&shape, &mut *weights, options.sequence, dtype, device)?;
    Ok((shape.clone(), llama, random_questions(options, &shape)))
}

fn random_questions(options: &Options, shape: &ModelConfig) -> Vec<EncodedQuestion> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let most = options.batch.iter().copied().max().unwrap_or(1);
    (0..(options.warmup + options.steps) * most)
        .map(|_| {
            let prompt: Vec<u32> = (0..options.sequence)
                .map(|_| random.random_range(100..shape.vocab_size as u32))
                .collect();
            EncodedQuestion::lettered("random", prompt, &LETTERS, random.random_range(0..4))
        })
        .collect()
}

/// As many batches as there are steps, those of warming up among them.
fn batches(
    options: &Options,
    config: &RunConfig,
    questions: &[EncodedQuestion],
    size: usize,
    trains: bool,
    device: &Device,
) -> Result<Vec<Batch>, Box<dyn Error>> {
    let wanted = options.warmup + options.steps;
    let batcher = QuestionBatcher::default();
    if options.dataset.is_none() {
        let groups = questions.chunks(size).take(wanted);
        return Ok(groups.map(|g| batcher.batch(g.to_vec(), device)).collect());
    }
    let state = Arc::new(LoaderState::default());
    if trains {
        let mut schedule = config.train.schedule();
        schedule.checkpoint_every = wanted;
        let questions = Arc::new(questions.to_vec());
        let loader = TrainLoader::new(questions, batcher, schedule, state, device);
        return Ok(loader.iter().take(wanted).collect::<Result<_, _>>()?);
    }
    let tokens = config.evaluation.batch_tokens;
    let loader = EvaluationLoader::new(questions, tokens, state, device);
    let all: Vec<Batch> = loader.iter().collect::<Result<_, _>>()?;
    // The longest come first: take them evenly.
    let every = (all.len() / wanted).max(1);
    Ok(all.into_iter().step_by(every).take(wanted).collect())
}

/// Operations that one token needs: two for each weight it meets, forward; the same again for the
/// gradient of the input; for an adapter's a third time, for its own gradient. Attention's scores
/// and the head are left out: a hundredth at these lengths.
fn flops(shape: &ModelConfig, options: &Options, trains: bool) -> f64 {
    let (d, f) = (shape.hidden_size, shape.intermediate_size);
    let q = shape.num_attention_heads * shape.head_dim;
    let kv = shape.num_key_value_heads * shape.head_dim;
    let frozen = 2 * d * q + 2 * d * kv + 3 * d * f;
    let ranks = match options.method.as_str() {
        "base" => 0,
        "lora" => options.rank,
        _ => options.rank * options.top_k,
    };
    let low_rank = ranks * (2 * (d + q) + 2 * (d + kv) + 3 * (d + f));
    let passes = if trains { (2, 3) } else { (1, 1) };
    let token = passes.0 * frozen + passes.1 * low_rank;
    (2 * token * shape.num_hidden_layers) as f64
}

/// GFLOP/s of a feed-forward block's frozen products, the median of many: what the processor gives.
fn products() -> f64 {
    let device = Device::flex();
    let (n, d, f) = (512, 576, 1536);
    let random = |shape| Tensor::<2>::random(shape, Distribution::Default, &device);
    let weights: Vec<Tensor<2>> = (0..60).map(|_| random([f, d])).collect();
    let x = random([n, d]);
    let time = |weight: &Tensor<2>| {
        let start = Instant::now();
        let y = linear(x.clone(), weight.clone());
        let seconds = start.elapsed().as_secs_f64();
        drop(y);
        seconds
    };
    weights.iter().for_each(|weight| _ = time(weight));
    (2 * n * d * f) as f64 / median(weights.iter().map(time)) / 1e9
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
