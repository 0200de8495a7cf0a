//! Flags that several verbs have: where things are, when to abstain.

use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use burn::tensor::Device;
use clap::Args;
use data::dataset;
use data::names;
use data::source::{Finder, models};
use train::RunConfig;
use train::context::Setup;
use train::dashboard::state::DashboardState;
use train::posthoc::abstention::{Abstention, Promise};
use train::registry;
use train::reproduce::tables;
use train::telemetry::Telemetry;

use super::process::environment;
use crate::backend::{self, NamedDevice};

/// Flags about where files are.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Directory with datasets in their original, the Hub's or the uniform format [env: UQ4CT_DATA]
    #[arg(hide_short_help = true, long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Do not use the network
    #[arg(hide_short_help = true, long)]
    offline: bool,
}

/// Flags about where things are.
#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[arg(
        long,
        default_value = "auto",
        conflicts_with = "devices",
        help = format!("Where to compute: {}", backend::DEVICES)
    )]
    device: String,
    #[arg(hide_short_help = true, long, value_delimiter = ',', help = backend::SEVERAL)]
    devices: Vec<String>,
}

impl SourceArgs {
    /// Where files are looked for. The tiny model runs on the bundled miniatures unless a data
    /// directory is given.
    pub(super) fn finder(&self, model: &str) -> Finder {
        let mut finder = Finder::from_env();
        if let Some(directory) = &self.data_dir {
            finder.data_dir = Some(directory.clone());
        }
        // A run's record names its files, and is read from other places.
        finder.data_dir = finder
            .data_dir
            .map(|directory| absolute(&directory).unwrap_or(directory));
        finder.offline |= self.offline;
        finder.miniature = model == "tiny" && self.data_dir.is_none();
        finder
    }
}

impl PlaceArgs {
    /// Where files are looked for.
    pub(super) fn finder(&self, model: &str) -> Finder {
        self.sources.finder(model)
    }

    /// The device asked for.
    pub(super) fn device(&self) -> Result<NamedDevice> {
        Ok(backend::find(self.devices.first().unwrap_or(&self.device))?)
    }

    /// Where and how a finished run is asked. `state` shows what takes long.
    pub(super) fn finished(
        &self,
        run: &Path,
        config: &RunConfig,
        state: Arc<Mutex<DashboardState>>,
    ) -> Result<Setup> {
        let device = self.device()?;
        Ok(Setup {
            environment: environment(&device),
            device: device.device,
            others: Vec::new(),
            finder: self.finder(&config.model.name),
            run: run.to_path_buf(),
            resume: true,
            telemetry: Telemetry::new(state),
            state: Arc::default(),
        })
    }

    /// The further devices of `--devices`.
    pub(super) fn others(&self) -> Result<Vec<Device>> {
        let names = self.devices.iter().skip(1);
        names.map(|name| Ok(backend::find(name)?.device)).collect()
    }
}

/// Flags about when to abstain.
#[derive(Debug, Args)]
pub(super) struct PromiseArgs {
    /// Abstain so that at most this share of the given answers is wrong, as held-out questions show
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "coverage")]
    target_risk: Option<f64>,
    /// Probability with which that promise may fail
    #[arg(
        hide_short_help = true,
        long,
        requires = "target_risk",
        conflicts_with = "coverage",
        default_value_t = 0.05,
        value_parser = share
    )]
    delta: f64,
    /// Abstain on the least confident questions, so that this share is answered
    #[arg(long, value_name = "SHARE", value_parser = share)]
    coverage: Option<f64>,
    /// How often the set of likely choices may lack the right one
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    pub(super) alpha: f64,
}

impl PromiseArgs {
    /// The promise that was asked for, if any.
    pub(super) fn promise(&self) -> Option<Promise> {
        let (delta, target) = (self.delta, self.target_risk);
        let risk = target.map(|target| Promise::Risk { target, delta });
        risk.or_else(|| {
            let target = self.coverage?;
            Some(Promise::Coverage { target })
        })
    }
}

/// The name of a dataset, or a file of the user's own.
pub(super) fn dataset(text: &str) -> Result<String, String> {
    match is_file(text) || is_on_hub(text) {
        true => Ok(text.to_owned()),
        false => listed_dataset(text),
    }
}

/// Whether a name is that of a file of questions, there or not.
pub(super) fn is_file(name: &str) -> bool {
    let path = Path::new(name);
    path.is_file() || data::rows::has_known_ending(path)
}

/// Whether a name is `owner/name` or `owner/name:configuration`.
pub(super) fn is_on_hub(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let repository = name.split(':').next().unwrap_or_default();
    let mut parts = repository.split('/');
    let named = parts.clone().count() == 2;
    named
        && parts.all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(plain)
        })
}

/// The name of a dataset, whatever its case.
pub(super) fn listed_dataset(text: &str) -> Result<String, String> {
    let names = dataset::names();
    let found = names::known(text, names.iter().copied());
    found
        .map(str::to_owned)
        .ok_or_else(|| names::unknown("dataset", text, &names))
}

/// The name of a method or of its preset, whatever its case.
pub(super) fn method(text: &str) -> Result<String, String> {
    let presets = registry::method_presets();
    let found = names::known(text, presets.iter().copied());
    found
        .map(str::to_owned)
        .ok_or_else(|| names::unknown("method", text, &presets))
}

/// The name of a model: a short one, whatever its case, or where its files are.
pub(super) fn model(text: &str) -> Result<String, String> {
    models::named_or_place(text).map_err(|error| error.to_string())
}

/// The name of a table, whatever its case.
pub(super) fn table(text: &str) -> Result<String, String> {
    let found = tables::find(text).map_err(|error| error.to_string())?;
    Ok(found.name.into())
}

/// A number strictly between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("expected a number between 0 and 1, such as 0.05".into()),
    }
}

/// The rule of when to answer, in words.
pub(super) fn explain(rule: &Abstention, held_out: usize) -> String {
    let risk = rule
        .held_out_risk
        .map_or("-".into(), |risk| format!("{:.1} %", 100.0 * risk));
    let promise = match rule.promise {
        Promise::Risk { target, delta } => format!(
            "at most {:.1} % of the given answers wrong, with probability {:.0} %",
            100.0 * target,
            100.0 * (1.0 - delta)
        ),
        Promise::Coverage { target } => format!("{:.1} % of questions answered", 100.0 * target),
    };
    format!(
        "Answers at a probability of {:.3} or more: {promise}, for questions like the {held_out} held-out ones (there {:.1} % answered, {risk} of those wrong).",
        rule.threshold,
        100.0 * rule.held_out_coverage
    )
}
