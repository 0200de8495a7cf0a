//! A file of rows, whatever its format, as numbered JSON objects.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use crate::error::DataError;

/// A JSON object with its number in the file: the line in jsonl, the record after the header
/// elsewhere.
pub type Row = (usize, Value);

/// Whether a path ends as a file that [`read`] can read.
pub fn has_known_ending(path: &Path) -> bool {
    matches!(&*ending(path), "jsonl" | "json" | "tsv" | "csv" | "parquet")
}

fn ending(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}

/// Reads `.jsonl`, `.json` (an array), `.tsv`, `.csv` or `.parquet`. `columns` names the columns of
/// a csv file without a header.
///
/// # Errors
/// An unknown ending, a damaged file, or a row that is not valid in its format, by number.
pub fn read(path: &Path, columns: &[&str]) -> Result<Vec<Row>, DataError> {
    match ending(path).as_str() {
        "jsonl" => json_lines(path, &text(path)?),
        "json" => json_array(path, &text(path)?),
        "tsv" => separated(path, b'\t', &[]),
        "csv" => separated(path, b',', columns),
        "parquet" => parquet(path),
        _ => Err(DataError::File {
            path: path.into(),
            reason: "expected a file that ends in .jsonl, .json, .csv, .tsv or .parquet".into(),
        }),
    }
}

/// Parses JSON lines; `path` only names the place in errors.
///
/// Only `\n` ends a line: some questions hold other line breaks of Unicode.
///
/// # Errors
/// The first line that is not a JSON object.
pub fn json_lines(path: &Path, text: &str) -> Result<Vec<Row>, DataError> {
    let lines = text.split('\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| json_line(path, number + 1, line))
        .collect()
}

/// Parses one line of JSON lines; `path` and `number` only name the place in errors.
///
/// # Errors
/// A line that is not a JSON object.
pub fn json_line(path: &Path, number: usize, line: &str) -> Result<Row, DataError> {
    let value: Value = serde_json::from_str(line).map_err(|e| DataError::Row {
        path: path.into(),
        row: number,
        reason: e.to_string(),
    })?;
    object(path, number, value)
}

fn json_array(path: &Path, text: &str) -> Result<Vec<Row>, DataError> {
    let values: Vec<Value> = serde_json::from_str(text).map_err(|e| DataError::File {
        path: path.into(),
        reason: e.to_string(),
    })?;
    values
        .into_iter()
        .enumerate()
        .map(|(number, value)| object(path, number + 1, value))
        .collect()
}

fn object(path: &Path, row: usize, value: Value) -> Result<Row, DataError> {
    match value.is_object() {
        true => Ok((row, value)),
        false => Err(DataError::Row {
            path: path.into(),
            row,
            reason: "expected a JSON object".into(),
        }),
    }
}

fn text(path: &Path) -> Result<String, DataError> {
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        DataError::Row {
            path: path.into(),
            row: before.iter().filter(|b| **b == b'\n').count() + 1,
            reason: "not valid UTF-8: save the file as UTF-8".into(),
        }
    })
}

fn separated(path: &Path, delimiter: u8, columns: &[&str]) -> Result<Vec<Row>, DataError> {
    let fail = |row: usize, reason: String| DataError::Row {
        path: path.into(),
        row,
        reason,
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        // A tab-separated file quotes nothing: its questions begin with quotation marks.
        .quoting(delimiter != b'\t')
        .has_headers(columns.is_empty())
        .from_path(path)
        .map_err(|e| fail(0, e.to_string()))?;
    let header = match columns.is_empty() {
        true => reader
            .headers()
            .map_err(|e| fail(0, e.to_string()))?
            .clone(),
        false => csv::StringRecord::from(columns),
    };
    let mut rows = Vec::new();
    for (number, record) in reader.records().enumerate() {
        let record = record.map_err(|e| fail(number + 1, e.to_string()))?;
        if record.len() != header.len() {
            return Err(fail(
                number + 1,
                format!("expected {} fields, got {}", header.len(), record.len()),
            ));
        }
        let fields: Map<String, Value> = header
            .iter()
            .zip(record.iter())
            .map(|(name, field)| (name.to_owned(), Value::from(field)))
            .collect();
        rows.push((number + 1, Value::Object(fields)));
    }
    Ok(rows)
}

fn parquet(path: &Path) -> Result<Vec<Row>, DataError> {
    let fail = |reason: String| DataError::File {
        path: path.into(),
        reason,
    };
    let file = File::open(path).map_err(|e| DataError::io(path, e))?;
    // The parquet crate panics on some damaged pages; a damaged file is an error like any other.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| parquet_rows(file)))
        .unwrap_or_else(|_| Err("is damaged: fetch it again".into()))
        .map_err(fail)
}

fn parquet_rows(file: File) -> Result<Vec<Row>, String> {
    let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
    let rows = reader.get_row_iter(None).map_err(|e| e.to_string())?;
    rows.enumerate()
        .map(|(number, row)| {
            let row = row.map_err(|e| format!("row {}: {e}", number + 1))?;
            Ok((number + 1, row.to_json_value()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named() {
        let error = json_lines(Path::new("x.jsonl"), "{\"a\":1}\n\n{\"a\":").unwrap_err();
        assert!(error.to_string().starts_with("x.jsonl, row 3:"), "{error}");
        let error = json_lines(Path::new("x.jsonl"), "[1]").unwrap_err();
        assert!(error.to_string().contains("expected a JSON object"));
    }

    #[test]
    fn other_line_breaks_of_unicode_do_not_end_a_row() {
        let rows = json_lines(Path::new("x"), "{\"a\":\"b\u{85}c\u{2028}d\"}\r\n").unwrap();
        assert_eq!(rows.len(), 1);
    }

    #[test]
    fn bad_utf8_names_its_line() {
        let file = tempfile::Builder::new()
            .suffix(".jsonl")
            .tempfile()
            .unwrap();
        std::fs::write(file.path(), b"{\"a\":1}\n{\"a\":\"\xff\"}\n").unwrap();
        let error = read(file.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("row 2: not valid UTF-8"), "{error}");
    }

    #[test]
    fn quotation_marks_are_plain_text_in_tsv() {
        let file = tempfile::Builder::new().suffix(".tsv").tempfile().unwrap();
        std::fs::write(file.path(), "a\tb\n\"x\ty\n").unwrap();
        let rows = read(file.path(), &[]).unwrap();
        assert_eq!(rows[0].1["a"], "\"x");
    }

    proptest::proptest! {
        #[test]
        fn readers_never_panic(bytes: Vec<u8>, ending in "(jsonl|json|tsv|csv|parquet)") {
            let file = tempfile::Builder::new().suffix(&format!(".{ending}")).tempfile().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let _ = read(file.path(), &[]);
        }
    }
}
