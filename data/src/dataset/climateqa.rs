//! ClimateQA: multiple-choice questions from graduate climate textbooks.
//!
//! The paper cites no dataset of that name. The one that fits is ClimaQA (Manivannan et al. 2025),
//! which shares authors with the paper. Models train on its silver set and are tested on the
//! validated rows of its gold set.

use serde_json::Value;

use super::fields::{letter_index, lettered, optional_text, text};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::{Artifact, HubFile};

/// The dataset `climateqa`.
#[derive(Debug)]
pub struct ClimateQa;

impl Dataset for ClimateQa {
    fn name(&self) -> &'static str {
        "climateqa"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Test]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let (name, member) = match split {
            OfficialSplit::Test => ("test", "climaqa_gold/mcq/mcq_benchmark.csv"),
            _ => ("train", "climaqa_silver/mcq/mcq_benchmark_silver.csv"),
        };
        let file = member.rsplit('/').next().unwrap_or(member);
        vec![Artifact {
            name: format!("climateqa {name}"),
            local: vec![
                format!("climateqa/{name}.jsonl"),
                format!("climateqa/{member}"),
                format!("climateqa/{file}"),
                member.into(),
                file.into(),
            ],
            hub: vec![HubFile::dataset("UCSD-GENIE/ClimaQA", member.into())],
            how_to_get: Some(
                "download climaqa_gold/mcq/mcq_benchmark.csv and climaqa_silver/mcq/mcq_benchmark_silver.csv of the Hub dataset UCSD-GENIE/ClimaQA into a directory and give it with --data-dir; `climatex` and `pira` are other climate questions",
            ),
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("Options").is_none() {
            return lettered(row);
        }
        let checked = row.get("Validation").and_then(Value::as_str);
        if checked.is_some_and(|v| !v.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let question = text(row, "Question")?;
        let choices = options(text(row, "Options")?)?;
        let answer = letter_index("Answer", &text(row, "Answer")?.trim().to_uppercase())?;
        let passage = optional_text(row, "Context");
        Ok(Some(MultipleChoice {
            passage: passage.filter(|context| !context.trim().is_empty()),
            ..MultipleChoice::new(question, choices, answer)
        }))
    }
}

/// The choices of a field `a) text`, one after another with a line of dashes between.
fn options(field: &str) -> Result<Vec<String>, String> {
    let is_rule = |line: &str| line.len() >= 3 && line.chars().all(|c| c == '-');
    let mut found: Vec<String> = vec![String::new()];
    for line in field.lines().map(str::trim) {
        match (is_rule(line), found.last_mut()) {
            (true, _) => found.push(String::new()),
            (false, Some(last)) if !line.is_empty() => {
                if !last.is_empty() {
                    last.push(' ');
                }
                last.push_str(line);
            }
            _ => {}
        }
    }
    found
        .into_iter()
        .filter(|option| !option.is_empty())
        .zip('a'..='z')
        .map(|(option, letter)| {
            let marks = [
                format!("{letter})"),
                format!("{})", letter.to_ascii_uppercase()),
            ];
            marks
                .iter()
                .find_map(|mark| option.strip_prefix(mark.as_str()))
                .map(|rest| rest.trim().to_owned())
                .ok_or_else(|| format!("Options: expected `{letter}) ..`, got {option:?}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_csv_reads_and_unchecked_rows_fall_out() {
        let rule = "-".repeat(20);
        let options = format!("a) one\n{rule}\nb) two\nlines\n{rule}\nc) three\n{rule}\nd) four");
        let row = json!({"Question": "Which?", "Options": options, "Answer": "b", "Complexity": "BASE", "Validation": "True"});
        let question = ClimateQa.parse(&row).unwrap().unwrap();
        assert_eq!(question.choices, ["one", "two lines", "three", "four"]);
        assert_eq!((question.answer, question.passage), (1, None));
        let mut unchecked = row.clone();
        unchecked["Validation"] = "False".into();
        assert_eq!(ClimateQa.parse(&unchecked).unwrap(), None);
        let mut bad = row;
        bad["Options"] = "one\ntwo".into();
        assert!(
            ClimateQa
                .parse(&bad)
                .unwrap_err()
                .starts_with("Options: expected")
        );
    }
}
