//! Files of questions: JSON lines, JSON, csv, tsv, parquet.

use std::path::Path;

use data::check::CheckedFile;
use data::dataset::custom::Custom;
use data::tokenizer::Tokenizer;
use train::config::RunConfig;

use super::{fuzz, one};
use crate::support::fixture;

/// Reads a file as `data check` does and encodes what is usable.
fn read(path: &Path) -> Result<(), String> {
    let file = CheckedFile::read(path, &Custom::default()).map_err(|e| e.to_string())?;
    let rendering = RunConfig::default().rendering(data::prompt::LabelStyle::Letter);
    let tokenizer = Tokenizer::tiny();
    for (_, question) in &file.questions {
        // A question that does not fit is refused; nothing else may happen.
        let _ = tokenizer.encode_questions(std::slice::from_ref(question), &rendering, 64);
    }
    Ok(())
}

fn of(ending: &str, seeds: &[&[u8]]) {
    let name = format!("q.{ending}");
    let seeds: Vec<_> = seeds.iter().map(|bytes| one(&name, *bytes)).collect();
    fuzz(ending, &seeds, &[], |folder| read(&folder.join(&name)));
}

const LINES: &str = r#"{"id":"a","question":"Is it so?","choices":["yes","no"],"answer":"A"}
{"id":"b","question":"Which?","choices":{"text":["x","y","z"],"label":["A","B","C"]},"answer":"C","context":"A text.","group":"g"}
{"id":"c","question":"Whose \u00e9?","choices":"[\"p\", \"q\"]","answer":1}
"#;

#[test]
fn jsonl() {
    of("jsonl", &[LINES.as_bytes()]);
}

#[test]
fn json() {
    let list = format!("[{}]", LINES.trim_end().replace('\n', ","));
    of("json", &[list.as_bytes(), LINES.as_bytes()]);
}

#[test]
fn csv() {
    let plain = "question,A,B,C,answer\nIs it?,yes,no,maybe,A\n\"Who said \"\"stop\"\"?\",\"me,\nI\",you,,B\n";
    let semicolons = "\u{feff}question;choices;answer\nIs it?;\"[\"\"a\"\", \"\"b\"\"]\";0\n";
    of("csv", &[plain.as_bytes(), semicolons.as_bytes()]);
}

#[test]
fn tsv() {
    let plain = "question\tchoices\tanswer\nIs it?\t[\"a\", \"b\"]\t0\n\"Who \"\"stop\"\"?\"\t[\"x\\n\", \"y\"]\tB\n";
    of("tsv", &[plain.as_bytes()]);
}

#[test]
fn parquet() {
    let seeds = ["arc.parquet", "openbookqa.parquet"]
        .map(|name| std::fs::read(fixture("parquet").join(name)).unwrap());
    of("parquet", &[&seeds[0], &seeds[1]]);
}
