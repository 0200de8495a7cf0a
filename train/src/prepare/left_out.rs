//! Questions that cannot be asked.

use std::collections::BTreeMap;

use data::encoding::Unaskable;
use serde::{Deserialize, Serialize};

/// A question of a split that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The dataset that the question is of.
    pub dataset: String,
    /// `train`, `held-out` or `test`.
    pub split: String,
    /// The question, and what does not fit.
    #[serde(flatten)]
    pub unaskable: Unaskable,
}

impl LeftOut {
    /// How many questions of each split are left out, with the first few by name: one sentence a
    /// split.
    pub fn sentences(all: &[Self]) -> Vec<String> {
        const NAMED: usize = 5;
        let mut splits: BTreeMap<(&str, &str), Vec<&Unaskable>> = BTreeMap::new();
        for one in all {
            let split = (one.dataset.as_str(), one.split.as_str());
            splits.entry(split).or_default().push(&one.unaskable);
        }
        let sentences = splits.into_iter().map(|((dataset, split), rows)| {
            let mut names: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
            names.dedup();
            names.truncate(NAMED);
            let more = match rows.len() - names.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "{} {split} question(s) of {dataset} cannot be asked and are left out: {}{more} ({}).",
                rows.len(),
                names.join(", "),
                rows[0].reason
            )
        });
        sentences.collect()
    }
}
