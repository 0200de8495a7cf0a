//! TensorBoard's event files: records of a length, its checksum, a message, and its checksum.
//!
//! The messages are parts of `tensorboard.Event`, and of the hyperparameters' plugin
//! `tensorboard.hparams.HParamsPluginData`. No message lists what hyperparameters there are:
//! TensorBoard then gathers them over all runs, whose settings may differ.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use serde_json::Value;

/// How the names of TensorBoard's files begin.
pub(super) const EVENTS: &str = "events.out.tfevents.";

/// The plugin for hyperparameters.
const HPARAMS: &str = "hparams";
/// Its status of a session that has ended well.
const SUCCESS: i32 = 1;

/// A file of TensorBoard's events.
#[derive(Debug)]
pub(super) struct Events {
    file: File,
    /// When the training would have begun, had it never paused.
    began: Duration,
}

/// `tensorboard.Event`, as far as scalars and hyperparameters need it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(double, tag = "1")]
    pub(super) wall_time: f64,
    #[prost(int64, tag = "2")]
    pub(super) step: i64,
    #[prost(string, optional, tag = "3")]
    pub(super) file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub(super) summary: Option<Summary>,
}

/// `tensorboard.Summary`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(super) value: Vec<Tagged>,
}

/// `tensorboard.Summary.Value`: a number, or data of a plugin.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tagged {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    /// One of several kinds of value: without `optional` a zero would not be written.
    #[prost(float, optional, tag = "2")]
    pub(super) simple_value: Option<f32>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

/// `tensorboard.SummaryMetadata`
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

/// `tensorboard.SummaryMetadata.PluginData`
#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// `tensorboard.hparams.HParamsPluginData`: one of its two fields.
#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(message, optional, tag = "3")]
    start: Option<Start>,
    #[prost(message, optional, tag = "4")]
    end: Option<End>,
}

/// `tensorboard.hparams.SessionStartInfo`
#[derive(Clone, PartialEq, Message)]
struct Start {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Setting>,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

/// `tensorboard.hparams.SessionEndInfo`
#[derive(Clone, PartialEq, Message)]
struct End {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

/// `google.protobuf.Value`, of the kinds that a setting has.
#[derive(Clone, PartialEq, Message)]
struct Setting {
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    kind: Option<Kind>,
}

/// The kinds of `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Switch(bool),
}

impl Setting {
    fn of(value: &Value) -> Self {
        let kind = match value {
            Value::Null => Kind::Text("unset".into()),
            Value::Bool(on) => Kind::Switch(*on),
            Value::Number(number) => Kind::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => Kind::Text(text.clone()),
            other => Kind::Text(other.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

fn now() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// The event files of a directory.
fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(EVENTS) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes the event files of a directory.
pub(super) fn remove(root: &Path) -> io::Result<()> {
    files(root)?.iter().try_for_each(fs::remove_file)
}

impl Events {
    /// A new file in place of those of earlier sessions; `seconds` of training lie behind.
    pub(super) fn create(root: &Path, seconds: f64) -> io::Result<Self> {
        remove(root)?;
        let now = now();
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

    /// The file of the last session, to append to; a new one without one.
    pub(super) fn go_on(root: &Path) -> io::Result<Self> {
        match files(root)?.into_iter().max() {
            None => Self::create(root, 0.0),
            Some(path) => Ok(Self {
                file: OpenOptions::new().append(true).open(path)?,
                began: now(),
            }),
        }
    }

    /// Numbers by their tags, at a step and after seconds of training; absent: of now.
    pub(super) fn scalars(
        &mut self,
        step: usize,
        seconds: Option<f64>,
        numbers: impl Iterator<Item = (String, f64)>,
    ) -> io::Result<()> {
        let wall_time = match seconds {
            Some(seconds) => self.began.as_secs_f64() + seconds,
            None => now().as_secs_f64(),
        };
        let value = numbers.map(|(tag, value)| Tagged {
            tag,
            simple_value: Some(value as f32),
            metadata: None,
        });
        self.record(&Event {
            wall_time,
            step: step as i64,
            file_version: None,
            summary: Some(Summary {
                value: value.collect(),
            }),
        })
    }

    /// The run's settings, as hyperparameters.
    pub(super) fn settings(&mut self, settings: &[(String, Value)]) -> io::Result<()> {
        let settings = settings.iter();
        let hparams = settings.map(|(name, value)| (name.clone(), Setting::of(value)));
        let start = Start {
            hparams: hparams.collect(),
            start_time_secs: self.began.as_secs_f64(),
        };
        self.session(
            "session_start_info",
            Session {
                start: Some(start),
                end: None,
            },
        )
    }

    /// The run has ended well.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let end = End {
            status: SUCCESS,
            end_time_secs: now().as_secs_f64(),
        };
        self.session(
            "session_end_info",
            Session {
                start: None,
                end: Some(end),
            },
        )
    }

    fn session(&mut self, what: &str, session: Session) -> io::Result<()> {
        let plugin_data = PluginData {
            plugin_name: HPARAMS.into(),
            content: session.encode_to_vec(),
        };
        let value = Tagged {
            tag: format!("_hparams_/{what}"),
            simple_value: None,
            metadata: Some(Metadata {
                plugin_data: Some(plugin_data),
            }),
        };
        self.record(&Event {
            wall_time: now().as_secs_f64(),
            step: 0,
            file_version: None,
            summary: Some(Summary { value: vec![value] }),
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
pub(super) mod tests {
    use super::*;

    /// The messages of a file, their checksums checked.
    pub(in crate::tracker) fn read(path: &Path) -> Vec<Event> {
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
    fn settings_are_read_back_as_they_were_by_their_kinds() {
        let root = tempfile::tempdir().unwrap();
        let settings = [
            ("clip", Value::Null),
            ("on", true.into()),
            ("rate", 0.25.into()),
            ("zero", 0.into()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        Events::create(root.path(), 0.0)
            .unwrap()
            .settings(&settings)
            .unwrap();
        let found = read(&files(root.path()).unwrap()[0]);
        let value = &found[1].summary.as_ref().unwrap().value[0];
        let data = value
            .metadata
            .as_ref()
            .unwrap()
            .plugin_data
            .as_ref()
            .unwrap();
        assert_eq!(data.plugin_name, "hparams");
        let start = Session::decode(&data.content[..]).unwrap().start.unwrap();
        let kinds: Vec<Option<Kind>> = start.hparams.into_values().map(|s| s.kind).collect();
        let expected = [
            Kind::Text("unset".into()),
            Kind::Switch(true),
            Kind::Number(0.25),
            Kind::Number(0.0),
        ];
        assert_eq!(kinds, expected.map(Some));
    }
}
