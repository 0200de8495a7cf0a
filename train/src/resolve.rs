//! From layers of settings to settings that can be run: gaps are filled, ranges are checked, and
//! what contradicts the dataset or the method is refused.

use std::path::Path;

use data::chat::ChatMode;
use data::dataset::custom;
use data::rendering::{Normalization, Scoring};
use data::template::Template;

use crate::config::ranges::RANGES;
use crate::config::readers::is_about_written_answers;
use crate::config::{ConfigLayers, ObjectiveSection, RunConfig};
use crate::error::TrainError;
use crate::functional_uncertainty::FluTokens;
use crate::loss::calibration::{CalibratedAnswers, Correctness};
use crate::loss::choices::ChoiceLoss;
use crate::loss::cross_entropy::CrossEntropy;
use crate::method::Method;
use crate::prediction::AnswerConfidence;
use crate::registry;

impl ConfigLayers {
    /// The settings with every gap filled, checked.
    ///
    /// # Errors
    /// As [`RunConfig::validate`].
    pub fn resolve(&self) -> Result<RunConfig, TrainError> {
        let mut config = self.parse()?;
        config.method.name = registry::entry(&config.method.name)?.name.into();
        config.validate()?;
        Ok(config)
    }
}

impl RunConfig {
    /// Reads a run's own `config.toml`.
    ///
    /// # Errors
    /// A section that is missing or its end, since every run writes all of them, or as
    /// [`ConfigLayers::file`] and [`Self::validate`].
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::file(path, e))?;
        let place = path.display().to_string();
        let mut layers = ConfigLayers::default();
        layers.text(&text, &place).map_err(|error| match error {
            TrainError::Config { place, reason } => TrainError::file(place, reason),
            other => other,
        })?;
        let (found, defaults) = (layers.table(), Self::default().values());
        let cut = |what: String| {
            let reason = format!(
                "{what}: the file was cut or emptied; copy it from the original run, or start the run anew"
            );
            TrainError::file(path, reason)
        };
        let sections = defaults.iter().filter_map(|(key, _)| key.split('.').next());
        if let Some(section) = sections.into_iter().find(|name| !found.contains_key(*name)) {
            return Err(cut(format!("has no section [{section}]")));
        }
        // The last section, all of whose settings every version writes.
        let last = defaults.iter().map(|(key, _)| key);
        let mut last = last.filter(|key| key.starts_with("evaluation."));
        if let Some(key) = last.find(|key| !layers.has(key)) {
            return Err(cut(format!("has no {key}")));
        }
        if !text.ends_with('\n') {
            return Err(cut("does not end with a line's end".into()));
        }
        // No flag of the command is wrong: the file is.
        layers.resolve().map_err(|error| match error {
            TrainError::Config { place, reason } => {
                TrainError::file(path, format!("{place}: {reason}"))
            }
            other => other,
        })
    }

    /// Checks that these settings can be run.
    ///
    /// # Errors
    /// The first setting that cannot be used, with what was expected.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.check_ranges()?;
        self.check_seed()?;
        self.check_rates()?;
        self.check_steps()?;
        self.check_system()?;
        self.check_calibration_share()?;
        self.check_choice_loss()?;
        self.check_flu()?;
        self.check_correctness()?;
        self.adapter.mixture().validate_numbers()?;
        let method = registry::build(self)?;
        method.adapter().validate()?;
        method.check(self)?;
        if !self.data.writes()? {
            return self.check_nothing_about_written_answers();
        }
        self.check_nothing_about_choices()?;
        self.check_answer_confidence(&*method)
    }

    fn check_ranges(&self) -> Result<(), TrainError> {
        let values = self.values();
        let own = registry::entry(&self.method.name)?.ranges;
        for (key, range) in RANGES.iter().chain(own) {
            if let Some((_, value)) = values.iter().find(|(known, _)| known == key) {
                range.check_value(key, value)?;
            }
        }
        Ok(())
    }

    /// Members of an ensemble have the seeds that follow, and TOML has no larger whole numbers.
    fn check_seed(&self) -> Result<(), TrainError> {
        match self.train.seed <= LARGEST_SEED {
            true => Ok(()),
            false => refuse("train.seed", format!("expected at most {LARGEST_SEED}")),
        }
    }

    /// No parameter's own learning rate is above 1.
    fn check_rates(&self) -> Result<(), TrainError> {
        let train = &self.train;
        for (key, factor) in [
            ("train.router_rate_factor", train.router_rate_factor),
            ("train.lora_plus_ratio", train.lora_plus_ratio),
        ] {
            if train.learning_rate * factor > 1.0 {
                let rate = train.learning_rate;
                let reason = format!(
                    "{factor} times train.learning_rate, {rate}, is more than 1: lower one of them"
                );
                return refuse(key, &reason);
            }
        }
        Ok(())
    }

    /// Without a step, what is asked must come from somewhere.
    fn check_steps(&self) -> Result<(), TrainError> {
        let begun = self.adapter.from.is_some() && self.train.snapshots == 0;
        if self.train.max_steps == Some(0) && !begun {
            return refuse("train.max_steps", "expected at least 1, got 0");
        }
        Ok(())
    }

    fn check_system(&self) -> Result<(), TrainError> {
        if self.data.system.is_some() && self.data.chat == ChatMode::Off {
            let reason = "a system prompt stands in a chat template: it needs data.chat = auto";
            return refuse("data.system", reason);
        }
        Ok(())
    }

    fn check_calibration_share(&self) -> Result<(), TrainError> {
        let objective = &self.objective;
        if objective.calibration_share > 0.0 && objective.cross_entropy == CrossEntropy::Sequence {
            return refuse(
                "objective.calibration_share",
                "with cross_entropy = sequence, every question is learned: use answer or choices",
            );
        }
        Ok(())
    }

    fn check_choice_loss(&self) -> Result<(), TrainError> {
        let (objective, plain) = (&self.objective, ObjectiveSection::default());
        let own = objective.choice_loss;
        if own != ChoiceLoss::CrossEntropy && objective.cross_entropy != CrossEntropy::Choices {
            return refuse(
                "objective.choice_loss",
                "is a loss over the choices: it needs objective.cross_entropy = choices",
            );
        }
        if objective.label_smoothing != plain.label_smoothing && own != ChoiceLoss::LabelSmoothing {
            return refuse(
                "objective.label_smoothing",
                "is read with objective.choice_loss = label_smoothing alone",
            );
        }
        if objective.focal_gamma != plain.focal_gamma && own != ChoiceLoss::Focal {
            return refuse(
                "objective.focal_gamma",
                "is read with objective.choice_loss = focal alone",
            );
        }
        Ok(())
    }

    fn check_flu(&self) -> Result<(), TrainError> {
        let of_answer = self.objective.flu_tokens == FluTokens::Answer;
        if of_answer && self.data.writes()? {
            let reason = "`answer` needs choices: use `mean` or `last`";
            return refuse("objective.flu_tokens", self.data.open_ended(reason));
        }
        if of_answer && self.data.scoring != Scoring::Cloze {
            return refuse(
                "objective.flu_tokens",
                "`answer` needs choices whose texts are read: set data.scoring = cloze, or with \
                 letters use `mean` or `last`",
            );
        }
        if self.objective.calibrated == CalibratedAnswers::Choices && !of_answer {
            return refuse(
                "objective.calibrated",
                "choices have a FLU of their own only with objective.flu_tokens = answer",
            );
        }
        Ok(())
    }

    fn check_correctness(&self) -> Result<(), TrainError> {
        let (key, objective) = ("objective.correctness", &self.objective);
        let by_choice = objective.calibrated == CalibratedAnswers::Choices;
        if by_choice && objective.correctness != Correctness::Choices {
            return refuse(
                key,
                "every choice is right or not by its label: leave it out, or calibrate the \
                 predicted answer",
            );
        }
        if objective.correctness == Correctness::Soft && self.data.writes()? {
            return refuse(
                key,
                self.data.open_ended("`soft` needs choices: leave it out"),
            );
        }
        Ok(())
    }

    /// Where there are choices, nothing is written.
    fn check_nothing_about_written_answers(&self) -> Result<(), TrainError> {
        let plain = self.keeping(|key| !is_about_written_answers(key))?.values();
        let changed = self.values().into_iter().find(|pair| !plain.contains(pair));
        match changed {
            Some((key, _)) => refuse(
                &key,
                "is about open-ended questions, these have choices: leave it out",
            ),
            None => Ok(()),
        }
    }

    /// Where the model writes its answers, there are no choices.
    fn check_nothing_about_choices(&self) -> Result<(), TrainError> {
        if self.objective.cross_entropy == CrossEntropy::Choices {
            let reason = "without choices, use answer or sequence";
            return refuse("objective.cross_entropy", self.data.open_ended(reason));
        }
        let data = &self.data;
        let unread = [
            ("objective.mmce_weight", self.objective.mmce_weight != 0.0),
            ("data.scoring", data.scoring != Scoring::Letters),
            (
                "data.normalization",
                data.normalization != Normalization::Token,
            ),
            ("data.template", data.template == Template::LaplaceLora),
            (
                "data.custom.answer_by_choice",
                data.dataset == custom::NAME && data.custom.answer_by_choice,
            ),
        ];
        match unread.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => refuse(
                key,
                self.data.open_ended("it is about choices, leave it out"),
            ),
            None => Ok(()),
        }
    }

    fn check_answer_confidence(&self, method: &dyn Method) -> Result<(), TrainError> {
        let flu = self.evaluation.answer_confidence == AnswerConfidence::Flu;
        if flu && method.adapter().mixture().is_none() {
            let reason = format!(
                "the method {} has no routers, so no FLU: use mean, product or first",
                self.method.name
            );
            return refuse("evaluation.answer_confidence", reason);
        }
        Ok(())
    }

    /// The same settings to ask questions of another dataset, the training being done: what is
    /// about choices falls away where there are none, what is about written answers where nothing
    /// is written.
    ///
    /// # Errors
    /// An unknown dataset.
    pub fn asked_on(&self, dataset: &str) -> Result<Self, TrainError> {
        let mut config = self.on(dataset);
        if !config.data.writes()? {
            return config.keeping(|key| !is_about_written_answers(key));
        }
        let plain = Self::default();
        let (objective, data) = (&mut config.objective, &mut config.data);
        objective.cross_entropy = plain.objective.cross_entropy;
        objective.choice_loss = plain.objective.choice_loss;
        objective.label_smoothing = plain.objective.label_smoothing;
        objective.focal_gamma = plain.objective.focal_gamma;
        objective.mmce_weight = plain.objective.mmce_weight;
        if objective.flu_tokens == FluTokens::Answer {
            objective.flu_tokens = plain.objective.flu_tokens;
        }
        objective.calibrated = plain.objective.calibrated;
        if objective.correctness == Correctness::Soft {
            objective.correctness = plain.objective.correctness;
        }
        data.scoring = plain.data.scoring;
        data.normalization = plain.data.normalization;
        if data.template == Template::LaplaceLora {
            data.template = plain.data.template;
        }
        Ok(config)
    }
}

/// The largest seed that is taken.
pub const LARGEST_SEED: u64 = i64::MAX as u64 - 1_000_000;

fn refuse(key: &str, reason: impl Into<String>) -> Result<(), TrainError> {
    Err(TrainError::config(key, reason))
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
    #[test]
    fn a_loss_over_choices_needs_choices_and_its_own_settings() {
        let resolve = |settings: &[&str]| {
            let mut layers = ConfigLayers::default();
            settings.iter().for_each(|set| layers.set(set).unwrap());
            layers.resolve()
        };
        const CHOICES: &str = "objective.cross_entropy=choices";
        let fine: [&[&str]; 4] = [
            &[CHOICES, "objective.choice_loss=focal_53"],
            &[CHOICES, "objective.choice_loss=brier"],
            &[
                CHOICES,
                "objective.choice_loss=focal",
                "objective.focal_gamma=2",
            ],
            &["objective.mmce_weight=2"],
        ];
        for settings in fine {
            resolve(settings).unwrap();
        }
        let wrong: [(&[&str], &str); 5] = [
            (&["objective.choice_loss=brier"], "objective.choice_loss"),
            (
                &[CHOICES, "objective.label_smoothing=0.2"],
                "objective.label_smoothing",
            ),
            (
                &[
                    CHOICES,
                    "objective.choice_loss=brier",
                    "objective.focal_gamma=2",
                ],
                "objective.focal_gamma",
            ),
            (
                &[
                    CHOICES,
                    "objective.choice_loss=label_smoothing",
                    "objective.label_smoothing=1",
                ],
                "objective.label_smoothing",
            ),
            (
                &["data.dataset=triviaqa", "objective.mmce_weight=1"],
                "objective.mmce_weight",
            ),
        ];
        for (settings, key) in wrong {
            let error = resolve(settings).unwrap_err().to_string();
            assert!(error.contains(key), "{settings:?}: {error}");
        }
    }

    #[test]
    fn asking_elsewhere_changes_only_what_is_about_choices() {
        let mut layers = ConfigLayers::default();
        for set in [
            "objective.flu_tokens=last",
            "objective.cross_entropy=choices",
            "objective.choice_loss=focal",
            "objective.focal_gamma=2",
            "objective.mmce_weight=1",
        ] {
            layers.set(set).unwrap();
        }
        let config = layers.resolve().unwrap();
        let asked = config.asked_on("triviaqa").unwrap();
        assert_eq!(asked.objective.flu_tokens, FluTokens::Last);
        let expected = ObjectiveSection {
            flu_tokens: FluTokens::Last,
            ..ObjectiveSection::default()
        };
        assert_eq!(asked.objective, expected);
        let elsewhere = config.asked_on("arc-easy").unwrap();
        assert_eq!(elsewhere.objective, config.objective);
    }
}
