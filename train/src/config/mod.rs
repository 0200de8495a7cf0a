//! The settings of a run: TOML, strict, composed from small files, overridden by `--set`.
//!
//! | file | content |
//! |---|---|
//! | `sections` | model, data, adapter, objective, training, evaluation |
//! | `method` | which method, and the settings that single methods have of their own |
//! | [`layers`] | presets, files and assignments, laid over one another |
//! | `presets` | the presets that the program carries with it |
//! | [`ranges`] | which numbers a setting takes |
//! | [`readers`] | which part of the program reads which setting |
//!
//! Nothing here knows a method: [`crate::registry`] does, and [`crate::resolve`] checks settings
//! against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use data::prompt::LabelStyle;
use data::rendering::Rendering;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::error::TrainError;
use crate::functional_uncertainty::FluTokens;
use crate::metric::Bootstrap;

pub mod layers;
mod method;
mod presets;
pub mod ranges;
pub mod readers;
mod sections;

pub use layers::ConfigLayers;
pub use method::{
    AnswerTemperature, BlobSection, LaplaceSection, Layers, MethodSection, Predictive, Prior,
    PriorFrom, PriorMean, TfbSection,
};
pub(crate) use presets::{METHOD_PRESETS, method_preset};
pub use sections::{
    AdapterSection, DataSection, EvaluationSection, ModelSection, ObjectiveSection, OnNan,
    RateSchedule, TrainSection, WeightType,
};

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
    /// Shape of the adapter.
    pub adapter: AdapterSection,
    /// What training minimises.
    pub objective: ObjectiveSection,
    /// How the adapter is trained.
    pub train: TrainSection,
    /// How answers are judged.
    pub evaluation: EvaluationSection,
}

impl RunConfig {
    /// How the bootstrap of every interval resamples.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            resamples: self.evaluation.bootstrap,
            seed: self.data.split_seed,
        }
    }

    /// The same settings, every relative path to something that is there made absolute: a run is
    /// asked and resumed from other directories too.
    pub fn anchored(&self) -> Self {
        let mut anchored = self.clone();
        let absolute = |path: &Path| match path.exists() {
            true => std::path::absolute(path).ok(),
            false => None,
        };
        // The tiny model is made up, whatever lies there under its name.
        if self.model.name != "tiny"
            && let Some(path) = absolute(Path::new(&self.model.name))
        {
            anchored.model.name = path.display().to_string();
        }
        let custom = &mut anchored.data.custom;
        let files = [
            &mut custom.task,
            &mut custom.train,
            &mut custom.held_out,
            &mut custom.test,
        ];
        for path in files.into_iter().chain([&mut anchored.adapter.from]) {
            if let Some(found) = path.as_deref().and_then(absolute) {
                *path = Some(found);
            }
        }
        anchored
    }

    /// The same settings on another dataset.
    pub fn on(&self, dataset: &str) -> Self {
        let mut other = self.clone();
        other.data.dataset = dataset.into();
        other
    }

    /// The same settings, all but those whose dotted key is kept at their defaults.
    ///
    /// # Errors
    /// None in practice: settings are tables of plain values.
    pub fn keeping(&self, keep: impl Fn(&str) -> bool) -> Result<Self, TrainError> {
        let mut layers = ConfigLayers::default();
        for (key, value) in self.values() {
            if keep(&key) {
                layers::merge(&mut layers.table, layers::nested(&key, value));
            }
        }
        layers.parse()
    }

    /// Where other settings differ from these: `train.epochs is 2.0, not 3.0`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let show = |value: Option<&Value>| value.map_or("unset".into(), Value::to_string);
        let (own, others): (BTreeMap<_, _>, BTreeMap<_, _>) = (
            self.values().into_iter().collect(),
            other.values().into_iter().collect(),
        );
        let keys: BTreeSet<&String> = own.keys().chain(others.keys()).collect();
        keys.into_iter()
            .filter(|key| own.get(*key) != others.get(*key))
            .map(|key| {
                format!(
                    "{key} is {}, not {}",
                    show(own.get(key)),
                    show(others.get(key))
                )
            })
            .collect()
    }

    /// Every setting by its dotted key.
    pub(crate) fn values(&self) -> Vec<(String, Value)> {
        let value = Value::try_from(self).expect("settings are tables of plain values");
        layers::values("", &value)
    }

    /// Every setting that is not at its default, `section.key = value`, in the order of the
    /// sections. A setting that a later version adds changes nothing here until it is used.
    pub fn changes(&self) -> String {
        self.changes_from(&Self::default())
    }

    /// As [`Self::changes`], against other settings than the defaults.
    pub(crate) fn changes_from(&self, other: &Self) -> String {
        let known = other.values();
        let changed = self
            .values()
            .into_iter()
            .filter(|pair| !known.contains(pair));
        changed
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect()
    }

    /// The settings as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of plain values")
    }

    /// How questions become prompts, but for the chat template, which the model's files hold.
    pub fn rendering(&self, labels: LabelStyle) -> Rendering {
        Rendering {
            whole_choices: self.objective.flu_tokens == FluTokens::Answer,
            ..self.data.rendering(labels)
        }
    }

    /// Directory of the run below `root`, named by dataset, method, model and seed.
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

/// A setting's value as a file of settings has it, a text without its quotes.
pub fn spelled<T: Serialize>(value: &T) -> String {
    match Value::try_from(value) {
        Ok(Value::String(text)) => text,
        Ok(value) => value.to_string(),
        // Nothing, as an absent setting is.
        Err(_) => String::new(),
    }
}

/// Whether a setting is at its default, and left out of the written form: names of earlier
/// evaluations stay what they were when a setting is added.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
