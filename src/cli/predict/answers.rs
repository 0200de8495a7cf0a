//! The file of answers that `predict` writes: JSON lines or a table, gone on with where it ends.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use csv::{ReaderBuilder, StringRecord, WriterBuilder};
use serde::Serialize;
use serde_json::Value;
use train::answering::Answer;

/// What answers are written as: the output's name says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A JSON object a line.
    Lines,
    /// A table with a header, its cells separated by this character.
    Table(u8),
}

/// Columns of a table of answers. Lists are cells of JSON, as `--input` reads them.
const COLUMNS: [&str; 20] = [
    "id",
    "answer",
    "label",
    "text",
    "probability",
    "confidence",
    "interval_low",
    "interval_high",
    "calibrated_on",
    "calibration",
    "below_chance",
    "flu",
    "probabilities",
    "set",
    "shortened",
    "decision",
    "correct",
    "error",
    "line",
    // Last, and never empty beside an answer: a record that was cut lacks it.
    "origin",
];

/// What became of a question.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Line<'a> {
    /// It was answered.
    Answered {
        #[serde(flatten)]
        answer: &'a Answer,
        /// What it is an answer of, for who goes on with the file.
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
    },
    /// It cannot be.
    Failed {
        /// The reason.
        error: String,
        /// The line of the input.
        line: usize,
    },
}

/// What an output holds already of one question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Where it stands, for messages.
    pub(super) place: String,
    pub(super) what: KnownLine,
}

/// What became of the question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KnownLine {
    Answered {
        id: String,
        /// Absent in files of earlier versions.
        origin: Option<String>,
        /// Whether a promise decided on it.
        decided: bool,
    },
    Failed {
        /// The line of the input.
        line: usize,
    },
}

impl Format {
    /// The format that an output's name says.
    pub(super) fn of(output: &Path) -> Result<Self> {
        let ending = output.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("csv") => Ok(Self::Table(b',')),
            Some("tsv") => Ok(Self::Table(b'\t')),
            Some("parquet") => bail!(
                "--output {}: answers are written as .jsonl, .csv or .tsv",
                output.display()
            ),
            _ => Ok(Self::Lines),
        }
    }

    /// What stands before the first answer.
    fn head(self) -> Result<Vec<u8>> {
        match self {
            Self::Lines => Ok(Vec::new()),
            Self::Table(_) => self.record(&COLUMNS.map(String::from)),
        }
    }

    /// An answer, or the reason for none, as it is written.
    pub(super) fn text(self, line: &Line) -> Result<Vec<u8>> {
        match self {
            Self::Lines => {
                let mut text = serde_json::to_vec(line)?;
                text.push(b'\n');
                Ok(text)
            }
            Self::Table(_) => self.record(&cells(line)?),
        }
    }

    fn record(self, cells: &[String]) -> Result<Vec<u8>> {
        let Self::Table(delimiter) = self else {
            return Ok(Vec::new());
        };
        let mut writer = WriterBuilder::new()
            .delimiter(delimiter)
            .from_writer(Vec::new());
        writer.write_record(cells)?;
        Ok(writer.into_inner()?)
    }

    /// What `bytes` hold already, and how many of them are whole: a process may have died while it
    /// wrote.
    fn known(self, name: &str, bytes: &[u8]) -> Result<(Vec<Known>, usize)> {
        match self {
            Self::Lines => lines(name, bytes),
            Self::Table(_) => self.records(name, bytes),
        }
    }

    fn records(self, name: &str, bytes: &[u8]) -> Result<(Vec<Known>, usize)> {
        let Self::Table(delimiter) = self else {
            return Ok((Vec::new(), 0));
        };
        let other = || format!("{name} holds no answers: name another --output");
        let head = self.head()?;
        if !bytes.starts_with(&head) {
            if head.starts_with(bytes) {
                return Ok((Vec::new(), 0));
            }
            bail!(other());
        }
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .from_reader(bytes);
        let (mut known, mut whole) = (Vec::new(), head.len());
        let mut record = StringRecord::new();
        while reader.read_record(&mut record).with_context(other)? {
            let end = usize::try_from(reader.position().byte())?;
            // Cut within a cell that goes over lines, a record ends with a line too.
            let ends = bytes[..end].ends_with(b"\n");
            if !ends || record.len() < COLUMNS.len() {
                if end < bytes.len() {
                    bail!(other());
                }
                break;
            }
            whole = end;
            let line = record.position().map_or(0, csv::Position::line);
            let cell = |column: &str| {
                let place = COLUMNS.iter().position(|known| *known == column);
                place.and_then(|place| record.get(place)).unwrap_or("")
            };
            let filled = |column: &str| Some(cell(column)).filter(|text| !text.is_empty());
            let what = match filled("error") {
                Some(_) => KnownLine::Failed {
                    line: cell("line").parse().unwrap_or(0),
                },
                None => KnownLine::Answered {
                    id: cell("id").into(),
                    origin: filled("origin").map(str::to_owned),
                    decided: filled("decision").is_some(),
                },
            };
            let place = format!("{name}, line {line}");
            known.push(Known { place, what });
        }
        Ok((known, whole))
    }
}

/// The cells of a table's row.
fn cells(line: &Line) -> Result<Vec<String>> {
    let shown = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut fields = serde_json::to_value(line)?;
    for (place, name) in ["interval_low", "interval_high"].into_iter().enumerate() {
        fields[name] = fields["interval"].get(place).cloned().unwrap_or_default();
    }
    Ok(COLUMNS.iter().map(|name| shown(&fields[*name])).collect())
}

/// Whether a line is one of this program: an answer, or what was wrong with a line of the input.
fn is_answer(line: &Value) -> bool {
    line.get("probabilities").is_some() || (line["error"].is_string() && line["line"].is_u64())
}

fn lines(name: &str, bytes: &[u8]) -> Result<(Vec<Known>, usize)> {
    // A line without its end was being written when the program died.
    let whole = bytes
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |end| end + 1);
    let (lines, tail) = bytes.split_at(whole);
    let begins = |start: &[u8]| tail.starts_with(&start[..start.len().min(tail.len())]);
    if !begins(br#"{"id":"#) && !begins(br#"{"error":"#) {
        bail!("{name} holds no answers: name another --output");
    }
    // A whole value is no line that was cut, but for its end.
    if let Ok(value) = serde_json::from_slice::<Value>(tail)
        && !is_answer(&value)
    {
        bail!("{name}: its last line is no answer: name another --output");
    }
    let mut known = Vec::new();
    for (number, line) in lines.split_inclusive(|b| *b == b'\n').enumerate() {
        let place = format!("{name}, line {}", number + 1);
        let line: Value = serde_json::from_slice(line)
            .with_context(|| format!("{place}: is no answer: name another --output"))?;
        let what = match (&line["error"], line["line"].as_u64()) {
            (Value::String(_), Some(line)) => KnownLine::Failed {
                line: usize::try_from(line)?,
            },
            _ if !is_answer(&line) => {
                bail!("{place}: is no answer: name another --output");
            }
            _ => KnownLine::Answered {
                id: match &line["id"] {
                    Value::String(id) => id.clone(),
                    other => other.to_string(),
                },
                origin: line["origin"].as_str().map(str::to_owned),
                decided: line.get("decision").is_some(),
            },
        };
        known.push(Known { place, what });
    }
    Ok((known, whole))
}

/// What an output holds already, and how many of its bytes are whole.
pub(super) fn known(path: &Path, format: Format) -> Result<(Vec<Known>, usize)> {
    let name = path.display();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e).with_context(|| format!("{name} cannot be read")),
    };
    format.known(&name.to_string(), &bytes)
}

/// Opens an output to append after its `whole` bytes, with a table's head where it has none.
pub(super) fn append(path: &Path, format: Format, whole: usize) -> Result<File> {
    let name = path.display();
    let head = match whole {
        0 => format.head()?,
        _ => Vec::new(),
    };
    let open = || {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(whole as u64)?;
        file.write_all(&head)?;
        Ok::<_, std::io::Error>(file)
    };
    open().with_context(|| format!("{name} cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &str, line: usize) -> Line<'static> {
        Line::Failed {
            error: error.into(),
            line,
        }
    }

    #[test]
    fn what_is_whole_is_known_wherever_the_file_was_cut() {
        for format in [Format::Lines, Format::Table(b','), Format::Table(b'\t')] {
            let mut whole = format.head().unwrap();
            let head = whole.len();
            let mut ends = Vec::new();
            for line in [failed("says \"no\",\nthen\tnothing", 1), failed("b", 2)] {
                whole.extend(format.text(&line).unwrap());
                ends.push(whole.len());
            }
            for cut in 0..=whole.len() {
                let (known, kept) = format.known("out", &whole[..cut]).unwrap();
                let expected = ends.iter().filter(|end| **end <= cut).count();
                assert_eq!(known.len(), expected, "{format:?}, {cut}");
                let bytes = ends[..expected].last().copied();
                let empty = if cut < head { 0 } else { head };
                assert_eq!(kept, bytes.unwrap_or(empty), "{format:?}, {cut}");
                let numbers: Vec<_> = known.into_iter().map(|known| known.what).collect();
                let all = [1, 2].map(|line| KnownLine::Failed { line });
                assert_eq!(numbers, all[..expected]);
            }
            for other in ["a,b\n1,2\n", "one line of mine"] {
                let error = format.known("out", other.as_bytes()).unwrap_err();
                assert!(
                    error.to_string().contains("name another --output"),
                    "{error}"
                );
            }
        }
    }
}
