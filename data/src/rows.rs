//! A file of rows, whatever its format, as numbered JSON objects.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::DataError;

mod cells;
mod pages;
mod parquet_file;
mod separated;

pub use pages::check_sizes;
use parquet_file::ParquetFile;

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

/// Rows that can be gone through more than once.
pub trait Rows {
    /// Every row once, in order.
    ///
    /// # Errors
    /// A file that is not to be had any more. A row that cannot be read is an item of its own.
    fn pass(&self) -> Result<Pass<'_>, DataError>;
}

/// One way through all rows.
pub type Pass<'a> = Box<dyn Iterator<Item = Result<Cow<'a, Row>, DataError>> + 'a>;

impl Rows for Vec<Row> {
    fn pass(&self) -> Result<Pass<'_>, DataError> {
        Ok(Box::new(self.iter().map(|row| Ok(Cow::Borrowed(row)))))
    }
}

/// The rows of a file. Those of a parquet file stay there: every pass reads it again, a few rows
/// at a time. Of text the rows are held.
pub enum RowFile {
    /// All rows.
    Held(Vec<Row>),
    /// A parquet file.
    Parquet(Box<ParquetFile>),
}

impl RowFile {
    /// Opens a file that [`read`] can read. Of a parquet file only the fields are read that are
    /// wanted, of which its first rows tell. `only` names the values that some fields must have
    /// where a row has the field.
    ///
    /// # Errors
    /// As [`read`]; of a parquet file, what is wrong with a row comes with the row.
    pub(crate) fn open(
        path: &Path,
        columns: &[&str],
        only: &[(&'static str, String)],
        wanted: &Wanted,
    ) -> Result<Self, DataError> {
        let _at_hand = fault::reading(path);
        let mut rows = match ending(path).as_str() {
            "jsonl" | "json" => json(path, &text(path)?)?,
            "tsv" => separated::read(path, &text(path)?, b'\t', &[])?,
            "csv" => separated::read(path, &text(path)?, b',', columns)?,
            "parquet" => {
                let file = ParquetFile::open(path, only, wanted)?;
                return Ok(Self::Parquet(Box::new(file)));
            }
            other => {
                // As evaluation harnesses have them.
                let task = match other {
                    "yaml" | "yml" => "; a task file is TOML, and ends in .toml",
                    _ => "",
                };
                return Err(DataError::File {
                    path: path.into(),
                    reason: format!(
                        "expected a file that ends in .jsonl, .json, .csv, .tsv or .parquet{task}"
                    ),
                });
            }
        };
        rows.retain(|(_, row)| has(row, only));
        Ok(Self::Held(rows))
    }

    /// The last pass, in which every row is its taker's.
    ///
    /// # Errors
    /// As [`Rows::pass`].
    pub(crate) fn into_pass(self) -> Result<Pass<'static>, DataError> {
        match self {
            Self::Held(rows) => Ok(Box::new(rows.into_iter().map(|row| Ok(Cow::Owned(row))))),
            Self::Parquet(file) => file.pass(),
        }
    }
}

impl Rows for RowFile {
    fn pass(&self) -> Result<Pass<'_>, DataError> {
        match self {
            Self::Held(rows) => rows.pass(),
            Self::Parquet(file) => file.pass(),
        }
    }
}

/// The rows of several files as those of one: the numbers of rows go on from one to the next.
pub struct Chained(pub Vec<RowFile>);

impl Rows for Chained {
    fn pass(&self) -> Result<Pass<'_>, DataError> {
        let mut files = self.0.iter();
        let mut rows: Option<Pass> = None;
        let (mut before, mut last) = (0, 0);
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                match rows.as_mut().and_then(Iterator::next) {
                    Some(Ok(row)) if before == 0 => {
                        last = row.0;
                        return Some(Ok(row));
                    }
                    Some(Ok(row)) => {
                        let (number, row) = row.into_owned();
                        last = before + number;
                        return Some(Ok(Cow::Owned((last, row))));
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None => before = last,
                }
                match files.next()?.pass() {
                    Ok(pass) => rows = Some(pass),
                    Err(error) => return Some(Err(error)),
                }
            }
        })))
    }
}

/// Whether a row's fields have these values, where it has the fields.
fn has(row: &Value, only: &[(&'static str, String)]) -> bool {
    let mut values = only.iter();
    values.all(|(field, value)| row.get(*field).is_none_or(|found| found == value))
}

/// The fields that are wanted of a file with such first rows; none for all of them.
pub(crate) type Wanted<'a> = dyn Fn(&[Row]) -> Option<Vec<String>> + 'a;

/// Opens a file that [`read`] can read, for rows that need not all be in memory.
///
/// # Errors
/// As [`read`]; of a parquet file, what is wrong with a row comes with the row.
pub fn open(path: &Path, columns: &[&str]) -> Result<RowFile, DataError> {
    RowFile::open(path, columns, &[], &|_| None)
}

/// Reads `.jsonl`, `.json` (an array, or one object a line), `.tsv`, `.csv` or `.parquet`, all its
/// rows. `columns` names the columns of a csv file without a header.
///
/// # Errors
/// An unknown ending, a damaged file, a name that two columns share, or a row that is not valid in
/// its format, by number.
pub fn read(path: &Path, columns: &[&str]) -> Result<Vec<Row>, DataError> {
    match open(path, columns)? {
        RowFile::Held(rows) => Ok(rows),
        file => file.into_pass()?.map(|row| Ok(row?.into_owned())).collect(),
    }
}

/// An array of objects, or one object a line: the first character tells, not the file's ending.
fn json(path: &Path, text: &str) -> Result<Vec<Row>, DataError> {
    if text.trim_start().starts_with('[') {
        return json_array(path, text);
    }
    let lines = json_lines(path, text);
    let spread = || text.trim().contains('\n') && serde_json::from_str::<Object>(text).is_ok();
    match lines {
        Err(_) if spread() => Err(DataError::File {
            path: path.into(),
            reason:
                "is one object over several lines: expected a list of objects, or one object a line"
                    .into(),
        }),
        lines => lines,
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
        .filter(|(_, line)| !line.trim_start_matches(MARK).trim().is_empty())
        .map(|(number, line)| json_line(path, number + 1, line))
        .collect()
}

/// Parses one line of JSON lines; `path` and `number` only name the place in errors.
///
/// # Errors
/// A line that is not a JSON object, or one with a field that stands twice.
pub fn json_line(path: &Path, number: usize, line: &str) -> Result<Row, DataError> {
    let line = match number {
        1 => line.trim_start_matches(MARK),
        _ => line,
    };
    let Object(fields) = serde_json::from_str(line).map_err(|e| DataError::Row {
        path: path.into(),
        row: number,
        reason: json_reason(line, &e),
    })?;
    Ok((number, Value::Object(fields)))
}

fn json_array(path: &Path, text: &str) -> Result<Vec<Row>, DataError> {
    let rows: Vec<Object> = serde_json::from_str(text).map_err(|e| DataError::File {
        path: path.into(),
        reason: format!("line {}: {}", e.line(), json_reason(text, &e)),
    })?;
    let rows = rows.into_iter().enumerate();
    Ok(rows
        .map(|(number, Object(fields))| (number + 1, Value::Object(fields)))
        .collect())
}

/// A JSON object whose fields each stand once, at any depth; the last of several would win without
/// a word.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object, A::Error> {
                fields(map).map(Object)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The fields of an object.
fn fields<'de, A: MapAccess<'de>>(mut map: A) -> Result<Map<String, Value>, A::Error> {
    let mut fields = Map::new();
    while let Some((name, Part(value))) = map.next_entry::<String, Part>()? {
        if fields.contains_key(&name) {
            let reason = format!("the field {name:?} stands twice: keep one");
            return Err(A::Error::custom(reason));
        }
        fields.insert(name, value);
    }
    Ok(fields)
}

/// What stands in an [`Object`].
struct Part(Value);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut found = Vec::new();
                while let Some(Part(value)) = list.next_element()? {
                    found.push(value);
                }
                Ok(found.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                fields(map).map(Value::Object)
            }
        }

        deserializer.deserialize_any(Any).map(Self)
    }
}

/// What is wrong with JSON, and what to do where a program wrote what JSON does not have.
fn json_reason(text: &str, error: &serde_json::Error) -> String {
    let line = text.split('\n').nth(error.line().saturating_sub(1));
    let line = line.unwrap_or_default().as_bytes();
    // The error points to the word's first character, or behind its sign.
    let at = error.column().saturating_sub(2).min(line.len());
    let (before, near) = line.split_at(at);
    let found = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| {
        (0..2).any(|skip| {
            near.get(skip..)
                .is_some_and(|n| n.starts_with(word.as_bytes()))
        })
    });
    let Some(word) = found else {
        // The line is named with the place.
        let whole = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = whole.strip_suffix(&place).unwrap_or(&whole);
        let kind = match error.is_data() {
            true => "",
            false => "is no JSON: ",
        };
        return format!("{kind}{what} (column {})", error.column());
    };
    let before = String::from_utf8_lossy(before);
    let field = before.rfind("\":").and_then(|end| {
        let name = &before[..end];
        Some(format!("{}: ", &name[name.rfind('"')? + 1..]))
    });
    format!(
        "{}{word} is no JSON: write null (column {})",
        field.unwrap_or_default(),
        error.column()
    )
}

/// The mark that some programs put before UTF-8.
const MARK: char = '\u{feff}';

fn text(path: &Path) -> Result<String, DataError> {
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        DataError::Row {
            path: path.into(),
            row: before.iter().filter(|b| **b == b'\n').count() + 1,
            reason: "not valid UTF-8: save the file as UTF-8".into(),
        }
    })?;
    Ok(match text.strip_prefix(MARK) {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// The first name that stands twice. Columns without a name may be many: nobody asks for them.
fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut seen = HashSet::new();
    let mut named = names.filter(|name| !name.is_empty());
    let name = named.find(|name| !seen.insert(*name))?;
    Some(format!("two columns are called {name:?}: rename one"))
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

    /// What is read of a file with such an ending and bytes.
    pub(super) fn of(ending: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<Row>, String> {
        let file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path(), &[]).map_err(|e| e.to_string())
    }

    #[test]
    fn bad_utf8_names_its_line() {
        for ending in [".jsonl", ".csv"] {
            let error = of(ending, b"{\"a\":1}\n{\"a\":\"\xff\"}\n").unwrap_err();
            assert!(error.contains("row 2: not valid UTF-8"), "{error}");
        }
    }

    #[test]
    fn other_endings_are_refused_with_those_that_are_read() {
        let error = of(".txt", "x").unwrap_err();
        assert!(error.ends_with(".tsv or .parquet"), "{error}");
        let error = of(".yaml", "x").unwrap_err();
        assert!(
            error.ends_with("a task file is TOML, and ends in .toml"),
            "{error}"
        );
    }

    #[test]
    fn a_mark_before_utf8_is_no_part_of_a_file() {
        let expected = serde_json::json!({"a": "x", "b": "y"});
        for (ending, text) in [
            (".jsonl", "{\"a\":\"x\",\"b\":\"y\"}\n"),
            (".json", "[{\"a\":\"x\",\"b\":\"y\"}]"),
            (".csv", "a,b\nx,y\n"),
            (".tsv", "a\tb\nx\ty\n"),
        ] {
            let rows = of(ending, format!("\u{feff}{text}")).unwrap();
            assert_eq!(rows, [(1, expected.clone())], "{ending}");
        }
        let (_, row) = json_line(Path::new("-"), 1, "\u{feff}{\"a\":1}").unwrap();
        assert_eq!(row["a"], 1);
    }

    #[test]
    fn json_is_a_list_or_lines_whatever_the_ending() {
        for ending in [".json", ".jsonl"] {
            for text in ["{\"a\":1}\n{\"a\":2}\n", " [{\"a\":1},\n {\"a\":2}]"] {
                let rows = of(ending, text).unwrap();
                let found: Vec<_> = rows.iter().map(|(_, row)| row["a"].clone()).collect();
                assert_eq!(found, [1, 2], "{ending} {text}");
            }
            let error = of(ending, "{\n \"data\": []\n}").unwrap_err();
            assert!(error.contains("one object over several lines"), "{error}");
            let error = of(ending, "[{\"a\":1},\n7]").unwrap_err();
            assert!(error.contains("line 2: "), "{error}");
            assert!(error.contains("expected a JSON object"), "{error}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_named() {
        for word in ["NaN", "Infinity", "-Infinity"] {
            let line = format!("{{\"a\": 1, \"score\": {word}}}");
            let error = of(".jsonl", format!("{{}}\n{line}")).unwrap_err();
            let expected = format!("row 2: score: {word} is no JSON: write null");
            assert!(error.contains(&expected), "{error}");
            let error = of(".json", format!("[{{}},\n{line}]")).unwrap_err();
            let expected = format!("line 2: score: {word} is no JSON: write null");
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        for (ending, text) in [
            (".jsonl", "{\"a\":1,\"b\":2,\"a\":3}"),
            (".json", "[{\"a\":1,\"b\":2,\"a\":3}]"),
            (".jsonl", "{\"b\":{\"c\":[{\"a\":1,\"a\":3}]}}"),
            (".json", "[{\"b\":[1,{\"a\":1,\"a\":3}]}]"),
            (".csv", "a,b,a\n1,2,3\n"),
            (".tsv", "a\tb\t a\n1\t2\t3\n"),
        ] {
            let error = of(ending, text).unwrap_err();
            assert!(error.contains("\"a\""), "{ending}: {error}");
        }
        assert_eq!(of(".csv", "a,,\n1,2,3\n").unwrap()[0].1["a"], "1");
    }

    #[test]
    fn a_row_of_json_holds_every_kind_of_value() {
        let line = r#"{"n":null,"t":true,"u":18446744073709551615,"i":-3,"f":2.5e-3,
            "s":"\u00e9\n","l":[1,"a",[],{"z":{},"a":1.0}]}"#
            .replace('\n', " ");
        let [(1, row)] = &of(".jsonl", line.clone()).unwrap()[..] else {
            panic!("one row");
        };
        assert_eq!(*row, serde_json::from_str::<Value>(&line).unwrap());
        assert_eq!(
            row.to_string(),
            line.replace(' ', "")
                .replace("2.5e-3", "0.0025")
                .replace("\\u00e9", "é")
        );
    }

    /// A parquet file of one column of plain bytes and one of 32-bit floats.
    fn bytes_and_floats(cells: &[&[u8]], numbers: &[f32]) -> Vec<u8> {
        use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
        use parquet::file::writer::SerializedFileWriter;
        use parquet::schema::parser::parse_message_type;

        let schema = "message m { required binary question; required float share; }";
        let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
        let mut bytes = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut bytes, schema, std::sync::Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let cells: Vec<ByteArray> = cells.iter().map(|cell| cell.to_vec().into()).collect();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&cells, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<FloatType>();
        typed.write_batch(numbers, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn of_parquet_the_wanted_columns_alone_are_read() {
        let file = tempfile::Builder::new()
            .suffix(".parquet")
            .tempfile()
            .unwrap();
        let cells: [&[u8]; 2] = [b"one?", b"two?"];
        std::fs::write(file.path(), bytes_and_floats(&cells, &[0.5, 1.5])).unwrap();
        let read = |wanted: &Wanted| -> Vec<Row> {
            let rows = RowFile::open(file.path(), &[], &[], wanted).unwrap();
            let rows = rows.into_pass().unwrap();
            rows.map(|row| row.unwrap().into_owned()).collect()
        };
        let seen = std::cell::Cell::new(0);
        let rows = read(&|first| {
            seen.set(first.len());
            Some(vec!["question".into()])
        });
        assert_eq!(seen.get(), 2);
        assert_eq!(rows[1], (2, serde_json::json!({"question": "two?"})));
        assert_eq!(read(&|_| None)[0].1["share"], 0.5);
    }

    #[test]
    fn plain_bytes_in_parquet_are_text_or_no_text_but_never_base64() {
        let cells: [&[u8]; 2] = ["What naïve?".as_bytes(), b"\xff\xd8"];
        let rows = of(".parquet", bytes_and_floats(&cells, &[0.1, f32::NAN])).unwrap();
        assert_eq!(rows[0].1["question"], "What naïve?");
        assert_eq!(rows[0].1["share"].to_string(), "0.1");
        assert_eq!(rows[1].1["question"]["bytes that are no UTF-8"], 2);
        assert!(rows[1].1["share"].is_null());
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
