//! A finished run's adapter for others, with what its confidence needs beside it.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use data::prompt::{LabelStyle, Normalization, Scoring, Template};
use data::source::{Located, models};
use model::exchange::{self, Adapter, Tensors, merged, mixlora, own, peft};
use model::{AdapterConfig, DropoutSeed, Llama, LlamaInput};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::{RunConfig, WeightType};
use crate::error::TrainError;
use crate::fine_tune::{Setup, load_members};
use crate::loss::calibration::FluTokens;
use crate::method::{self, Method};
use crate::posthoc::PostHoc;
use crate::posthoc::confidence::Confidence;
use crate::posthoc::conformal::{Conformal, Score};
use crate::posthoc::temperature::Temperature;
use crate::prediction::{AnswerConfidence, ScoredRow};
use crate::prepare::{Prepared, differing, prepare_model};
use crate::run_directory::RunDirectory;

/// As what an adapter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Plain LoRA for Hugging Face's `peft`.
    Peft,
    /// Placement `ffn` for the public MixLoRA code.
    MixLora,
    /// Plain LoRA added to the base model, as a whole model, in f32 or in the base's own type.
    Merged {
        /// The base's type, which may be 16 bits.
        keep_type: bool,
    },
    /// Any adapter, in this project's own format.
    Own,
}

/// Name of the file that carries an adapter's calibration.
const CARD: &str = "uq.json";

/// What an adapter's confidence needs: how its questions are put, to which base model, and what held-out questions have shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Version of this file's form.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// Method of the run.
    pub method: String,
    /// Dataset that it was trained on.
    pub dataset: String,
    /// The base model as it was asked for.
    pub base_model: String,
    /// The base model's files with their digests.
    pub base_files: Vec<Located>,
    /// How questions are put.
    pub prompt: PromptCard,
    /// What held-out questions have shown of this adapter; absent where the run's method asks it in another way (several passes, several
    /// members, other wordings), whose confidence is not the adapter's own.
    pub held_out: Option<HeldOutCard>,
}

/// How questions are put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptCard {
    /// Wording.
    pub template: Template,
    /// How choices are scored.
    pub scoring: Scoring,
    /// Of log-likelihoods.
    pub normalization: Normalization,
    /// Longest prompt in tokens.
    pub max_tokens: usize,
    /// Text and token of each label, with letters; empty where the choices' own words are scored.
    pub label_tokens: Vec<(String, u32)>,
    /// Over which tokens FLU is taken.
    #[serde(default, skip_serializing_if = "is_mean")]
    pub flu_tokens: FluTokens,
    /// Where the model writes its answers: how long they may be, and what the confidence below is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<WrittenCard>,
}

fn is_mean(tokens: &FluTokens) -> bool {
    *tokens == FluTokens::Mean
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WrittenCard {
    /// Longest answer in tokens.
    pub answer_tokens: usize,
    /// What the confidence is.
    pub answer_confidence: AnswerConfidence,
}

impl WrittenCard {
    fn of(config: &RunConfig) -> Result<Option<Self>, TrainError> {
        let written = config.data.dataset()?.labels() == LabelStyle::Written;
        Ok(written.then_some(Self {
            answer_tokens: config.data.answer_tokens,
            answer_confidence: config.evaluation.answer_confidence,
        }))
    }
}

/// What held-out questions have shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutCard {
    /// How many there were.
    pub questions: usize,
    /// Share answered rightly.
    pub accuracy: f64,
    /// Temperature scaling.
    pub temperature: Temperature,
    /// The probability of being right, from softmax confidence and FLU.
    pub confidence: Confidence,
    /// Sets that hold the right choice nine times in ten; absent where the questions are too few to promise it.
    pub conformal_90: Option<Conformal>,
    /// FLU at the quantiles 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1: what lies outside is unlike anything seen.
    pub flu_quantiles: Option<[f64; 7]>,
}

/// What was written, and how well it was read again.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// One a member.
    pub directories: Vec<PathBuf>,
    /// Largest difference of a logit after reading it again, relative to the largest logit; absent if it was not asked for.
    pub difference: Option<f64>,
}

/// Writes the adapter of the run in `setup.run` below `out`.
///
/// # Errors
/// A run that has not finished, an adapter that the format cannot hold, files that cannot be written, or, with `verify`, logits that
/// differ by more than 1e-4 of the largest (5e-2 where a merged model is kept or asked in 16 bits).
pub fn export(
    setup: &Setup,
    format: Format,
    out: &Path,
    verify: bool,
) -> Result<Exported, TrainError> {
    let (run, config) = RunDirectory::open(&setup.run)?;
    let method = method::build(&config)?;
    let adapter = method.adapter();
    suits(&adapter, format)?;
    let mut prepared = prepare_model(&config, &setup.finder)?;
    let base = prepared.load_for(&config, prepared.room() + 1, &setup.device)?;
    let members = load_members(&run, &config, &prepared, &base)?;
    let card = card(&run, &config, &*method, &prepared)?;
    let one = members.len() == 1;
    let mut exported = Exported {
        directories: Vec::new(),
        difference: None,
    };
    for (number, member) in members.iter().enumerate() {
        let directory = match one {
            true => out.to_path_buf(),
            false => out.join(format!("member-{}", number + 1)),
        };
        std::fs::create_dir_all(&directory).map_err(|e| TrainError::file(&directory, e))?;
        let tensors = member.adapter_tensors();
        write(
            &directory,
            format,
            &adapter,
            &tensors,
            &config,
            &mut prepared,
        )?;
        RunDirectory::at(&directory).write_json(CARD, &card)?;
        if verify {
            let again = read_again(&directory, format, &config, &base, setup)?;
            let found = difference(member, &again, setup);
            // Merged weights are rounded to their type, a LoRA beside them is not.
            let half = match format {
                Format::Merged { keep_type } => {
                    config.model.dtype == WeightType::Bf16 || (keep_type && !prepared.is_f32())
                }
                _ => false,
            };
            let most = match half {
                true => 5e-2,
                false => 1e-4,
            };
            if found > most || found.is_nan() {
                let reason = format!(
                    "read again, its logits differ by {found:.1e} of the largest: more than {most:.0e}"
                );
                return Err(TrainError::file(&directory, reason));
            }
            exported.difference = Some(exported.difference.unwrap_or(0.0).max(found));
        }
        exported.directories.push(directory);
    }
    Ok(exported)
}

/// Whether a format can hold an adapter.
fn suits(adapter: &AdapterConfig, format: Format) -> Result<(), TrainError> {
    let refuse = |reason: &str| Err(TrainError::config("--format", reason));
    match (adapter, format) {
        (AdapterConfig::None, _) => {
            refuse("the run trained nothing: there is no adapter to export")
        }
        (AdapterConfig::MixLora(_), Format::Peft | Format::Merged { .. }) => refuse(
            "the run's adapter is a mixture of experts, which a router chooses by token: use uq4ct, or mixlora with adapter.placement = ffn",
        ),
        (AdapterConfig::Lora(lora), Format::Peft | Format::Merged { .. })
            if lora.posterior_std.is_some() =>
        {
            refuse("the run's A is random, and its spread has no place in this format: use uq4ct")
        }
        (AdapterConfig::Lora(_), Format::MixLora) => {
            refuse("the run's adapter is a plain LoRA: use peft")
        }
        (AdapterConfig::MixLora(mix), Format::MixLora) => Ok(mixlora::serves(mix)?),
        _ => Ok(()),
    }
}

fn write(
    directory: &Path,
    format: Format,
    adapter: &AdapterConfig,
    tensors: &Tensors,
    config: &RunConfig,
    prepared: &mut Prepared,
) -> Result<(), TrainError> {
    let base = base_name(config);
    match (adapter, format) {
        (AdapterConfig::Lora(lora), Format::Peft) => peft::write(directory, lora, tensors, &base)?,
        (AdapterConfig::Lora(lora), Format::Merged { keep_type }) => {
            prepared.write_model_files(directory, keep_type)?;
            let shape = prepared.model.clone();
            merged::write(
                directory,
                &shape,
                prepared.weights(),
                lora,
                tensors,
                keep_type,
            )?;
        }
        (AdapterConfig::MixLora(mix), Format::MixLora) => {
            mixlora::write(directory, mix, tensors, &base)?;
        }
        _ => own::write(directory, adapter, tensors, &base)?,
    }
    Ok(())
}

/// The base model under a name that others know: its repository on the Hub, or its whole path.
fn base_name(config: &RunConfig) -> String {
    let name = &config.model.name;
    let path = Path::new(name).canonicalize().ok();
    match (models::repository(name), path) {
        (Some(repository), _) => repository.into(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => name.clone(),
    }
}

fn card(
    run: &RunDirectory,
    config: &RunConfig,
    method: &dyn Method,
    prepared: &Prepared,
) -> Result<Card, TrainError> {
    let rows = run.held_out_predictions(config)?;
    Ok(Card {
        version: 1,
        program: format!("uq4ct {}", env!("CARGO_PKG_VERSION")),
        method: config.method.title().into(),
        dataset: config.data.title(),
        base_model: base_name(config),
        base_files: prepared.model_files.clone(),
        prompt: PromptCard {
            template: config.data.template,
            scoring: config.data.scoring,
            normalization: config.data.normalization,
            max_tokens: config.data.max_tokens,
            flu_tokens: config.objective.flu_tokens,
            label_tokens: match (config.data.scoring, config.data.dataset()?.labels()) {
                (Scoring::Letters, LabelStyle::Letter) => prepared.letters()?,
                _ => Vec::new(),
            },
            written: WrittenCard::of(config)?,
        },
        held_out: answers_alone(method).then(|| held_out(&rows)),
    })
}

/// Whether one plain pass of the adapter is what the run's method answers with.
fn answers_alone(method: &dyn Method) -> bool {
    let one_pass = method.passes() == 1 && method.members() == 1 && method.perturbations() == 0;
    one_pass && method.fit_questions() == 0 && !method.uses_snapshots()
}

fn held_out(rows: &[ScoredRow]) -> HeldOutCard {
    let right = rows.iter().filter(|row| row.correct()).count();
    let mut flu: Vec<f64> = rows.iter().filter_map(|row| row.flu).collect();
    flu.sort_by(f64::total_cmp);
    HeldOutCard {
        questions: rows.len(),
        accuracy: right as f64 / rows.len().max(1) as f64,
        temperature: Temperature::fit(rows),
        confidence: Confidence::fit(rows),
        conformal_90: Some(Conformal::fit(rows, Score::Lac, 0.1))
            .filter(|c| c.threshold.is_finite() && rows.iter().all(|row| row.written.is_none())),
        flu_quantiles: (!flu.is_empty())
            .then(|| [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0].map(|q| quantile(&flu, q))),
    }
}

/// The nearest of sorted values.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// What lies on disk as a model again.
fn read_again(
    directory: &Path,
    format: Format,
    config: &RunConfig,
    base: &Llama,
    setup: &Setup,
) -> Result<Llama, TrainError> {
    if !matches!(format, Format::Merged { .. }) {
        let adapter = exchange::read(directory)?;
        return Ok(base
            .attach(&adapter.config, 0)?
            .with_adapter_tensors(&adapter.tensors)?);
    }
    let mut other = config.clone();
    other.model.name = directory.display().to_string();
    let mut prepared = prepare_model(&other, &setup.finder)?;
    prepared.load_for(&other, prepared.room() + 1, &setup.device)
}

/// Largest difference of a logit over seeded token sequences, relative to the largest logit.
fn difference(one: &Llama, other: &Llama, setup: &Setup) -> f64 {
    const ROWS: usize = 4;
    const LENGTH: usize = 32;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let vocabulary = one.vocabulary() as i64;
    let tokens: Vec<i64> = (0..ROWS * LENGTH)
        .map(|_| rng.random_range(0..vocabulary))
        .collect();
    let device = &setup.device;
    let positions: Vec<i64> = (0..ROWS * LENGTH).map(|i| (i % LENGTH) as i64).collect();
    let grid = |values: Vec<i64>| {
        Tensor::<2, Int>::from_data(TensorData::new(values, [ROWS, LENGTH]), device)
    };
    let input = LlamaInput {
        tokens: grid(tokens),
        positions: grid(positions),
        segments: Tensor::ones([ROWS, LENGTH], device),
        branches: Tensor::zeros([ROWS, LENGTH], device),
        scored: Tensor::arange(0..(ROWS * LENGTH) as i64, device),
        dropout: DropoutSeed::OFF,
        probe: None,
        routers_apart: false,
    };
    let (a, b) = (one.forward(&input).logits, other.forward(&input).logits);
    let largest = |t: Tensor<2>| f64::from(t.abs().max().into_scalar::<f32>());
    largest(a.clone() - b) / largest(a).max(1e-30)
}

/// The adapter that `adapter.from` names, checked against what the run is about to do.
///
/// # Errors
/// A directory that holds none, or a card of another base model.
pub fn import(config: &RunConfig, prepared: &Prepared) -> Result<Option<Adapter>, TrainError> {
    let Some(directory) = &config.adapter.from else {
        return Ok(None);
    };
    let adapter = exchange::read(directory)?;
    if directory.join(CARD).is_file() {
        let card: Card = RunDirectory::at(directory).read_json(CARD)?;
        fits(&card, config, prepared, directory)?;
    } else if let Some(named) = adapter
        .base_model
        .as_ref()
        .filter(|name| **name != base_name(config))
    {
        tracing::warn!(
            "{}: was trained on {named}, the run's base model is {}",
            directory.display(),
            base_name(config)
        );
    }
    Ok(Some(adapter))
}

/// Refuses another base model, warns of another prompt.
fn fits(
    card: &Card,
    config: &RunConfig,
    prepared: &Prepared,
    directory: &Path,
) -> Result<(), TrainError> {
    if let Some([known, found]) = differing(&card.base_files, &prepared.model_files) {
        let reason = format!(
            "was trained on {known}, the run's base model is {found}: give that model, or remove {CARD} to try it all the same"
        );
        return Err(TrainError::file(directory, reason));
    }
    let (prompt, data) = (&card.prompt, &config.data);
    if (prompt.template, prompt.scoring, prompt.normalization)
        != (data.template, data.scoring, data.normalization)
    {
        tracing::warn!(
            "{}: was trained with data.template = {:?}, data.scoring = {:?}: its confidence need not hold with other ones",
            directory.display(),
            prompt.template,
            prompt.scoring
        );
    }
    let routed = method::build(config)?.adapter().mixture().is_some();
    if routed && prompt.flu_tokens != config.objective.flu_tokens {
        tracing::warn!(
            "{}: its FLU is that of objective.flu_tokens = {:?}, the run's of {:?}: another quantity",
            directory.display(),
            prompt.flu_tokens,
            config.objective.flu_tokens
        );
    }
    let written = WrittenCard::of(config)?;
    if prompt.written.is_some() != written.is_some() {
        let kind = |written: bool| {
            if written {
                "open-ended"
            } else {
                "with choices"
            }
        };
        tracing::warn!(
            "{}: was trained on questions {}, the run's are {}",
            directory.display(),
            kind(prompt.written.is_some()),
            kind(written.is_some())
        );
    }
    Ok(())
}

/// The settings of `[adapter]` that an adapter on disk brings, by dotted key, as TOML: its shape. Dropout is no part of it: that
/// belongs to a training, and some exports had to write one that means nothing.
///
/// # Errors
/// As [`exchange::read`].
pub fn settings(directory: &Path) -> Result<Vec<String>, TrainError> {
    let adapter = exchange::read(directory)?;
    match shape(&adapter.config) {
        settings if settings.is_empty() => Err(TrainError::file(directory, "holds no adapter")),
        settings => Ok(settings),
    }
}

/// The shape of an adapter as settings, as TOML.
pub fn shape(adapter: &AdapterConfig) -> Vec<String> {
    let (lora, mixture) = match adapter {
        AdapterConfig::Lora(lora) => (lora, None),
        AdapterConfig::MixLora(mix) => (&mix.lora, Some(mix)),
        AdapterConfig::None => return Vec::new(),
    };
    let targets: Vec<&str> = lora.target_modules.iter().map(|t| t.name()).collect();
    let mut settings = vec![
        format!("adapter.rank={}", lora.rank),
        format!("adapter.alpha={:?}", lora.alpha),
        format!("adapter.target_modules={targets:?}"),
    ];
    if let Some(mix) = mixture {
        let word =
            |value: serde_json::Result<serde_json::Value>| value.unwrap_or_default().to_string();
        settings.extend([
            format!("adapter.num_experts={}", mix.num_experts),
            format!("adapter.top_k={}", mix.top_k),
            format!(
                "adapter.placement={}",
                word(serde_json::to_value(mix.placement))
            ),
            format!(
                "adapter.mixture_weights={}",
                word(serde_json::to_value(mix.mixture_weights))
            ),
        ]);
    }
    settings
}
