//! How fast this machine is at a run's own work: one layer of the very model, with the run's
//! adapter and objective, trained and asked on questions of the run's middle length.

use std::time::Instant;

use burn::data::dataloader::batcher::Batcher;
use burn::optim::ModuleOptimizer;
use burn::prelude::*;
use burn::train::{InferenceStep, TrainStep};
use data::{Batch, EncodedQuestion, QuestionBatcher};
use model::load::tiny::RandomWeights;
use model::{AdapterConfig, Llama, ModelConfig};

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::metric::{Bootstrap, Metrics};
use crate::optimizer::OnePassAdamW;
use crate::prediction::ScoredRow;
use crate::registry;
use crate::step::Trainee;

/// Floating-point operations a second that one core of a processor reaches in training, where
/// nothing was measured: 2 cores with AVX-512, SmolLM2-135M, real questions; see
/// `docs/performance.md`.
const FLOPS_PER_CORE: f64 = 65e9;

/// Operations of the layer's timed step, about: a few tenths of a second on two cores.
const WORK: f64 = 30e9;

/// Words of the layer's vocabulary. A real one would cost more to draw than the layer to time.
const VOCABULARY: usize = 512;

/// Floating-point operations a second, of the weights that a token meets, everything around the
/// products included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Of a training step.
    pub training: f64,
    /// Of a forward pass.
    pub asking: f64,
}

impl Pace {
    /// What is assumed of so many cores where nothing is measured.
    pub fn assumed(cores: usize) -> Self {
        let flops = FLOPS_PER_CORE * cores as f64;
        Self {
            training: flops,
            asking: flops,
        }
    }

    /// Times one layer of a model with a run's adapter, after a pass that warms up. `length` is
    /// the middle length of the run's questions, in tokens.
    ///
    /// # Errors
    /// An adapter that the model cannot have.
    pub fn measured(
        config: &RunConfig,
        shape: &ModelConfig,
        length: usize,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let method = registry::build(config)?;
        let adapter = method.adapter();
        let mut layer = first_layers(shape, 1);
        layer.vocab_size = VOCABULARY;
        let (base, low_rank) = forward_flops(&layer, &adapter);
        let (training, asking) = (2.0 * base + 3.0 * low_rank, base + low_rank);
        let trains = adapter != AdapterConfig::None;
        let schedule = config.train.schedule();
        let length = length.clamp(
            2,
            layer
                .max_position_embeddings
                .min(schedule.micro_tokens)
                .max(2),
        );
        let most = (WORK / training / length as f64) as usize;
        let room = (schedule.micro_tokens / length).min(schedule.micro_batch);
        let questions = most.clamp(1, room.max(1));
        let llama = made_up(config, &layer, &adapter, length + 1, device)?;
        let trainee = Trainee::new(llama, method, &config.train, questions);
        let batch = |at: &Device| batch(questions, length, at);
        let tokens = (questions * length) as f64;
        let asked = batch(device);
        let seconds = quicker(|| drop(InferenceStep::step(&trainee, asked.clone())));
        let asking = asking * tokens / seconds;
        if !trains {
            return Ok(Self {
                training: asking,
                asking,
            });
        }
        let learned = batch(&device.clone().autodiff());
        let mut optimizer = ModuleOptimizer::from(OnePassAdamW::new(config.train.weight_decay));
        let mut trainee = Some(trainee.train());
        let seconds = quicker(|| {
            if let Some(known) = trainee.take() {
                let step = TrainStep::step(&known, learned.clone());
                trainee = Some(known.optimize(&mut optimizer, 1e-4.into(), step.grads));
            }
        });
        // Recomputation is work that the estimate counts apart.
        let again = if config.train.recompute {
            base + low_rank
        } else {
            0.0
        };
        Ok(Self {
            training: (training + again) * tokens / seconds,
            asking,
        })
    }
}

/// Multiplications and additions of one token's forward pass: 2 for each weight of the decoder that
/// it meets.
pub(crate) fn forward_flops(config: &ModelConfig, adapter: &AdapterConfig) -> (f64, f64) {
    let embedding = (config.vocab_size * config.hidden_size) as f64;
    let heads = if config.tie_word_embeddings { 1.0 } else { 2.0 };
    let base = 2.0 * (config.base_parameters() as f64 - heads * embedding);
    let low_rank = |rank: usize| {
        let (d, f) = (config.hidden_size as f64, config.intermediate_size as f64);
        let q = (config.num_attention_heads * config.head_dim) as f64;
        let kv = (config.num_key_value_heads * config.head_dim) as f64;
        let widths = 2.0 * (d + q) + 2.0 * (d + kv) + 3.0 * (d + f);
        2.0 * rank as f64 * widths * config.num_hidden_layers as f64
    };
    let adapter = match adapter {
        AdapterConfig::None => 0.0,
        AdapterConfig::Lora(lora) => low_rank(lora.rank),
        AdapterConfig::MixLora(mix) => low_rank(mix.lora.rank * mix.top_k),
    };
    (base, adapter)
}

/// A model of a shape with a run's adapter, its weights made up.
pub(crate) fn made_up(
    config: &RunConfig,
    shape: &ModelConfig,
    adapter: &AdapterConfig,
    positions: usize,
    device: &Device,
) -> Result<Llama, TrainError> {
    let mut weights = RandomWeights::new(shape.clone(), 0);
    let dtype = config.model.dtype.float();
    let llama = Llama::load(shape, &mut weights, positions, dtype, device)?;
    let llama = llama.with_attention(config.model.attention);
    Ok(llama.attach(adapter, config.train.seed)?)
}

/// The first layers of a model.
pub(crate) fn first_layers(shape: &ModelConfig, layers: usize) -> ModelConfig {
    let mut first = shape.clone();
    first.num_hidden_layers = layers.min(shape.num_hidden_layers);
    first.sliding_window.truncate(layers);
    first
}

/// Questions of one length.
fn batch(questions: usize, length: usize, device: &Device) -> Batch {
    let prompt =
        |question: usize| (0..length).map(move |t| ((question + 7 * t) % VOCABULARY) as u32);
    let all = (0..questions).map(|n| {
        EncodedQuestion::lettered(&format!("probe-{n}"), prompt(n).collect(), &[11, 12], n % 2)
    });
    QuestionBatcher::default().batch(all.collect(), device)
}

/// Seconds of some work, the shorter of two after one that warms up.
fn quicker(mut work: impl FnMut()) -> f64 {
    work();
    let mut time = || {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    };
    time().min(time()).max(1e-9)
}

/// Seconds of the bootstrap of one set of questions, from a few resamples of it.
pub(crate) fn bootstrap_seconds(config: &RunConfig, questions: usize) -> f64 {
    const RESAMPLES: usize = 4;
    let whole = config.bootstrap();
    if questions == 0 || whole.resamples == 0 {
        return 0.0;
    }
    let row = |n: usize| {
        let p = 0.5 + (n % 40) as f64 / 100.0;
        ScoredRow::from_probabilities(format!("{n}"), n % 2, &[p, 1.0 - p], Some(p))
    };
    let rows: Vec<ScoredRow> = (0..questions).map(row).collect();
    let few = Bootstrap {
        resamples: RESAMPLES,
        ..whole
    };
    let began = Instant::now();
    let _ = Metrics::of(&rows, config.evaluation.bins, few);
    began.elapsed().as_secs_f64() * whole.resamples as f64 / RESAMPLES as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_timed_for_every_kind_of_adapter() {
        let device = Device::flex();
        let shape = model::load::tiny::config(300);
        for method in ["base", "lora", "uq4ct"] {
            let mut layers = crate::config::ConfigLayers::default();
            layers.method(method).unwrap();
            let config = layers.resolve().unwrap();
            let pace = Pace::measured(&config, &shape, 20, &device).unwrap();
            let sound = |flops: f64| flops.is_finite() && flops > 1e6;
            assert!(
                sound(pace.training) && sound(pace.asking),
                "{method}: {pace:?}"
            );
        }
        assert_eq!(Pace::assumed(4).training, 2.0 * Pace::assumed(2).training);
    }
}
