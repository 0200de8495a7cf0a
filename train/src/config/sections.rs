//! The sections of the settings that every method shares: model, data, adapter, objective,
//! training, evaluation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use burn::tensor::FloatDType;
use data::DataError;
use data::chat::ChatMode;
use data::dataset::custom::{self, Custom};
use data::dataset::{self, AnyDataset};
use data::padding::Padding;
use data::prompt::LabelStyle;
use data::rendering::{Normalization, Rendering, Scoring};
use data::schedule::Schedule;
use data::split::HELD_OUT_FRACTION;
use data::template::Template;
use model::{
    ByName, InitialWeights, LoraConfig, MixLoraConfig, MixtureWeights, Placement, TargetModule,
    Targets, visibility::AttentionKind,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::functional_uncertainty::FluTokens;
use crate::loss::calibration::{CalibratedAnswers, CalibrationGradient, Correctness};
use crate::loss::choices::{AnswerLoss, ChoiceLoss};
use crate::loss::cross_entropy::CrossEntropy;
use crate::loss::load_balancing::LoadBalancing;
use crate::prediction::AnswerConfidence;

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A short name, `owner/name` on the Hub, a directory in Hugging Face's layout, a .gguf file,
    /// or `tiny`.
    pub name: String,
    /// Branch, tag or commit on the Hub.
    pub revision: String,
    /// Type of the frozen weights: `f32` or `bf16`.
    pub dtype: WeightType,
    /// How attention is computed on a GPU, in training and scoring alike: `exact`, or `flash`, by
    /// the fastest kernel there is, whose products may take parts of 16 bits.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = AttentionKind::Exact))]
    pub attention: AttentionKind,
}

/// Type of the frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightType {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with f32's range.
    Bf16,
}

impl WeightType {
    /// As tensors name it.
    pub(crate) fn float(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// Bytes of a weight.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Name of the dataset.
    pub dataset: String,
    /// Wording of the prompt: `moe_peft`, `laplace_lora`, `passage`, or `plain`, the question's
    /// text alone.
    pub template: Template,
    /// Whether the prompt is put in the model's own chat template: `off`, or `auto`, where the
    /// model has one.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "off"))]
    pub chat: ChatMode,
    /// System prompt of every conversation, with `chat = "auto"`.
    #[serde(skip_serializing_if = "is_default")]
    pub system: Option<String>,
    /// How choices are scored: by their `letters`, or `cloze`, by the likelihood of their texts.
    pub scoring: Scoring,
    /// What a likelihood is divided by with cloze scoring: `token`, `character` or `sum` (nothing).
    pub normalization: Normalization,
    /// Training questions with their answers before every question, drawn by `split_seed`: in the
    /// text, or with a chat template as earlier turns. They count in the prompt's length.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = 0))]
    pub shots: usize,
    /// Longest prompt, in tokens; longer ones lose the end of their question or passage.
    pub max_tokens: usize,
    /// Longest answer that the model may write to an open-ended question, in tokens.
    #[serde(skip_serializing_if = "is_default_answer_tokens")]
    #[schemars(extend("default" = ANSWER_TOKENS))]
    pub answer_tokens: usize,
    /// Share of train that is held out where no validation split is left for it. Of a small file of
    /// your own, 100 questions or a fifth of it are held out, unless another share is given. It is
    /// the share of the test, too, where there is no file for that.
    pub held_out_fraction: f64,
    /// At most this many training questions.
    pub train_limit: Option<usize>,
    /// At most this many held-out questions.
    pub held_out_limit: Option<usize>,
    /// At most this many test questions.
    pub test_limit: Option<usize>,
    /// Held-out questions scored after each chunk of training.
    pub monitor_limit: usize,
    /// Seed of the split, apart from the training's: several training seeds share one split.
    pub split_seed: u64,
    /// Files and field names of the dataset `custom`.
    #[serde(skip_serializing_if = "is_default")]
    pub custom: Custom,
}

/// `[adapter]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterSection {
    /// Directory of an adapter to start from: peft's LoRA, MixLoRA's, or an export of this program.
    /// The adapter's shape is taken over; `train.max_steps = 0` asks it as it is.
    #[serde(skip_serializing_if = "is_default")]
    pub from: Option<PathBuf>,
    /// Rank r of a low-rank update.
    pub rank: usize,
    /// Numerator of the scaling `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input of A is dropped in training.
    pub dropout: f64,
    /// Adapted projections, as peft spells them: names, of all layers or of one
    /// (`layers.0.self_attn.q_proj`), `"all-linear"`, or a text that is a regular expression for
    /// whole names (`model.layers.0.self_attn.q_proj`). A mixture takes names of all layers.
    #[schemars(with = "BTreeSet<TargetModule>")]
    pub target_modules: Targets,
    /// Ranks of single projections, as peft's: `{ "layers.0.mlp.down_proj" = 4 }`. A key is a
    /// regular expression for a name or its end.
    #[serde(skip_serializing_if = "ByName::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, usize>>")]
    pub rank_pattern: ByName<usize>,
    /// Alphas of single projections, as `rank_pattern`.
    #[serde(skip_serializing_if = "ByName::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, f64>>")]
    pub alpha_pattern: ByName<f64>,
    /// Whether the scaling is `alpha / sqrt(rank)`, so that a larger rank learns as fast (rsLoRA).
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub use_rslora: bool,
    /// Whether each output has a magnitude that is trained beside its direction (DoRA); for a plain
    /// LoRA alone.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub use_dora: bool,
    /// Where A and B begin: `kaiming`, with B zero; `pissa`, at the largest singular vectors of the
    /// frozen matrix, or `pissa_niter_N`, by N subspace iterations, which large matrices need. A
    /// plain LoRA alone.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(with = "String", extend("default" = "kaiming"))]
    pub init_lora_weights: InitialWeights,
    /// Experts of a mixture, E.
    pub num_experts: usize,
    /// Experts that serve a token, k.
    pub top_k: usize,
    /// Where the experts sit: `all` or `ffn`.
    pub placement: Placement,
    /// `renormalized`, `raw`, `raw_delta` or `normalized_delta`.
    pub mixture_weights: MixtureWeights,
    /// Standard deviation of the routers' initial weights.
    pub router_init_std: f64,
}

/// `[objective]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSection {
    /// `answer`, `sequence` or `choices`.
    pub cross_entropy: CrossEntropy,
    /// Loss over a question's choices; needs `cross_entropy = choices`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "cross_entropy"))]
    pub choice_loss: ChoiceLoss,
    /// Share of the target that label smoothing spreads over the choices.
    #[serde(skip_serializing_if = "is_default_smoothing")]
    #[schemars(extend("default" = LABEL_SMOOTHING))]
    pub label_smoothing: f64,
    /// Exponent of the focal loss.
    #[serde(skip_serializing_if = "is_default_gamma")]
    #[schemars(extend("default" = FOCAL_GAMMA))]
    pub focal_gamma: f64,
    /// Weight of the maximum mean calibration error over choices, a term beside the others; 0 =
    /// none.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = 0.0))]
    pub mmce_weight: f64,
    /// Form of the load-balancing loss: `argmax` or `top_k`.
    pub load_balancing: LoadBalancing,
    /// Weight gamma of the load-balancing loss in Eq. 14.
    pub load_balancing_weight: f64,
    /// Weight beta of the calibration loss in Eq. 14.
    pub calibration_weight: f64,
    /// Optimizer steps over which beta rises from 0 (Eq. 17); 0 = constant.
    pub calibration_warmup_steps: usize,
    /// FLU over the whole prompt (`mean`), its last token (`last`), or the chosen answer's text
    /// (`answer`).
    pub flu_tokens: FluTokens,
    /// When an answer counts as right in the calibration loss: `choices`, `vocabulary` or `soft`.
    pub correctness: Correctness,
    /// What the calibration loss may change: `all`, or the `routers` alone.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "all"))]
    pub calibration_gradient: CalibrationGradient,
    /// Which answers the calibration loss looks at: the `predicted` one, or all `choices`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "predicted"))]
    pub calibrated: CalibratedAnswers,
    /// Share of the training questions, by a hash of their names, that serve the calibration loss
    /// alone: the cross-entropy never sees their answers, so that being right there is not learned
    /// by heart. 0 = every question serves both.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = 0.0))]
    pub calibration_share: f64,
}

/// Shape of the learning rate over the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateSchedule {
    /// The same throughout, after the warm-up: the last batches then weigh most.
    Constant,
    /// Falling linearly to 0 at the end.
    #[default]
    Linear,
    /// Falling by a half cosine to 0 at the end.
    Cosine,
}

/// What a gradient that is no number does to a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNan {
    /// Ends it; the last good checkpoint stays.
    #[default]
    Stop,
    /// Leaves the optimizer step out.
    Skip,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the training questions; may be a fraction.
    pub epochs: f64,
    /// Stop after this many optimizer steps, if that comes first. A learning rate that falls has
    /// fallen by then.
    pub max_steps: Option<usize>,
    /// Questions of one optimizer step.
    pub batch_size: usize,
    /// Questions of one forward pass at most; gradients of several passes are accumulated.
    pub micro_batch: usize,
    /// Tokens of one forward pass at most, padding among them: bounds memory, and keeps questions
    /// of like length together. On an NVIDIA card `train` takes what its free memory allows, where
    /// this is not given.
    #[serde(skip_serializing_if = "is_default_micro_tokens")]
    #[schemars(extend("default" = MICRO_TOKENS))]
    pub micro_tokens: usize,
    /// AdamW's learning rate.
    pub learning_rate: f64,
    /// Factor on the learning rate of the routers.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(extend("default" = 1.0))]
    pub router_rate_factor: f64,
    /// Factor on the learning rate of B, and of DoRA's magnitudes (LoRA+, which proposes 16).
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(extend("default" = 1.0))]
    pub lora_plus_ratio: f64,
    /// How the learning rate goes on after the warm-up: `linear` and `cosine` fall to 0, `constant`
    /// stays.
    pub schedule: RateSchedule,
    /// Optimizer steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient.
    pub gradient_clip: Option<f64>,
    /// Optimizer steps between checkpoints at most; one also ends every epoch. Held-out questions
    /// are scored at each.
    pub checkpoint_every: usize,
    /// Adapters kept over the second half of training, evenly, the last one included: a checkpoint
    /// ensemble's members.
    pub snapshots: usize,
    /// Seed of initial adapter, order and dropout.
    pub seed: u64,
    /// Put questions of like length into one batch.
    pub bucket: bool,
    /// To what length the rows of a training pass are padded. `auto`: `exact` on the processor, to
    /// the longest row; `grid` elsewhere, to a multiple of 16 tokens, beyond 256 of 64, so that a
    /// GPU meets few shapes. `useful_tokens` in `metrics.jsonl` says what it costs.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "auto"))]
    pub padding: Padding,
    /// Keep only each layer's input for the backward pass and run the layer again there: the
    /// activations of one layer in memory, 1.4 times the time, the same gradients.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub recompute: bool,
    /// What a gradient that is no number does: `stop` ends the training at the last good
    /// checkpoint, `skip` leaves that optimizer step out, ten in a row at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "stop"))]
    pub on_nan: OnNan,
}

/// `[evaluation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSection {
    /// Equal-width bins of the calibration errors.
    pub bins: usize,
    /// Resamples of the bootstrap intervals.
    pub bootstrap: usize,
    /// Most tokens of one evaluation batch, padding included. On an NVIDIA card more, where its
    /// free memory allows.
    pub batch_tokens: usize,
    /// How far a written answer is trusted: the `mean` of its tokens' probabilities (geometric),
    /// their `product`, that of the `first`, or `flu`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "mean"))]
    pub answer_confidence: AnswerConfidence,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            name: "smollm2-135m".into(),
            revision: "main".into(),
            dtype: WeightType::F32,
            attention: AttentionKind::Exact,
        }
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            dataset: "boolq".into(),
            template: Template::MoePeft,
            chat: ChatMode::Off,
            system: None,
            scoring: Scoring::Letters,
            normalization: Normalization::Token,
            shots: 0,
            max_tokens: 512,
            answer_tokens: ANSWER_TOKENS,
            held_out_fraction: HELD_OUT_FRACTION,
            train_limit: None,
            held_out_limit: None,
            test_limit: None,
            monitor_limit: 64,
            split_seed: 0,
            custom: Custom::default(),
        }
    }
}

impl Default for AdapterSection {
    fn default() -> Self {
        Self {
            from: None,
            rank: 16,
            alpha: 32.0,
            dropout: 0.05,
            target_modules: TargetModule::ALL.into(),
            rank_pattern: ByName::default(),
            alpha_pattern: ByName::default(),
            use_rslora: false,
            use_dora: false,
            init_lora_weights: InitialWeights::Kaiming,
            num_experts: 8,
            top_k: 2,
            placement: Placement::All,
            mixture_weights: MixtureWeights::Renormalized,
            router_init_std: 0.02,
        }
    }
}

impl ObjectiveSection {
    /// How answers are learned.
    pub fn answer_loss(&self) -> AnswerLoss {
        AnswerLoss {
            scope: self.cross_entropy,
            choices: self.choice_loss,
            label_smoothing: self.label_smoothing,
            focal_gamma: self.focal_gamma,
            mmce_weight: self.mmce_weight,
        }
    }
}

impl Default for ObjectiveSection {
    fn default() -> Self {
        Self {
            cross_entropy: CrossEntropy::Answer,
            choice_loss: ChoiceLoss::CrossEntropy,
            label_smoothing: LABEL_SMOOTHING,
            focal_gamma: FOCAL_GAMMA,
            mmce_weight: 0.0,
            load_balancing: LoadBalancing::Argmax,
            load_balancing_weight: 0.01,
            calibration_weight: 1.0,
            calibration_warmup_steps: 0,
            flu_tokens: FluTokens::Mean,
            correctness: Correctness::Choices,
            calibration_gradient: CalibrationGradient::All,
            calibrated: CalibratedAnswers::Predicted,
            calibration_share: 0.0,
        }
    }
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            epochs: 2.0,
            max_steps: None,
            batch_size: 16,
            micro_batch: 16,
            micro_tokens: MICRO_TOKENS,
            learning_rate: 2e-4,
            router_rate_factor: 1.0,
            lora_plus_ratio: 1.0,
            schedule: RateSchedule::Linear,
            warmup_steps: 0,
            weight_decay: 0.01,
            gradient_clip: None,
            checkpoint_every: 50,
            snapshots: 0,
            seed: 42,
            bucket: true,
            padding: Padding::Auto,
            recompute: false,
            on_nan: OnNan::Stop,
        }
    }
}

impl Default for EvaluationSection {
    fn default() -> Self {
        Self {
            bins: 15,
            bootstrap: 1000,
            batch_tokens: 2048,
            answer_confidence: AnswerConfidence::Mean,
        }
    }
}

/// Twice what a processor needs for full speed; more only takes memory.
const MICRO_TOKENS: usize = 1024;

fn is_default_micro_tokens(value: &usize) -> bool {
    *value == MICRO_TOKENS
}

/// The usual share (Szegedy et al. 2016).
const LABEL_SMOOTHING: f64 = 0.1;

fn is_default_smoothing(value: &f64) -> bool {
    *value == LABEL_SMOOTHING
}

/// The best fixed exponent for calibration (Mukhoti et al. 2020).
const FOCAL_GAMMA: f64 = 3.0;

fn is_default_gamma(value: &f64) -> bool {
    *value == FOCAL_GAMMA
}

/// A short answer: a name, a date, a few words.
pub(super) const ANSWER_TOKENS: usize = 16;

fn is_default_answer_tokens(value: &usize) -> bool {
    *value == ANSWER_TOKENS
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl DataSection {
    /// The dataset.
    ///
    /// # Errors
    /// An unknown name, or `custom` without its training file.
    pub fn dataset(&self) -> Result<AnyDataset, DataError> {
        dataset::find(&self.dataset, &self.custom)
    }

    /// Whether the model writes its answers instead of choosing them.
    ///
    /// # Errors
    /// As [`Self::dataset`].
    pub fn writes(&self) -> Result<bool, DataError> {
        Ok(self.dataset()?.labels() == LabelStyle::Written)
    }

    /// A reason for a refusal that lies in the dataset's questions.
    pub(crate) fn open_ended(&self, reason: &str) -> String {
        format!("the questions of {} are open-ended: {reason}", self.title())
    }

    /// The dataset's name; of the user's own file, the file's, of a task file or a dataset of the
    /// Hub, theirs.
    pub fn title(&self) -> String {
        if self.dataset != custom::NAME {
            return self.dataset.clone();
        }
        let Custom {
            task, train, test, ..
        } = &self.custom;
        let file = [task, train, test].into_iter().find_map(Option::as_ref);
        let stem = file.and_then(|file| file.file_stem());
        let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
        // The owner's name says little; a colon is no part of a file's name everywhere.
        let hub = self.custom.hub.as_ref();
        let hub = hub.map(|name| name.rsplit('/').next().unwrap_or(name).replace(':', "-"));
        let own = match &self.custom.task {
            Some(_) => stem,
            None => hub.or(stem),
        };
        own.map_or(custom::NAME.into(), |name| {
            name.to_lowercase().replace(' ', "-")
        })
    }

    /// How questions become prompts, but for the chat template, which the model's files hold.
    pub fn rendering(&self, labels: LabelStyle) -> Rendering {
        Rendering {
            template: self.template,
            labels,
            scoring: self.scoring,
            normalization: self.normalization,
            answer_tokens: self.answer_tokens,
            whole_choices: false,
            chat: None,
            shots: None,
        }
    }
}

impl AdapterSection {
    /// As one plain LoRA.
    pub fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            target_modules: self.target_modules.clone(),
            posterior_std: None,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            init_lora_weights: self.init_lora_weights,
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
        }
    }

    /// As a mixture.
    pub fn mixture(&self) -> MixLoraConfig {
        MixLoraConfig {
            lora: self.lora(),
            num_experts: self.num_experts,
            top_k: self.top_k,
            placement: self.placement,
            mixture_weights: self.mixture_weights,
            router_init_std: self.router_init_std,
        }
    }
}

impl TrainSection {
    /// The walk through the rows.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            batch_size: self.batch_size,
            micro_batch: self.micro_batch.min(self.batch_size),
            micro_tokens: self.micro_tokens,
            epochs: self.epochs,
            max_steps: self.max_steps,
            checkpoint_every: self.checkpoint_every,
            snapshots: self.snapshots,
            seed: self.seed,
            bucket: self.bucket,
        }
    }
}
