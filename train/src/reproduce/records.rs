//! What finished trainings and evaluations left, in memory.
//!
//! A table is made from [`Records`] alone. They are read from the directories below a root
//! ([`Records::below`]) or from one columnar file ([`super::archive`]): the figures are the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::places::{evaluation_directory, is_trained, training_directory};
use super::plan::{EvaluationJob, Plan, TrainingJob};
use crate::error::TrainError;
use crate::evaluation::Cost;
use crate::lock::Lock;
use crate::prediction::ScoredRow;
use crate::run_directory::{Environment, METRICS, Provenance, RunDirectory};
use crate::tracker::MetricsLine;

/// Trainings and evaluations by their identities.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// Trainings that have begun.
    pub trainings: BTreeMap<String, TrainingRecord>,
    /// Evaluations of which a set has been scored.
    pub evaluations: BTreeMap<String, EvaluationRecord>,
}

/// How a run was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The settings, as `config.toml` says them.
    pub settings: String,
    /// Model and data, with digests.
    pub provenance: Provenance,
    /// Program, machine and command.
    pub environment: Environment,
}

/// What a training left, without its adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingRecord {
    /// How the training was made.
    pub origin: Origin,
    /// The metrics by step, in the order in which they were written.
    pub curve: Vec<CurvePoint>,
}

/// The metrics of one optimizer step, or of one look at the held-out questions.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePoint {
    /// `train` or `held_out`.
    pub split: String,
    /// Optimizer step, from 1.
    pub step: usize,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Values by the name of their metric.
    pub values: BTreeMap<String, f64>,
}

/// What an evaluation left.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationRecord {
    /// How the evaluation was made.
    pub origin: Origin,
    /// The scored sets by name: datasets, `held-out`, `first-answers`.
    pub sets: BTreeMap<String, ScoredSet>,
}

/// A set of questions that has been scored.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredSet {
    /// What the answers cost.
    pub cost: Cost,
    /// Where the model and the questions came from; empty in records of early versions.
    pub sources: Vec<String>,
    /// The answers, in the order of the questions.
    pub rows: Vec<ScoredRow>,
}

impl Records {
    /// Reads what a plan's trainings and evaluations left in the directories below `root`. What is
    /// missing is left out.
    ///
    /// # Errors
    /// A file that is damaged, by name.
    pub fn below(root: &Path, plan: &Plan) -> Result<Self, TrainError> {
        let mut records = Self::default();
        for training in plan.trainings() {
            let run = RunDirectory::at(&training_directory(root, &training));
            if let Some(found) = TrainingRecord::read(&run)? {
                records.trainings.insert(training.id, found);
            }
        }
        for evaluation in plan.evaluations() {
            let run = RunDirectory::at(&evaluation_directory(root, &evaluation));
            if let Some(found) = EvaluationRecord::read(&run, &evaluation.sets())? {
                records.evaluations.insert(evaluation.id, found);
            }
        }
        Ok(records)
    }

    /// Writes what [`Self::below`] reads, as the plan's trainings and evaluations had left it but
    /// for adapters, checkpoints and first answers. What is there stays as it is. Gives the number
    /// of trainings and of evaluations of which something was written.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn restore(&self, root: &Path, plan: &Plan) -> Result<[usize; 2], TrainError> {
        let mut written = [0; 2];
        for training in plan.trainings() {
            let run = RunDirectory::at(&training_directory(root, &training));
            if let Some(known) = self.training(&training) {
                let _lock = Lock::wait(run.root())?;
                written[0] += usize::from(known.write(&run)?);
            }
        }
        for evaluation in plan.evaluations() {
            let run = RunDirectory::at(&evaluation_directory(root, &evaluation));
            if let Some(known) = self.evaluations.get(&evaluation.id) {
                let _lock = Lock::wait(run.root())?;
                written[1] += usize::from(known.write(&run)?);
            }
        }
        Ok(written)
    }

    /// Drops trainings that have not finished: those that left no adapter below `root` and that no
    /// scored evaluation of the plan used.
    pub fn finished(mut self, root: &Path, plan: &Plan) -> Self {
        let used = |id: &str| {
            let evaluations = plan.evaluations();
            evaluations.iter().any(|evaluation| {
                self.evaluations.contains_key(&evaluation.id)
                    && evaluation.members.iter().any(|member| member.id == id)
            })
        };
        let trained = |id: &str| {
            let trainings = plan.trainings();
            trainings.iter().any(|t| t.id == id && is_trained(root, t))
        };
        let kept = |id: &String| used(id) || trained(id);
        let kept: Vec<String> = self
            .trainings
            .keys()
            .filter(|id| kept(id))
            .cloned()
            .collect();
        self.trainings.retain(|id, _| kept.contains(id));
        self
    }

    /// Adds what `other` knows and this does not; what is already here stays as it is.
    pub fn add(&mut self, other: Self) {
        for (id, training) in other.trainings {
            self.trainings.entry(id).or_insert(training);
        }
        for (id, evaluation) in other.evaluations {
            let known = self.evaluations.entry(id).or_insert(EvaluationRecord {
                origin: evaluation.origin,
                sets: BTreeMap::new(),
            });
            for (name, set) in evaluation.sets {
                known.sets.entry(name).or_insert(set);
            }
        }
    }

    /// A training's record.
    pub fn training(&self, training: &TrainingJob) -> Option<&TrainingRecord> {
        self.trainings.get(&training.id)
    }

    /// A scored set of an evaluation.
    pub fn set(&self, evaluation: &EvaluationJob, name: &str) -> Option<&ScoredSet> {
        self.evaluations.get(&evaluation.id)?.sets.get(name)
    }

    /// Whether a set of the evaluation has yet to be scored.
    pub fn is_open(&self, evaluation: &EvaluationJob) -> bool {
        let mut sets = evaluation.sets().into_iter();
        sets.any(|set| self.set(evaluation, set).is_none())
    }

    /// Makes records fit to be published: puts the second of a pair of `renamed` in the place of
    /// the first where a recorded path begins with it, and drops `--root` from commands.
    pub fn portable(mut self, renamed: &[(String, String)]) -> Self {
        let short = |text: &mut String| {
            for (prefix, short) in renamed {
                if let Some(rest) = text.strip_prefix(prefix.as_str()) {
                    *text = format!("{short}{rest}");
                    return;
                }
            }
        };
        let trainings = self.trainings.values_mut().map(|t| &mut t.origin);
        let evaluations = self.evaluations.values_mut().map(|e| &mut e.origin);
        for origin in trainings.chain(evaluations) {
            let Provenance {
                model,
                adapter,
                split,
                ..
            } = &mut origin.provenance;
            for file in model.iter_mut().chain(adapter).chain(&mut split.files) {
                let mut path = file.path.to_string_lossy().into_owned();
                short(&mut path);
                file.path = path.into();
                short(&mut file.origin);
            }
            let command = &mut origin.environment.command;
            *command = portable_command(command, &short);
        }
        let evaluations = self.evaluations.values_mut();
        for set in evaluations.flat_map(|evaluation| evaluation.sets.values_mut()) {
            set.sources.iter_mut().for_each(short);
        }
        self
    }
}

/// A command of the installed program, without `--root` and with short paths.
fn portable_command(command: &str, short: &impl Fn(&mut String)) -> String {
    let mut words = shell_words(command);
    if let (true, Some(end)) = (
        command.starts_with("cargo run "),
        words.iter().position(|word| word == "--"),
    ) {
        words.splice(..=end, ["uq4ct".to_owned()]);
    }
    if let Some(place) = words.iter().position(|word| word == "--root") {
        words.drain(place..(place + 2).min(words.len()));
    }
    words.retain(|word| !word.trim_start_matches('\'').starts_with("--root="));
    words.iter_mut().for_each(short);
    words.join(" ")
}

/// The words of a command as a shell divides it, quotation marks kept.
fn shell_words(command: &str) -> Vec<String> {
    let (mut quoted, mut escaped) = (false, false);
    let ends = |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if !quoted => escaped = true,
            '\'' => quoted = !quoted,
            _ => return c == ' ' && !quoted,
        }
        false
    };
    command.split(ends).map(str::to_owned).collect()
}

impl Origin {
    fn read(run: &RunDirectory) -> Result<Self, TrainError> {
        Ok(Self {
            settings: run.read_text("config.toml")?,
            provenance: run.provenance()?,
            environment: run.environment()?,
        })
    }

    /// Writes what [`Self::read`] reads.
    fn write(&self, run: &RunDirectory) -> Result<(), TrainError> {
        run.keep_text("config.toml", &self.settings)?;
        run.write_environment(&self.environment)?;
        run.write_provenance(&self.provenance)
    }
}

impl TrainingRecord {
    /// None where no training has begun.
    fn read(run: &RunDirectory) -> Result<Option<Self>, TrainError> {
        if !run.root().join("data.json").is_file() {
            return Ok(None);
        }
        let curve = run.metrics()?.into_iter().map(|line| CurvePoint {
            split: line.split,
            step: line.step,
            seconds: line.seconds,
            values: line
                .values
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.as_f64()?)))
                .collect(),
        });
        Ok(Some(Self {
            origin: Origin::read(run)?,
            curve: curve.collect(),
        }))
    }

    /// Writes what [`Self::read`] reads, unless a training has begun there.
    fn write(&self, run: &RunDirectory) -> Result<bool, TrainError> {
        if run.provenance_if_written()?.is_some() {
            return Ok(false);
        }
        let lines = self.curve.iter().map(|point| {
            let values = point.values.iter();
            let line = MetricsLine {
                split: point.split.clone(),
                step: point.step,
                seconds: point.seconds,
                values: values
                    .map(|(name, v)| (name.clone(), (*v).into()))
                    .collect(),
            };
            json!(line).to_string() + "\n"
        });
        run.keep_text(METRICS, &lines.collect::<String>())?;
        self.origin.write(run)?;
        Ok(true)
    }
}

impl EvaluationRecord {
    /// None where no set has been scored.
    fn read(run: &RunDirectory, wanted: &[&str]) -> Result<Option<Self>, TrainError> {
        let mut sets = BTreeMap::new();
        for name in wanted {
            if let Some(set) = ScoredSet::read(run, name)? {
                sets.insert((*name).to_owned(), set);
            }
        }
        if sets.is_empty() {
            return Ok(None);
        }
        let origin = Origin::read(run)?;
        Ok(Some(Self { origin, sets }))
    }

    /// Writes what [`Self::read`] reads, but for sets that are there.
    fn write(&self, run: &RunDirectory) -> Result<bool, TrainError> {
        if run.provenance_if_written()?.is_none() {
            self.origin.write(run)?;
        }
        let mut written = false;
        for (name, set) in &self.sets {
            if ScoredSet::read(run, name)?.is_none() {
                set.write(run, name)?;
                written = true;
            }
        }
        Ok(written)
    }
}

impl ScoredSet {
    /// Writes what [`Self::read`] reads.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub(super) fn write(&self, run: &RunDirectory, name: &str) -> Result<(), TrainError> {
        run.write_predictions(name, &self.rows)?;
        run.keep_json(&format!("evaluation/{name}/sources.json"), &self.sources)?;
        // Last: it says that the set is done.
        run.keep_json(&format!("evaluation/{name}/cost.json"), &self.cost)
    }

    /// None where the set has not been scored: its cost is written last.
    pub(super) fn read(run: &RunDirectory, name: &str) -> Result<Option<Self>, TrainError> {
        let folder = run.evaluation(name);
        if !folder.join("cost.json").is_file() {
            return Ok(None);
        }
        let sources = match folder.join("sources.json").is_file() {
            true => run.read_json(&format!("evaluation/{name}/sources.json"))?,
            false => Vec::new(),
        };
        Ok(Some(Self {
            cost: run.read_json(&format!("evaluation/{name}/cost.json"))?,
            sources,
            rows: run.predictions(name)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn commands_lose_what_belongs_to_a_machine() {
        let short = |text: &mut String| {
            if let Some(rest) = text.strip_prefix("/somewhere/data") {
                *text = format!("data{rest}");
            }
        };
        let command = "cargo run --release --bin uq4ct -- reproduce fig3 --root /tmp/r --data-dir /somewhere/data/x";
        assert_eq!(
            portable_command(command, &short),
            "uq4ct reproduce fig3 --data-dir data/x"
        );
        assert_eq!(portable_command("uq4ct train", &short), "uq4ct train");
        for root in [
            "--root /tmp/r",
            "--root=/tmp/r",
            "--root '/tmp/my r/x y'",
            "'--root=/tmp/my r'",
            r"--root '/tmp/it'\''s my/r'",
        ] {
            let command = format!("uq4ct reproduce fig3 {root} --plain");
            let kept = portable_command(&command, &short);
            assert_eq!(kept, "uq4ct reproduce fig3 --plain", "{root}");
        }
        let last = "uq4ct reproduce fig3 --root";
        assert_eq!(portable_command(last, &short), "uq4ct reproduce fig3");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::at(root.path());
        let folder = run.evaluation("boolq");
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(ScoredSet::read(&run, "boolq").unwrap(), None);
        let cost = r#"{"questions":0,"forward_passes":1,"seconds_per_question":0.5}"#;
        fs::write(folder.join("cost.json"), cost).unwrap();
        fs::write(folder.join("predictions.jsonl"), "").unwrap();
        let set = ScoredSet::read(&run, "boolq").unwrap().unwrap();
        assert!(set.sources.is_empty());
        fs::write(folder.join("sources.json"), "[\"a\", ").unwrap();
        let error = ScoredSet::read(&run, "boolq").unwrap_err().to_string();
        assert!(error.contains("sources.json"), "{error}");
    }
}
