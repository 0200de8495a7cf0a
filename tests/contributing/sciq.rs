//! SciQ (Welbl et al. 2017): science questions of four choices.

use serde_json::Value;

use super::fields::lettered;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// `sciq`
#[derive(Debug)]
pub struct SciQ;

impl Dataset for SciQ {
    fn name(&self) -> &'static str {
        "sciq"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Test]
    }

    fn parts(&self, _: OfficialSplit) -> Vec<Artifact> {
        vec![Artifact {
            name: "sciq test".into(),
            local: vec!["sciq/test.jsonl".into()],
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        lettered(row)
    }
}
