//! `uq.json`: what others need to use an adapter's confidence.

use std::collections::BTreeMap;
use std::path::Path;

use data::prompt::LabelStyle;
use data::rendering::{Normalization, Scoring};
use data::shots::Shots;
use data::source::{Located, models, sha256};
use data::template::Template;
use serde::{Deserialize, Serialize};

use crate::config::{AnswerTemperature, RunConfig, spelled};
use crate::error::TrainError;
use crate::fitted::LoadedRun;
use crate::functional_uncertainty::FluTokens;
use crate::lock::LOCK;
use crate::method::Method;
use crate::posthoc::confidence::Confidence;
use crate::posthoc::conformal::{Conformal, Score};
use crate::posthoc::temperature::Temperature;
use crate::posthoc::trust::{Trust, Way};
use crate::prediction::{AnswerConfidence, ScoredRow};
use crate::prepare::Prepared;
use crate::prequential::PrequentialTemperature;
use crate::provenance::differing;
use crate::registry;
use crate::run_directory::RunDirectory;

pub use crate::run_directory::CARD;

/// What others need to use an adapter's confidence: how its questions are put, to which base
/// model, and what held-out questions have shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Version of this file's form.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// Name of the run's method.
    pub method: String,
    /// Dataset that the adapter was trained on.
    pub dataset: String,
    /// The base model as it was asked for.
    pub base_model: String,
    /// The base model's files with their digests.
    pub base_files: Vec<Located>,
    /// How a question becomes a prompt.
    pub prompt: PromptCard,
    /// The temperature that the first answers to the training questions call for. Absent where the
    /// training kept none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prequential: Option<PrequentialTemperature>,
    /// What scores are divided by before everything else: with `prequential`, that temperature.
    /// `held_out` was fitted on scores that were. Absent in cards of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<AnswerTemperature>,
    /// What held-out questions have shown of this adapter. Absent where the run's method asks it
    /// in several passes, members or wordings, or by chance: that confidence is not the adapter's
    /// own.
    pub held_out: Option<HeldOutCard>,
    /// SHA-256 of the adapter's files: the calibration is theirs alone. Empty in cards of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// How a question becomes a prompt, and how its answer is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptCard {
    /// Wording of the prompt.
    pub template: Template,
    /// The chat template that the prompt is put in; absent where the prompt is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatCard>,
    /// Whether choices are scored by their letters or by their text.
    pub scoring: Scoring,
    /// How the log-likelihood of a choice's text is normalised.
    pub normalization: Normalization,
    /// Longest prompt in tokens.
    pub max_tokens: usize,
    /// Text and token of each letter. Empty where the choices' own words are scored.
    pub label_tokens: Vec<(String, u32)>,
    /// The tokens over which FLU is averaged.
    #[serde(default, skip_serializing_if = "is_mean")]
    pub flu_tokens: FluTokens,
    /// How answers are written; absent where the model chooses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<WrittenCard>,
    /// The examples before every question; absent where there are none, and in cards of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<Shots>,
}

/// The chat template that prompts are put in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatCard {
    /// The template's Jinja source.
    pub template: String,
    /// The system prompt, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

impl ChatCard {
    fn of(prepared: &Prepared) -> Option<Self> {
        prepared.chat().map(|chat| Self {
            template: chat.source().into(),
            system: chat.system().map(str::to_owned),
        })
    }
}

fn is_mean(tokens: &FluTokens) -> bool {
    *tokens == FluTokens::Mean
}

/// How the model writes an answer, and how far it is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WrittenCard {
    /// Longest answer in tokens.
    pub answer_tokens: usize,
    /// What of a written answer is taken for its confidence.
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

/// The calibration of an adapter, fitted on held-out questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutCard {
    /// Number of held-out questions.
    pub questions: usize,
    /// Share of the held-out questions that was answered rightly.
    pub accuracy: f64,
    /// Temperature scaling of the logits, after that of [`Card::asked_at`]; 1 where the questions
    /// support none.
    pub temperature: Temperature,
    /// Calibrator of the probability of being right, from softmax confidence and FLU; one that
    /// changes nothing where the questions support none.
    pub confidence: Confidence,
    /// Which calibration the questions support; absent in cards of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    /// Sets that hold the right choice nine times in ten. Absent where the questions are too few to
    /// promise that.
    pub conformal_90: Option<Conformal>,
    /// FLU at the quantiles 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1. A question whose FLU lies outside is
    /// unlike anything seen.
    pub flu_quantiles: Option<[f64; 7]>,
}

/// The base model under a name that others know: its repository on the Hub, or its whole path.
pub(super) fn base_name(config: &RunConfig) -> String {
    let name = &config.model.name;
    let path = Path::new(name).canonicalize().ok();
    match (models::repository(name), path) {
        (Some(repository), _) => repository.into(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => name.clone(),
    }
}

impl Card {
    /// The card of a run's adapters.
    ///
    /// # Errors
    /// A run that has not been scored, or a label that is not one token.
    pub fn of(directory: &RunDirectory, run: &LoadedRun) -> Result<Self, TrainError> {
        let LoadedRun {
            config, prepared, ..
        } = run;
        let rows = directory.held_out_predictions(config)?;
        Ok(Self {
            version: 1,
            program: format!("uq4ct {}", env!("CARGO_PKG_VERSION")),
            method: config.method.title().into(),
            dataset: config.data.title(),
            base_model: base_name(config),
            base_files: prepared.model_files.clone(),
            prompt: PromptCard {
                template: config.data.template,
                chat: ChatCard::of(prepared),
                scoring: config.data.scoring,
                normalization: config.data.normalization,
                max_tokens: config.data.max_tokens,
                flu_tokens: config.objective.flu_tokens,
                label_tokens: match (config.data.scoring, config.data.dataset()?.labels()) {
                    (Scoring::Letters, LabelStyle::Letter) => prepared.letters()?,
                    _ => Vec::new(),
                },
                written: WrittenCard::of(config)?,
                shots: directory.shots(config)?,
            },
            prequential: run.temperature,
            asked_at: Some(config.method.temperature),
            held_out: answers_alone(&*run.method).then(|| HeldOutCard::of(&rows)),
            files: BTreeMap::new(),
        })
    }

    /// The card of the files that lie in a directory.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub(super) fn beside(&self, directory: &Path) -> Result<Self, TrainError> {
        let files = files(directory)?.into_iter();
        let files = files
            .map(|name| Ok((name.clone(), sha256(&directory.join(name))?)))
            .collect::<Result<_, TrainError>>()?;
        Ok(Self {
            files,
            ..self.clone()
        })
    }

    /// Refuses files that the card is not of.
    ///
    /// # Errors
    /// The first file that differs or is missing.
    pub(super) fn check_files(&self, directory: &Path) -> Result<(), TrainError> {
        for (name, known) in &self.files {
            let path = directory.join(name);
            let found = sha256(&path)?;
            if found != *known {
                let reason = format!(
                    "has changed since {CARD} was written: its SHA-256 begins with {}, there with {}. Export it again; if the change is meant, remove {CARD}, whose calibration no longer applies",
                    &found[..8],
                    known.get(..8).unwrap_or(known)
                );
                return Err(TrainError::file(path, reason));
            }
        }
        Ok(())
    }
}

/// The names of the files of an export, in order.
pub(super) fn files(directory: &Path) -> Result<Vec<String>, TrainError> {
    let fail = |e| TrainError::file(directory, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && name != LOCK {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether one plain pass of the adapter is what the run's method answers with.
fn answers_alone(method: &dyn Method) -> bool {
    let one_pass = method.passes() == 1 && method.members() == 1 && method.perturbations() == 0;
    let plain = method.fit_questions() == 0 && !method.uses_snapshots() && !method.is_random();
    one_pass && plain
}

impl HeldOutCard {
    fn of(rows: &[ScoredRow]) -> Self {
        let right = rows.iter().filter(|row| row.correct()).count();
        let mut flu: Vec<f64> = rows.iter().filter_map(|row| row.flu).collect();
        flu.sort_by(f64::total_cmp);
        let trust = Trust::fit(rows);
        Self {
            questions: rows.len(),
            accuracy: right as f64 / rows.len().max(1) as f64,
            temperature: trust.calibrator.temperature,
            confidence: trust.calibrator,
            way: Some(trust.way),
            conformal_90: Some(Conformal::fit(rows, Score::Lac, 0.1)).filter(|c| {
                c.threshold.is_finite() && rows.iter().all(|row| row.written.is_none())
            }),
            flu_quantiles: (!flu.is_empty())
                .then(|| [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0].map(|q| quantile(&flu, q))),
        }
    }
}

/// The nearest of sorted values.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Refuses another base model, warns of another prompt.
pub(super) fn fits(
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
            "{}: was trained with data.template = {}, data.scoring = {}, and is now asked with {} and {}: its confidence need not hold",
            directory.display(),
            spelled(&prompt.template),
            spelled(&prompt.scoring),
            spelled(&data.template),
            spelled(&data.scoring)
        );
    }
    if prompt.chat != ChatCard::of(prepared) {
        let chat = |chat: bool| {
            if chat {
                "in a chat template"
            } else {
                "without one"
            }
        };
        tracing::warn!(
            "{}: was trained on prompts {}, the run's are {}, or the template or system prompt is another: its confidence need not hold",
            directory.display(),
            chat(prompt.chat.is_some()),
            chat(prepared.chat().is_some())
        );
    }
    let count = |shots: Option<&Shots>| shots.map_or(0, Shots::count);
    let (known, own) = (prompt.shots.as_ref(), prepared.shots());
    if count(known) != count(own) {
        tracing::warn!(
            "{}: was trained with data.shots = {}, the run has {}: its confidence need not hold; with as many, its own examples are taken",
            directory.display(),
            count(known),
            count(own)
        );
    } else if known != own {
        tracing::warn!(
            "{}: was trained with other examples before the questions: its confidence need not hold",
            directory.display()
        );
    }
    let routed = registry::build(config)?.adapter().mixture().is_some();
    if routed && prompt.flu_tokens != config.objective.flu_tokens {
        tracing::warn!(
            "{}: its FLU is that of objective.flu_tokens = {}, the run's of {}: another quantity",
            directory.display(),
            spelled(&prompt.flu_tokens),
            spelled(&config.objective.flu_tokens)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigLayers;

    #[test]
    fn one_pass_by_chance_is_not_the_adapters_own_confidence() {
        for (settings, expected) in [
            (&["method.name=uq4ct"][..], true),
            (&["method.name=mc_dropout", "method.samples=1"], false),
            (&["method.name=blob", "method.samples=1"], false),
            (&["method.name=tfb", "method.samples=1"], false),
            (&["method.name=deep_ensemble"], false),
        ] {
            let mut layers = ConfigLayers::default();
            settings.iter().for_each(|s| layers.set(s).unwrap());
            let method = crate::registry::build(&layers.resolve().unwrap()).unwrap();
            assert_eq!(answers_alone(&*method), expected, "{settings:?}");
        }
    }
}
