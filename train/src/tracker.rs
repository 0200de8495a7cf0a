//! Where a training's numbers are kept: `metrics.jsonl`, the same as a table in `metrics.csv`, and
//! an event file for TensorBoard.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// How the names of TensorBoard's files begin.
const EVENTS: &str = "events.out.tfevents.";

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
        self.events.write(line, &numbers)
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
    remove_events(root)?;
    match fs::remove_file(root.join("metrics.csv")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn remove_events(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(EVENTS) {
            fs::remove_file(root.join(name))?;
        }
    }
    Ok(())
}

/// A file of TensorBoard's events: records of a length, its checksum, a message, and its checksum.
#[derive(Debug)]
struct Events {
    file: File,
    /// When the training would have begun, had it never paused.
    began: Duration,
}

/// `tensorboard.Event`, as far as scalars need it.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorboard.Summary`
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorboard.Summary.Value` with its `simple_value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

impl Events {
    /// A new file in place of those of earlier sessions; `seconds` of training lie behind.
    fn create(root: &Path, seconds: f64) -> io::Result<Self> {
        remove_events(root)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let host = gethostname::gethostname();
        let name = format!("{EVENTS}{}.{}", now.as_secs(), host.to_string_lossy());
        let mut events = Self {
            file: File::create(root.join(name))?,
            began: now.saturating_sub(Duration::from_secs_f64(seconds.max(0.0))),
        };
        events.record(&Event {
            wall_time: now.as_secs_f64(),
            file_version: Some("brain.Event:2".into()),
            ..Event::default()
        })?;
        Ok(events)
    }

    fn write(&mut self, line: &MetricsLine, numbers: &[(&str, f64)]) -> io::Result<()> {
        let scalars = numbers.iter().map(|(name, value)| Scalar {
            tag: format!("{}/{name}", line.split),
            simple_value: *value as f32,
        });
        self.record(&Event {
            wall_time: self.began.as_secs_f64() + line.seconds,
            step: line.step as i64,
            file_version: None,
            summary: Some(Summary {
                value: scalars.collect(),
            }),
        })
    }

    fn record(&mut self, event: &Event) -> io::Result<()> {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let mut bytes = Vec::with_capacity(message.len() + 16);
        bytes.extend(length);
        bytes.extend(masked_checksum(&length).to_le_bytes());
        bytes.extend(&message);
        bytes.extend(masked_checksum(&message).to_le_bytes());
        self.file.write_all(&bytes)
    }
}

/// TFRecord's: the checksum of data that may hold checksums is turned and shifted.
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
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

    /// The messages of a file, their checksums checked.
    fn events(root: &Path) -> Vec<Event> {
        let mut files = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
        let path = files
            .find(|p| p.to_string_lossy().contains(EVENTS))
            .unwrap();
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert_eq!(masked_checksum(length).to_le_bytes(), after[..4]);
            let message = &after[4..4 + size];
            assert_eq!(
                masked_checksum(message).to_le_bytes(),
                after[4 + size..8 + size]
            );
            found.push(Event::decode(message).unwrap());
            rest = &after[8 + size..];
        }
        found
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
            .map(|e| (e.step, e.summary.as_ref().unwrap().value[0].simple_value))
            .collect();
        assert_eq!(scalars, [(1, 0.5), (2, 0.25)]);
        assert!((found[2].wall_time - found[1].wall_time - 1.0).abs() < 1e-6);
        drop(log);
        MetricsLog::open(root.path(), &jsonl, &[line(1, 0.5)]).unwrap();
        assert_eq!(events(root.path()).len(), 2);
        remove(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
