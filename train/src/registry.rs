//! Every method by its name. A method is one file below [`crate::method`] and a line in
//! [`METHODS`].

use std::sync::Arc;

use data::names::{self, unknown};

use crate::config::{ConfigLayers, METHOD_PRESETS, RunConfig, method_preset};
use crate::error::TrainError;
use crate::method::{
    Entry, Method, base, blob, checkpoint_ensemble, deep_ensemble, laplace, lora, mc_dropout,
    mixture, spuq, tfb,
};

/// Every method, in the order of the paper's table; those beyond the paper last.
pub const METHODS: &[Entry] = &[
    base::ENTRY,
    lora::ENTRY,
    mc_dropout::ENTRY,
    deep_ensemble::ENTRY,
    laplace::ENTRY,
    mixture::MIXLORA,
    mixture::UQ4CT,
    spuq::ENTRY,
    checkpoint_ensemble::ENTRY,
    tfb::ENTRY,
    blob::ENTRY,
];

/// The entry of a method.
///
/// # Errors
/// An unknown name, with the known ones.
pub fn entry(name: &str) -> Result<&'static Entry, TrainError> {
    let found = METHODS.iter().find(|e| e.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let known: Vec<_> = METHODS.iter().map(|e| e.name).collect();
        TrainError::config("method.name", unknown("method", name, &known))
    })
}

/// The method that a run asks for.
///
/// # Errors
/// An unknown name, with the known ones.
pub fn build(config: &RunConfig) -> Result<Arc<dyn Method>, TrainError> {
    entry(&config.method.name).map(|entry| (entry.construct)(config))
}

/// The entry of the method whose training a run queries.
fn trained_as(config: &RunConfig) -> Result<&'static Entry, TrainError> {
    entry((entry(&config.method.name)?.trained_as)(config))
}

/// The settings of the training that a run's method queries, with this seed. Two methods that share
/// a training agree in them to the last byte, whatever their own settings.
///
/// # Errors
/// An unknown method.
pub fn training_settings(config: &RunConfig, seed: u64) -> Result<RunConfig, TrainError> {
    let trained = trained_as(config)?;
    let mut training = config.keeping(|key| trained.trains_with(key))?;
    training.method.name = trained.name.into();
    (trained.fixes)(&mut training);
    training.train.seed = seed;
    Ok(training)
}

/// The same settings with those that the run's method does not read at their defaults.
///
/// # Errors
/// An unknown method.
pub fn read_settings(config: &RunConfig) -> Result<RunConfig, TrainError> {
    let entry = entry(&config.method.name)?;
    config.keeping(|key| entry.reads(key))
}

/// Whether some method asks the adapters that are kept along the training which a run queries.
///
/// # Errors
/// An unknown method.
pub fn shares_snapshots(config: &RunConfig) -> Result<bool, TrainError> {
    let trained = trained_as(config)?.name;
    Ok(METHODS.iter().any(|entry| {
        (entry.trained_as)(config) == trained && (entry.construct)(config).uses_snapshots()
    }))
}

/// Names that `--method` knows: the presets, and methods that have none.
pub fn method_presets() -> Vec<&'static str> {
    let presets = METHOD_PRESETS.iter().map(|(name, _)| *name);
    let bare = METHODS.iter().map(|entry| entry.name);
    presets
        .chain(bare.filter(|name| method_preset(name).is_none()))
        .collect()
}

impl ConfigLayers {
    /// Lays the preset of a method over these.
    ///
    /// # Errors
    /// An unknown name, with the known ones and the nearest.
    pub fn method(&mut self, name: &str) -> Result<(), TrainError> {
        let name = names::known(name, method_presets()).unwrap_or(name);
        if let Some(text) = method_preset(name) {
            return self.text(text, &format!("configs/method/{name}.toml"));
        }
        match entry(name) {
            Ok(_) => self.set_text("method.name", name),
            Err(_) => Err(TrainError::config(
                "--method",
                unknown("method", name, &method_presets()),
            )),
        }
    }

    /// Refuses settings of these layers that the method does not read, unless they change nothing
    /// in the layers below: whoever sets them expects something.
    ///
    /// # Errors
    /// An unknown method, or the first such setting.
    pub fn refuse_ignored(&self, method: &str, below: &Self) -> Result<(), TrainError> {
        let entry = entry(method)?;
        let changed = self.changes_in(&below.resolve()?);
        match changed.into_iter().find(|key| !entry.reads(key)) {
            Some(key) => Err(TrainError::config(
                key,
                format!(
                    "the method {method} does not read it: leave it out, or choose another method"
                ),
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ranges::RANGES;
    use crate::config::readers;

    /// A mistyped key would switch off, in silence, what it stands for.
    #[test]
    fn every_key_and_section_that_is_named_exists() {
        let shared = [
            readers::EVERY_METHOD,
            readers::EVERY_TRAINING,
            readers::ROUTERS,
            readers::ASKING,
            readers::WRITTEN_ANSWERS,
            readers::EVALUATION_ALONE,
        ];
        let own = METHODS.iter().flat_map(|entry| {
            let lists = entry.trains_with.iter().copied();
            lists.chain([entry.asks_with]).flatten().copied()
        });
        let ranges = METHODS.iter().flat_map(|entry| entry.ranges);
        let ranges = ranges.chain(RANGES).map(|(key, _)| *key);
        let mut count = 0;
        for key in shared
            .into_iter()
            .flatten()
            .copied()
            .chain(own)
            .chain(ranges)
        {
            let empty = ConfigLayers::default().text(&format!("{key} = {{}}"), key);
            let refused = empty.is_err_and(|e| e.to_string().contains("unknown key"));
            assert!(!refused, "{key}");
            count += 1;
        }
        assert!(count > 80, "{count}");
    }

    #[test]
    fn a_shared_training_is_the_same_whatever_asks_it() {
        let config = |name: &str| {
            let mut config = RunConfig::default();
            config.method.name = name.into();
            config.method.samples = 7;
            config
        };
        let training = |name: &str| training_settings(&config(name), 3).unwrap();
        let lora = training("lora");
        assert_eq!((&*lora.method.name, lora.train.seed), ("lora", 3));
        assert_eq!(lora.method.samples, RunConfig::default().method.samples);
        let asks_lora = |entry: &&Entry| (entry.trained_as)(&lora) == "lora";
        let names: Vec<_> = METHODS.iter().filter(asks_lora).map(|e| e.name).collect();
        assert_eq!(names.len(), 7, "{names:?}");
        for name in names {
            assert_eq!(training(name).to_toml(), lora.to_toml(), "{name}");
            assert!(shares_snapshots(&config(name)).unwrap(), "{name}");
        }
        let mut plain = config("uq4ct");
        plain.objective.calibration_weight = 0.0;
        let mixlora = training("mixlora");
        assert_eq!(training_settings(&plain, 3).unwrap(), mixlora);
        assert_eq!(mixlora.objective.calibration_weight, 0.0);
        assert_ne!(training("uq4ct"), mixlora);
        assert!(!shares_snapshots(&plain).unwrap());
    }
}
