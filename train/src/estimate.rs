//! Size, memory and time of a run, estimated before it starts.

use data::encoded::EncodedQuestion;
use data::schedule::Schedule;
use model::fused::attention::BLOCK;
use model::{AdapterConfig, MixtureWeights, ModelConfig, Placement};
use serde::{Deserialize, Serialize};

use crate::config::{RunConfig, WeightType};
use crate::pace::{Pace, forward_flops};

/// Size of a run. Time and memory are estimates from measured rates, see `docs/performance.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEstimate {
    /// Optimizer steps.
    pub steps: usize,
    /// Tokens of all training prompts seen, padding left out.
    pub training_tokens: usize,
    /// Tokens of held-out and test prompts scored, for the base and for the tuned model.
    pub evaluation_tokens: usize,
    /// Peak memory, in bytes.
    pub memory: f64,
    /// Seconds of the whole run on the CPU.
    pub seconds: f64,
    /// Seconds of one training, with what is scored meanwhile.
    pub training_seconds: f64,
    /// Seconds of everything after the trainings: fit, scoring, intervals.
    pub after_seconds: f64,
    /// Seconds of one forward pass over a token.
    pub seconds_per_token: f64,
}

/// Bytes of a process that has loaded nothing, and the allocator's slack; measured with glibc.
const PROCESS: f64 = 60e6;

/// Values that the backward pass keeps for each token of one layer: the residual stream before both
/// norms, q, k, v and attention's output, gate and up, and each projection's hidden rows, of all
/// experts where the product is not grouped by expert. Where A is random, the frozen output is
/// scaled, or experts are whole blocks, also both norms' outputs and the product of gate and up,
/// of which whole experts keep all three for each; with dropout, where A is random or with DoRA, a
/// mask and a masked input for each projection.
fn activations(config: &ModelConfig, adapter: &AdapterConfig, grouped: bool) -> usize {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let fused = 2 * d + 2 * q + 2 * kv + 2 * f;
    let composed = fused + 2 * d + f;
    match adapter {
        AdapterConfig::None => composed,
        AdapterConfig::Lora(lora) => {
            let dropped = match lora.dropout > 0.0 {
                true => 2 * (5 * d + q + f),
                false => 0,
            };
            let around = match lora.posterior_std.is_none() && !lora.use_dora {
                true => fused,
                false => composed + dropped,
            };
            around + 7 * lora.rank
        }
        AdapterConfig::MixLora(mix) => {
            let around = match (mix.placement, mix.mixture_weights) {
                // Every frozen product, too: it is scaled by the routers' mass.
                (Placement::All, MixtureWeights::Raw) => composed + q + 2 * kv + 2 * d + 2 * f,
                (Placement::All, _) => fused,
                // The frozen block beside the experts.
                (Placement::Ffn, MixtureWeights::RawDelta | MixtureWeights::NormalizedDelta) => {
                    composed + 3 * f * mix.top_k
                }
                (Placement::Ffn, _) => composed + 3 * f * (mix.top_k - 1),
            };
            let experts = if grouped { mix.top_k } else { mix.num_experts };
            around + 7 * mix.lora.rank * experts
        }
    }
}

/// What a training keeps for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Whether a mixture computes the chosen experts alone.
    pub grouped: bool,
    /// Whether layers are computed again instead of being kept.
    pub recompute: bool,
    /// Whether what only products read is kept in bf16.
    pub half: bool,
}

impl Kept {
    /// By a run's settings; `kernels` says whether this project's own for processors serve.
    pub fn of(config: &RunConfig, kernels: bool) -> Self {
        let bf16 = config.model.dtype == WeightType::Bf16;
        Self {
            grouped: !bf16 && kernels,
            recompute: config.train.recompute,
            half: bf16 && !kernels,
        }
    }
}

/// Bytes that the backward pass keeps for each token.
fn bytes_kept(config: &ModelConfig, adapter: &AdapterConfig, kept: Kept) -> f64 {
    let Kept {
        grouped,
        recompute,
        half,
    } = kept;
    let kept = activations(config, adapter, grouped);
    let layers = config.num_hidden_layers;
    let values = match recompute {
        // Every layer's input, and one layer whole.
        true => layers * config.hidden_size + kept,
        false => layers * kept,
    };
    let whole = if recompute { 1 } else { layers };
    let halved = if half { whole * halved(config) } else { 0 };
    4.0 * values as f64 - 2.0 * halved as f64
}

/// Of the values of one layer, those that are kept in bf16 beside bf16 weights: q, k, v and
/// attention's output, gate and up.
fn halved(config: &ModelConfig) -> usize {
    let heads = config.num_attention_heads + config.num_key_value_heads;
    2 * heads * config.head_dim + 2 * config.intermediate_size
}

/// What a training pass takes beside the frozen weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassMemory {
    /// Whatever the number of tokens.
    pub fixed: f64,
    /// For each token.
    pub per_token: f64,
}

impl PassMemory {
    /// Of a step that may have several passes, on rows of up to `longest` tokens.
    pub fn new(
        config: &ModelConfig,
        adapter: &AdapterConfig,
        micro_batch: usize,
        longest: usize,
        kept: Kept,
    ) -> Self {
        let parameters = 4.0 * adapter.parameters(config) as f64;
        Self {
            // Parameters, moments, gradients and those of earlier passes; logits.
            fixed: 5.0 * parameters + 8.0 * (micro_batch * config.vocab_size) as f64,
            per_token: bytes_kept(config, adapter, kept) + 4.0 * passing(config, longest) as f64,
        }
    }
}

/// Values of a token that live for a moment of the backward pass, at most: of one layer's attention
/// the scores, probabilities and their two gradients, for a block of queries; or gate, up, their
/// product and the gradients of the three.
fn passing(config: &ModelConfig, longest: usize) -> usize {
    let attention = 4 * config.num_attention_heads * longest.min(BLOCK);
    attention.max(6 * config.intermediate_size)
}

/// What a run does besides one pass over its training questions.
#[derive(Debug, Clone, Copy)]
pub struct Besides {
    /// Trainings, one a member.
    pub trainings: usize,
    /// Forward passes of an answer by the tuned model.
    pub passes: usize,
    /// Tokens that a method's fit reads, times its passes.
    pub fit_tokens: f64,
    /// Tokens scored at each checkpoint of a training.
    pub monitored_tokens: usize,
    /// Seconds of the intervals of all figures.
    pub bootstrap_seconds: f64,
}

/// One training, as far as its size goes.
#[derive(Debug, Clone, Copy)]
pub struct OneTraining<'a> {
    /// The decoder's shape.
    pub model: &'a ModelConfig,
    /// What is trained.
    pub adapter: &'a AdapterConfig,
    /// Steps and passes.
    pub schedule: &'a Schedule,
    /// The training questions.
    pub questions: &'a [EncodedQuestion],
    /// Bytes of one frozen weight.
    pub weight_bytes: usize,
    /// What its backward pass keeps.
    pub kept: Kept,
}

/// Estimates a run: its trainings, and the questions that are `scored` afterwards.
pub fn estimate(
    training: OneTraining,
    scored: &[&[EncodedQuestion]],
    pace: &Pace,
    besides: &Besides,
) -> RunEstimate {
    let OneTraining {
        model: config,
        adapter,
        schedule,
        questions: train,
        weight_bytes,
        kept,
    } = training;
    let tokens = |rows: &[EncodedQuestion]| rows.iter().map(|q| q.length()).sum::<usize>();
    let trains = *adapter != AdapterConfig::None;
    let steps = if trains {
        schedule.total_steps(train.len())
    } else {
        0
    };
    let share = steps as f64 / schedule.steps_per_epoch(train.len()) as f64;
    let training_tokens = (tokens(train) as f64 * share) as usize;
    // The base model once, and the tuned one with all its passes.
    let passes = if trains { 1 + besides.passes } else { 1 };
    let evaluation_tokens = passes * scored.iter().map(|rows| tokens(rows)).sum::<usize>();
    let (base, low_rank) = forward_flops(config, adapter);
    // Backward: one product for dX through frozen weights, two through the adapter's.
    let again = if kept.recompute { base + low_rank } else { 0.0 };
    let training = training_tokens as f64 * (2.0 * base + 3.0 * low_rank + again);
    let checkpoints = steps.div_ceil(schedule.checkpoint_every.max(1));
    let monitored = (checkpoints * besides.monitored_tokens) as f64 * (base + low_rank);
    let training_seconds = training / pace.training + monitored / pace.asking;
    let asked = evaluation_tokens as f64 + besides.fit_tokens;
    let after_seconds = asked * (base + low_rank) / pace.asking + besides.bootstrap_seconds;
    let longest = train.iter().map(EncodedQuestion::length).max().unwrap_or(0);
    let widest = (schedule.micro_batch * longest).min(schedule.micro_tokens.max(longest));
    let logits = 8.0 * (schedule.micro_batch * config.vocab_size) as f64;
    let per_token = bytes_kept(config, adapter, kept);
    let activations = widest as f64 * per_token + logits;
    let parameter = 4.0 * adapter.parameters(config) as f64;
    // A parameter and its two moments stay. Gradients come while activations go; those of a step's
    // earlier passes wait beside them.
    let several = schedule.micro_batch < schedule.batch_size
        || schedule.batch_size * longest > schedule.micro_tokens;
    let waiting = if several { parameter } else { 0.0 };
    let training_memory = 3.0 * parameter + waiting + activations.max(parameter);
    RunEstimate {
        steps,
        training_tokens,
        evaluation_tokens,
        memory: PROCESS
            + (config.base_parameters() * weight_bytes) as f64
            + if trains { training_memory } else { 0.0 },
        seconds: training_seconds * besides.trainings as f64 + after_seconds,
        training_seconds,
        after_seconds,
        seconds_per_token: (base + low_rank) / pace.asking,
    }
}
