//! A file to the records in it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use serde::de::DeserializeOwned;

use super::super::records::{
    CurvePoint, EvaluationRecord, Origin, Records, ScoredSet, TrainingRecord,
};
use super::{rounded, widen, widen_all};
use crate::evaluation::Cost;
use crate::prediction::{ScoredRow, Written};

pub(super) fn decode(file: File) -> Result<Records, String> {
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
