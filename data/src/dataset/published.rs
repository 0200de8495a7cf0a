//! Where a dataset of the Hub lies: on the branch into which the Hub converts every public dataset,
//! and below a data directory.

use super::OfficialSplit;
use crate::source::{Artifact, CONVERTED, HubFile};

/// The files of a split: of a Hub repository's configuration as parquet, or local ones. `others`
/// are further paths below the data directory, such as the names of the original release.
pub(super) fn published(
    dataset: &str,
    split: OfficialSplit,
    (repository, configuration): (&str, &str),
    others: &[String],
) -> Vec<Artifact> {
    let split = split.name();
    let converted = format!("{configuration}/{split}/0000.parquet");
    let mut local = vec![
        format!("{dataset}/{split}.jsonl"),
        format!("{dataset}/{split}.parquet"),
        format!("{dataset}/{converted}"),
        format!("{dataset}/data/{split}-00000-of-00001.parquet"),
    ];
    local.extend(others.iter().map(|file| format!("{dataset}/{file}")));
    vec![Artifact {
        name: format!("{dataset} {split}"),
        local,
        hub: vec![HubFile {
            revision: CONVERTED.into(),
            ..HubFile::dataset(repository, converted)
        }],
        ..Artifact::default()
    }]
}
