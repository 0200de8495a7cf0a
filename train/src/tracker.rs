//! Where a training's numbers are kept: `metrics.jsonl`, the same as a table in `metrics.csv`, and
//! an event file for TensorBoard, which the run's settings and final figures go to as well.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use events::Events;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::TrainError;

mod events;

/// The table's columns: a line a value, because training and held-out lines carry different ones.
const COLUMNS: [&str; 5] = ["split", "step", "seconds", "metric", "value"];

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsLine {
    /// `train` (one optimizer step) or `held_out` (one chunk).
    pub split: String,
    /// Optimizer step.
    pub step: usize,
    /// Seconds of training so far, over all sessions.
    pub seconds: f64,
    /// Values by name.
    pub values: serde_json::Map<String, serde_json::Value>,
}

/// The files, open to append.
#[derive(Debug)]
pub struct MetricsLog {
    jsonl: File,
    csv: csv::Writer<File>,
    events: Events,
}

impl MetricsLog {
    /// Opens the files of a run; table and events are made anew from the `lines` that `jsonl` holds
    /// already.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn open(root: &Path, jsonl: &Path, lines: &[MetricsLine]) -> Result<Self, TrainError> {
        let table = root.join("metrics.csv");
        let csv = File::create(&table).map_err(|e| TrainError::file(&table, e))?;
        let seconds = lines.last().map_or(0.0, |line| line.seconds);
        let mut log = Self {
            jsonl: OpenOptions::new()
                .append(true)
                .open(jsonl)
                .map_err(|e| TrainError::file(jsonl, e))?,
            csv: csv::Writer::from_writer(csv),
            events: Events::create(root, seconds).map_err(|e| TrainError::file(root, e))?,
        };
        let fail = |e: io::Error| TrainError::file(&table, e);
        log.csv.write_record(COLUMNS).map_err(|e| fail(e.into()))?;
        for line in lines {
            log.beside(line).map_err(fail)?;
        }
        log.csv.flush().map_err(fail)?;
        Ok(log)
    }

    /// Appends a line to all of them.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, line: &MetricsLine) -> io::Result<()> {
        let text = serde_json::to_string(line)?;
        writeln!(self.jsonl, "{text}")?;
        self.beside(line)?;
        self.csv.flush()
    }

    fn beside(&mut self, line: &MetricsLine) -> io::Result<()> {
        let values = line.values.iter();
        let numbers: Vec<(&str, f64)> = values
            .filter_map(|(name, v)| Some((&**name, v.as_f64()?)))
            .collect();
        for (name, value) in &numbers {
            let record = [
                line.split.clone(),
                line.step.to_string(),
                line.seconds.to_string(),
                (*name).to_owned(),
                value.to_string(),
            ];
            self.csv.write_record(&record)?;
        }
        let numbers = numbers.into_iter();
        let numbers = numbers.map(|(name, value)| (format!("{}/{name}", line.split), value));
        self.events.scalars(line.step, Some(line.seconds), numbers)
    }
}

/// Removes the files that are made beside `metrics.jsonl`.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove(root: &Path) -> io::Result<()> {
    if !root.is_dir() {
        return Ok(());
    }
    events::remove(root)?;
    match fs::remove_file(root.join("metrics.csv")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes the settings of a run and its final figures where TensorBoard looks for hyperparameters
/// and metrics. Figures of before are left out of sight: TensorBoard takes the last.
///
/// # Errors
/// A file that cannot be written.
pub fn finish(
    root: &Path,
    settings: &impl Serialize,
    step: usize,
    figures: &[(&str, f64)],
) -> Result<(), TrainError> {
    let written = Events::go_on(root).and_then(|mut events| {
        events.settings(&flat(&serde_json::to_value(settings)?))?;
        events.scalars(step, None, figures.iter().map(|(n, v)| ((*n).into(), *v)))?;
        events.end()
    });
    written.map_err(|e| TrainError::file(root, e))
}

/// Settings by their full names, such as `train.learning_rate`. A list is one setting.
fn flat(settings: &Value) -> Vec<(String, Value)> {
    let Value::Object(map) = settings else {
        return Vec::new();
    };
    let parts = map.iter().flat_map(|(name, value)| match value {
        Value::Object(_) => {
            let inner = flat(value).into_iter();
            inner
                .map(|(below, v)| (format!("{name}.{below}"), v))
                .collect()
        }
        other => vec![(name.clone(), other.clone())],
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(step: usize, value: f64) -> MetricsLine {
        let values = json!({"loss": value, "flu": null});
        MetricsLine {
            split: "train".into(),
            step,
            seconds: step as f64,
            values: values.as_object().cloned().unwrap_or_default(),
        }
    }

    use super::events::tests::read;
    use super::events::{EVENTS, Event};

    /// The messages of the only file.
    fn events(root: &Path) -> Vec<Event> {
        let mut files = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
        let path = files
            .find(|p| p.to_string_lossy().contains(EVENTS))
            .unwrap();
        read(&path)
    }

    #[test]
    fn three_files_say_the_same_and_begin_anew_from_the_first() {
        let root = tempfile::tempdir().unwrap();
        let jsonl = root.path().join("metrics.jsonl");
        fs::write(&jsonl, "").unwrap();
        let mut log = MetricsLog::open(root.path(), &jsonl, &[line(1, 0.5)]).unwrap();
        log.write(&line(2, 0.25)).unwrap();
        let table = fs::read_to_string(root.path().join("metrics.csv")).unwrap();
        assert_eq!(
            table,
            "split,step,seconds,metric,value\ntrain,1,1,loss,0.5\ntrain,2,2,loss,0.25\n"
        );
        assert_eq!(fs::read_to_string(&jsonl).unwrap().lines().count(), 1);
        let found = events(root.path());
        assert_eq!(found[0].file_version.as_deref(), Some("brain.Event:2"));
        let scalars: Vec<_> = found[1..]
            .iter()
            .map(|e| {
                (
                    e.step,
                    e.summary.as_ref().unwrap().value[0].simple_value.unwrap(),
                )
            })
            .collect();
        assert_eq!(scalars, [(1, 0.5), (2, 0.25)]);
        assert!((found[2].wall_time - found[1].wall_time - 1.0).abs() < 1e-6);
        drop(log);
        MetricsLog::open(root.path(), &jsonl, &[line(1, 0.5)]).unwrap();
        assert_eq!(events(root.path()).len(), 2);
        remove(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn settings_have_full_names_and_final_figures_go_to_the_same_file() {
        let settings = json!({"seed": 42, "train": {"learning_rate": 1e-4, "gradient_clip": null},
            "data": {"custom": {"choices": ["a", "b"]}, "chat": "off"}});
        let names: Vec<String> = flat(&settings).into_iter().map(|(name, _)| name).collect();
        let expected = ["data.chat", "data.custom.choices", "seed"];
        assert!(
            expected
                .iter()
                .all(|name| names.contains(&(*name).to_owned())),
            "{names:?}"
        );
        assert!(
            names.contains(&"train.learning_rate".to_owned()),
            "{names:?}"
        );
        let root = tempfile::tempdir().unwrap();
        let jsonl = root.path().join("metrics.jsonl");
        fs::write(&jsonl, "").unwrap();
        drop(MetricsLog::open(root.path(), &jsonl, &[line(1, 0.0)]).unwrap());
        finish(root.path(), &settings, 9, &[("test/accuracy", 0.5)]).unwrap();
        let found = events(root.path());
        let tags: Vec<String> = found
            .iter()
            .filter_map(|event| event.summary.as_ref())
            .flat_map(|summary| summary.value.iter().map(|value| value.tag.clone()))
            .collect();
        let expected = [
            "train/loss",
            "_hparams_/session_start_info",
            "test/accuracy",
            "_hparams_/session_end_info",
        ];
        assert_eq!(tags, expected);
        // A zero is written like any other number.
        let zero = &found[1].summary.as_ref().unwrap().value[0];
        assert_eq!(zero.simple_value, Some(0.0));
        // A run without a training of its own gets a file.
        let other = tempfile::tempdir().unwrap();
        finish(other.path(), &settings, 0, &[("test/accuracy", 0.5)]).unwrap();
        assert_eq!(events(other.path()).len(), 4);
    }
}
