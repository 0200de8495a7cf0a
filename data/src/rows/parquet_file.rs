//! Rows of a parquet file, a few at a time.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::cells::{object, text_bytes};
use super::pages::{check_compression, check_sizes};
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
    /// The columns that are read.
    schema: Type,
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
        let kept: Vec<&str> = only.iter().map(|(field, _)| *field).collect();
        Ok(Self {
            path: path.into(),
            length,
            schema: caught(path, || projection(file, &kept, wanted))?,
            only: only.to_vec(),
        })
    }

    /// Every row once.
    pub(super) fn pass<'a>(&self) -> Result<Pass<'a>, DataError> {
        let rows = caught(&self.path, || {
            let file = File::open(&self.path).map_err(|e| e.to_string())?;
            let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
            let rows = RowIter::from_file_into(Box::new(reader));
            rows.project(Some(self.schema.clone()))
                .map_err(|e| e.to_string())
        })?;
        let rows = Batches {
            file: Self {
                path: self.path.clone(),
                schema: self.schema.clone(),
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

/// What a reader finds in a file. The parquet crate panics on some damaged pages; a damaged file is
/// an error like any other.
fn caught<T>(path: &Path, read: impl FnOnce() -> Result<T, String>) -> Result<T, DataError> {
    let _at_hand = fault::reading(path);
    fault::caught(read)
        .unwrap_or_else(|_| Err("is damaged: fetch it again".into()))
        .map_err(|reason| DataError::File {
            path: path.into(),
            reason,
        })
}

/// The columns to read of a file that holds what it says.
fn projection(file: File, kept: &[&str], wanted: &Wanted) -> Result<Type, String> {
    let same = file.try_clone().map_err(|e| e.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
    check_compression(reader.metadata())?;
    check_sizes(&same, reader.metadata())?;
    let schema = reader.metadata().file_metadata().schema();
    if let Some(reason) = repeated(schema.get_fields().iter().map(|field| field.name())) {
        return Err(reason);
    }
    let first = reader.get_row_iter(None).map_err(|e| e.to_string())?;
    let first = first.take(FIRST).enumerate();
    // A damaged row is named where all are read.
    let first: Vec<Row> = first
        .map_while(|(number, row)| Some((number + 1, object(&row.ok()?, schema).ok()?)))
        .collect();
    // What nobody asks for, such as pictures or long explanations, is not even decompressed.
    let Some(wanted) = wanted(&first) else {
        return Ok(schema.clone());
    };
    let is_read = |name: &str| kept.contains(&name) || wanted.iter().any(|w| w == name);
    let fields = schema.get_fields().iter();
    let fields = fields.filter(|field| is_read(field.name())).cloned();
    Type::group_type_builder(schema.name())
        .with_fields(fields.collect())
        .build()
        .map_err(|e| e.to_string())
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
                let row = object(&row, &file.schema).map_err(|e| format!("row {number}: {e}"))?;
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
        let mut batch = caught(&file.path, &mut read)?;
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
