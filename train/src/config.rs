//! A run's settings: TOML, strict, composed from small files, overridden by `--set`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use data::DataError;
use data::dataset::custom::Custom;
use data::dataset::{self, AnyDataset};
use data::loader::Schedule;
use data::prompt::{LabelStyle, Normalization, Rendering, Scoring, Template};
use model::{AdapterConfig, LoraConfig, MixLoraConfig, MixtureWeights, Placement, TargetModule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::TrainError;
use crate::loss::calibration::{CalibratedAnswers, CalibrationGradient, Correctness, FluTokens};
use crate::loss::load_balancing::LoadBalancing;
use crate::method::Entry;
use crate::method::blob::BlobSection;
use crate::method::laplace::LaplaceSection;
use crate::method::lora::CrossEntropy;
use crate::method::tfb::TfbSection;
use crate::metric::Bootstrap;
use crate::prediction::AnswerConfidence;

/// Everything that decides what a run does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Which base model.
    pub model: ModelSection,
    /// Which questions, and how they are put.
    pub data: DataSection,
    /// Which method.
    pub method: MethodSection,
    /// The adapter's shape.
    pub adapter: AdapterSection,
    /// What training minimises.
    pub objective: ObjectiveSection,
    /// How it trains.
    pub train: TrainSection,
    /// How it is judged.
    pub evaluation: EvaluationSection,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A short name, `owner/name` on the Hub, a directory in Hugging Face's layout, a .gguf file, or `tiny`.
    pub name: String,
    /// Branch, tag or commit on the Hub.
    pub revision: String,
    /// Type of the frozen weights: `f32` or `bf16`.
    pub dtype: WeightType,
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

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Name of the dataset.
    pub dataset: String,
    /// Wording of the prompt: `moe_peft`, `laplace_lora` or `passage`.
    pub template: Template,
    /// How choices are scored: by their `letters`, or `cloze`, by the likelihood of their texts.
    pub scoring: Scoring,
    /// What a likelihood is divided by with cloze scoring: `token`, `character` or `sum` (nothing).
    pub normalization: Normalization,
    /// Longest prompt, in tokens; longer ones lose the end of their question or passage.
    pub max_tokens: usize,
    /// Longest answer that the model may write to an open-ended question, in tokens.
    #[serde(skip_serializing_if = "is_default_answer_tokens")]
    #[schemars(extend("default" = ANSWER_TOKENS))]
    pub answer_tokens: usize,
    /// Share of train that is held out where no validation split is left for it.
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

/// `[method]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MethodSection {
    /// Name of the method.
    pub name: String,
    /// Name of a variant, for the run's directory and the report; empty = the method's.
    pub variant: String,
    /// Passes of a question: mc_dropout, tfb, blob (there 0 = the mean weights).
    pub samples: usize,
    /// Separate trainings of deep_ensemble.
    pub members: usize,
    /// Rewordings of a question that spuq asks beside it.
    pub perturbations: usize,
    /// Of laplace.
    #[serde(skip_serializing_if = "is_default")]
    pub laplace: LaplaceSection,
    /// Of tfb.
    #[serde(skip_serializing_if = "is_default")]
    pub tfb: TfbSection,
    /// Of blob.
    #[serde(skip_serializing_if = "is_default")]
    pub blob: BlobSection,
}

/// `[adapter]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterSection {
    /// Directory of an adapter to start from: peft's LoRA, MixLoRA's, or an export of this program. Its shape is taken over;
    /// `train.max_steps = 0` asks it as it is.
    #[serde(skip_serializing_if = "is_default")]
    pub from: Option<PathBuf>,
    /// Rank r of a low-rank update.
    pub rank: usize,
    /// Numerator of the scaling `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input of A is dropped in training.
    pub dropout: f64,
    /// Adapted projections.
    pub target_modules: BTreeSet<TargetModule>,
    /// Experts of a mixture, E.
    pub num_experts: usize,
    /// Experts that serve a token, k.
    pub top_k: usize,
    /// Where the experts sit: `all` or `ffn`.
    pub placement: Placement,
    /// `renormalized`, `raw` or `raw_delta`.
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
    /// Form of the load-balancing loss: `argmax` or `top_k`.
    pub load_balancing: LoadBalancing,
    /// Its weight gamma in Eq. 14.
    pub load_balancing_weight: f64,
    /// Weight beta of the calibration loss in Eq. 14.
    pub calibration_weight: f64,
    /// Optimizer steps over which beta rises from 0 (Eq. 17); 0 = constant.
    pub calibration_warmup_steps: usize,
    /// FLU over the whole prompt (`mean`), its last token (`last`), or the chosen answer's text (`answer`).
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
    /// Share of the training questions, by a hash of their names, that serve the calibration loss alone: the cross-entropy never sees their
    /// answers, so that being right there is not learned by heart. 0 = every question serves both.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = 0.0))]
    pub calibration_share: f64,
}

/// Shape of the learning rate over the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateSchedule {
    /// The same throughout, after the warm-up.
    #[default]
    Constant,
    /// Falling linearly to 0 at the end.
    Linear,
    /// Falling by a half cosine to 0 at the end.
    Cosine,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the training questions; may be a fraction.
    pub epochs: f64,
    /// Stop after this many optimizer steps, if that comes first.
    pub max_steps: Option<usize>,
    /// Questions of one optimizer step.
    pub batch_size: usize,
    /// Questions of one forward pass at most; gradients of several passes are accumulated.
    pub micro_batch: usize,
    /// Tokens of one forward pass at most, padding among them: bounds memory, and keeps questions of like length together.
    #[serde(skip_serializing_if = "is_default_micro_tokens")]
    #[schemars(extend("default" = MICRO_TOKENS))]
    pub micro_tokens: usize,
    /// AdamW's learning rate.
    pub learning_rate: f64,
    /// What it is multiplied by for the routers.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(extend("default" = 1.0))]
    pub router_rate_factor: f64,
    /// `constant`, `linear` or `cosine`.
    pub schedule: RateSchedule,
    /// Optimizer steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient.
    pub gradient_clip: Option<f64>,
    /// Optimizer steps between checkpoints; held-out questions are scored at each.
    pub checkpoint_every: usize,
    /// Adapters kept over the second half of training, evenly, the last one included: a checkpoint ensemble's members.
    pub snapshots: usize,
    /// Seed of initial adapter, order and dropout.
    pub seed: u64,
    /// Put questions of like length into one batch.
    pub bucket: bool,
    /// Keep only each layer's input for the backward pass and run the layer again there: the activations of one layer in memory, 1.4
    /// times the time, the same gradients.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub recompute: bool,
}

/// `[evaluation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSection {
    /// Equal-width bins of the calibration errors.
    pub bins: usize,
    /// Resamples of the bootstrap intervals.
    pub bootstrap: usize,
    /// Most tokens of one evaluation batch, padding included.
    pub batch_tokens: usize,
    /// How far a written answer is trusted: the `mean` of its tokens' probabilities (geometric), their `product`, that of the `first`, or
    /// `flu`.
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
        }
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            dataset: "boolq".into(),
            template: Template::MoePeft,
            scoring: Scoring::Letters,
            normalization: Normalization::Token,
            max_tokens: 512,
            answer_tokens: ANSWER_TOKENS,
            held_out_fraction: 0.1,
            train_limit: None,
            held_out_limit: None,
            test_limit: None,
            monitor_limit: 64,
            split_seed: 0,
            custom: Custom::default(),
        }
    }
}

impl Default for MethodSection {
    fn default() -> Self {
        Self {
            name: "uq4ct".into(),
            variant: String::new(),
            samples: 10,
            members: 3,
            perturbations: 5,
            laplace: LaplaceSection::default(),
            tfb: TfbSection::default(),
            blob: BlobSection::default(),
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
            num_experts: 8,
            top_k: 2,
            placement: Placement::All,
            mixture_weights: MixtureWeights::Renormalized,
            router_init_std: 0.02,
        }
    }
}

impl Default for ObjectiveSection {
    fn default() -> Self {
        Self {
            cross_entropy: CrossEntropy::Answer,
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
            schedule: RateSchedule::Constant,
            warmup_steps: 0,
            weight_decay: 0.01,
            gradient_clip: None,
            checkpoint_every: 50,
            snapshots: 0,
            seed: 42,
            bucket: true,
            recompute: false,
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

/// A short answer: a name, a date, a few words.
const ANSWER_TOKENS: usize = 16;

fn is_default_answer_tokens(value: &usize) -> bool {
    *value == ANSWER_TOKENS
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl DataSection {
    /// The dataset.
    ///
    /// # Errors
    /// An unknown name, or `custom` without its training file.
    pub fn dataset(&self) -> Result<AnyDataset, DataError> {
        dataset::find(&self.dataset, &self.custom)
    }

    /// The dataset's name; of the user's own file, the file's.
    pub fn title(&self) -> String {
        let file = self.custom.train.as_ref().or(self.custom.test.as_ref());
        let stem = file.and_then(|file| file.file_stem());
        match (self.dataset.as_str(), stem) {
            ("custom", Some(stem)) => stem.to_string_lossy().to_lowercase().replace(' ', "-"),
            (name, _) => name.into(),
        }
    }

    /// How questions become prompts.
    pub fn rendering(&self, labels: LabelStyle) -> Rendering {
        Rendering {
            template: self.template,
            labels,
            scoring: self.scoring,
            normalization: self.normalization,
            answer_tokens: self.answer_tokens,
            whole_choices: false,
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

impl MethodSection {
    /// The variant's name, or the method's.
    pub fn title(&self) -> &str {
        match self.variant.as_str() {
            "" => &self.name,
            variant => variant,
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

macro_rules! preset {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../configs/method/", $name, ".toml")),
        )
    };
}

/// The presets under `configs/method/`.
const METHOD_PRESETS: &[(&str, &str)] = &[
    preset!("base"),
    preset!("lora"),
    preset!("mc_dropout"),
    preset!("deep_ensemble"),
    preset!("deep-ensemble-8"),
    preset!("laplace"),
    preset!("laplace-last"),
    preset!("mixlora"),
    preset!("uq4ct"),
    preset!("uq4ct-incremental"),
    preset!("uq4ct-delta"),
    preset!("uq4ct-answer"),
    preset!("mixlora-repo"),
    preset!("spuq"),
    preset!("checkpoint_ensemble"),
    preset!("tfb"),
    preset!("blob"),
];

/// Names that `--method` knows: the presets, and methods that have none.
pub fn method_presets() -> Vec<&'static str> {
    let presets = METHOD_PRESETS.iter().map(|(name, _)| *name);
    let bare = crate::method::METHODS
        .iter()
        .map(|entry| entry.name)
        .filter(|name| METHOD_PRESETS.iter().all(|(preset, _)| preset != name));
    presets.chain(bare).collect()
}

/// Layers of settings, later ones over earlier ones.
#[derive(Debug, Clone, Default)]
pub struct ConfigLayers {
    table: Table,
    /// Where keys were set, for messages.
    places: Vec<String>,
}

impl ConfigLayers {
    /// The preset of a method.
    ///
    /// # Errors
    /// An unknown name, with the known ones and the nearest.
    pub fn method(&mut self, name: &str) -> Result<(), TrainError> {
        if let Some((_, text)) = METHOD_PRESETS.iter().find(|(known, _)| *known == name) {
            return self.text(text, &format!("configs/method/{name}.toml"));
        }
        match crate::method::entry(name) {
            Ok(_) => self.set_text("method.name", name),
            Err(_) => Err(TrainError::config(
                "--method",
                unknown("method", name, &method_presets()),
            )),
        }
    }

    /// A file.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or holds a key that does not exist.
    pub fn file(&mut self, path: &Path) -> Result<(), TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::file(path, e))?;
        self.text(&text, &path.display().to_string())
    }

    /// TOML from `place`.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn text(&mut self, text: &str, place: &str) -> Result<(), TrainError> {
        // Checked by itself first: only then do the messages name the right line.
        toml::from_str::<RunConfig>(text).map_err(|e| {
            let line = e
                .span()
                .map(|span| text[..span.start].matches('\n').count() + 1);
            let at = line.map_or(place.to_string(), |line| format!("{place}:{line}"));
            TrainError::config(at, with_suggestion(e.message()))
        })?;
        let table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| TrainError::config(place, e.message()))?;
        merge(&mut self.table, table);
        self.places.push(place.into());
        Ok(())
    }

    /// `--set section.key=value`; the value is TOML, and a bare word is text.
    ///
    /// # Errors
    /// Something that is not an assignment, a key that does not exist, or a value of the wrong kind.
    pub fn set(&mut self, assignment: &str) -> Result<(), TrainError> {
        let place = format!("--set {assignment}");
        let wrong =
            || TrainError::config(&place, "expected section.key=value, such as train.epochs=1");
        let (path, value) = assignment.split_once('=').ok_or_else(wrong)?;
        let path = path.trim();
        if !path.contains('.') {
            return Err(wrong());
        }
        let value: Value = format!("v = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| Value::String(value.trim().into()));
        self.lay(path, value, place)
    }

    /// `section.key` is this text, whatever characters it holds.
    ///
    /// # Errors
    /// A key that does not exist, or one that takes no text.
    pub fn set_text(&mut self, path: &str, text: &str) -> Result<(), TrainError> {
        self.lay(
            path,
            Value::String(text.into()),
            format!("--set {path}={text:?}"),
        )
    }

    fn lay(&mut self, path: &str, value: Value, place: String) -> Result<(), TrainError> {
        let layer = nested(path, value);
        RunConfig::deserialize(Value::Table(layer.clone()))
            .map_err(|e| TrainError::config(&place, with_suggestion(e.message())))?;
        merge(&mut self.table, layer);
        self.places.push(place);
        Ok(())
    }

    /// Lays other layers over these.
    pub fn layer(&mut self, over: Self) {
        merge(&mut self.table, over.table);
        self.places.extend(over.places);
    }

    /// All layers as one.
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// The preset that these layers ask for: the variant's name, or the method's.
    pub fn method_name(&self) -> Option<String> {
        let name = |key: &str| self.value("method", key).filter(|name| !name.is_empty());
        name("variant").or_else(|| name("name"))
    }

    /// The model that these layers ask for.
    pub fn model_name(&self) -> Option<String> {
        self.value("model", "name")
    }

    fn value(&self, section: &str, key: &str) -> Option<String> {
        let value = self.table.get(section)?.as_table()?.get(key)?;
        value.as_str().map(str::to_owned)
    }

    /// Takes a setting out.
    pub fn forget(&mut self, section: &str, key: &str) {
        if let Some(Value::Table(section)) = self.table.get_mut(section) {
            section.remove(key);
        }
    }

    /// The adapter that these layers start from.
    pub fn adapter_from(&self) -> Option<String> {
        self.value("adapter", "from")
    }

    /// Every dotted key that some layer sets.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let all = values("", &Value::Table(self.table.clone()));
        all.into_iter().map(|(key, _)| key)
    }

    /// Whether any layer sets a dotted key.
    pub fn has(&self, key: &str) -> bool {
        self.keys().any(|known| known == key)
    }

    /// Refuses settings of these layers that the method does not read, unless they change nothing in the layers below: whoever
    /// sets them expects something.
    ///
    /// # Errors
    /// An unknown method, or the first such setting.
    pub fn refuse_ignored(&self, method: &str, below: &Self) -> Result<(), TrainError> {
        let entry = crate::method::entry(method)?;
        let without = below.resolve()?.values();
        let changed = values("", &Value::Table(self.table.clone()))
            .into_iter()
            .filter(|pair| !without.contains(pair));
        match changed.map(|(key, _)| key).find(|key| !entry.reads(key)) {
            Some(key) => Err(TrainError::config(
                key,
                format!(
                    "the method {method} does not read it: leave it out, or choose another method"
                ),
            )),
            None => Ok(()),
        }
    }

    /// The settings with every gap filled, checked.
    ///
    /// # Errors
    /// Values out of range.
    pub fn resolve(&self) -> Result<RunConfig, TrainError> {
        let config = self.parse()?;
        config.validate()?;
        Ok(config)
    }

    /// The settings with every gap filled, not checked: these layers may lack what others bring.
    ///
    /// # Errors
    /// Values of the wrong kind.
    pub(crate) fn parse(&self) -> Result<RunConfig, TrainError> {
        RunConfig::deserialize(Value::Table(self.table.clone()))
            .map_err(|e| TrainError::config(self.places.join(", "), e.message()))
    }
}

/// A value in the tables that its dotted key names.
fn nested(key: &str, value: Value) -> Table {
    let (sections, key) = key.rsplit_once('.').unwrap_or(("", key));
    let inner = Table::from_iter([(key.to_string(), value)]);
    match sections {
        "" => inner,
        _ => nested(sections, Value::Table(inner)),
    }
}

/// Every plain value of a table by its dotted key.
fn values(prefix: &str, value: &Value) -> Vec<(String, Value)> {
    let Value::Table(table) = value else {
        return vec![(prefix.to_owned(), value.clone())];
    };
    let dot = if prefix.is_empty() { "" } else { "." };
    table
        .iter()
        .flat_map(|(key, value)| values(&format!("{prefix}{dot}{key}"), value))
        .collect()
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Serde's message for an unknown key, with the nearest known one.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let (Some(wrong), true) = (quoted.next(), is_unknown) else {
        return message.to_string();
    };
    let known: Vec<&str> = quoted.collect();
    let kind = match message.starts_with("unknown field") {
        true => "key",
        false => "value",
    };
    unknown(kind, wrong, &known)
}

fn unknown(kind: &str, wrong: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(wrong, k), *k))
        .min()
        .filter(|(distance, k)| *distance <= (k.len() / 2).max(2));
    let hint = nearest.map_or(String::new(), |(_, k)| format!(" Did you mean `{k}`?"));
    format!(
        "unknown {kind} `{wrong}`.{hint} Known: {}",
        known.join(", ")
    )
}

impl RunConfig {
    /// Reads a run's own `config.toml`.
    ///
    /// # Errors
    /// As [`ConfigLayers::file`].
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let mut layers = ConfigLayers::default();
        layers.file(path)?;
        layers.resolve()
    }

    /// The resampling of every interval.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            resamples: self.evaluation.bootstrap,
            seed: self.data.split_seed,
        }
    }

    /// The same settings on another dataset.
    pub fn on(&self, dataset: &str) -> Self {
        let mut other = self.clone();
        other.data.dataset = dataset.into();
        other
    }

    /// The same settings with those that a method does not read at their defaults.
    ///
    /// # Errors
    /// None in practice: settings are tables of plain values.
    pub fn read_by(&self, entry: &Entry) -> Result<Self, TrainError> {
        let mut layers = ConfigLayers::default();
        for (key, value) in self.values() {
            if entry.reads(&key) {
                merge(&mut layers.table, nested(&key, value));
            }
        }
        layers.parse()
    }

    /// Every setting by its dotted key.
    fn values(&self) -> Vec<(String, Value)> {
        let value = Value::try_from(self).expect("settings are tables of plain values");
        values("", &value)
    }

    /// Every setting that is not at its default, `section.key = value`, in the order of the sections. A setting that a later
    /// version adds changes nothing here until it is used.
    pub fn changes(&self) -> String {
        let defaults = Self::default().values();
        let changed = self
            .values()
            .into_iter()
            .filter(|pair| !defaults.contains(pair));
        changed
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect()
    }

    /// The settings as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of plain values")
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// The first setting out of range, with what was expected.
    pub fn validate(&self) -> Result<(), TrainError> {
        let (train, data, evaluation) = (&self.train, &self.data, &self.evaluation);
        let method = &self.method;
        let at_least_one = [
            ("train.batch_size", train.batch_size),
            ("train.micro_batch", train.micro_batch),
            ("train.micro_tokens", train.micro_tokens),
            ("train.checkpoint_every", train.checkpoint_every),
            ("data.max_tokens", data.max_tokens),
            ("data.answer_tokens", data.answer_tokens),
            ("data.monitor_limit", data.monitor_limit),
            ("evaluation.bins", evaluation.bins),
            ("evaluation.batch_tokens", evaluation.batch_tokens),
            // Without a step, what is asked must come from somewhere.
            (
                "train.max_steps",
                match self.adapter.from {
                    Some(_) if train.snapshots == 0 => 1,
                    _ => train.max_steps.unwrap_or(1),
                },
            ),
            ("method.members", method.members),
            ("method.laplace.questions", method.laplace.questions),
            ("method.laplace.directions", method.laplace.directions),
            ("method.laplace.samples", method.laplace.samples),
            ("method.tfb.questions", method.tfb.questions),
            ("method.tfb.trial_samples", method.tfb.trial_samples),
            ("method.tfb.trials", method.tfb.trials),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                return Err(TrainError::config(key, "expected at least 1, got 0"));
            }
        }
        let positive = [
            ("train.learning_rate", train.learning_rate),
            ("train.router_rate_factor", train.router_rate_factor),
            ("train.epochs", train.epochs),
            // Unset is off; 0 would scale every gradient to nothing.
            ("train.gradient_clip", train.gradient_clip.unwrap_or(1.0)),
            ("method.blob.posterior_std", method.blob.posterior_std),
            ("method.blob.prior_std", method.blob.prior_std),
            ("method.blob.gamma", method.blob.gamma),
            ("method.tfb.min_sigma", method.tfb.min_sigma),
            (
                // An empty interval would be searched from the wrong end.
                "method.tfb.max_sigma - method.tfb.min_sigma",
                method.tfb.max_sigma - method.tfb.min_sigma,
            ),
            (
                "method.laplace.prior_precision",
                method.laplace.prior_precision.unwrap_or(1.0),
            ),
        ];
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                let reason = format!("expected a positive number, got {value}");
                return Err(TrainError::config(key, reason));
            }
        }
        let not_negative = [
            ("train.weight_decay", train.weight_decay),
            ("method.blob.kl_learning_rate", method.blob.kl_learning_rate),
            ("method.tfb.tolerance", method.tfb.tolerance),
            (
                "objective.load_balancing_weight",
                self.objective.load_balancing_weight,
            ),
            (
                "objective.calibration_weight",
                self.objective.calibration_weight,
            ),
        ];
        for (key, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                let reason = format!("expected 0 or more, got {value}");
                return Err(TrainError::config(key, reason));
            }
        }
        if !(data.held_out_fraction > 0.0 && data.held_out_fraction < 1.0) {
            let reason = format!(
                "expected a share between 0 and 1, got {}",
                data.held_out_fraction
            );
            return Err(TrainError::config("data.held_out_fraction", reason));
        }
        self.validate_objective()?;
        let samples = ["mc_dropout", "tfb"].contains(&method.name.as_str());
        if samples && method.samples == 0 {
            let reason = "expected at least 1, got 0";
            return Err(TrainError::config("method.samples", reason));
        }
        if method.name == "mc_dropout" && self.adapter.dropout == 0.0 {
            return Err(TrainError::config(
                "adapter.dropout",
                "mc_dropout needs a dropout above 0: all its passes would be the same",
            ));
        }
        if method.name == "checkpoint_ensemble" && train.snapshots == 0 {
            return Err(TrainError::config(
                "train.snapshots",
                "checkpoint_ensemble needs at least 1: they are its members",
            ));
        }
        AdapterConfig::MixLora(self.adapter.mixture()).validate()?;
        crate::method::build(self)?;
        match data.dataset()?.labels() {
            LabelStyle::Written => self.validate_written(),
            LabelStyle::Letter | LabelStyle::Choice => self.validate_chosen(),
        }
    }

    /// Settings of the calibration loss that need others.
    fn validate_objective(&self) -> Result<(), TrainError> {
        let objective = &self.objective;
        let refuse = |key: &str, reason: String| Err(TrainError::config(key, reason));
        if !(0.0..1.0).contains(&objective.calibration_share) {
            let reason = format!(
                "expected a share from 0 up to, but not, 1, got {}",
                objective.calibration_share
            );
            return refuse("objective.calibration_share", reason);
        }
        if objective.calibration_share > 0.0 && objective.cross_entropy == CrossEntropy::Sequence {
            let reason =
                "with cross_entropy = sequence, every question is learned: use answer or choices";
            return refuse("objective.calibration_share", reason.into());
        }
        let of_answer = objective.flu_tokens == FluTokens::Answer;
        let written = self.data.dataset()?.labels() == LabelStyle::Written;
        if of_answer && written {
            let reason = format!(
                "the questions of {} are open-ended: answer is about choices, use mean or last",
                self.data.title()
            );
            return refuse("objective.flu_tokens", reason);
        }
        if of_answer && self.data.scoring != Scoring::Cloze {
            let reason = "answer is about choices whose texts are read: it needs data.scoring = cloze; with letters, use mean or last";
            return refuse("objective.flu_tokens", reason.into());
        }
        if objective.calibrated == CalibratedAnswers::Choices && !of_answer {
            let reason = "choices have a FLU of their own only with objective.flu_tokens = answer";
            return refuse("objective.calibrated", reason.into());
        }
        let plain = objective.correctness == Correctness::Choices;
        if objective.calibrated == CalibratedAnswers::Choices && !plain {
            let reason = "every choice is right or not by its label: leave it out, or calibrate the predicted answer";
            return refuse("objective.correctness", reason.into());
        }
        if objective.correctness == Correctness::Soft && written {
            let reason = format!(
                "the questions of {} are open-ended: soft is about choices",
                self.data.title()
            );
            return refuse("objective.correctness", reason);
        }
        Ok(())
    }

    /// How questions become prompts.
    pub fn rendering(&self, labels: LabelStyle) -> Rendering {
        Rendering {
            whole_choices: self.objective.flu_tokens == FluTokens::Answer,
            ..self.data.rendering(labels)
        }
    }

    /// Where there are choices, nothing is written.
    fn validate_chosen(&self) -> Result<(), TrainError> {
        let unread = [
            (
                "data.answer_tokens",
                self.data.answer_tokens != ANSWER_TOKENS,
            ),
            (
                "evaluation.answer_confidence",
                self.evaluation.answer_confidence != AnswerConfidence::default(),
            ),
        ];
        match unread.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(TrainError::config(
                key,
                "is about open-ended questions, these have choices: leave it out",
            )),
            None => Ok(()),
        }
    }

    /// The same settings to ask questions of another dataset, the training being done: what is about choices falls away where there are
    /// none, what is about written answers where nothing is written.
    ///
    /// # Errors
    /// An unknown dataset.
    pub fn asked_on(&self, dataset: &str) -> Result<Self, TrainError> {
        let mut config = self.on(dataset);
        let plain = Self::default();
        match config.data.dataset()?.labels() {
            LabelStyle::Written => {
                config.objective.cross_entropy = plain.objective.cross_entropy;
                config.data.scoring = plain.data.scoring;
                config.data.normalization = plain.data.normalization;
                config.objective.flu_tokens = plain.objective.flu_tokens;
                config.objective.calibrated = plain.objective.calibrated;
                if config.objective.correctness == Correctness::Soft {
                    config.objective.correctness = plain.objective.correctness;
                }
                if config.data.template == Template::LaplaceLora {
                    config.data.template = plain.data.template;
                }
            }
            LabelStyle::Letter | LabelStyle::Choice => {
                config.data.answer_tokens = plain.data.answer_tokens;
                config.evaluation.answer_confidence = plain.evaluation.answer_confidence;
            }
        }
        Ok(config)
    }

    /// Where the model writes its answers, there are no choices.
    fn validate_written(&self) -> Result<(), TrainError> {
        let questions = format!("the questions of {} are open-ended", self.data.title());
        if self.method.name == "laplace" {
            let reason =
                format!("{questions}: laplace is about the probabilities of choices; use another");
            return Err(TrainError::config("method.name", reason));
        }
        if self.objective.cross_entropy == CrossEntropy::Choices {
            let reason = format!("{questions}: without choices, use answer or sequence");
            return Err(TrainError::config("objective.cross_entropy", reason));
        }
        let unread = [
            ("data.scoring", self.data.scoring != Scoring::Letters),
            (
                "data.normalization",
                self.data.normalization != Normalization::Token,
            ),
            ("data.template", self.data.template == Template::LaplaceLora),
            (
                "data.custom.answer_by_choice",
                self.data.dataset == "custom" && self.data.custom.answer_by_choice,
            ),
        ];
        if let Some((key, _)) = unread.into_iter().find(|(_, given)| *given) {
            let reason = format!("{questions}: it is about choices, leave it out");
            return Err(TrainError::config(key, reason));
        }
        let flu = self.evaluation.answer_confidence == AnswerConfidence::Flu;
        let routed = crate::method::build(self)?.adapter().mixture().is_some();
        if flu && !routed {
            let reason = format!(
                "the method {} has no routers, so no FLU: use mean, product or first",
                self.method.name
            );
            return Err(TrainError::config("evaluation.answer_confidence", reason));
        }
        Ok(())
    }

    /// The run's directory below `root`: dataset, method, model, seed.
    pub fn directory(&self, root: &Path) -> PathBuf {
        let name = Path::new(&self.model.name).file_name();
        let model = name.map_or("model".into(), |n| n.to_string_lossy().to_lowercase());
        let model = model.strip_suffix(".gguf").unwrap_or(&model);
        root.join(format!(
            "{}-{}-{model}-s{}",
            self.data.title(),
            self.method.title(),
            self.train.seed
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_override_and_round_trip() {
        let mut layers = ConfigLayers::default();
        layers.method("lora").unwrap();
        layers.text("[train]\nepochs = 1.5\n", "a.toml").unwrap();
        layers.set("train.epochs=3").unwrap();
        layers.set("data.dataset=arc-easy").unwrap();
        let config = layers.resolve().unwrap();
        assert_eq!((config.train.epochs, config.adapter.rank), (3.0, 80));
        assert_eq!(config.data.dataset, "arc-easy");
        let again: RunConfig = toml::from_str(&config.to_toml()).unwrap();
        assert_eq!(again, config);
        assert_eq!(RunConfig::default().changes(), "");
        let changes = config.changes();
        assert!(changes.contains("train.epochs = 3.0\n"), "{changes}");
        assert_eq!(changes.lines().count(), 5, "{changes}");
    }

    #[test]
    fn errors_name_place_and_nearest_key() {
        let mut layers = ConfigLayers::default();
        let message = |r: Result<(), TrainError>| r.unwrap_err().to_string();
        let error = message(layers.text("[train]\n\nepoch = 1\n", "a.toml"));
        assert!(
            error.starts_with("a.toml:3: unknown key `epoch`. Did you mean `epochs`?"),
            "{error}"
        );
        let error = message(layers.set("train.batch_size=many"));
        assert!(error.contains("--set train.batch_size=many"), "{error}");
        let error = message(layers.set("adapter.placement=fnn"));
        assert!(error.contains("Did you mean `ffn`?"), "{error}");
        let error = message(layers.set("epochs=1"));
        assert!(error.contains("section.key=value"), "{error}");
        let error = message(layers.method("uq4c"));
        assert!(error.contains("Did you mean `uq4ct`?"), "{error}");
        let error = message(layers.text("[train", "b.toml"));
        assert!(error.starts_with("b.toml:1:"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for bad in [
            "train.batch_size=0",
            "train.epochs=0",
            "train.learning_rate=nan",
            "data.held_out_fraction=1",
            "adapter.top_k=9",
            "adapter.dropout=1",
            "data.dataset=nothing",
            "method.name=nothing",
        ] {
            let mut layers = ConfigLayers::default();
            layers.set(bad).unwrap();
            let error = layers.resolve().unwrap_err().to_string();
            let key = bad.split(['.', '=']).nth(1).unwrap();
            assert!(
                error.contains(key) || error.contains("dataset"),
                "{bad}: {error}"
            );
        }
    }
}
