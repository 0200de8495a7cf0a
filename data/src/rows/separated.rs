//! Rows of columns that commas, tabs or semicolons separate.

use std::path::Path;

use csv::{Reader, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::{Row, repeated};
use crate::error::DataError;

/// Reads the text of a csv or tsv file. `columns` names the columns where there is no header.
///
/// A header without a comma, but with semicolons or tabs, tells that these separate the columns.
///
/// # Errors
/// Two columns of one name, a row with another number of columns than the header, or a quotation
/// mark that is not closed.
pub(super) fn read(
    path: &Path,
    text: &str,
    delimiter: u8,
    columns: &[&str],
) -> Result<Vec<Row>, DataError> {
    let fail = |row: usize, reason: String| DataError::Row {
        path: path.into(),
        row,
        reason,
    };
    let delimiter = match columns.is_empty() {
        true => separator(text, delimiter),
        false => delimiter,
    };
    let marks = Marks::of(text, delimiter);
    if delimiter != b'\t'
        && let Some((line, reason)) = marks.broken
    {
        return Err(DataError::File {
            path: path.into(),
            reason: format!("line {line}: {reason}"),
        });
    }
    let quoted = delimiter != b'\t' || marks.quote();
    let mut reader = reader(text, delimiter, quoted, columns.is_empty());
    let raw = match columns.is_empty() {
        true => reader
            .headers()
            .map_err(|e| fail(0, e.to_string()))?
            .clone(),
        false => StringRecord::from(columns),
    };
    let names: Vec<&str> = raw.iter().map(str::trim).collect();
    if let Some(reason) = repeated(names.iter().copied()) {
        return Err(DataError::File {
            path: path.into(),
            reason,
        });
    }
    // Who writes `a, b` may write `1, "x"`, whose quotation marks would be part of the text.
    let spaced = quoted && raw.iter().any(|name| name.starts_with(' '));
    let mut rows = Vec::new();
    for (number, record) in reader.records().enumerate() {
        let number = number + 1;
        let record = record.map_err(|e| fail(number, e.to_string()))?;
        if record.len() != names.len() {
            return Err(fail(
                number,
                format!(
                    "expected {} fields ({}), got {}",
                    names.len(),
                    names.join(", "),
                    record.len()
                ),
            ));
        }
        let loose = |cell: &str| cell.starts_with(' ') && cell.trim_start().starts_with('"');
        if let Some(place) = record.iter().position(|cell| spaced && loose(cell)) {
            let reason = "a space stands before the quotation mark: remove it";
            return Err(fail(number, format!("{}: {reason}", names[place])));
        }
        let fields: Map<String, Value> = names
            .iter()
            .zip(record.iter())
            .map(|(name, field)| ((*name).to_owned(), Value::from(field)))
            .collect();
        rows.push((number, Value::Object(fields)));
    }
    Ok(rows)
}

fn reader(text: &str, delimiter: u8, quoted: bool, headers: bool) -> Reader<&[u8]> {
    ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(quoted)
        .has_headers(headers)
        .flexible(true)
        .from_reader(text.as_bytes())
}

/// The separator of the header: the one of the file's ending, if it stands there at all.
fn separator(text: &str, usual: u8) -> u8 {
    let parts = |delimiter: u8| {
        let mut reader = reader(text, delimiter, delimiter != b'\t', true);
        reader.headers().map_or(0, StringRecord::len)
    };
    let others = [b',', b'\t', b';'];
    match parts(usual) > 1 {
        true => usual,
        false => others
            .into_iter()
            .find(|other| parts(*other) > 1)
            .unwrap_or(usual),
    }
}

/// What the quotation marks of a file look like.
///
/// Programs differ about tab-separated files: most datasets quote nothing, and their questions may
/// begin with a quotation mark; spreadsheets and many libraries quote as in csv.
#[derive(Debug, Default)]
struct Marks {
    /// Every cell that opens with a mark closes with one, no other cell holds one, and every row
    /// has as many cells as the header.
    regular: bool,
    /// A quoted cell holds what needs quotation: a doubled mark, a separator or a line's end.
    needed: bool,
    /// Every cell of the header is quoted.
    header: bool,
    /// Line of the first mark that cannot be right, and what is wrong with it.
    broken: Option<(usize, &'static str)>,
}

impl Marks {
    fn of(text: &str, delimiter: u8) -> Self {
        let bytes = text.as_bytes();
        let mut found = Self {
            regular: true,
            header: true,
            ..Self::default()
        };
        let (mut at, mut line, mut cells, mut expected) = (0, 1, 0, None);
        while at < bytes.len() {
            if cells == 0 && (bytes[at..].starts_with(b"\n") || bytes[at..].starts_with(b"\r\n")) {
                at += bytes[at..]
                    .iter()
                    .position(|b| *b == b'\n')
                    .map_or(1, |n| n + 1);
                line += 1;
                continue;
            }
            let first = bytes[at] == b'"';
            match first {
                true => at = found.quoted(bytes, at, delimiter, &mut line),
                false => {
                    let ends = |b: &u8| *b == delimiter || *b == b'\n';
                    let end = bytes[at..].iter().position(ends);
                    let end = end.map_or(bytes.len(), |length| at + length);
                    found.regular &= !bytes[at..end].contains(&b'"');
                    at = end;
                }
            }
            cells += 1;
            found.header &= first || expected.is_some();
            if bytes.get(at).is_none_or(|b| *b == b'\n') {
                found.regular &= *expected.get_or_insert(cells) == cells;
                cells = 0;
                line += 1;
            }
            at += 1;
        }
        // The last cell of the file may be empty.
        if cells > 0 && bytes.last() == Some(&delimiter) {
            found.regular &= expected.is_none_or(|expected| expected == cells + 1);
        }
        found
    }

    /// Passes a cell that opens with a mark; the result is the place of the separator or line's end
    /// behind it.
    fn quoted(&mut self, bytes: &[u8], start: usize, delimiter: u8, line: &mut usize) -> usize {
        let (mut at, begun) = (start + 1, *line);
        loop {
            match (bytes.get(at), bytes.get(at + 1)) {
                (None, _) => {
                    let reason =
                        "a quotation mark opens here and is never closed: close or double it";
                    self.broken = self.broken.or(Some((begun, reason)));
                    self.regular = false;
                    return at;
                }
                (Some(b'"'), Some(b'"')) => {
                    self.needed = true;
                    at += 2;
                }
                (Some(b'"'), _) => break,
                (Some(other), _) => {
                    *line += usize::from(*other == b'\n');
                    self.needed |= *other == delimiter || *other == b'\n';
                    at += 1;
                }
            }
        }
        at += 1;
        if bytes.get(at) == Some(&b'\r') && bytes.get(at + 1) == Some(&b'\n') {
            at += 1;
        }
        let ends = |b: &u8| *b == delimiter || *b == b'\n';
        let behind = bytes[at..].iter().position(ends);
        let behind = behind.map_or(bytes.len(), |length| at + length);
        if behind != at {
            let reason = "text follows a closing quotation mark: double the marks inside of a cell";
            self.broken = self.broken.or(Some((*line, reason)));
            self.regular = false;
        }
        behind
    }

    /// Whether a tab-separated file is quoted as csv is. Marks that merely could be a quotation are
    /// part of the text.
    fn quote(&self) -> bool {
        self.regular && (self.needed || self.header)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::of;

    #[test]
    fn quotation_marks_are_plain_text_in_tsv() {
        for text in [
            "\"x",
            "\"Stop\"",
            "\"Stop\", he said",
            "5\" pipe",
            "\"a\"\"b\" c",
        ] {
            let rows = of(".tsv", format!("a\tb\n{text}\ty\nu\tv\n")).unwrap();
            assert_eq!(rows[0].1, json!({"a": text, "b": "y"}));
            assert_eq!(rows[1].1, json!({"a": "u", "b": "v"}), "{text}");
        }
        // Two cells of one row.
        let rows = of(".tsv", "a\tb\n\"x\ty\"\n").unwrap();
        assert_eq!(rows[0].1, json!({"a": "\"x", "b": "y\""}));
    }

    #[test]
    fn a_quoted_tsv_is_read_as_one() {
        for (text, expected) in [
            (
                "a\tb\n\"Who said \"\"stop\"\"?\"\ty\n",
                "Who said \"stop\"?",
            ),
            ("a\tb\r\n\"one\ntwo\"\ty\r\n", "one\ntwo"),
            ("a\tb\n\"one\ttwo\"\ty\n", "one\ttwo"),
            ("\"a\"\t\"b\"\n\"x\"\t\"y\"\n", "x"),
        ] {
            let rows = of(".tsv", text).unwrap();
            assert_eq!(rows, [(1, json!({"a": expected, "b": "y"}))], "{text}");
        }
    }

    #[test]
    fn semicolons_tabs_and_spaces_in_a_header_are_understood() {
        for text in [
            "a;b\nx, or y;z\n",
            "a; b \nx, or y;z\n",
            "a\tb\nx, or y\tz\n",
            " a , b\n\"x, or y\",z\n",
        ] {
            let rows = of(".csv", text).unwrap();
            assert_eq!(rows, [(1, json!({"a": "x, or y", "b": "z"}))], "{text}");
        }
        let rows = of(".csv", "a;b,c\nx;y,z\n").unwrap();
        assert_eq!(rows[0].1, json!({"a;b": "x;y", "c": "z"}));
    }

    #[test]
    fn rows_that_would_be_misread_are_named() {
        let error = of(".csv", "a,b\nx,y\nz\n").unwrap_err();
        assert!(
            error.contains("row 2: expected 2 fields (a, b), got 1"),
            "{error}"
        );
        let error = of(".csv", "a, b\nx, \"y\"\n").unwrap_err();
        assert!(error.contains("row 1: b: a space stands before"), "{error}");
        let error = of(".csv", "a,b\nx,y\nz,\"open\nu,v\n").unwrap_err();
        assert!(
            error.contains("line 3: a quotation mark opens here"),
            "{error}"
        );
        let error = of(".csv", "a,b\n\"one\ntwo\",y\n\"Say \\\"no\\\"\",v\n").unwrap_err();
        assert!(error.contains("line 4: text follows a closing"), "{error}");
    }
}
