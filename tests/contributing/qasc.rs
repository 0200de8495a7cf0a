//! QASC (Khot et al. 2020): science questions of eight choices.

use serde_json::Value;

use super::fields::lettered;
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::Artifact;

/// `qasc`
#[derive(Debug)]
pub struct Qasc;

impl Dataset for Qasc {
    fn name(&self) -> &'static str {
        "qasc"
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Test]
    }

    fn parts(&self, _: OfficialSplit) -> Vec<Artifact> {
        vec![Artifact {
            name: "qasc test".into(),
            local: vec!["qasc/test.jsonl".into()],
            ..Artifact::default()
        }]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        lettered(row)
    }
}
