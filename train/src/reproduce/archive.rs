//! [`Records`] as one compressed columnar file (Parquet with zstd), small enough to lie beside a
//! table.
//!
//! A row is one answered question or one line of a training's metrics:
//!
//! | columns | content |
//! |---|---|
//! | `run` | identity of the training or the evaluation |
//! | `part` | the scored set, or the split that the metrics are of |
//! | `settings`, `provenance`, `environment` | how the run was made (TOML, JSON, JSON) |
//! | `sources`, `questions` | of the scored set |
//! | `forward_passes`, `seconds_per_question` | what the answers of the set cost |
//! | `id`, `label`, `logits`, `flu`, `agreement` | of the answer |
//! | `rounding` | see below |
//! | `text`, `log_probabilities` | of an answer that the model wrote |
//! | `step`, `seconds`, `metrics` | a point of the training's curves |
//!
//! What is said of a run or of a set is the same in each of its rows.
//!
//! The probabilities of an answer's choices are the softmax of its logits, computed in f64 and
//! rounded to f32. `rounding` says by how many last places the model's own f32 softmax differs from
//! that: with it, every value that `predictions.jsonl` holds comes back, to the last digit.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, Type as Physical, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::{CurvePoint, EvaluationRecord, Origin, Records, ScoredSet, TrainingRecord};
use crate::error::TrainError;
use crate::evaluation::Cost;
use crate::prediction::{ScoredRow, Written};
use crate::run_directory;

/// Name of the file beside a recorded table.
pub const ARCHIVE: &str = "runs.parquet";

/// Writes records, whole or not at all. The same records give the same bytes.
///
/// # Errors
/// A file that cannot be written, or a scored set without questions.
pub fn write(path: &Path, records: &Records) -> Result<(), TrainError> {
    let fail = |e: String| TrainError::file(path, e);
    let rows = rows(records).map_err(fail)?;
    let bytes = encode(&rows).map_err(|e| fail(e.to_string()))?;
    run_directory::write(path, &bytes)
}

/// Reads records.
///
/// # Errors
/// A file that is absent, damaged, or of other columns.
pub fn read(path: &Path) -> Result<Records, TrainError> {
    let file = File::open(path).map_err(|e| TrainError::file(path, e))?;
    let fail = |reason: String| {
        let remedy = "restore it from version control, or record the table again";
        TrainError::file(path, format!("is damaged ({reason}): {remedy}"))
    };
    // The parquet crate panics on some damaged pages; a damaged file is an error like any other.
    let _at_hand = fault::reading(path);
    fault::caught(|| decode(file))
        .unwrap_or_else(|_| Err("its pages cannot be read".into()))
        .map_err(fail)
}

/// A row of the file.
struct Row<'a> {
    run: &'a str,
    part: &'a str,
    origin: Arc<OriginText>,
    of: Of<'a>,
}

/// What a row says.
enum Of<'a> {
    Answer(&'a ScoredSet, Arc<str>, &'a ScoredRow),
    Step(&'a CurvePoint),
}

/// How a run was made, as text.
struct OriginText {
    settings: String,
    provenance: String,
    environment: String,
}

impl OriginText {
    fn of(origin: &Origin) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            settings: origin.settings.clone(),
            provenance: json(&origin.provenance)?,
            environment: json(&origin.environment)?,
        }))
    }
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}

fn rows(records: &Records) -> Result<Vec<Row<'_>>, String> {
    let mut rows = Vec::new();
    for (run, evaluation) in &records.evaluations {
        let origin = OriginText::of(&evaluation.origin)?;
        for (part, set) in &evaluation.sets {
            if set.rows.is_empty() {
                return Err(format!("{run}: the set {part} has no questions"));
            }
            let sources: Arc<str> = json(&set.sources)?.into();
            rows.extend(set.rows.iter().map(|row| Row {
                run,
                part,
                origin: origin.clone(),
                of: Of::Answer(set, sources.clone(), row),
            }));
        }
    }
    for (run, training) in &records.trainings {
        let origin = OriginText::of(&training.origin)?;
        if training.curve.is_empty() {
            return Err(format!("{run}: the training has no metrics"));
        }
        rows.extend(training.curve.iter().map(|point| Row {
            run,
            part: &point.split,
            origin: origin.clone(),
            of: Of::Step(point),
        }));
    }
    Ok(rows)
}

impl<'a> Row<'a> {
    fn set(&self) -> Option<(&'a ScoredSet, &str)> {
        match &self.of {
            Of::Answer(set, sources, _) => Some((*set, &**sources)),
            Of::Step(_) => None,
        }
    }

    fn answer(&self) -> Option<&'a ScoredRow> {
        match &self.of {
            Of::Answer(_, _, row) => Some(*row),
            Of::Step(_) => None,
        }
    }

    fn point(&self) -> Option<&'a CurvePoint> {
        match &self.of {
            Of::Answer(..) => None,
            Of::Step(point) => Some(*point),
        }
    }
}

/// The file's columns; each metric has one.
fn schema(metrics: &BTreeSet<&str>) -> String {
    let list = |name: &str, of: &str| {
        format!(
            "optional group {name} (LIST) {{ repeated group list {{ required {of} element; }} }}\n"
        )
    };
    let mut text = String::from("message runs {\n");
    for name in [
        "run",
        "part",
        "settings",
        "provenance",
        "environment",
        "sources",
    ] {
        text += &format!("optional binary {name} (STRING);\n");
    }
    text += "optional int64 questions;\noptional int64 forward_passes;\n";
    text += "optional double seconds_per_question;\n";
    text += "optional binary id (STRING);\noptional int64 label;\n";
    text += &list("logits", "float");
    text += &list("rounding", "int32");
    text += "optional float flu;\noptional double agreement;\noptional binary text (STRING);\n";
    text += &list("log_probabilities", "float");
    text += "optional int64 step;\noptional double seconds;\n";
    if !metrics.is_empty() {
        text += "required group metrics {\n";
        for name in metrics {
            text += &format!("optional double {name};\n");
        }
        text += "}\n";
    }
    text + "}"
}

fn encode(rows: &[Row]) -> Result<Vec<u8>, ParquetError> {
    let points = rows.iter().filter_map(Row::point);
    let metrics: BTreeSet<&str> = points
        .flat_map(|point| point.values.keys().map(String::as_str))
        .collect();
    let schema = Arc::new(parse_message_type(&schema(&metrics))?);
    let properties = properties(&SchemaDescriptor::new(schema.clone()))?;
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties.into())?;
    let mut group = Columns {
        rows,
        group: writer.next_row_group()?,
    };
    group.text(|row| Some(row.run))?;
    group.text(|row| Some(row.part))?;
    group.text(|row| Some(&row.origin.settings))?;
    group.text(|row| Some(&row.origin.provenance))?;
    group.text(|row| Some(&row.origin.environment))?;
    group.text(|row| Some(row.set()?.1))?;
    group.values::<Int64Type>(|row| Some(row.set()?.0.cost.questions as i64))?;
    group.values::<Int64Type>(|row| Some(row.set()?.0.cost.forward_passes as i64))?;
    group.values::<DoubleType>(|row| Some(row.set()?.0.cost.seconds_per_question))?;
    group.text(|row| Some(&row.answer()?.id))?;
    group.values::<Int64Type>(|row| Some(row.answer()?.label as i64))?;
    group.lists::<FloatType>(|row| Some(narrow(&row.answer()?.logits)))?;
    group.lists::<Int32Type>(|row| {
        let ScoredRow {
            logits,
            probabilities,
            ..
        } = row.answer()?;
        Some(rounding(&narrow(logits), &narrow(probabilities)))
    })?;
    group.values::<FloatType>(|row| Some(row.answer()?.flu? as f32))?;
    group.values::<DoubleType>(|row| row.answer()?.agreement)?;
    group.text(|row| Some(&row.answer()?.written.as_ref()?.text))?;
    group.lists::<FloatType>(|row| {
        let written = row.answer()?.written.as_ref()?;
        Some(narrow(&written.log_probabilities))
    })?;
    group.values::<Int64Type>(|row| Some(row.point()?.step as i64))?;
    group.values::<DoubleType>(|row| Some(row.point()?.seconds))?;
    for metric in metrics {
        group.values::<DoubleType>(|row| row.point()?.values.get(metric).copied())?;
    }
    group.close()?;
    writer.close()?;
    Ok(bytes)
}

/// Numbers byte by byte, everything else by dictionary; all by zstd.
fn properties(schema: &SchemaDescriptor) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(19)?))
        .set_statistics_enabled(EnabledStatistics::None);
    for column in schema.columns() {
        if matches!(column.physical_type(), Physical::FLOAT | Physical::DOUBLE) {
            properties = properties
                .set_column_dictionary_enabled(column.path().clone(), false)
                .set_column_encoding(column.path().clone(), Encoding::BYTE_STREAM_SPLIT);
        }
    }
    Ok(properties.build())
}

/// Writes the columns of some rows, one after the other.
struct Columns<'a, 'b, W: std::io::Write + Send> {
    rows: &'a [Row<'a>],
    group: SerializedRowGroupWriter<'b, W>,
}

impl<W: std::io::Write + Send> Columns<'_, '_, W> {
    fn write<T: DataType>(
        &mut self,
        values: &[T::T],
        definition: &[i16],
        repetition: Option<&[i16]>,
    ) -> Result<(), ParquetError> {
        let missing = || ParquetError::General("more columns than the schema has".into());
        let mut column = self.group.next_column()?.ok_or_else(missing)?;
        column
            .typed::<T>()
            .write_batch(values, Some(definition), repetition)?;
        column.close()
    }

    fn close(self) -> Result<(), ParquetError> {
        self.group.close().map(|_| ())
    }

    fn values<T: DataType>(
        &mut self,
        of: impl Fn(&Row) -> Option<T::T>,
    ) -> Result<(), ParquetError> {
        let found: Vec<Option<T::T>> = self.rows.iter().map(of).collect();
        let definition: Vec<i16> = found.iter().map(|v| i16::from(v.is_some())).collect();
        let values: Vec<T::T> = found.into_iter().flatten().collect();
        self.write::<T>(&values, &definition, None)
    }

    fn text(
        &mut self,
        of: impl for<'r> Fn(&'r Row<'_>) -> Option<&'r str>,
    ) -> Result<(), ParquetError> {
        self.values::<ByteArrayType>(|row| Some(ByteArray::from(of(row)?)))
    }

    fn lists<T: DataType>(
        &mut self,
        of: impl Fn(&Row) -> Option<Vec<T::T>>,
    ) -> Result<(), ParquetError> {
        let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
        for row in self.rows {
            let list = of(row);
            // Level 0: no list, 1: an empty one, 2: an element. A repetition of 1 goes on with one.
            let (level, levels) = match &list {
                None => (0, 1),
                Some(list) if list.is_empty() => (1, 1),
                Some(list) => (2, list.len()),
            };
            definition.resize(definition.len() + levels, level);
            repetition.push(0);
            repetition.resize(repetition.len() + levels - 1, 1);
            values.extend(list.into_iter().flatten());
        }
        self.write::<T>(&values, &definition, Some(&repetition))
    }
}

/// As `predictions.jsonl` holds them: the model computes in f32.
fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// As `predictions.jsonl` is read: the shortest decimal that means this f32, as an f64.
fn widen(value: f32) -> Result<f64, String> {
    json(&value).and_then(|text| serde_json::from_str(&text).map_err(|e| format!("{text}: {e}")))
}

fn widen_all(values: Vec<f32>) -> Result<Vec<f64>, String> {
    values.into_iter().map(widen).collect()
}

/// The softmax of logits in f64, rounded to f32. libm's exponential is the same on every machine.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits
        .iter()
        .map(|logit| libm::exp(f64::from(*logit) - f64::from(highest)))
        .collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| (e / sum) as f32).collect()
}

/// By how many last places probabilities differ from the softmax of logits. Exact for any f32.
fn rounding(logits: &[f32], probabilities: &[f32]) -> Vec<i32> {
    let places = |value: f32| value.to_bits() as i32;
    let pairs = softmax(logits).into_iter().zip(probabilities);
    pairs
        .map(|(expected, value)| places(*value).wrapping_sub(places(expected)))
        .collect()
}

/// The probabilities that [`rounding`] was computed from.
fn rounded(logits: &[f32], rounding: &[i32]) -> Vec<f32> {
    let pairs = softmax(logits).into_iter().zip(rounding);
    pairs
        .map(|(expected, places)| {
            f32::from_bits((expected.to_bits() as i32).wrapping_add(*places) as u32)
        })
        .collect()
}

fn decode(file: File) -> Result<Records, String> {
    let same = file.try_clone().map_err(|e| e.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
    data::rows::check_sizes(&same, reader.metadata())?;
    let mut records = Records::default();
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number).map_err(|e| e.to_string())?;
        let table = Table::read(&*group)?;
        for row in 0..table.rows {
            table
                .add(row, &mut records)
                .map_err(|e| format!("row {}: {e}", row + 1))?;
        }
    }
    Ok(records)
}

/// The columns of a row group, by name.
#[derive(Default)]
struct Table {
    rows: usize,
    text: BTreeMap<String, Vec<Option<String>>>,
    integers: BTreeMap<String, Vec<Option<i64>>>,
    doubles: BTreeMap<String, Vec<Option<f64>>>,
    floats: BTreeMap<String, Vec<Option<f32>>>,
    float_lists: BTreeMap<String, Vec<Option<Vec<f32>>>>,
    integer_lists: BTreeMap<String, Vec<Option<Vec<i32>>>>,
}

/// Before the name of a metric in the path of its column.
const METRIC: &str = "metrics.";

impl Table {
    fn read(group: &dyn RowGroupReader) -> Result<Self, String> {
        let rows = group.metadata().num_rows() as usize;
        let mut table = Self {
            rows,
            ..Self::default()
        };
        for (place, column) in group.metadata().schema_descr().columns().iter().enumerate() {
            let reader = group.get_column_reader(place).map_err(|e| e.to_string())?;
            let path = column.path().string();
            let name = path.trim_end_matches(".list.element").to_owned();
            let nested = column.max_rep_level() > 0;
            let levels = Levels::of(&name, column.max_def_level(), rows);
            match (reader, nested) {
                (ColumnReader::ByteArrayColumnReader(reader), false) => {
                    let found = levels.values(reader)?.into_iter().map(|value| {
                        let text = value.map(|v| String::from_utf8(v.data().to_vec()));
                        text.transpose().map_err(|_| format!("{name} is not UTF-8"))
                    });
                    let found = found.collect::<Result<_, _>>()?;
                    table.text.insert(name, found);
                }
                (ColumnReader::Int64ColumnReader(reader), false) => {
                    table.integers.insert(name, levels.values(reader)?);
                }
                (ColumnReader::DoubleColumnReader(reader), false) => {
                    table.doubles.insert(name, levels.values(reader)?);
                }
                (ColumnReader::FloatColumnReader(reader), false) => {
                    table.floats.insert(name, levels.values(reader)?);
                }
                (ColumnReader::FloatColumnReader(reader), true) => {
                    table.float_lists.insert(name, levels.lists(reader)?);
                }
                (ColumnReader::Int32ColumnReader(reader), true) => {
                    table.integer_lists.insert(name, levels.lists(reader)?);
                }
                _ => return Err(format!("{name} is of an unexpected type")),
            }
        }
        Ok(table)
    }

    /// Adds a row to the record of its run.
    fn add(&self, row: usize, records: &mut Records) -> Result<(), String> {
        let run = self.text("run", row)?;
        let part = self.text("part", row)?;
        if optional(&self.integers, "step", row)?.is_some() {
            let training = match records.trainings.entry(run) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(TrainingRecord {
                    origin: self.origin(row)?,
                    curve: Vec::new(),
                }),
            };
            training.curve.push(self.point(part, row)?);
            return Ok(());
        }
        let evaluation = match records.evaluations.entry(run) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(EvaluationRecord {
                origin: self.origin(row)?,
                sets: BTreeMap::new(),
            }),
        };
        let set = match evaluation.sets.entry(part) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.set(row)?),
        };
        set.rows.push(self.answer(row)?);
        Ok(())
    }

    fn text(&self, column: &str, row: usize) -> Result<String, String> {
        required(&self.text, column, row)
    }

    fn count(&self, column: &str, row: usize) -> Result<usize, String> {
        let value = required(&self.integers, column, row)?;
        usize::try_from(value).map_err(|_| format!("{column}: {value} is no count"))
    }

    fn origin(&self, row: usize) -> Result<Origin, String> {
        Ok(Origin {
            settings: required(&self.text, "settings", row)?,
            provenance: self.json("provenance", row)?,
            environment: self.json("environment", row)?,
        })
    }

    fn json<T: DeserializeOwned>(&self, column: &str, row: usize) -> Result<T, String> {
        let text = required(&self.text, column, row)?;
        serde_json::from_str(&text).map_err(|e| format!("{column}: {e}"))
    }

    fn set(&self, row: usize) -> Result<ScoredSet, String> {
        Ok(ScoredSet {
            cost: Cost {
                questions: self.count("questions", row)?,
                forward_passes: self.count("forward_passes", row)?,
                seconds_per_question: required(&self.doubles, "seconds_per_question", row)?,
            },
            sources: self.json("sources", row)?,
            rows: Vec::new(),
        })
    }

    fn answer(&self, row: usize) -> Result<ScoredRow, String> {
        let logits = required(&self.float_lists, "logits", row)?;
        let rounding = required(&self.integer_lists, "rounding", row)?;
        if logits.len() != rounding.len() {
            return Err("logits and rounding differ in length".into());
        }
        let log_probabilities = optional(&self.float_lists, "log_probabilities", row)?;
        let written = optional(&self.text, "text", row)?.map(|text| {
            let log_probabilities = widen_all(log_probabilities.unwrap_or_default())?;
            Ok::<_, String>(Written {
                text,
                log_probabilities,
            })
        });
        Ok(ScoredRow {
            id: required(&self.text, "id", row)?,
            label: self.count("label", row)?,
            probabilities: widen_all(rounded(&logits, &rounding))?,
            logits: widen_all(logits)?,
            flu: optional(&self.floats, "flu", row)?.map(widen).transpose()?,
            agreement: optional(&self.doubles, "agreement", row)?,
            written: written.transpose()?,
        })
    }

    fn point(&self, split: String, row: usize) -> Result<CurvePoint, String> {
        let metrics = self.doubles.iter().filter_map(|(name, values)| {
            Some((name.strip_prefix(METRIC)?.to_owned(), values[row]?))
        });
        Ok(CurvePoint {
            split,
            step: self.count("step", row)?,
            seconds: required(&self.doubles, "seconds", row)?,
            values: metrics.collect(),
        })
    }
}

/// A value of a column.
fn optional<T: Clone>(
    columns: &BTreeMap<String, Vec<Option<T>>>,
    name: &str,
    row: usize,
) -> Result<Option<T>, String> {
    let column = columns.get(name);
    Ok(column.ok_or_else(|| format!("has no column {name}"))?[row].clone())
}

/// A value that must be there.
fn required<T: Clone>(
    columns: &BTreeMap<String, Vec<Option<T>>>,
    name: &str,
    row: usize,
) -> Result<T, String> {
    optional(columns, name, row)?.ok_or_else(|| format!("{name} is empty"))
}

/// How a column's values lie in its pages.
struct Levels {
    name: String,
    /// The definition level of a value that is there.
    present: i16,
    rows: usize,
}

/// What the pages of a column hold: the values that are there, and the levels of all.
struct Pages<T: DataType> {
    values: std::vec::IntoIter<T::T>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl Levels {
    fn of(name: &str, present: i16, rows: usize) -> Self {
        Self {
            name: name.to_owned(),
            present,
            rows,
        }
    }

    fn read<T: DataType>(&self, mut reader: ColumnReaderImpl<T>) -> Result<Pages<T>, String> {
        let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
        let (rows, ..) = reader
            .read_records(
                self.rows,
                Some(&mut definition),
                Some(&mut repetition),
                &mut values,
            )
            .map_err(|e| format!("{}: {e}", self.name))?;
        match rows == self.rows {
            true => Ok(Pages {
                values: values.into_iter(),
                definition,
                repetition,
            }),
            false => Err(format!("{} ends at row {rows} of {}", self.name, self.rows)),
        }
    }

    fn values<T: DataType>(
        &self,
        reader: ColumnReaderImpl<T>,
    ) -> Result<Vec<Option<T::T>>, String> {
        let Pages {
            mut values,
            definition,
            ..
        } = self.read(reader)?;
        let value = |level: i16| match level == self.present {
            true => values.next(),
            false => None,
        };
        Ok(definition.into_iter().map(value).collect())
    }

    fn lists<T: DataType>(
        &self,
        reader: ColumnReaderImpl<T>,
    ) -> Result<Vec<Option<Vec<T::T>>>, String> {
        let Pages {
            mut values,
            definition,
            repetition,
        } = self.read(reader)?;
        let mut lists: Vec<Option<Vec<T::T>>> = Vec::with_capacity(self.rows);
        for (level, repeated) in definition.into_iter().zip(repetition) {
            if repeated == 0 {
                lists.push((level > 0).then(Vec::new));
            }
            if let (true, Some(Some(list))) = (level == self.present, lists.last_mut()) {
                list.extend(values.next());
            }
        }
        Ok(lists)
    }
}

#[cfg(test)]
mod tests {
    use data::split::SplitAccount;

    use super::*;
    use crate::run_directory::{Environment, Provenance};

    fn origin() -> Origin {
        Origin {
            settings: "[train]\nseed = 42\n".into(),
            provenance: Provenance {
                chat: None,
                prompt: None,
                model: Vec::new(),
                adapter: Vec::new(),
                split: SplitAccount {
                    dataset: "boolq".into(),
                    held_out_from: "train".into(),
                    test_from: "validation".into(),
                    leaks_dropped: 2,
                    other_leaks_dropped: None,
                    available: [5, 4, 3],
                    used: [3, 2, 1],
                    files: Vec::new(),
                    notes: Vec::new(),
                },
                shortened: [1, 0, 0],
                answers_cut: 0,
                left_out: Vec::new(),
                base_parameters: 1000,
                trainable_parameters: 10,
            },
            environment: Environment {
                version: "0.1.0".into(),
                commit: None,
                device: "cpu".into(),
                threads: 2,
                command: "uq4ct reproduce \"fig3\"".into(),
            },
        }
    }

    /// A row as it is read from `predictions.jsonl`: with the digits of an f32.
    fn recorded(row: ScoredRow) -> ScoredRow {
        serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap()
    }

    fn records() -> Records {
        let choices = |id: &str, probabilities: &[f64], flu| ScoredRow {
            logits: probabilities.iter().map(|p| p.ln() - 3.3).collect(),
            ..ScoredRow::from_probabilities(id, 0, probabilities, flu)
        };
        let agreed = ScoredRow {
            agreement: Some(1.0 / 3.0),
            ..choices("c", &[0.75, 0.25], None)
        };
        let written = Written {
            text: "two\nlines".into(),
            log_probabilities: vec![-0.1, -1e-7],
        };
        let rows = vec![
            choices("a", &[0.1, 0.2, 0.7], Some(0.31)),
            choices("b", &[1.0 - 1e-30, 1e-30], Some(0.1)),
            agreed,
            ScoredRow::from_written("d", true, written, None, Default::default()),
        ];
        let set = ScoredSet {
            cost: Cost {
                questions: 4,
                forward_passes: 3,
                seconds_per_question: 0.1 + 0.2,
            },
            sources: vec!["x; y".into(), "z".into()],
            rows: rows.into_iter().map(recorded).collect(),
        };
        let point = |split: &str, values: &[(&str, f64)]| CurvePoint {
            split: split.into(),
            step: 1,
            seconds: 1.0 / 7.0,
            values: values.iter().map(|(k, v)| ((*k).into(), *v)).collect(),
        };
        let training = TrainingRecord {
            origin: origin(),
            curve: vec![
                point("train", &[("loss", 0.1), ("accuracy", 1.0)]),
                point("held_out", &[("n", 66.0)]),
            ],
        };
        let evaluation = EvaluationRecord {
            origin: origin(),
            sets: BTreeMap::from([("held-out".into(), set.clone()), ("boolq".into(), set)]),
        };
        Records {
            trainings: BTreeMap::from([("t".into(), training)]),
            evaluations: BTreeMap::from([("e".into(), evaluation)]),
        }
    }

    #[test]
    fn records_come_back_to_the_last_digit_and_the_bytes_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ARCHIVE);
        write(&path, &records()).unwrap();
        assert_eq!(read(&path).unwrap(), records());
        let bytes = std::fs::read(&path).unwrap();
        write(&path, &read(&path).unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        write(&path, &Records::default()).unwrap();
        assert_eq!(read(&path).unwrap(), Records::default());
    }

    #[test]
    fn any_f32_is_a_softmax_and_a_rounding() {
        let logits = [-5.25, 3.5, f32::NEG_INFINITY];
        let probabilities = [0.0, 1.0, f32::MIN_POSITIVE];
        let places = rounding(&logits, &probabilities);
        assert_eq!(rounded(&logits, &places), probabilities);
        let nothing = [f32::NEG_INFINITY; 3];
        let places = rounding(&nothing, &probabilities);
        assert_eq!(rounded(&nothing, &places), probabilities);
    }

    #[test]
    fn damaged_files_are_errors_that_name_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ARCHIVE);
        assert!(read(&path).unwrap_err().to_string().contains(ARCHIVE));
        write(&path, &records()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 3, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("is damaged"), "{error}");
            assert!(error.contains("record the table again"), "{error}");
        }
        let none = Records {
            evaluations: BTreeMap::from([(
                "e".into(),
                EvaluationRecord {
                    origin: origin(),
                    sets: BTreeMap::from([(
                        "boolq".into(),
                        ScoredSet {
                            cost: Cost {
                                questions: 0,
                                forward_passes: 1,
                                seconds_per_question: 0.0,
                            },
                            sources: Vec::new(),
                            rows: Vec::new(),
                        },
                    )]),
                },
            )]),
            ..Records::default()
        };
        let error = write(&path, &none).unwrap_err().to_string();
        assert!(error.contains("boolq has no questions"), "{error}");
    }
}
