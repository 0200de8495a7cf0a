//! Configurations and splits of any dataset of the Hub, told by the paths of its files.

use std::collections::BTreeMap;

use super::super::OfficialSplit;
use crate::source::Listing;

/// Files by configuration and split.
type Found = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// The name of a repository, and of the configuration behind a colon.
pub(super) fn named(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        Some((repository, configuration)) => (repository, Some(configuration)),
        None => (name, None),
    }
}

/// The files of each split that there is, of the configuration or of the only one.
pub(super) fn splits(
    listing: &Listing,
    configuration: Option<&str>,
) -> Result<Vec<(OfficialSplit, Vec<String>)>, String> {
    let mut found = Found::new();
    for file in &listing.files {
        if let Some((configuration, split)) = place(file) {
            let splits = found.entry(configuration).or_default();
            splits.entry(split).or_default().push(file.clone());
        }
    }
    let known = || {
        found
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let chosen = match configuration {
        Some(name) => found
            .get(name)
            .ok_or_else(|| format!("has no configuration {name}: it has {}", known()))?,
        None if found.len() == 1 => &found[found.keys().next().map_or("", |name| name)],
        None => found.get("default").ok_or_else(|| match found.is_empty() {
            true => "has no file that ends in .parquet, .jsonl, .json, .csv or .tsv".into(),
            false => format!(
                "has several configurations: name one of {} behind a colon",
                known()
            ),
        })?,
    };
    let mut splits = Vec::new();
    for (split, names) in [
        (OfficialSplit::Train, &["train", "training"][..]),
        (
            OfficialSplit::Validation,
            &["validation", "valid", "val", "dev"],
        ),
        (OfficialSplit::Test, &["test", "testing", "eval"]),
    ] {
        if let Some(files) = names.iter().find_map(|name| chosen.get(*name)) {
            splits.push((split, of_one_format(files)));
        }
    }
    if splits.is_empty() {
        let names: Vec<&str> = chosen.keys().map(String::as_str).collect();
        return match chosen.values().next() {
            // A single split of whatever name is what there is to train on.
            Some(files) if chosen.len() == 1 => {
                Ok(vec![(OfficialSplit::Train, of_one_format(files))])
            }
            _ => Err(format!(
                "has no split train, validation or test, but {}",
                names.join(", ")
            )),
        };
    }
    Ok(splits)
}

/// Configuration and split of a file; none where it holds no rows.
fn place(file: &str) -> Option<(String, String)> {
    let (stem, ending) = file.rsplit_once('.')?;
    if !["parquet", "jsonl", "json", "csv", "tsv"].contains(&ending) {
        return None;
    }
    let parts: Vec<&str> = stem.split('/').collect();
    // As the Hub converts: `configuration/split/0000.parquet`.
    if let [configuration, split, number] = parts[..]
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        let split = split.strip_prefix("partial-").unwrap_or(split);
        return Some((configuration.into(), split.into()));
    }
    const WORDS: [&str; 9] = [
        "train",
        "training",
        "validation",
        "valid",
        "val",
        "dev",
        "test",
        "testing",
        "eval",
    ];
    let word = |part: &&str| -> Option<&'static str> {
        let mut words = part.split(|c: char| !c.is_ascii_alphanumeric());
        words.find_map(|word| {
            WORDS
                .into_iter()
                .find(|known| word.eq_ignore_ascii_case(known))
        })
    };
    let folder = (parts.len() > 1).then(|| parts[0]);
    let configuration = folder.filter(|folder| *folder != "data" && word(folder).is_none());
    let split = parts.iter().rev().find_map(word);
    // Settings and descriptions are JSON, too.
    let split = match (split, ending) {
        (Some(split), _) => split,
        (None, "json") => return None,
        (None, _) => "all",
    };
    Some((configuration.unwrap_or("default").into(), split.into()))
}

/// The files of the first format that there are some of: a dataset may lie there in several.
fn of_one_format(files: &[String]) -> Vec<String> {
    let formats = [".parquet", ".jsonl", ".csv", ".tsv", ".json"];
    let chosen = formats.into_iter().find_map(|format| {
        let of: Vec<String> = files
            .iter()
            .filter(|file| file.ends_with(format))
            .cloned()
            .collect();
        (!of.is_empty()).then_some(of)
    });
    let mut chosen = chosen.unwrap_or_default();
    chosen.sort();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[&str], configuration: Option<&str>) -> Result<String, String> {
        let listing = Listing {
            revision: "main".into(),
            files: files.iter().map(ToString::to_string).collect(),
        };
        let splits = splits(&listing, configuration)?;
        let words = splits
            .iter()
            .map(|(split, files)| format!("{}: {}", split.name(), files.join(" ")));
        Ok(words.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn splits_are_told_by_the_paths() {
        for (files, configuration, expected) in [
            (
                &[
                    "default/train/0000.parquet",
                    "default/train/0001.parquet",
                    "default/test/0000.parquet",
                ][..],
                None,
                "train: default/train/0000.parquet default/train/0001.parquet; test: default/test/0000.parquet",
            ),
            (
                &[
                    "a/train/0000.parquet",
                    "b/partial-train/0000.parquet",
                    "b/auxiliary_train/0000.parquet",
                ],
                Some("b"),
                "train: b/partial-train/0000.parquet",
            ),
            (
                &[
                    "README.md",
                    "dataset_infos.json",
                    "data/train-00000-of-00001.parquet",
                    "data/validation-00000-of-00001.parquet",
                ],
                None,
                "train: data/train-00000-of-00001.parquet; validation: data/validation-00000-of-00001.parquet",
            ),
            (
                &[
                    "en/dev.jsonl",
                    "en/train.jsonl",
                    "en/train.csv",
                    "de/train.jsonl",
                ],
                Some("en"),
                "train: en/train.jsonl; validation: en/dev.jsonl",
            ),
            (
                &["train/a.jsonl", "test/b.jsonl"],
                None,
                "train: train/a.jsonl; test: test/b.jsonl",
            ),
            (
                &["questions.csv", ".gitattributes"],
                None,
                "train: questions.csv",
            ),
        ] {
            assert_eq!(of(files, configuration).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_there_is_listed() {
        let several = ["en/train.jsonl", "de/train.jsonl"];
        let error = of(&several, None).unwrap_err();
        assert!(
            error.contains("name one of de, en behind a colon"),
            "{error}"
        );
        let error = of(&several, Some("fr")).unwrap_err();
        assert!(
            error.contains("no configuration fr: it has de, en"),
            "{error}"
        );
        let error = of(&["README.md"], None).unwrap_err();
        assert!(error.contains("no file that ends in .parquet"), "{error}");
        let odd = ["default/one/0000.parquet", "default/two/0000.parquet"];
        let error = of(&odd, None).unwrap_err();
        assert!(error.contains("but one, two"), "{error}");
    }
}
