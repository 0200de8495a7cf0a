//! ClimateX (Lacombe et al. 2023): the confidence that the authors of the IPCC's sixth report gave
//! their statements, as a question with four answers.
//!
//! A stand-in that can be had where the paper's ClimateQA cannot; it is **not** ClimateQA.

use serde_json::Value;

use super::fields::{lettered, text};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::{Artifact, HubFile};

/// The dataset `climatex`.
#[derive(Debug)]
pub struct ClimateX;

const LEVELS: [&str; 4] = ["low", "medium", "high", "very high"];

impl Dataset for ClimateX {
    fn name(&self) -> &'static str {
        "climatex"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Train, OfficialSplit::Test]
    }

    fn parts(&self, split: OfficialSplit) -> Vec<Artifact> {
        let name = split.name();
        let file = "ipcc_statements_dataset.tsv";
        vec![Artifact {
            name: format!("climatex {name}"),
            local: vec![
                format!("climatex/{name}.jsonl"),
                format!("climatex/{file}"),
                format!("climatex/original/{file}"),
                format!("data/{file}"),
                file.into(),
            ],
            hub: vec![HubFile::dataset("rlacombe/ClimateX", file.to_string())],
            only: vec![("split", name.into())],
            how_to_get: Some(
                "put data/ipcc_statements_dataset.tsv of github.com/rlacombe/ClimateX into a directory and give it with --data-dir",
            ),
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("statement").is_none() {
            return lettered(row);
        }
        let level = text(row, "confidence")?;
        let statement = text(row, "statement")?.trim();
        let question =
            format!("Which confidence level did the IPCC authors give this statement? {statement}");
        let answer = LEVELS
            .iter()
            .position(|known| *known == level)
            .ok_or_else(|| {
                format!(
                    "confidence: expected one of {}, got {level:?}",
                    LEVELS.join(", ")
                )
            })?;
        Ok(Some(MultipleChoice {
            id: match text(row, "statement_idx") {
                Ok(number) => format!("climatex-{number}"),
                Err(_) => String::new(),
            },
            ..MultipleChoice::new(&question, LEVELS.map(String::from).into(), answer)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::load;
    use crate::source::Finder;

    #[test]
    fn one_file_holds_both_splits() {
        let root = tempfile::tempdir().unwrap();
        let rows = "statement_idx\tstatement\tconfidence\tscore\tsplit\n0\tIt warms\thigh\t2\ttrain\n1\t\"It\" rains\tvery high\t3\ttest\n2\tIt cools\tlow\t0\ttrain\n";
        std::fs::write(root.path().join("ipcc_statements_dataset.tsv"), rows).unwrap();
        let mut finder = Finder::from_env();
        finder.data_dir = Some(root.path().into());
        let train = load(&ClimateX, OfficialSplit::Train, &finder)
            .unwrap()
            .questions;
        let test = load(&ClimateX, OfficialSplit::Test, &finder)
            .unwrap()
            .questions;
        assert_eq!((train.len(), test.len()), (2, 1));
        assert_eq!((&*train[1].id, train[1].answer), ("climatex-2", 0));
        assert!(test[0].question.ends_with("this statement? \"It\" rains"));
    }
}
