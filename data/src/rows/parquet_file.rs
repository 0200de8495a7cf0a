//! Rows of a parquet file, a few at a time.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::Value;

use super::pages::check_sizes;
use super::{Pass, Row, Wanted, has, repeated};
use crate::error::DataError;

/// Rows that tell which fields are wanted.
const FIRST: usize = 100;

/// Rows that are held at once.
const BATCH: usize = 256;

/// Text for each byte of a parquet file, at most: equal cells are stored once.
const TEXT: u64 = 100;

/// A parquet file whose rows are read anew in every pass.
pub struct ParquetFile {
    path: PathBuf,
    /// Bytes of the file.
    length: u64,
    /// The columns that are read; absent for all of them.
    projection: Option<Type>,
    /// The values that some fields must have.
    only: Vec<(&'static str, String)>,
}

impl ParquetFile {
    pub(super) fn open(
        path: &Path,
        only: &[(&'static str, String)],
        wanted: &Wanted,
    ) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|e| DataError::io(path, e))?;
        let length = file.metadata().map_err(|e| DataError::io(path, e))?.len();
        let mut own = Self {
            path: path.into(),
            length,
            projection: None,
            only: only.to_vec(),
        };
        let kept: Vec<&str> = only.iter().map(|(field, _)| *field).collect();
        own.projection = own.caught(|| projection(file, &kept, wanted))?;
        Ok(own)
    }

    /// What a reader finds in the file. The parquet crate panics on some damaged pages; a damaged
    /// file is an error like any other.
    fn caught<T>(&self, read: impl FnOnce() -> Result<T, String>) -> Result<T, DataError> {
        let _at_hand = fault::reading(&self.path);
        fault::caught(read)
            .unwrap_or_else(|_| Err("is damaged: fetch it again".into()))
            .map_err(|reason| DataError::File {
                path: self.path.clone(),
                reason,
            })
    }

    /// Every row once.
    pub(super) fn pass<'a>(&self) -> Result<Pass<'a>, DataError> {
        let rows = self.caught(|| {
            let file = File::open(&self.path).map_err(|e| e.to_string())?;
            let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
            let rows = RowIter::from_file_into(Box::new(reader));
            rows.project(self.projection.clone())
                .map_err(|e| e.to_string())
        })?;
        let rows = Batches {
            file: Self {
                path: self.path.clone(),
                projection: None,
                only: self.only.clone(),
                ..*self
            },
            rows,
            batch: Vec::new().into_iter(),
            number: 0,
            text: 0,
            ended: false,
        };
        Ok(Box::new(rows.map(|row| row.map(Cow::Owned))))
    }
}

/// The columns to read of a file that holds what it says.
fn projection(file: File, kept: &[&str], wanted: &Wanted) -> Result<Option<Type>, String> {
    let same = file.try_clone().map_err(|e| e.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
    check_sizes(&same, reader.metadata())?;
    let schema = reader.metadata().file_metadata().schema();
    if let Some(reason) = repeated(schema.get_fields().iter().map(|field| field.name())) {
        return Err(reason);
    }
    let first = reader.get_row_iter(None).map_err(|e| e.to_string())?;
    let first = first.take(FIRST).enumerate();
    // A damaged row is named where all are read.
    let first: Vec<Row> = first
        .map_while(|(number, row)| Some((number + 1, object(&row.ok()?).ok()?)))
        .collect();
    // What nobody asks for, such as pictures or long explanations, is not even decompressed.
    let projection = wanted(&first).map(|wanted| {
        let is_read = |name: &str| kept.contains(&name) || wanted.iter().any(|w| w == name);
        let fields = schema.get_fields().iter();
        let fields = fields.filter(|field| is_read(field.name())).cloned();
        Type::group_type_builder(schema.name())
            .with_fields(fields.collect())
            .build()
    });
    projection.transpose().map_err(|e| e.to_string())
}

/// A pass through a file.
struct Batches {
    file: ParquetFile,
    rows: RowIter<'static>,
    batch: std::vec::IntoIter<Row>,
    /// Rows read so far.
    number: usize,
    /// Bytes of their text.
    text: u64,
    ended: bool,
}

impl Batches {
    fn fill(&mut self) -> Result<(), DataError> {
        let Self {
            file,
            rows,
            number,
            text,
            ..
        } = self;
        let mut read = || -> Result<Vec<Row>, String> {
            let mut batch = Vec::with_capacity(BATCH);
            for row in rows.take(BATCH) {
                *number += 1;
                let row = row.map_err(|e| format!("row {number}: {e}"))?;
                let row = object(&row).map_err(|e| format!("row {number}: {e}"))?;
                *text += text_bytes(&row);
                if *text > TEXT * file.length + (32 << 20) {
                    return Err(format!(
                        "holds more than {text} bytes of text, in {} bytes: split it, or write it as jsonl",
                        file.length
                    ));
                }
                batch.push((*number, row));
            }
            Ok(batch)
        };
        let mut batch = file.caught(&mut read)?;
        self.ended = batch.len() < BATCH;
        batch.retain(|(_, row)| has(row, &file.only));
        self.batch = batch.into_iter();
        Ok(())
    }
}

impl Iterator for Batches {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.batch.next() {
                return Some(Ok(row));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.fill() {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }
}

/// Bytes of the text in a value.
fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        _ => 0,
    }
}

fn object(row: &parquet::record::Row) -> Result<Value, String> {
    let fields = row.get_column_iter();
    let fields = fields.map(|(name, field)| {
        let found = value(field).map_err(|reason| format!("{name}: {reason}"))?;
        Ok((name.clone(), found))
    });
    fields.collect::<Result<_, _>>().map(Value::Object)
}

/// A cell as JSON. The crate's own conversion makes base64 of plain bytes, which many programs
/// write for text, and 0.10000000149011612 of 0.1.
fn value(field: &Field) -> Result<Value, String> {
    let float = |text: String| serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(match field {
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            // An image or the like. Whoever asks for it as text is told what it is.
            Err(_) => serde_json::json!({"bytes that are no UTF-8": bytes.len()}),
        },
        Field::Float16(number) => float(format!("{:?}", number.to_f32())),
        Field::Float(number) => float(format!("{number:?}")),
        Field::Group(row) => object(row)?,
        Field::ListInternal(list) => {
            let items = list.elements().iter().map(value);
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let mut entries = serde_json::Map::new();
            for (key, found) in map.entries() {
                let key = match value(key)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                // The last of two would win without a word.
                if entries.contains_key(&key) {
                    return Err(format!("the key {key:?} of a map stands twice: keep one"));
                }
                entries.insert(key, value(found)?);
            }
            Value::Object(entries)
        }
        Field::Decimal(_) => match field.to_json_value() {
            // A whole number comes as `10.`.
            Value::String(text) => Value::from(text.strip_suffix('.').unwrap_or(&text)),
            other => other,
        },
        other => other.to_json_value(),
    })
}
