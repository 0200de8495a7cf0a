//! Records to the bytes of a file.

use std::collections::BTreeSet;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, Type as Physical, ZstdLevel};
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;

use super::super::records::{CurvePoint, Origin, Records, ScoredSet};
use super::{json, narrow, rounding};
use crate::prediction::ScoredRow;

/// A row of the file.
pub(super) struct Row<'a> {
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

pub(super) fn rows(records: &Records) -> Result<Vec<Row<'_>>, String> {
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

pub(super) fn encode(rows: &[Row]) -> Result<Vec<u8>, ParquetError> {
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
